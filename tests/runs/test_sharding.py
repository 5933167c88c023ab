"""A run in shards, merged: the tables of one run; and what is refused, with the command that mends it."""

from __future__ import annotations

import json
import re
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from running import LEAN, content
from typer.testing import CliRunner

import decodedrift as dd
from decodedrift.cli.app import app
from decodedrift.core.records import InputError, Job
from decodedrift.core.settings import make_settings
from decodedrift.experiments import experiment
from decodedrift.experiments.merging import ShardStudy
from decodedrift.experiments.running import resume
from decodedrift.runs import plan as plans

ASKED: dict[str, Any] = LEAN | {
    "candidates": ["bf16"], "strategies": ["greedy"], "max_new_tokens": 3, "prompts_per_job": 1, "batch_size": 2,
    "prompts": ["w1 w2", "w3", "w4 w5 w6", ""],
}  # fmt: skip


@pytest.fixture(scope="module")
def whole(saved: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("whole") / "run"
    dd.compare(saved(), out=folder, **ASKED)
    return folder


@pytest.fixture
def shards(whole: Path, tmp_path: Path) -> list[Path]:
    """The jobs of a finished run in two folders, as two shards of it leave them."""
    keys = sorted(job.name for job in (whole / "data/jobs").iterdir())
    plan, folders = json.loads((whole / "data/plan.json").read_text()), []
    for n in (1, 2):
        data = tmp_path / f"shard-{n}" / "data"
        (data / "jobs").mkdir(parents=True)
        shutil.copy(whole / "data/environment.json", data)
        (data / "plan.json").write_text(json.dumps(plan | {"shard": f"{n}/2"}))
        (data / "unfinished.json").write_text(json.dumps({"folder": ".", "jobs": keys}))
        for key in keys[n - 1 :: 2]:
            shutil.copytree(whole / "data/jobs" / key, data / "jobs" / key)
        folders.append(data.parent)
    return folders


def edit(folder: Path, name: str, **changes: Any) -> None:
    file = folder / "data" / name
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def test_merged_shards_are_one_run(
    whole: Path, shards: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = [content(folder) for folder in shards]
    for library in ("torch", "transformers"):  # what imports one of them from here on fails
        monkeypatch.setitem(sys.modules, library, None)
    study = dd.merge(list(reversed(shards)), out=tmp_path / "merged")
    assert content(tmp_path / "merged") == content(whole)
    assert [content(folder) for folder in shards] == before
    assert study.plan["shard"] is None
    environment = json.loads((tmp_path / "merged/data/environment.json").read_text())
    assert environment["variants"].keys() == study.environment["variants"].keys() == {"fp32", "bf16"}
    assert dd.open_study(tmp_path / "merged").divergences.equals(dd.open_study(whole).divergences)


def test_a_shard_runs_its_own_jobs_and_writes_no_verdict(
    saved: Callable[..., Path], whole: Path, tmp_path: Path
) -> None:
    study = dd.compare(saved(), out=tmp_path / "two", shard="2/2", **ASKED)
    keys = sorted(job.name for job in (whole / "data/jobs").iterdir())
    files = content(tmp_path / "two")
    of_jobs = {name: data for name, data in files.items() if name.startswith("data/jobs/")}
    assert {Path(name).parts[2] for name in of_jobs} == set(keys[1::2])
    assert of_jobs.items() <= content(whole).items()
    assert files.keys() - of_jobs.keys() == {"data/plan.json", "data/unfinished.json"}
    assert isinstance(study, ShardStudy)
    assert not study.failed
    line = f"{tmp_path}/two: shard 2/2 of a run, 1 of its 1 jobs are done, of 3 in all; once every shard is done: "
    assert str(study) == line + "decodedrift merge SHARD... --out NEW"
    for look in (lambda: study.summary, lambda: dd.open_study(tmp_path / "two")):
        with pytest.raises(InputError, match="shard 2/2 of a run"):
            look()
    again = dd.compare(saved(), out=tmp_path / "two", shard="2/2", resume=True, **ASKED)
    assert str(again) == str(study)
    with pytest.raises(InputError, match="holds shard 2/2, and shard 1/2 is asked for"):
        dd.compare(saved(), out=tmp_path / "two", shard="1/2", resume=True, **ASKED)


def test_the_forecast_of_a_shard_is_its_part(saved: Callable[..., Path]) -> None:
    from decodedrift.core.settings import Settings
    from decodedrift.experiments import experiment
    from decodedrift.runs.prepare import prepare

    kind = experiment("compare")

    def ready(**more: Any) -> Any:
        values: dict[str, Any] = ASKED | {"model": str(saved())} | more
        settings: Settings = kind.settings(**values)
        return prepare(settings)

    whole, part = ready(prompts_per_job=None, batch_size=1), ready(prompts_per_job=None, batch_size=1, shard="1/1")
    assert (part.plan.prompts_per_job, part.every) == (16, [job.key for job in whole.jobs])
    forecast = kind.forecast(ready(shard="2/3"))
    assert "jobs      1 (1 prompts each" in forecast
    assert "shard     2/3: these of 3 jobs" in forecast


def test_what_is_no_shard_is_refused(saved: Callable[..., Path], tmp_path: Path) -> None:
    for wrong in ("0/2", "3/2", "2", "a/b", 2, "1/2/3"):
        with pytest.raises(InputError, match=r"must be i/n with i from 1 to n"):
            dd.compare(saved(), out=tmp_path / "a", shard=wrong, **ASKED)
    with pytest.raises(InputError, match=r"the run has 3 jobs, fewer than 5 shards"):
        dd.compare(saved(), out=tmp_path / "a", shard="1/5", **ASKED)
    with pytest.raises(InputError, match=r"leaves jobs in a folder, for merge: name it with out="):
        dd.compare(saved(), shard="1/2", **ASKED)
    with pytest.raises(InputError, match=r"api is an endpoint, which every shard would ask"):
        dd.compare(saved(), shard="1/2", out="b", **ASKED | {"candidates": ["api=http://127.0.0.1:1/v1#m"]})
    assert not list(tmp_path.iterdir())


def lose_job(folders: list[Path]) -> list[Path]:
    shutil.rmtree(next((folders[1] / "data/jobs").iterdir()))
    return folders


def lose_no_text(folders: list[Path]) -> list[Path]:
    edit(folders[0], "plan.json", no_text=True)
    return folders[:1]


def change(name: str, **changes: Any) -> Callable[[list[Path]], list[Path]]:
    def changed(folders: list[Path]) -> list[Path]:
        edit(folders[1], name, **changes)
        return folders

    return changed


def other_threads(folders: list[Path]) -> list[Path]:
    numerical = json.loads((folders[1] / "data/environment.json").read_text())["numerical"]
    edit(folders[1], "environment.json", numerical=numerical | {"threads": 77})
    return folders


def other_path(folders: list[Path]) -> list[Path]:
    file = next((folders[1] / "data/jobs").iterdir()) / "facts.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"path": {"path": "other"}}))
    return folders


def damaged(table: str) -> Callable[[list[Path]], list[Path]]:
    def spoilt(folders: list[Path]) -> list[Path]:
        (next((folders[1] / "data/jobs").iterdir()) / f"{table}.parquet").write_bytes(b"PAR1 and no more")
        return folders

    return spoilt


def mixed(folders: list[Path]) -> list[Path]:
    one, two = (next((folder / "data/jobs").iterdir()) for folder in folders)
    shutil.copy(one / "traces.parquet", two)
    return folders


ANEW = "; make it anew with: decodedrift compare --config .*shard-1/data/plan.json --shard 2/2 --out NEW$"


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda folders: folders[:1], r"shard 2/2 missing; .* compare --config .*plan.json --shard 2/2 --out NEW"),
        (lambda folders: folders[1:], "shard 1/2 missing"),
        (lose_no_text, "the command of .*shard-1 again, with --shard 2/2"),
        (lose_job, r"shard 2/2 lacks 00001-[0-9a-f]+ of its 1 jobs; go on with: decodedrift resume .*shard-2"),
        (lambda folders: [*folders, folders[0]], "shard 1/2, as is"),
        (change("plan.json", batch_size=1), "--batch-size 1, asked or fitted to memory, and .*shard-1 has 2"),
        (change("plan.json", prompts_per_job=3), "--prompts-per-job 3"),
        (change("plan.json", max_new_tokens=4), "another run .* max_new_tokens 3 there, 4 here" + ANEW),
        (
            change("plan.json", shard="2/3"),
            "shard 2/3, and .*shard-1 is shard 1/2: .*; leave it out, and merge says what makes",
        ),
        (change("plan.json", shard=None), "a whole run, not a shard"),
        (change("plan.json", shard="x"), "must be i/n"),
        (change("environment.json", tokenizer="0" * 64), "tokenizer differs"),
        (other_threads, "threads [0-9]+ there, 77 here" + ANEW),
        (change("unfinished.json", jobs=["00000-a", "00001-b", "00002-c"]), "of other prompts or texts" + ANEW),
        (change("unfinished.json", jobs=[]), "has only begun; go on with: decodedrift resume"),
        (other_path, "different paths: .* on 'other'"),
        (damaged("traces"), r"shard-2/.*/traces.parquet: cannot be read .*folder and: decodedrift resume .*/shard-2$"),
        (damaged("alternatives"), r"shard-2/.*/alternatives.parquet: cannot be read .* resume .*/shard-2$"),
        (mixed, r"shard-2/.*/00001-\w+/traces.parquet: lacks prompt \S+ of this job.* resume .*/shard-2$"),
    ],
)
def test_shards_that_are_not_one_run(
    shards: list[Path], tmp_path: Path, spoil: Callable[[list[Path]], list[Path]], words: str
) -> None:
    with pytest.raises(InputError, match=words):
        dd.merge(spoil(shards), out=tmp_path / "merged")
    assert not (tmp_path / "merged").exists()


