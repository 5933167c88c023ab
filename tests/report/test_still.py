"""Figures as SVG and PNG: the values of the tables, drawn by matplotlib."""

from __future__ import annotations

import subprocess
import sys
from functools import partial
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
import running
from bokeh.core.properties import value
from bokeh.layouts import gridplot
from bokeh.plotting import figure
from matplotlib import rc_context
from matplotlib.colors import to_hex
from synthetic import synthetic
from test_report import HOSTILE, parted, study

import decodedrift as dd
from decodedrift.experiments.compare.figures import FIGURES
from decodedrift.report.palette import LIGHT
from decodedrift.report.still import GLYPHS, drawn

run = partial(
    running.run, "demo", candidates=["bf16", "int8"], strategies=["greedy", "top-p"], limit=4, max_new_tokens=24
)


def rows(table: str, candidate: str) -> object:
    frame = getattr(run(), table)
    return frame[(frame["role"] == "candidate") & (frame["strategy"] == "greedy") & (frame["candidate"] == candidate)]


def test_a_line_has_the_values_of_its_table() -> None:
    axes = run().figure("kl", "greedy").axes[0]
    for name, colour in (("bf16", "s0"), ("int8", "s1")):
        table = rows("growth", name)
        [line] = [a for a in axes.lines if to_hex(a.get_color()) == LIGHT[colour] and len(a.get_xdata()) > 2]
        np.testing.assert_array_equal(line.get_xdata(), table["position"])
        np.testing.assert_array_equal(line.get_ydata(), table["kl_mean"])
    assert (axes.get_yscale(), axes.get_xlabel()) == ("log", "position (reference's tokens)")


def test_a_curve_in_steps_with_its_band() -> None:
    still = run().figure("survival", "greedy")
    table = rows("survival", "bf16")
    lines = [line for axes in still.axes for line in axes.lines if line.get_drawstyle() == "steps-post"]
    assert any(np.allclose(line.get_ydata(), 1 - table["incidence"], atol=0) for line in lines)
    bands = [band.get_paths()[0].vertices[:, 1] for axes in still.axes for band in axes.collections]
    ends = {*(1 - table["incidence_low"]), *(1 - table["incidence_high"])}
    assert any(ends <= set(band) for band in bands)


def test_points_have_their_places() -> None:
    axes = run().figure("gaps").axes[0]
    table = run().divergences.query("role == 'candidate' and diverged == 1")
    drawn_at = np.concatenate([c.get_offsets() for c in axes.collections])
    assert {tuple(p) for p in drawn_at} == set(zip(table["reference_gap"], table["swing"]))


def test_every_figure_is_saved_and_the_same_again(tmp_path: Path) -> None:
    small = synthetic(prompts=3, tokens=8, candidates=1, alternatives=False)
    files = small.save_figures(tmp_path / "figures")
    assert sorted(files) == sorted((tmp_path / "figures").iterdir())
    assert {"kl.svg", "gaps.svg"} <= {f.name.replace("-top-k-k=5", "") for f in files}
    assert all(ElementTree.parse(f).getroot().tag.endswith("svg") for f in files)
    assert "position" in next(f for f in files if f.name.startswith("kl")).read_text("utf-8")  # text, not outlines
    before = [f.read_bytes() for f in files]
    assert [f.read_bytes() for f in small.save_figures(tmp_path / "figures")] == before


def test_a_figure_says_what_it_shows() -> None:
    noisy = run(noise_floor=True)
    still = noisy.figure("survival", "greedy")
    assert still.get_suptitle() == "Texts still equal, by word, greedy"
    [legend] = [axes.get_legend() for axes in still.axes if axes.get_legend()]
    told = dict(zip([t.get_text() for t in legend.get_texts()], legend.legend_handles))
    assert set(told) == {"95 % interval", "noise floor", "foretold by the flip law"}
    assert told["noise floor"].get_linestyle() != told["foretold by the flip law"].get_linestyle()
    widths = [axes.get_position().width for axes in (still.draw_without_rendering() or still.axes)]
    assert max(widths) < 1.1 * min(widths)
    legend = noisy.figure("kl", "greedy").axes[0].get_legend()  # whose floors have a colour each
    told = dict(zip([t.get_text() for t in legend.get_texts()], legend.legend_handles))
    assert to_hex(told["noise floor"].get_color()) == LIGHT["soft"]


def test_a_figure_for_each_strategy_that_has_it() -> None:
    drawn_of = {(name, strategy) for name, strategy, _ in run().plot}
    assert {("kl", "greedy"), ("kl", "top-p"), ("gaps", ""), ("perplexity", "")} <= drawn_of
    assert not {name for name, _ in drawn_of} & {"state", "path"}


