"""The command line. Starts without torch; every wrong input ends in one line and exit code 2."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from decodedrift.records import InputError, file_name
from decodedrift.sinks import terminal

if TYPE_CHECKING:
    from decodedrift.study import Study

app = typer.Typer(
    name="decodedrift",
    help="Where does a language model's text start to differ when its execution changes, why, and does it matter?",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)

DONE, BUG, INPUT, FAILED, INTERRUPTED = 0, 1, 2, 3, 130

Items = list[str] | None


def _version(asked: bool) -> None:
    if asked:
        from decodedrift.environment import version

        print(f"decodedrift {version()}")
        raise typer.Exit


@app.callback()
def _common(
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Print it.")] = False,
) -> None:
    pass


@app.command()
def compare(
    model: Annotated[str | None, typer.Option(help="demo, a local folder or a hub id. [default: demo]")] = None,
    revision: Annotated[str | None, typer.Option(help="Hub revision of the model.")] = None,
    reference: Annotated[str | None, typer.Option(help="The variant held against. [default: fp32]")] = None,
    candidates: Annotated[
        Items, typer.Option(help="Variants: bf16,fp32:batch_size=1,mine=FOLDER. [default: bf16,fp16,int8]")
    ] = None,
    strategies: Annotated[
        Items, typer.Option(help="greedy,beam:num_beams=4,top-k:k=50,temperature=0.8,top-p:p=0.9. [default: all four]")
    ] = None,
    prompts: Annotated[str | None, typer.Option(help="A bundled set or a file: .txt, .jsonl, .csv.")] = None,
    prompt: Annotated[Items, typer.Option(help="A prompt; repeatable.")] = None,
    prompt_id: Annotated[Items, typer.Option(help="Only the prompts of these ids.")] = None,
    limit: Annotated[int | None, typer.Option(help="How many prompts at most. [bundled sets: a balanced 16]")] = None,
    text: Annotated[Items, typer.Option(help="A text file to measure perplexity on; repeatable.")] = None,
    context: Annotated[
        int | None, typer.Option(help="Tokens per perplexity window. [default: window, at most 1024]")
    ] = None,
    stride: Annotated[int | None, typer.Option(help="Tokens between windows. [default: context / 2]")] = None,
    max_new_tokens: Annotated[int | None, typer.Option(help="Tokens to generate. [default: 64]")] = None,
    seeds: Annotated[Items, typer.Option(help="Seeds of sampled strategies: 0,1,2. [default: 0]")] = None,
    coupling: Annotated[str | None, typer.Option(help="gumbel (shared noise) or none. [default: gumbel]")] = None,
    batch_size: Annotated[int | None, typer.Option(help="Prompts per batch. [default: 8]")] = None,
    prompts_per_job: Annotated[int | None, typer.Option(help="What a kill can lose. [default: 16]")] = None,
    layout: Annotated[str | None, typer.Option(help="mixed (one pass for all strategies) or per-strategy.")] = None,
    device: Annotated[str | None, typer.Option(help="auto, cpu, cuda, cuda:1, mps. [default: auto]")] = None,
    threads: Annotated[int | None, typer.Option(help="CPU threads. [default: torch's]")] = None,
    memory: Annotated[float | None, typer.Option(help="GiB that may be used. [default: 80 % of what is free]")] = None,
    chat_template: Annotated[
        bool, typer.Option("--chat-template", help="Prompts as user turns of a chat model.")
    ] = False,
    ignore_eos: Annotated[bool, typer.Option("--ignore-eos", help="Go on past stop tokens: full horizons.")] = False,
    noise_floor: Annotated[
        bool, typer.Option("--noise-floor", help="Each dtype against itself in another layout.")
    ] = False,
    near_tie_below: Annotated[float | None, typer.Option(help="Gap, in nats, of a near tie. [default: 0.1]")] = None,
    trust_remote_code: Annotated[bool, typer.Option("--trust-remote-code", help="Run the model's own code.")] = False,
    config: Annotated[str | None, typer.Option(help="Settings from a plan.json or YAML file; flags win.")] = None,
    out: Annotated[str | None, typer.Option(help="A new folder. [default: reports/MODEL-DATE-TIME]")] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what would run, how long and in what memory.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="The summary as JSON on stdout, all else on stderr.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress; only the result.")] = False,
) -> None:
    """Run the same prompts through a reference and its candidates; measure where and how far they part."""
    from decodedrift.settings import make_settings, read_config

    given: dict[str, Any] = {
        "model": model, "revision": revision, "reference": reference, "candidates": candidates,
        "strategies": strategies, "prompt_ids": _split(prompt_id), "limit": limit, "texts": text, "context": context,
        "stride": stride, "max_new_tokens": max_new_tokens, "seeds": _seeds(seeds), "coupling": coupling,
        "batch_size": batch_size, "prompts_per_job": prompts_per_job, "layout": layout, "device": device,
        "threads": threads, "memory_bytes": _memory(memory), "near_tie_below": near_tie_below,
        "chat_template": chat_template or None, "ignore_eos": ignore_eos or None, "noise_floor": noise_floor or None,
        "trust_remote_code": trust_remote_code or None, "prompts": _prompts(prompts, prompt),
    }  # fmt: skip
    settings = read_config(config) if config else {}
    settings |= {key: value for key, value in given.items() if value is not None}
    if given["prompts"] is not None:
        settings.pop("prompt_source", None)
    asked = make_settings(settings)

    from decodedrift.prepare import draft, prepare

    draft(asked)  # everything that can be refused without torch is refused before it is imported
    folder = out or os.path.join("reports", f"{file_name(Path(asked.model).name)}-{time.strftime('%Y%m%d-%H%M%S')}")
    if not dry_run:
        _check_out(folder)
    say = sys.stderr if as_json else sys.stdout
    ready = prepare(asked)
    if dry_run:
        from decodedrift.forecast import forecast

        print(forecast(ready))
        return
    _carry_out(ready, folder, quiet, as_json, say)


def _carry_out(ready: Any, folder: str, quiet: bool, as_json: bool, say: Any) -> None:
    from decodedrift.progress import Bars
    from decodedrift.run import carry_out
    from decodedrift.store import RunFolder

    progress = Bars(False if quiet else None)
    if not quiet:
        print(ready.announcement(), file=sys.stderr)
    try:
        study = carry_out(ready, RunFolder.create(folder), progress)
    finally:
        progress.stop()
    _show(study, as_json, say)
    for prompt_id, reason in ready.refused.items():
        print(terminal(f"refused prompt {prompt_id}: {reason}"), file=sys.stderr)
    raise typer.Exit(FAILED if study.failed else DONE)


@app.command(name="list")
def list_() -> None:
    """Precisions, strategies, metrics and prompt sets, and whether this machine can run them."""
    from decodedrift.listing import listing

    print(listing())


def _show(study: Study, as_json: bool, say: Any) -> None:
    from decodedrift.report.terminal import summary_table
    from decodedrift.sinks import to_json

    if as_json:
        rows = study.summary.astype(object).where(study.summary.notna(), None).to_dict("records")
        print(to_json({"summary": rows, "verdict": study.verdict, "run": str(study.path)}))
    print(summary_table(study), file=say)
    print(file=say)
    for sentence in study.verdict:
        print(_wrapped(sentence), file=say)
    print(f"\ntables: {terminal(str(study.path))}", file=say)
    print(f"report: {terminal(str(Path(study.path or '.') / 'report.html'))}", file=say)


def _wrapped(sentence: str, width: int = 80) -> str:
    import textwrap

    return textwrap.fill(terminal(sentence), width, initial_indent="- ", subsequent_indent="  ", break_long_words=True)


def _prompts(source: str | None, texts: Items) -> Any:
    """--prompts and --prompt together: the file's first, then the typed ones."""
    if not texts:
        return source
    from decodedrift.prompts import load_prompts

    return [*(load_prompts(source) if source else ()), *texts]