@pytest.mark.parametrize("name", ["environment.json", "unfinished.json"])
def test_what_a_shard_lost_is_named_and_no_resume_is_advised(shards: list[Path], tmp_path: Path, name: str) -> None:
    (lost := shards[1] / "data" / name).unlink()
    for ask in (lambda: dd.merge(shards, out=tmp_path / "merged"), lambda: resume(shards[1])):
        with pytest.raises(
            InputError, match=f"^{re.escape(str(lost))}: missing, .* run shard 2/2 again in a new folder$"
        ):
            ask()


def test_where_a_merge_may_go(shards: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "link").symlink_to(shards[0])
    for inside in (shards[1] / "new", tmp_path / "link/deep/new"):
        with pytest.raises(InputError, match=r"lies in the shard .*shard-[12], which stays as it is"):
            dd.merge(shards, out=inside)
        assert CliRunner().invoke(app, ["merge", *map(str, shards), "--out", str(inside)]).exit_code != 0
        assert not inside.parent.joinpath("new").exists()
    asked = ["merge", *map(str, shards), "--out", str(shards[0])]
    for refused in (lambda: dd.merge(shards, out=shards[0]), lambda: app(asked, standalone_mode=False)):
        with pytest.raises(InputError, match=r"the folder is not empty; nothing is overwritten, name a new one"):
            refused()
    answers = tmp_path / "asked/data/recorded"  # of a run that was killed before it had a plan
    answers.mkdir(parents=True)
    monkeypatch.setattr("decodedrift.experiments.merging.put_together", lambda *parts: 1 / 0)
    for name in ("merged", "asked"):
        with pytest.raises(ZeroDivisionError):
            dd.merge(shards, out=tmp_path / name)
    assert answers.is_dir()
    assert not (tmp_path / "merged").exists()


