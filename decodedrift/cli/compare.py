"""`decodedrift compare`: the main job."""

from __future__ import annotations

import os
import sys
import time
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from decodedrift.cli.app import Items, Text, app, option
from decodedrift.cli.gated import FAIL_ON, FAIL_ON_INTERVAL, read_gates
from decodedrift.cli.working import conclude, more_files, work
from decodedrift.core.files import file_name
from decodedrift.core.formats import path_of
from decodedrift.core.records import InputError
from decodedrift.core.untrusted import terminal

if TYPE_CHECKING:
    from decodedrift.runs.runfolder import Stored
    from decodedrift.runs.settings import Settings


@app.command()
def compare(
    model: Annotated[Text, option(metavar="NAME", help="demo, a local folder or a hub id. [default: demo]")] = None,
    revision: Annotated[Text, option(metavar="REV", help="Hub revision of the model.")] = None,
    reference: Annotated[Text, option(metavar="VARIANT", help="The variant held against. [default: fp32]")] = None,
    candidates: Annotated[
        Items, option(metavar="LIST", help="Variants: bf16,fp32:batch_size=1,mine=FOLDER. [default: bf16,fp16,int8]")
    ] = None,
    strategies: Annotated[
        Items, option(metavar="LIST", help="Such as top-k:k=50,temperature=0.8. [default: greedy,beam,top-k,top-p]")
    ] = None,
    prompts: Annotated[Text, option(metavar="FILE", help="A .txt, .jsonl or .csv file, or a bundled set.")] = None,
    prompt: Annotated[Items, option(metavar="TEXT", help="A prompt; repeatable.")] = None,
    prompt_id: Annotated[Items, option(metavar="LIST", help="Only the prompts of these ids.")] = None,
    limit: Annotated[Text, option(metavar="N", help="Prompts at most. [bundled sets: a balanced 16]")] = None,
    text: Annotated[Items, option(metavar="FILE", help="A text to measure perplexity on; repeatable.")] = None,
    context: Annotated[Text, option(metavar="N", help="Tokens per window. [default: the model's, <= 1024]")] = None,
    stride: Annotated[Text, option(metavar="N", help="Tokens between windows. [default: context / 2]")] = None,
    max_new_tokens: Annotated[Text, option(metavar="N", help="Tokens to generate. [default: 64]")] = None,
    seeds: Annotated[Items, option(metavar="LIST", help="Seeds of sampled strategies: 0,1,2. [default: 0]")] = None,
    coupling: Annotated[Text, option(metavar="HOW", help="gumbel (shared noise) or none. [default: gumbel]")] = None,
    batch_size: Annotated[Text, option(metavar="N", help="Prompts per batch. [default: 8]")] = None,
    prompts_per_job: Annotated[Text, option(metavar="N", help="What a kill can lose. [default: 16, or more]")] = None,
    layout: Annotated[
        Text, option(metavar="HOW", help="mixed (one pass for all strategies) or per-strategy. [default: mixed]")
    ] = None,
    device: Annotated[Text, option(metavar="NAME", help="auto, cpu, cuda, cuda:1, mps. [default: auto]")] = None,
    threads: Annotated[Text, option(metavar="N", help="CPU threads. [default: torch's]")] = None,
    memory: Annotated[Text, option(metavar="GIB", help="GiB that may be used. [default: 80 % of what is free]")] = None,
    chat_template: Annotated[bool, option("--chat-template", help="Prompts as user turns of a chat model.")] = False,
    ignore_eos: Annotated[bool, option("--ignore-eos", help="Go on past stop tokens: full horizons.")] = False,
    noise_floor: Annotated[bool, option("--noise-floor", help="Each dtype against itself in another layout.")] = False,
    inject: Annotated[bool, option("--inject", help="Force each divergence's token on the reference.")] = False,
    decompose: Annotated[bool, option("--decompose", help="Split the error: local, state, path.")] = False,
    mode: Annotated[
        Text, option(metavar="HOW", help="exact, or screen: read the reference's text only. [default: exact]")
    ] = None,
    continued: Annotated[bool, option("--continue", help="Screening: generate on from the divergence.")] = False,
    near_tie_below: Annotated[Text, option(metavar="NATS", help="The gap of a near tie. [default: 0.1]")] = None,
    trust_remote_code: Annotated[bool, option("--trust-remote-code", help="Run the model's own code.")] = False,
    allow_pickle: Annotated[bool, option("--allow-pickle", help="Load .bin weights where no safetensors are.")] = False,
    config: Annotated[Text, option(metavar="FILE", help="Settings from a plan.json or YAML file; flags win.")] = None,
    out: Annotated[Text, option(metavar="DIR", help="A new folder. [default: reports/MODEL-DATE-TIME]")] = None,
    resume: Annotated[Text, option(metavar="DIR", help="Go on with the run in DIR, or begin it there.")] = None,
    dry_run: Annotated[bool, option("--dry-run", help="Say what would run, how long and in what memory.")] = False,
    positions_csv: Annotated[bool, option("--positions-csv", help="positions/ as one CSV file too.")] = False,
    spreadsheet_safe: Annotated[
        bool, option("--spreadsheet-safe", help="Each CSV a second time, so that no spreadsheet runs a cell.")
    ] = False,
    no_text: Annotated[bool, option("--no-text", help="Keep no prompt, text, token or alternative.")] = False,
    fail_on: Annotated[Items, FAIL_ON] = None,
    fail_on_interval: Annotated[bool, FAIL_ON_INTERVAL] = False,
    as_json: Annotated[bool, option("--json", help="The summary as JSON on stdout, all else on stderr.")] = False,
    quiet: Annotated[bool, option("--quiet", help="No progress; only the result.")] = False,
) -> None:
    """Run the same prompts through a reference and its candidates; measure where and how far they part."""
    given: dict[str, Any] = {
        "model": model, "revision": revision, "reference": reference, "candidates": candidates,
        "strategies": strategies, "prompt_ids": prompt_id, "limit": limit, "texts": _files(text), "context": context,
        "stride": stride, "max_new_tokens": max_new_tokens, "seeds": split(seeds), "coupling": coupling,
        "batch_size": batch_size, "prompts_per_job": prompts_per_job, "layout": layout, "device": device,
        "threads": threads, "memory_bytes": _memory(memory), "near_tie_below": near_tie_below,
        "chat_template": chat_template or None, "ignore_eos": ignore_eos or None, "noise_floor": noise_floor or None,
        "inject": inject or None, "decompose": decompose or None, "mode": mode, "continued": continued or None,
        "trust_remote_code": trust_remote_code or None, "allow_pickle": allow_pickle or None,
        "no_text": no_text or None, "prompts": given_prompts(prompts, prompt),
    }  # fmt: skip
    asked = _asked(given, config)

    from decodedrift.runs.prepare import draft, prepare

    plan = draft(asked)  # everything that can be refused without torch is refused before it is imported
    gates = read_gates(fail_on, fail_on_interval, plan)
    from decodedrift.runs.resume import settled

    folder, stored = _place(out, resume, asked.model, dry_run)
    ready = prepare(asked, settled=settled(stored, asked))
    for said in ready.doubts():
        print(terminal(said, 300), file=sys.stderr)
    if dry_run:
        from decodedrift.runs.forecast import forecast

        print(forecast(ready), file=sys.stderr if as_json else sys.stdout)
        return
    study = work(ready, folder, resume is not None, quiet)
    more_files(study, positions_csv, spreadsheet_safe)
    conclude(study, gates, as_json)