def test_png_and_a_notebooks_cell(tmp_path: Path) -> None:
    assert run().figure("kl")._repr_png_()[:8] == b"\x89PNG\r\n\x1a\n"
    run().figure("kl").savefig(tmp_path / "kl.png")
    assert (tmp_path / "kl.png").stat().st_size > 5000


@pytest.mark.parametrize("text", [*HOSTILE, "$x^2$ \\$", "$\\nosuch$"])
def test_no_name_is_a_formula_or_markup(text: str, tmp_path: Path) -> None:
    held = text.encode("utf-8", "replace").decode("utf-8")[:40]
    made = study({held: [parted(), {}], "b": [{}, parted(2)]}, strategy="greedy")
    for name in ("survival", "comparisons"):
        with rc_context({"svg.fonttype": "none"}):
            made.figure(name).savefig(tmp_path / "x.svg")
        page = ElementTree.parse(tmp_path / "x.svg").getroot()
        assert page.tag == "{http://www.w3.org/2000/svg}svg"
        assert not [e for e in page.iter() if str(e.tag).endswith(("script", "foreignObject", "image"))]
        assert "x^2" in "".join(page.itertext()) or "x^2" not in text, "a formula would be set as one"


@pytest.mark.parametrize(("asked", "says"), [
    (("survivals",), "no figure 'survivals'; choices: .*did you mean 'survival'"),
    (("survival", "beam"), "choices: greedy, top-p"), (("decomposition",), "holds no decomposition to draw"),
    (("survival", "greedy", "more"), "survival: too many"),
])  # fmt: skip
def test_a_figure_that_there_is_not(asked: tuple[str, ...], says: str) -> None:
    with pytest.raises(dd.InputError, match=says):
        run().figure(*asked)


def test_an_experiment_without_figures(tmp_path: Path) -> None:
    old = dd.open_study(Path(__file__).parents[1] / "fixtures" / "inject-0.1.0")
    for asked in (lambda: old.plot, lambda: old.figure("survival"), lambda: old.save_figures(tmp_path)):
        with pytest.raises(dd.InputError, match="a run of inject has no figures; its tables are traces, injection"):
            asked()


def test_what_cannot_be_saved(tmp_path: Path) -> None:
    with pytest.raises(dd.InputError, match="format 'gif': unknown; choices: svg, png, pdf"):
        run().save_figures(tmp_path, "gif")
    (tmp_path / "file").write_text("")
    with pytest.raises(dd.InputError, match="file"):
        run().save_figures(tmp_path / "file")


def test_a_glyph_that_is_not_known_is_an_error_and_a_grid_is_a_grid() -> None:
    plots = [figure(width=100, height=80) for _ in range(3)]
    for plot in plots:
        plot.line([1, 2], [3, 4])
    assert [a.get_subplotspec().get_geometry()[:2] for a in drawn(gridplot(plots, ncols=2)).axes] == [(2, 2)] * 3
    plots[1].text(x=value(1), y=value(3), x_offset=value(6), text=value("once"))
    assert [text.get_text() for text in drawn(plots[1]).axes[0].texts] == ["once"]
    plots[0].hex_tile([1], [1])
    with pytest.raises(dd.InputError, match="HexTile"):
        drawn(plots[0])


def test_every_glyph_of_every_figure_is_known() -> None:
    models = [FIGURES[name](run(), notebook=True).figure() for name in FIGURES]
    plots = [plot for model in models if model for plot in model.model.select({"type": figure})]
    kinds = {type(renderer.glyph).__name__ for plot in plots for renderer in plot.renderers}
    assert {"Line", "Step"} <= kinds <= set(GLYPHS)


def test_without_matplotlib_one_line_says_what_to_install() -> None:
    code = "import sys; sys.modules['matplotlib'] = None\nimport decodedrift.report.still"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert 'InputError: figures as SVG or PNG need matplotlib: pip install "decodedrift[plots]"' in done.stderr
    assert "matplotlib" not in subprocess.run(
        [sys.executable, "-c", "import sys, decodedrift.experiments.study; print(*sys.modules)"],
        capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip


def test_a_curve_goes_on_to_the_end_of_its_picture() -> None:
    """Where all part at the first word it would be a point."""
    made = study({"bf16": [parted(0, compared=1)] * 2, "int8": [{"compared": 9}] * 2})
    shown = FIGURES["survival"](made)._read()
    rows = shown[shown["candidate"] == "bf16"]
    assert list(rows["position"]) == [0, 8] and list(rows["incidence"]) == [1, 1] and list(rows["at_risk"]) == [2, 0]
