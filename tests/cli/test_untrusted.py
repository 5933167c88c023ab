"""Foreign text, foreign models and the user's own secrets: nothing acts, nothing is run, nothing leaks."""

from __future__ import annotations

import csv
import functools
import http.server
import json
import os
import re
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import pandas as pd
import pyarrow.parquet as pq
import pytest
import torch
from conftest import tiny_tokenizer
from forking import command
from running import LEAN, LEAN_FLAGS

import decodedrift as dd
from decodedrift.core.progress import Progress
from decodedrift.core.records import InputError
from decodedrift.core.secrecy import HIDDEN, excerpt, home_shortened, redacted
from decodedrift.core.untrusted import csv_text, csv_text_back, spreadsheet, terminal
from decodedrift.experiments import running
from decodedrift.measure.tables import WORDS
from decodedrift.models.text import vocabulary

HOSTILE = {
    "script": "</script><script>alert(1)</script>", "style": "</style><script>alert(1)</script>", "handler": "<img src=x onerror=alert(1)>",
    "svg": "<svg/onload=alert(1)>", "refresh": '<meta http-equiv="refresh" content="0;url=http://127.0.0.1:9/">',
    "link": '<a href="javascript:alert(1)" autofocus onfocus=alert(1)>x</a>', "attribute": "\" onmouseover=alert(1) x='", "comment": "<!--",
    "braces": "{{7*7}}{% for i in range(9) %}${7*7}", "iframe": "<iframe src=http://127.0.0.1:9/></iframe>", "base": "<base href=http://127.0.0.1:9/>",
    "css": "<link rel=stylesheet href=http://127.0.0.1:9/>", "cdata": "]]><script>alert(1)</script>", "entity": "&lt;script&gt;", "esc": "\x1b[2J\x1b]8;;http://x\x07",
    "c1": "\x9b31m\x85", "bidi": "\u202e321\u2066x", "zero": "a\u200bb\ufeff", "nul": "a\x00b", "rich": "[/][link=http://x]y", "formula": "=cmd|' /C calc'!A0",
    "plus": "+1", "minus": "-1", "at": "@SUM(A1)", "tab": "\t=1", "cr": "\r=1", "na": "NA", "null": "null", "nan": "nan", "u2028": "a\u2028b", "ten": "x" * 10_000_000,
}  # fmt: skip


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory, saved: Callable[..., Path]) -> dd.Study:
    """A run whose prompts, names, generated texts and tokens are the corpus."""
    study = dd.compare(
        saved(), prompts=[{"id": f"{name} {text[:40]}", "prompt": "w1 w2"} for name, text in HOSTILE.items()],
        candidates=["bf16:batch_size=3"], strategies=["greedy"], max_new_tokens=6, **LEAN,
    )  # fmt: skip
    texts = [*HOSTILE.values(), "lone \ud800 surrogate"]
    for frame, columns in (
        (study.traces, ["text", "prompt"]),
        (study.divergences, ["reference_token", "candidate_token"]),
        (study.positions, ["token"]),
    ):
        for column in columns:
            frame[column] = pd.Series(
                [texts[i % len(texts)] if column != "token" else texts[i % 29] for i in range(len(frame))],
                dtype=frame[column].dtype,
            )
    study.divergences["diverged"] = 1
    study.divergences["cause"] = "near_tie"
    study.divergences["first_divergence"] = study.divergences["first_divergence_char"] = 0
    study.path = tmp_path_factory.mktemp("hostile") / "run"
    return study


def test_hostile_text_comes_back_from_every_table(hostile: dd.Study) -> None:
    path = hostile.save(Path(str(hostile.path)))
    back = dd.open_study(path)
    assert back.traces["text"].tolist() == hostile.traces["text"].tolist()
    assert back.positions["token"].tolist() == hostile.positions["token"].tolist()
    csv.field_size_limit(2**31 - 1)
    with open(path / "tables/traces.csv", encoding="utf-8", newline="") as handle:
        assert [csv_text_back(row["text"]) for row in csv.DictReader(handle)] == hostile.traces["text"].tolist()
    frame = pd.read_csv(path / "tables/divergences.csv", keep_default_na=False, dtype=str)
    assert [csv_text_back(t) for t in frame["reference_token"]] == hostile.divergences["reference_token"].tolist()
    assert (path / "report.html").stat().st_size < 5 * 2**20