def test_a_training_has_a_job_a_seed() -> None:
    from decodedrift.experiments import experiment
    from decodedrift.runs.sharding import own_jobs

    for name, words in (("train", "name more --seeds, a job each"), ("compare", "lower --prompts-per-job")):
        plan = experiment(name).settings(model="demo", shard="3/3")
        with pytest.raises(InputError, match=f"the run has 2 jobs, fewer than 3 shards; .* or {words}$"):
            own_jobs(plan, [Job("a", 0), Job("b", 1)])


def test_the_plan_is_written_out_once_whatever_the_number_of_jobs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Once a job, the keys of a run would cost prompts times jobs."""
    prompts = [dd.Prompt(f"p{n}", f"w{n}") for n in range(9)]
    kind = experiment("compare").settings
    plan = make_settings(kind, {"model": "demo", "candidates": ["bf16"], "prompts": prompts, "prompts_per_job": 2})
    calls: list[int] = []
    real = type(plan).as_dict
    monkeypatch.setattr(type(plan), "as_dict", lambda self: (calls.append(1), real(self))[1])
    made = plans.jobs(plan, {"weights": "a"}, {}, 4)
    assert len(calls) == 1
    assert len({job.key for job in made}) == len(made) == 5
    other = plans.jobs(plan, {"weights": "b"}, {}, 4)
    assert not {job.key for job in made} & {job.key for job in other}
