"""Results that travel: tables for papers, Markdown in which nothing acts, a case in words, a run in two lines."""

from __future__ import annotations

import copy
import math
import pickle
import re
from functools import cache, partial
from pathlib import Path

import pandas as pd
import pytest
import running
import torch
from forking import command
from markdown_it import MarkdownIt
from test_report import HOSTILE, Page, parted, study
from transformers import AutoModelForCausalLM, AutoTokenizer

import decodedrift as dd
from decodedrift.cli.report import report
from decodedrift.core.records import InputError
from decodedrift.experiments.overview import overview
from decodedrift.models.sources import checkpoints
from decodedrift.report.brief import summary
from decodedrift.report.case import Case, Side, word
from decodedrift.report.markup import fenced, latex, latex_table, markdown, markdown_table
from decodedrift.report.numbers import percentage
from decodedrift.report.phrases import counted, relative
from decodedrift.report.spacing import decoder, spaceless

ACTING = [
    "a | b", "`code` ``more``", "*bold* _it_ ~~gone~~", "[link](https://example.org)", "![i](x.png)", "<b>&amp;</b>",
    "@someone #12 GH-7", "https://example.org www.example.org", "# not a heading", "1. one", "- item", "+ x", "= x",
    "$x^2$ $`y`$", "\\`escaped\\`", "> quoted", "---", "a\nb\tc",
]  # fmt: skip
run = partial(running.run, "demo", candidates=["bf16"], strategies=["greedy"], limit=4, max_new_tokens=24)


@cache
def injected() -> dd.Study:
    return dd.inject("demo", at=[2, 5], strategies=["greedy"], limit=2, max_new_tokens=12)


def seen(source: str) -> str:
    """What a reader of this Markdown sees, by an independent parser; nothing but text may be in it."""
    tokens = MarkdownIt("commonmark").enable(["table", "strikethrough"]).parse(source)
    inline = [child for token in tokens if token.type == "inline" for child in token.children or ()]
    assert {child.type for child in inline} <= {"text", "text_special", "softbreak"}, [c.type for c in inline]
    return "".join(child.content for child in inline)


def plainly(text: str) -> str:
    """The text as it is shown, without the spaces of no width that keep mentions and links apart."""
    return text.replace("\u200b", "")


@pytest.mark.parametrize("text", [*ACTING, *HOSTILE])
def test_no_text_is_markdown(text: str) -> None:
    shown = seen(f"- {markdown(text)}")
    assert not re.search(r"[@#]\w|\w://|www\.\w|GH-\d", shown)
    plain = text.replace("\n", " ").replace("\t", " ")
    if plain.isprintable() and not any(0xD800 <= ord(c) < 0xE000 for c in plain):
        assert plainly(shown) == plain
    assert not re.search(r"[\x00-\x08\x0b-\x1f\u202e\u2066]", shown)


@pytest.mark.parametrize("text", [*ACTING, *HOSTILE])
def test_no_text_leaves_its_cell_or_its_block(text: str) -> None:
    held = text.encode("utf-8", "replace").decode("utf-8")
    table = pd.DataFrame([[held, "end"], [held, held]], columns=["a", held])
    tokens = MarkdownIt("commonmark").enable("table").parse(markdown_table(table))
    assert [t.type for t in tokens].count("td_open") == 4
    assert [t.type for t in tokens].count("th_open") == 2
    assert {t.type.rpartition("_")[0] for t in tokens} <= {"table", "thead", "tbody", "tr", "th", "td", ""}
    [block] = MarkdownIt("commonmark").parse(fenced(f"{text}\n```\n{text}"))
    assert block.type == "fence"


@pytest.mark.parametrize("text", [*ACTING, *HOSTILE])
def test_no_text_is_latex(text: str) -> None:
    rest = re.sub(
        r"\\(?:text\w+|dots)\{\}|\\[{}$&#%_]|\$\^\{-?\d+\}\$|\$(?:\\pm|\\times|\\infty|\\Vert|-)\$", "", latex(text)
    )
    assert not re.search(r"[\\{}$&#%_^~\n]", rest)


def test_a_latex_table() -> None:
    table = pd.DataFrame([["50_% & more", "(1.5 ± 0.2)×10⁻⁴"]], columns=["a", "b"])
    assert latex_table(table).splitlines() == [
        r"\begin{tabular}{ll}", r"\toprule", r"a & b \\", r"\midrule",
        r"50\_\% \& more & (1.5 $\pm$ 0.2)$\times$10$^{-4}$ \\", r"\bottomrule", r"\end{tabular}",
    ]  # fmt: skip