def _place(out: str | None, resume: str | None, model: str, dry_run: bool) -> tuple[str, Stored | None]:
    """The run's folder, found usable before minutes are spent, and what is in it already."""
    from decodedrift.runs.runfolder import RunFolder

    if out is not None and resume is not None:
        raise InputError("--out names a new folder and --resume one to go on in; give one of them")
    folder = resume or out or default_folder(model)
    if dry_run:
        return folder, RunFolder(folder).stored() if resume else None
    existed = path_of(folder, "--out" if resume is None else "--resume").is_dir()
    held = RunFolder.reopen(folder) if resume else RunFolder.create(folder)
    if not existed:
        held.path.rmdir()
    return folder, held.stored()


def _asked(given: dict[str, Any], config: str | None) -> Settings:
    """The flags over the file: what is given as a flag wins."""
    from decodedrift.runs.settings import make_settings, read_config

    settings = read_config(config) if config is not None else {}
    settings |= {key: value for key, value in given.items() if value is not None}
    if given["prompts"] is not None:  # what the file says of its own prompts does not hold for these
        settings = {k: v for k, v in settings.items() if k not in ("prompt_source", "left_out", "refused")}
    if given["prompt_ids"] is not None or given["limit"] is not None:  # nor what it refused for a few of them
        settings.pop("refused", None)
    asked = make_settings(settings)
    if not isinstance(asked.model, str):
        raise InputError(f"--model: must be a text, not {asked.model!r}")
    return asked


def given_prompts(source: str | None, texts: Items) -> Any:
    """--prompts and --prompt together: the file's first, then the typed ones; of a bundled set a balanced few."""
    if not texts:
        return source
    if source is None:
        return texts
    from decodedrift.core.prompts import BALANCED, balanced, bundled_sets, load_prompts

    found = load_prompts(source)
    return [*(balanced(found, BALANCED) if source in bundled_sets() else found), *texts]


def split(items: Items) -> list[str] | None:
    """Items, and those that a comma separates."""
    return None if items is None else [part.strip() for item in items for part in item.split(",") if part.strip()]


def _files(items: Items) -> list[str] | None:
    """File names; a comma separates two of them unless a file has it in its name."""
    return items and [part for item in items for part in ([item] if os.path.exists(item) else item.split(","))]


def _memory(gib: str | None) -> int | None:
    from decodedrift.core.notation import number

    try:
        return None if gib is None else max(1, int(number(0, 1e6, open_low=True)(gib) * 2**30))
    except ValueError as error:
        raise InputError(f"--memory: {error} (GiB)") from None


def default_folder(model: str, kind: str = "") -> str:
    """reports/KINDMODEL-DATE-TIME, with a number where a run of the same second has it already."""
    base = os.path.join("reports", f"{kind}{file_name(Path(model).name)[:80]}-{time.strftime('%Y%m%d-%H%M%S')}")
    return next(name for n in count(1) if not os.path.exists(name := base if n == 1 else f"{base}-{n}"))


def check_out(folder: str) -> None:
    """Refuses a folder that cannot be used before minutes are spent."""
    from decodedrift.runs.runfolder import RunFolder

    existed = path_of(folder, "--out").is_dir()
    held = RunFolder.create(folder)
    if not existed:
        held.path.rmdir()
