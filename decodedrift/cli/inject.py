"""`decodedrift inject`: one token of a text replaced, and where the text goes from there."""

from __future__ import annotations

import sys
from contextlib import suppress
from typing import TYPE_CHECKING, Annotated, Any

import typer

from decodedrift.cli.app import DONE, FAILED, Items, Text, app, option
from decodedrift.cli.compare import check_out, default_folder, given_prompts, split
from decodedrift.cli.shown import wrapped
from decodedrift.core.records import InputError
from decodedrift.core.untrusted import terminal

if TYPE_CHECKING:
    from decodedrift.experiments.inject.job import Injections


@app.command()
def inject(
    model: Annotated[Text, option(metavar="NAME", help="demo, a local folder or a hub id. [default: demo]")] = None,
    revision: Annotated[Text, option(metavar="REV", help="Hub revision of the model.")] = None,
    at: Annotated[Items, option(metavar="LIST", help="Positions, from 0, a pass each: 5,20,50. [default: 20]")] = None,
    rank: Annotated[
        Text, option(metavar="N", help="What replaces: 2, the runner-up; 1, the token itself. [default: 2]")
    ] = None,
    reference: Annotated[Text, option(metavar="VARIANT", help="How the model is executed. [default: fp32]")] = None,
    strategies: Annotated[Items, option(metavar="LIST", help="Greedy and sampling. [default: greedy,top-p]")] = None,
    prompts: Annotated[Text, option(metavar="FILE", help="A .txt, .jsonl or .csv file, or a bundled set.")] = None,
    prompt: Annotated[Items, option(metavar="TEXT", help="A prompt; repeatable.")] = None,
    limit: Annotated[Text, option(metavar="N", help="Prompts at most. [bundled sets: a balanced 16]")] = None,
    max_new_tokens: Annotated[Text, option(metavar="N", help="Tokens to generate. [default: 64]")] = None,
    seeds: Annotated[Items, option(metavar="LIST", help="Seeds of sampled strategies: 0,1,2. [default: 0]")] = None,
    batch_size: Annotated[Text, option(metavar="N", help="Prompts per batch. [default: 8]")] = None,
    device: Annotated[Text, option(metavar="NAME", help="auto, cpu, cuda, cuda:1, mps. [default: auto]")] = None,
    threads: Annotated[Text, option(metavar="N", help="CPU threads. [default: torch's]")] = None,
    chat_template: Annotated[bool, option("--chat-template", help="Prompts as user turns of a chat model.")] = False,
    ignore_eos: Annotated[bool, option("--ignore-eos", help="Go on past stop tokens: full horizons.")] = False,
    trust_remote_code: Annotated[bool, option("--trust-remote-code", help="Run the model's own code.")] = False,
    out: Annotated[Text, option(metavar="DIR", help="A new folder. [default: reports/MODEL-DATE-TIME]")] = None,
    quiet: Annotated[bool, option("--quiet", help="No progress; only the result.")] = False,
) -> None:
    """Replace one token of the model's own text and see where it goes: drift without any numerical error."""
    given: dict[str, Any] = {
        "model": model, "revision": revision, "reference": reference, "strategies": strategies, "limit": limit,
        "max_new_tokens": max_new_tokens, "seeds": split(seeds), "batch_size": batch_size, "device": device,
        "threads": threads, "chat_template": chat_template or None, "ignore_eos": ignore_eos or None,
        "trust_remote_code": trust_remote_code or None, "prompts": given_prompts(prompts, prompt),
    }  # fmt: skip
    positions, place = _whole("--at", split(at) or ["20"], 0), _whole("--rank", [rank or "2"], 1)[0]
    from decodedrift.runs.settings import make_settings

    asked = {"strategies": ["greedy", "top-p"]} | {k: v for k, v in given.items() if v is not None}
    folder = default_folder(make_settings(asked).model, "inject-") if out is None else out
    check_out(folder)
    _carry_out(asked, positions, place, folder, quiet)


def _carry_out(asked: dict[str, Any], at: list[int], rank: int, folder: str, quiet: bool) -> None:
    from decodedrift.core.progress import Bars
    from decodedrift.experiments.inject.job import carry_out, ready_to_inject
    from decodedrift.runs.runfolder import RunFolder

    ready = ready_to_inject(asked, at, rank)
    for said in ready.doubts():
        print(terminal(said, 300), file=sys.stderr)
    progress = Bars(False if quiet else None, opening="" if quiet else terminal(ready.announcement()))
    with RunFolder.create(folder) as made:
        try:
            done = carry_out(ready, at, rank, made, progress)
        except InputError:
            made.discard()
            raise
        finally:
            progress.stop()
    with suppress(BrokenPipeError):
        _show(done)
    raise typer.Exit(FAILED if len(done.failures) else DONE)


def _show(done: Injections) -> None:
    """The table by strategy and position, the verdict and the folder."""
    from decodedrift.report.numbers import percentage
    from decodedrift.report.terminal import drawn

    head = ["strategy", "at", "texts", "come back", "in step", "agree after", "lag 1", "lag 5", "lag 20"]
    body = [
        [
            str(row.strategy), str(row.position), str(row.texts), f"{int(row.recovered)}/{row.long_enough}",
            str(row.in_step), percentage(row.agreement),
            *(percentage(getattr(row, f"agreement_lag_{lag}")) for lag in (1, 5, 20)),
        ]
        for row in done.table.itertuples()
    ]  # fmt: skip
    print(drawn(head, body, 80, names=1))
    print()
    for sentence in done.verdict:
        print(wrapped(sentence))
    print(f"\ntables: {terminal(str(done.path))}")


def _whole(name: str, given: list[str], low: int) -> list[int]:
    from decodedrift.core.notation import whole

    read, found = whole(low, 2**31 - 1), []
    for value in given:
        try:
            found.append(read(value))
        except ValueError as error:
            raise InputError(f"{name}: {error}") from None
    return list(dict.fromkeys(found))