def test_intervals_in_words() -> None:
    assert counted(23, 64, 0.25, 0.48) == "23 of 64 (36 %, 25 to 48 %)"
    assert counted(0, 0, math.nan, math.nan) == "n/a"
    assert relative(0.0039, 0.0025, 0.0053) == "+0.39 % (+0.25 to +0.53 %)"
    assert relative(-0.2, -0.31, -0.09) == "−20 % (−31 to −9 %)"
    assert relative(0.5, math.nan, math.nan) == "+50 %"
    assert relative(math.nan, 0, 0) == "n/a"


def test_the_table_says_what_the_folds_say() -> None:
    ran = run()
    table, row = ran.table(), ran.summary.query("role == 'candidate'").iloc[0]
    assert list(table.columns) == [
        "Candidate", "Strategy", "Parted", "First at (median)", "Mean KL (nats)", "Perplexity", "Answer",
    ]  # fmt: skip
    [line] = table.to_numpy().tolist()
    assert line[:2] == ["bf16", "greedy"]
    assert line[2].startswith(f"{row.diverged} of 4 (")
    assert line[3] == f"token {row.first_divergence_median:.1f}".removesuffix(".0")
    assert line[6] == "wording {wording}; quality {quality}".format(**ran.answer.iloc[0])
    assert ran.to_markdown().splitlines()[2].count(" | ") == 6
    assert ran.to_latex().count(" & ") == 12


def test_the_table_of_an_injection() -> None:
    table = injected().table()
    assert table.shape == (2, 7)
    row = injected().summary.iloc[0]
    assert table.iloc[0, 3].startswith(f"{int(row.recovered)} of {int(row.long_enough)}" if row.long_enough else "n/a")


def test_a_case_and_the_probabilities_at_its_fork() -> None:
    """The texts are the traces', and what both tokens were held to be is what transformers computes there."""
    ran = run()
    case = ran.case("animals-01", "bf16", "greedy")
    row = ran.divergences.query("prompt_id == 'animals-01' and role == 'candidate'").iloc[0]
    trace = ran.traces.query("prompt_id == 'animals-01' and role == 'reference'").iloc[0]
    assert case.at == row.first_divergence
    assert case.shared + case.sides[0].token + case.sides[0].rest == trace.text
    assert (case.sides[0].token, case.sides[1].token) != ("", "")
    assert case.sides[0].token != case.sides[1].token
    folder = checkpoints.DEMO
    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    ids = [int(i) for i in trace.token_ids.split()][: case.at]
    context = torch.tensor([tokenizer(trace.prompt)["input_ids"] + ids])
    with torch.no_grad():
        chances = model(context).logits[0, -1].double().softmax(-1)
    ours = [float(chances[i]) for i in (row.reference_token_id, row.candidate_token_id)]
    assert case.sides[0].chances == pytest.approx(ours, rel=1e-5)
    assert case.sides[1].chances != pytest.approx(ours, rel=1e-5)


def test_a_case_in_lines() -> None:
    case = run().case()
    both, lines = f"{case.shared}{case.sides[0].token}", str(case).splitlines()
    assert re.fullmatch(rf"\S+, greedy, bf16 against fp32: they part at token {case.at}", lines[0])
    assert lines[1].split("  ", 1)[1].strip(" …⏎") in both.replace("\n", "⏎")
    for side, line in zip(case.sides, lines[2:4]):
        assert line.startswith(f"{side.name}   [{side.token.strip()}]")
    first, second = (f"“{side.token.strip()}” at {{}}" for side in case.sides)
    said = " and ".join(w.format(percentage(p)) for w, p in zip((first, second), case.sides[0].chances))
    assert lines[4].startswith(f"fp32 held {said}")
    assert all(len(line) <= 80 for line in lines)
    equal = run().divergences.query("role == 'candidate' and diverged == 0").iloc[0]
    assert str(run().case(equal.prompt_id)).splitlines()[0].endswith("equal to the end")