def test_spreadsheet_files_run_nothing(hostile: dd.Study, tmp_path: Path) -> None:
    from decodedrift.runs.tablefiles import write_csv

    write_csv(hostile.traces, tmp_path / "t.csv", spreadsheet=True)
    csv.field_size_limit(2**31 - 1)
    with open(tmp_path / "t.csv", encoding="utf-8", newline="") as handle:
        cells = [row["text"] for row in csv.DictReader(handle)]
    assert not [c for c in cells if c[:1] in "=+-@\t\r" and c]
    assert cells == [spreadsheet(csv_text(t)) for t in hostile.traces["text"]]


def test_ten_megabytes_are_one_line_at_once() -> None:
    begin = time.process_time()
    assert len(terminal(HOSTILE["ten"], 80)) == 80
    assert time.process_time() - begin < 5


class Recording(http.server.SimpleHTTPRequestHandler):
    asked: ClassVar[list[str]] = []

    def do_GET(self) -> None:
        Recording.asked.append(self.path)
        super().do_GET()

    def log_message(self, *arguments: Any) -> None:
        pass


def test_a_browser_does_nothing_with_the_report(hostile: dd.Study, tmp_path: Path) -> None:
    """No dialog, no request but the page's own, no navigation, nothing on the console."""
    browser = next((b for b in ("chromium", "chromium-browser", "google-chrome") if shutil.which(b)), None)
    if browser is None:
        pytest.skip("no Chromium here")
    page = hostile.to_html()
    # the corpus as it is would act: the same page without escaping is the control that must fail
    (tmp_path / "page.html").write_text(page, encoding="utf-8", errors="backslashreplace")
    (tmp_path / "acts.html").write_text("<!doctype html><img src=/pixel><script>console.error('acted')</script>")
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Recording, directory=str(tmp_path)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    seen = {}
    for name in ("acts.html", "page.html"):
        Recording.asked = []
        done = subprocess.run(
            [
                browser, "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / name}.d",
                "--enable-logging=stderr", "--virtual-time-budget=3000", "--dump-dom",
                f"http://127.0.0.1:{server.server_port}/{name}",
            ],
            capture_output=True, text=True, check=False, timeout=120,
        )  # fmt: skip
        assert "<html" in done.stdout
        seen[name] = (
            [a for a in Recording.asked if "favicon" not in a],
            [x for x in done.stderr.splitlines() if "CONSOLE" in x],
        )
        if name == "page.html":
            assert "Summary" in done.stdout, "still the report: it went nowhere"
    server.shutdown()
    assert seen["acts.html"][0] == ["/acts.html", "/pixel"]
    assert len(seen["acts.html"][1]) >= 1, "what acts is seen"
    assert seen["page.html"] == (["/page.html"], [])


# ---- models


def pickled_model(saved: Callable[..., Path], folder: Path) -> Path:
    from safetensors.torch import load_file

    shutil.copytree(saved(), folder)
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    return folder


SMALL: dict[str, Any] = {"prompts": ["w1 w2"], "candidates": ["bf16"], "strategies": ["greedy"], "max_new_tokens": 3}


def test_pickles_only_on_request_and_with_the_same_rows(saved: Callable[..., Path], tmp_path: Path) -> None:
    folder = pickled_model(saved, tmp_path / "pickled")
    with pytest.raises(InputError, match=r"pickled weights.*allow_pickle=True"):
        dd.compare(folder, **SMALL, **LEAN)
    study, safe = dd.compare(folder, allow_pickle=True, **SMALL, **LEAN), dd.compare(saved(), **SMALL, **LEAN)
    columns = ["strategy", "position", "token", "kl", "nll_candidate"]
    assert study.positions[columns].equals(safe.positions[columns])
    assert list(study.environment["model"]["files"]) == ["pytorch_model.bin"]
    assert (
        study.environment["variants"]["bf16"]["stored_dtypes"] == safe.environment["variants"]["bf16"]["stored_dtypes"]
    )