def _split(items: Items) -> list[str] | None:
    return [part.strip() for item in items for part in item.split(",") if part.strip()] if items else None


def _seeds(items: Items) -> list[int] | None:
    found = []
    for part in _split(items) or []:
        if not part.isdigit():
            raise InputError(f"--seeds: a seed is a whole number >= 0, not {part!r}")
        found.append(int(part))
    return found or None


def _memory(gib: float | None) -> int | None:
    if gib is None:
        return None
    if not 0 < gib < 1e6:
        raise InputError(f"--memory must be a number of GiB above 0, not {gib!r}")
    return int(gib * 2**30)


def _check_out(folder: str) -> None:
    """Refuses a folder that cannot be used before minutes are spent."""
    from decodedrift.store import RunFolder

    existed = os.path.isdir(folder)
    RunFolder.create(folder)
    if not existed:
        os.rmdir(folder)


def main() -> None:
    """The console script: typer's own errors and ours, each as one line on stderr."""
    try:
        code = app(standalone_mode=False)
    except InputError as error:
        _complain(str(error))
        sys.exit(INPUT)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(INTERRUPTED)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(DONE)
    except Exception as error:
        if hasattr(error, "format_message"):  # the option parser's own, from the Click that typer carries
            _complain(error.format_message())
            context = getattr(error, "ctx", None)
            print(f"Try '{context.command_path if context else 'decodedrift'} --help'", file=sys.stderr)
            sys.exit(INPUT)
        sys.exit(_bug(error))
    sys.exit(code if isinstance(code, int) else DONE)


def _complain(message: str) -> None:
    print(terminal(f"decodedrift: {' '.join(message.split())}", 300), file=sys.stderr)


def _bug(error: Exception) -> int:
    """A traceback goes to a file, not to the terminal; the user is told where."""
    import tempfile
    import traceback

    with tempfile.NamedTemporaryFile("w", prefix="decodedrift-", suffix=".log", delete=False, encoding="utf-8") as log:
        log.write("".join(traceback.format_exception(error)).encode("utf-8", "backslashreplace").decode())
    _complain(
        f"a bug of decodedrift's own ({type(error).__name__}: {str(error)[:120]}); the traceback is in {log.name}"
    )
    return BUG


if __name__ == "__main__":
    main()