@pytest.mark.parametrize(("asked", "says"), [
    ({"prompt_id": "animals-1"}, "choices: .*animals-01.*did you mean 'animals-01'"),
    ({"candidate": "int8"}, "no case with candidate 'int8'; choices: bf16"),
    ({"prompt_id": "animals-01", "strategy": "beam"}, "choices: greedy"),
    ({"position": 3}, "a case of this experiment has no position"),
])  # fmt: skip
def test_a_case_that_there_is_not(asked: dict[str, object], says: str) -> None:
    with pytest.raises(dd.InputError, match=says):
        run().case(**asked)  # type: ignore[arg-type]


def test_an_error_quotes_nothing_that_acts() -> None:
    """A notebook or a log shows the message as it is."""
    ran = run()
    ran.divergences["prompt_id"] = "rtl\u202eabc\x1b[31m"
    with pytest.raises(dd.InputError) as refused:
        ran.case("no\x1b[0m\nsuch")
    assert not re.search(r"[\x00-\x1f\x7f-\x9f\u202e]", str(refused.value))
    assert "choices: rtl<U+202E>abc<U+001B>[31m" in str(refused.value)
    assert pickle.loads(pickle.dumps(refused.value)).args == refused.value.args


def test_a_run_without_texts_has_no_case() -> None:
    ran = run(no_text=True)
    with pytest.raises(dd.InputError, match="kept no texts"):
        ran.case()
    assert "careful" not in summary(ran)


def test_a_vocabulary_whose_tokens_lose_their_spaces() -> None:
    """Read one by one they have none; a case is written as its texts are."""
    ran = running.run(candidates=["fp16"], strategies=["top-k:k=5"], prompts={"p": "w5 w6 w7"}, max_new_tokens=12)
    ran.divergences.loc[ran.divergences["role"] == "candidate", ["diverged", "first_divergence", "at_end"]] = [1, 4, 0]
    reference, candidate = (ran.traces.query(f"role == '{role}'").iloc[0].text for role in ("reference", "candidate"))
    ours, theirs = ran.case().sides
    assert " " in reference
    assert ran.case().shared + ours.token + ours.rest == reference
    assert ran.case().shared + theirs.token + theirs.rest == candidate
    assert ran.case().shared.count(" ") == 3
    assert ours.token[0] == " "


def test_spaces_are_read_off_the_texts_whatever_the_table_of_tokens_lost() -> None:
    """SentencePiece in older runs: 3 is a space alone, 4 follows one, 5 never does; the first token's is not known."""
    tokens = pd.DataFrame({"token_id": [3, 4, 5], "token": ["", "he", "he"], "bytes": ["", "6865", "6865"]})
    traces = pd.DataFrame({"token_ids": ["5 4 5 3 5", None], "text": ["he hehe he", None]})
    assert spaceless(tokens, traces) == {3, 4}
    assert decoder(tokens, traces)([4, 5, 3, 5]) == " hehe he"
    whole = tokens.assign(token=[" ", " he", "he"], bytes=["20", "206865", "6865"])
    assert spaceless(whole, pd.DataFrame({"token_ids": ["4 4 5 3 5"], "text": ["he hehe he"]})) == set()


@pytest.mark.parametrize(("token", "told"), [
    (" careful", "careful"), ("\n", "⏎"), (" \n", "⏎"), ("  ", "␣␣"), (" a\tb", "a→b"), ("", "∅"),
])  # fmt: skip
def test_a_token_in_words(token: str, told: str) -> None:
    """In Markdown and on a terminal a token that is nothing but space would leave empty quotes."""
    assert word(token) == told
    case = Case("c", "", "both", (Side("a", token, "", (0.25,)), Side("b", "x")), 3)
    assert case.held() == [f"a held “{told}” at 25.0 %"]
    line = case.lines()[1]
    assert line.endswith(f"[{told}]")


def test_a_case_of_an_old_injection() -> None:
    old = dd.open_study(Path(__file__).parents[1] / "fixtures" / "inject-0.1.0")
    with pytest.raises(dd.InputError, match=r"has no tokens\.csv, as those of version 0\.1\.0"):
        old.case()
    with pytest.raises(dd.InputError, match="a case of this experiment has no candidate"):
        old.case(candidate="bf16")


def test_a_case_of_an_injection() -> None:
    case = injected().case("animals-01", position=5)
    before, after = case.sides
    assert case.at == 5
    assert (before.name, after.name) == ("as it was", "replaced")
    assert before.token != after.token
    with pytest.raises(dd.InputError, match="choices: 2, 5"):
        injected().case(position=4)