def test_a_pickle_that_runs_code_does_not(saved: Callable[..., Path], tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> Any:
            return os.system, (f"touch {tmp_path / 'it-ran'}",)

    folder = pickled_model(saved, tmp_path / "pickled")
    torch.save({"a": Evil()}, folder / "pytorch_model.bin")
    with pytest.raises(InputError, match=r"pytorch_model\.bin cannot be read as plain tensors.*nothing of it was run"):
        dd.compare(folder, allow_pickle=True, **SMALL, **LEAN)
    assert not (tmp_path / "it-ran").exists()


def chat_model(saved: Callable[..., Path], folder: Path, template: str) -> Path:
    shutil.copytree(saved(), folder)
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = template
    tokenizer.save_pretrained(folder)
    return folder


def test_a_chat_template_without_an_end(
    saved: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vocabulary, "TEMPLATE_SECONDS", 0.3)
    loops = "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"
    folder = chat_model(saved, tmp_path / "loops", loops)
    with pytest.raises(InputError, match=r"chat_template=True: .* did not end within 0.3 s"):
        dd.compare(folder, chat_template=True, **SMALL, **LEAN)
    time.sleep(0.2)
    assert not [t for t in threading.enumerate() if t.daemon and t.name.startswith("Thread") and "run" in t.name]


def test_a_chat_template_stays_in_its_sandbox(saved: Callable[..., Path], tmp_path: Path) -> None:
    folder = chat_model(saved, tmp_path / "escapes", "{{ ''.__class__.__mro__[1].__subclasses__() }}")
    with pytest.raises(InputError, match="chat template refuses it"):
        dd.compare(folder, chat_template=True, **SMALL, **LEAN)


# ---- secrets


def test_what_is_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_API_KEY", "sekrit-value-1")
    monkeypatch.setenv("USE_TOKEN", "1")
    monkeypatch.setenv("HOME", "/home/alice")
    text = "1 https://user:pa55@host/x?token=abc&a=1 hf_ABCDEFGHIJKLMNOP /home/alice/m sekrit-value-1 Authorization: Bearer zzz"
    assert redacted(text) == (
        f"1 https://{HIDDEN}@host/x?token={HIDDEN}&a=1 {HIDDEN} ~/m {HIDDEN} Authorization: Bearer {HIDDEN}"
    )
    assert home_shortened("/home/alice/m") == "~/m"
    assert home_shortened("/home/alicette/m") == "/home/alicette/m"


def test_a_secret_is_hidden_before_a_message_is_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_API_KEY", "sekrit-value-1")
    text = "failed at http://bob:pa55word@host/x with sekrit-value-1"
    assert excerpt(text, 30) == f"failed at http://{HIDDEN}@host/x"[:29] + "…"
    assert not [n for n in range(len(text)) if "pa55" in excerpt(text, n) or "sekrit" in excerpt(text, n)]


def test_a_message_is_cut_between_words_and_keeps_the_end_that_mends_it() -> None:
    text = "line 7: there is no such thing as this (which is told at length, word by word); give another"
    words = {word.strip(",:;()") for word in text.split()}
    for width in range(60, len(text)):
        for end in (0, width // 3):
            cut = excerpt(text, width, end)
            assert len(cut) <= width and "…" in cut
            assert {word.strip(",:;()") for word in cut.split()} <= {*words, "…"}
    assert excerpt(text, 60, 16) == "line 7: there is no such thing as this (which … give another"
    assert excerpt(text, len(text)) == text and excerpt("x" * 50, 10) == "xxxxxxxxx…"


@pytest.mark.parametrize("folder", ["long" * 25, "gone"])
def test_a_bug_names_its_log_whatever_the_folder(folder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if folder != "gone":
        (tmp_path / folder).mkdir()
    code = (
        "import sys\nfrom decodedrift import cli\nfrom decodedrift.cli import listing\ndef fails(what): raise RuntimeError('x' * 500)\n"
        f"import tempfile\ntempfile.tempdir = {str(tmp_path / folder)!r}\n"
        "listing.listing = fails\nsys.argv = ['decodedrift', 'list']\ncli.main()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 1
    assert len(done.stderr) <= 301
    if folder == "gone":
        assert "no log could be written (No such file or directory)" in done.stderr
    else:
        assert "RuntimeError" in Path(done.stderr.strip().rpartition(" is in ")[2]).read_text()


def test_secrets_are_in_no_output(saved: Callable[..., Path], tmp_path: Path) -> None:
    """Planted in the environment, in URLs and in the home folder's name; every file, log and stream is searched."""
    home = tmp_path / "home-OF-ALICE"
    shutil.copytree(saved(), home / "model")
    logs = tmp_path / "logs"
    logs.mkdir()
    environment = os.environ | {
        "HOME": str(home), "HF_TOKEN": "hf_PLANTEDplantedPLANTED", "AWS_SECRET_ACCESS_KEY": "PLANTED/secret+key",
        "HF_ENDPOINT": "http://bob:PLANTEDpass@127.0.0.1:9", "HTTPS_PROXY": "http://bob:PLANTEDpass@127.0.0.1:9",
        "TMPDIR": str(logs),
    }  # fmt: skip
    short = [
        "--prompt",
        "w1 w2",
        "--candidates",
        "bf16",
        "--strategies",
        "greedy",
        "--max-new-tokens",
        "3",
        *LEAN_FLAGS,
    ]
    bug = (
        "import sys\nfrom decodedrift import cli\nfrom decodedrift.cli import listing\n"
        "def fails(what): raise RuntimeError('hf_PLANTEDplantedPLANTED at http://bob:PLANTEDpass@h/ in ' + sys.argv[0])\n"
        f"listing.listing = fails\nsys.argv = ['{home}/decodedrift', 'list']\ncli.main()"
    )
    models = [str(home / "model"), "http://bob:PLANTEDpass@h/m", "owner/hf_PLANTEDplantedPLANTED"]
    runs = (  # one process: the libraries read the environment when it begins
        "import sys\nfrom decodedrift import cli\n"
        f"for n, model in enumerate({models!r}):\n"
        f"    sys.argv = ['decodedrift', 'compare', '--model', model, *{short!r}, '--out', f'run{{n or str()}}']\n"
        "    try: cli.main()\n"
        "    except SystemExit as stopped: print('CODE', stopped.code)\n"
    )
    said = []
    for code in (runs, bug):
        done = subprocess.run(
            [sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
        )
        said.append((done.returncode, done.stdout + done.stderr))
    assert [code for code, _ in said] == [0, 1], said
    assert re.findall(r"^CODE (\d)$", said[0][1], re.M) == ["0", "2", "2"], said
    files = [p for root in (tmp_path / "run", logs) for p in root.rglob("*") if p.is_file()]
    assert any(p.suffix == ".log" for p in files)
    everything = [text.encode() for _, text in said] + [p.read_bytes() for p in files]
    for secret in (b"PLANTED", b"home-OF-ALICE"):
        assert not [text[:2000] for text in everything if secret in text], secret
    assert json.loads((tmp_path / "run" / "data/plan.json").read_text())["model"] == "~/model"


# ---- a run without texts


def test_a_page_without_text_is_drawn_again_where_nothing_parted(tmp_path: Path, saved: Callable[..., Path]) -> None:
    """No table of what followed the splits was written, and the tokens to fold one are gone."""
    study = dd.compare(
        saved(), prompts=["w1"], candidates=["fp32:batch_size=1"], strategies=["greedy"], max_new_tokens=2, no_text=True,
        out=tmp_path / "run", **LEAN,
    )  # fmt: skip
    assert not study.divergences["diverged"].any() and not len(study.after)
    assert dd.open_study(tmp_path / "run").to_html() == (tmp_path / "run/report.html").read_text("utf-8")


def test_no_text_leaves_none(saved: Callable[..., Path], tmp_path: Path) -> None:
    """Words of the vocabulary are searched in every file of the folder, columns in every table; numbers stay."""
    text = tmp_path / "t.txt"
    text.write_text("w41 w42 w43 " * 30)
    asked: dict[str, Any] = {
        "prompts": [{"id": "first", "prompt": "w11 w12"}, {"id": "second", "prompt": "w13"}, {"id": "none", "prompt": ""}],
        "candidates": ["bf16", "int8"], "strategies": ["greedy", "beam", "top-p"], "max_new_tokens": 8,
        "texts": [text], "noise_floor": True, "prompts_per_job": 1,
    }  # fmt: skip
    with_text = dd.compare(saved(), **LEAN | asked)
    out = tmp_path / "run"

    class Dying(Progress):
        def start(self, variant: str, what: str, tokens: int) -> None:
            if variant == "int8" and (out / "data/jobs").is_dir():
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        dd.compare(saved(), out=out, no_text=True, progress=Dying(), **LEAN | asked)
    study = running.resume(out)  # its texts were on disk as long as they were needed
    for path in out.rglob("*"):
        if path.suffix == ".parquet":
            frame = pq.read_table(path).to_pandas()
            assert frame[[c for c in frame if c in WORDS]].isna().all(axis=None), path
            assert path.stem != "alternatives" or not len(frame)
        elif path.is_file():
            content = path.read_text("utf-8")
            assert not [f"w{n}" for n in (11, 12, 13, 41, 42, 43) if f"w{n}" in content.replace("w_", "")], path
    back = dd.open_study(out)
    for table in ("traces", "divergences", "positions"):
        kept, full = getattr(back, table), getattr(with_text, table)
        assert kept[[c for c in kept if c in WORDS]].isna().all(axis=None), table
        numbers = [c for c in kept if c not in WORDS]
        pd.testing.assert_frame_equal(kept[numbers], full[numbers].reset_index(drop=True))
    pd.testing.assert_frame_equal(back.summary, with_text.summary)
    assert back.to_html() == (out / "report.html").read_text("utf-8")
    assert study.failures["prompt_id"].tolist() == ["none"]
    assert dd.compare(saved(), out=out, no_text=True, resume=True, **LEAN | asked).path == out
    other = asked | {"prompts": [{"id": "first", "prompt": "w11 w14"}, *asked["prompts"][1:]]}
    with pytest.raises(InputError, match="other prompts or texts"):
        dd.compare(saved(), out=out, no_text=True, resume=True, **LEAN | other)


def test_no_text_holds_for_every_file_that_can_be_asked_for(saved: Callable[..., Path], tmp_path: Path) -> None:
    out = tmp_path / "run"
    asked = ["--prompt", "w11 w12", "--candidates", "int8", "--strategies", "greedy,top-p", "--max-new-tokens", "8",
             "--inject", "--decompose", "--spreadsheet-safe", "--positions-csv", *LEAN_FLAGS]  # fmt: skip
    for more in (["--no-text", "--out", out], ["--out", tmp_path / "full"]):
        command("compare", "--model", saved(), *asked, "--quiet", *more).check_returncode()
    told = dd.open_study(tmp_path / "full").traces
    secret = {"w11 w12", *told["text"], *told["token_ids"]}
    assert len(secret) > 3
    tables = [p for p in out.rglob("*") if p.suffix in (".csv", ".parquet")]
    assert {"traces.spreadsheet.csv", "positions.csv", "positions.spreadsheet.csv"} <= {p.name for p in tables}
    for path in tables:
        frame = pd.read_csv(path) if path.suffix == ".csv" else pq.read_table(path).to_pandas()
        own = WORDS - ({"text"} if "perplexity" in path.name else set())
        assert frame[[c for c in frame if c in own]].isna().all(axis=None), path
    for path in (p for p in out.rglob("*") if p.is_file()):
        assert not [s for s in secret if s.encode() in path.read_bytes()], path


def test_a_plan_without_texts_says_so(saved: Callable[..., Path], tmp_path: Path) -> None:
    from decodedrift.core.settings import make_settings
    from decodedrift.experiments.compare.settings import CompareSettings
    from decodedrift.runs.config import read_config

    dd.compare(saved(), out=tmp_path / "run", no_text=True, **SMALL, **LEAN)
    from decodedrift.runs.prepare import draft

    with pytest.raises(InputError, match="kept without texts"):
        draft(make_settings(CompareSettings, read_config(tmp_path / "run" / "data/plan.json")))