@pytest.mark.parametrize("text", HOSTILE)
def test_what_a_notebook_and_a_terminal_show_is_inert(text: str) -> None:
    held = text.encode("utf-8", "replace").decode("utf-8")
    hostile = study({held: [parted(reference_token=held, candidate_token=held), {}]}, strategy=held, says=held)
    hostile.traces["prompt"] = hostile.traces["text"] = held
    hostile.tokens = pd.DataFrame({"token_id": [1, 2, 3], "token": [held] * 3, "bytes": [None] * 3})
    found = Page(hostile.case()._repr_html_())
    assert {tag for tag, _ in found.tags} <= {"div", "p", "span", "bdi", "b", "small"}
    assert {a for _, attributes in found.tags for a in attributes} <= {"style"}
    for shown in (repr(hostile), str(hostile.case())):
        assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202e\u2066\u2028]", shown.replace("\n", ""))
    types = {token.type for token in MarkdownIt("commonmark").enable("table").parse(summary(hostile))}
    assert not types & {"html_block", "code_block", "blockquote_open", "hr", "ordered_list_open"}


def test_a_run_in_two_lines() -> None:
    first, second = repr(run()).splitlines()
    assert first == "decodedrift compare: bf16 against fp32; model demo; prompts 4; new tokens 24; ran on CPU"
    assert second.startswith("bf16: ")
    assert run().answer["wording"].iloc[0] in second
    assert len(repr(injected()).splitlines()) == 2


def test_the_summary_of_a_run() -> None:
    lines = summary(run(), "After <the> upgrade").splitlines()
    assert lines[0] == "## After &lt;the&gt; upgrade"
    assert lines[2] == "model demo; reference fp32; prompts 4; new tokens 24; ran on CPU"
    assert lines[4].startswith("- bf16: ")
    assert run().to_markdown() in summary(run())
    assert "```text" in lines
    assert re.fullmatch(r"<sub>decodedrift \S+, torch \S+, .*, metrics \d+, \d{4}-\d\d-\d\d</sub>", lines[-1])
    assert sum(line.startswith("- ") for line in lines) <= 4
    assert "```text" not in summary(run(), texts=False)
    assert summary(injected()).count("\n| ") == 4


def test_the_cell_of_an_injection_has_a_table() -> None:
    page = Page(injected()._repr_html_())
    assert [tag for tag, _ in page.tags].count("table") == 1
    titles = [a["title"] for tag, a in page.tags if tag == "td"]
    assert f"agreement = {float(injected().summary['agreement'].iloc[0])!r}" in str(titles[0])


def test_a_column_that_would_not_be_read_back_is_not_saved(tmp_path: Path) -> None:
    own = copy.copy(run())
    own.traces = own.traces.assign(mine="x")
    with pytest.raises(InputError, match=r"^traces: a run has no column 'mine' in it; drop it"):
        own.save(tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ran = str(run().save(tmp_path / "run"))
    done = command("report", ran, "--format", "md")
    said = done.stdout
    assert done.returncode == 0, done.stderr
    assert said == summary(dd.open_study(ran))
    file = tmp_path / "summary.md"
    for _ in range(2):  # one of ours is written anew
        report(ran, format="md", out=str(file))
        assert capsys.readouterr().out == f"report: {file}\n"
    assert file.read_text("utf-8") == said
    (tmp_path / "mine.md").write_text("mine")
    with pytest.raises(dd.InputError, match="nothing else is overwritten"):
        report(ran, format="md", out=str(tmp_path / "mine.md"))
    with pytest.raises(dd.InputError, match="--format mad: unknown; choices: html, md"):
        report(ran, format="mad")
    with pytest.raises(dd.InputError, match="--format md is a summary of a single run"):
        report(ran, format="md", top="3")


def test_what_was_screened_is_called_predicted(tmp_path: Path) -> None:
    """In the table for a paper, in a case, on the card and in the page over many runs."""
    ran = copy.copy(run())
    ran.plan = {**ran.plan, "mode": "screen"}
    assert list(ran.table().columns)[2] == "Predicted to part"
    assert "they are predicted to part at token" in str(ran.case())
    assert "are predicted to differ" in ran.to_html()
    assert "are predicted to differ" not in run().to_html()
    ran.save(tmp_path / "screened")
    page, _ = overview(tmp_path)
    assert re.search(r"\d %, predicted", page)
