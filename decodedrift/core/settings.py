"""What an experiment can be asked: a field an option, checked as one.

Command line, `--config`, the Python signature's test, plan.json, what a resume compares and the page's account of what
was run are all made of these fields. Once every name in it is resolved, a Settings is a run's *plan*.
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Mapping, Sized
from typing import Annotated, Any, ClassVar, Self, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, ValidationError, field_validator

from decodedrift.core.estimate import Effort
from decodedrift.core.notation import (
    count,
    gib,
    one_of,
    processes,
    shard_name,
    split,
    spread,
    thread_count,
    whole,
)
from decodedrift.core.options import DECODING, MACHINE, OUTPUT, PROMPTS, WHAT, Option, option
from decodedrift.core.records import Cell, InputError, Job, Strategy, Text, Variant, distinct, plain, shortened, unlike


def files(items: list[str]) -> list[str]:
    """File names; a comma separates two of them unless a file has it in its name."""
    return [part for item in items for part in ([item] if os.path.exists(item) else item.split(","))]


Whole = Annotated[int, BeforeValidator(count)]
Processes = Annotated[Any, BeforeValidator(processes)]
Seed = Annotated[int, BeforeValidator(whole(0, 2**63 - 1))]
LAYOUTS = {"mixed": "all strategies in one batch", "per-strategy": "one strategy a batch"}
RECORDED = ("prompt_source", "left_out", "refused")  # what a plan says of its prompts
SPENT = ("prompt_ids", "limit")  # a plan has the prompts themselves
COUPLINGS = {"gumbel": "coupled: the same for every variant", "none": "not coupled"}


class Settings(BaseModel):
    """What every experiment that decodes prompts can be asked.

    prompts: a bundled set's name, a file, or a list of texts, Prompts or {id, text, tags}. reference, strategies: the
    command line's notation, objects, or their plain form.
    """

    model_config = ConfigDict(extra="forbid", arbitrary_types_allowed=True, frozen=True)
    experiment: ClassVar[str] = ""
    beside: ClassVar[str] = "against"  # how candidates stand to the reference, where a run is announced
    scores_texts: ClassVar[bool] = True  # whether its texts are cut into windows, which are jobs of their own
    finer: ClassVar[str] = "lower --prompts-per-job"  # what cuts it into more jobs
    lowers_batch: ClassVar[bool] = True  # whether a batch is halved where memory runs out

    model: Any = option("demo", "demo, a local folder or a hub id.", WHAT, "NAME")
    revision: str | None = option(None, "Hub revision of the model.", WHAT, "REV")
    reference: Any = option("fp32", "The variant held against.", WHAT, "VARIANT")
    candidates: Any = ()
    strategies: Any = ()
    prompts: Any = option(None, "A .txt, .jsonl, .json, .csv or .parquet file, or a bundled set.", PROMPTS, "FILE")
    texts: Any = ()
    prompt_ids: list[str] = option([], "Only the prompts of these ids.", PROMPTS, "LIST", flag="prompt-id", many=True)
    limit: Whole | None = option(None, "Prompts at most.", PROMPTS, "N", says="bundled sets: a balanced 16")
    max_new_tokens: Whole = option(64, "Tokens to generate.", DECODING, "N", label="New tokens")
    seeds: list[Seed] = option([0], "Seeds of sampled strategies: 0,1,2.", DECODING, "LIST", many=True)
    batch_size: Whole = option(8, "Prompts per batch.", DECODING, "N")
    prompts_per_job: Annotated[Any, BeforeValidator(lambda v: v if v is None else count(v))] = option(
        None, "What a kill can lose.", MACHINE, "N", says="16, or more", rare=True, label="Prompts in a job"
    )
    layout: Annotated[str, BeforeValidator(one_of(*LAYOUTS))] = option(
        "mixed", "mixed (one pass for all strategies) or per-strategy.", DECODING, "HOW", words=LAYOUTS
    )
    coupling: Annotated[str, BeforeValidator(one_of(*COUPLINGS))] = option(
        "gumbel", "gumbel (shared noise) or none.", DECODING, "HOW", label="Sampling noise", words=COUPLINGS
    )
    chat_template: bool = option(False, "Prompts as user turns of a chat model.", PROMPTS)
    ignore_eos: bool = option(False, "Go on past stop tokens: full horizons.", DECODING, label="End of text ignored")
    device: str = option("auto", "auto, cpu, cuda, cuda:1, mps.", MACHINE, "NAME")
    device_map: Annotated[str, BeforeValidator(spread)] | None = option(
        None, "auto[@GIB]: layers on all devices, then on disk.", MACHINE, "HOW", says="one device", rare=True,
        label="Weights on each device",
    )  # fmt: skip
    threads: Annotated[int, BeforeValidator(thread_count)] | None = option(
        None, "CPU threads.", MACHINE, "N", says="torch's"
    )
    memory_bytes: Annotated[int, BeforeValidator(whole(1))] | None = option(
        None, "GiB that may be used.", MACHINE, "GIB", says="80 % of what is free", flag="memory", read=gib,
        changes_rows=False, label="Bytes of memory that may be used",
    )  # fmt: skip
    workers: Processes = option(1, "Processes, or auto.", MACHINE, "N", changes_rows=False, label="Processes")
    executor: str = option("local", "What runs the jobs.", MACHINE, "NAME", rare=True, changes_rows=False)
    ray_address: str | None = option(
        None, "The cluster of --executor ray.", MACHINE, "HOST:PORT", says="one on this machine alone", rare=True,
        changes_rows=False,
    )  # fmt: skip
    shard: Annotated[str | None, BeforeValidator(shard_name)] = option(
        None, "Only the i-th of n parts of the jobs, for decodedrift merge.", MACHINE, "I/N", rare=True,
        changes_rows=False,
    )  # fmt: skip
    trust_remote_code: bool = option(False, "Run the model's own code.", WHAT, rare=True)
    allow_pickle: bool = option(False, "Load .bin weights where no safetensors are.", WHAT, rare=True)
    no_text: bool = option(False, "Keep no prompt, text, token or alternative.", OUTPUT)
    prompt_source: str | None = None
    left_out: int = 0
    refused: dict[str, str] = {}

    @field_validator("model", mode="before")
    @classmethod
    def _model(cls, value: Any) -> Any:
        value = os.fspath(value) if isinstance(value, os.PathLike) else value
        if value in ("", None):
            raise ValueError("name a local folder, a hub id or demo")
        return value

    @field_validator("seeds", "prompt_ids", mode="before")
    @classmethod
    def _listed(cls, value: Any) -> Any:
        if isinstance(value, (int, str)):
            return [value]
        if isinstance(value, Sized) and len(value) == 0:
            raise ValueError("give at least one")
        return list(value) if isinstance(value, (tuple, range)) else value

    @field_validator("seeds", mode="before")  # the one written last comes first
    @classmethod
    def _split(cls, value: Any) -> Any:
        return split([value] if isinstance(value, str) else value) if isinstance(value, (str, list, tuple)) else value

    def having(self, **changes: Any) -> Self:
        """The same with other values, which are not checked again."""
        return self.model_copy(update=changes)

    @property
    def only_rows(self) -> bool:
        """Whether jobs leave nothing but their rows, and so can run on machines that lack the run's folder."""
        return True

    def check(self) -> None:
        """Refuses what cannot be asked together, by an InputError; an experiment adds its own."""

    def allowed(self, strategies: tuple[Strategy, ...]) -> tuple[Strategy, ...]:
        """The strategies that the experiment can run, of those asked for.

        Raises:
            InputError: one that was named cannot run, or none can.
        """
        return strategies

    def apart(self, candidates: tuple[Variant, ...], reference: Variant) -> tuple[Variant, ...]:
        """The candidates that are run beside the reference, of those asked for."""
        return candidates

    def standard_texts(self) -> tuple[Text, ...]:
        """The texts to read where none is given."""
        return ()

    def check_resolved(self) -> None:
        """Refuses what is given twice, once names are resolved.

        Raises:
            InputError: names it.
        """
        for name, items in (("seeds", self.seeds), ("prompts", [p.id for p in self.prompts])):
            distinct(name, [str(i) for i in items])
        unlike(self.strategies)

    @property
    def variants(self) -> tuple[Variant, ...]:
        """The reference and its candidates, resolved."""
        return (self.reference, *self.candidates)

    @property
    def reader(self) -> Variant:
        """The variant that reads what all wrote: the reference."""
        return self.reference  # type: ignore[no-any-return]

    def having_reader(self, variant: Variant) -> Self:
        """The same with another reader."""
        return self.having(reference=variant)

    @property
    def running(self) -> tuple[Variant, ...]:
        """The reader and the candidates that run here: of others another engine wrote the texts."""
        return (self.reader, *(v for v in self.candidates if not v.recorded))

    @property
    def cells(self) -> list[Cell]:
        """(strategy, seed) pairs in order; deterministic strategies run once, under seed 0."""
        strategies: tuple[Strategy, ...] = self.strategies
        return [(s, seed) for s in strategies for seed in (self.seeds if s.samples else (0,))]

    @property
    def manner(self) -> str:
        """What comes before the model's name where a run is announced."""
        return ""

    @property
    def amount(self) -> str:
        """How much is done with each prompt, where a run is announced."""
        runs = len(self.cells)
        return f"{runs} text{'s' * (runs != 1)} per prompt, {self.max_new_tokens} new tokens"

    @property
    def effort(self) -> Effort:
        """What a run comes to."""
        return Effort()

    def shards(self) -> list[Job]:
        """The prompts as jobs, without keys."""
        size = int(self.prompts_per_job)
        return [Job("", 0, self.prompts[i : i + size]) for i in range(0, len(self.prompts), size)]

    def as_dict(self) -> dict[str, Any]:
        """Plain data for plan.json, which can be asked again. With `no_text` the texts are None."""
        left_out = {*SPENT, *self.settled()}
        values: dict[str, Any] = {n: plain(getattr(self, n)) for n in type(self).model_fields if n not in left_out}
        if self.no_text:
            for entry in (*values["prompts"], *values["texts"]):
                entry |= {n: None for n in ("text", "answer", "messages", "prompt_token_ids") if n in entry}
        return {"experiment": self.experiment} | values

    @classmethod
    def options(cls) -> dict[str, Option]:
        """Every field that can be asked for, by name."""
        extras = {name: info.json_schema_extra for name, info in cls.model_fields.items()}
        return {name: extra["option"] for name, extra in extras.items() if isinstance(extra, dict)}  # type: ignore[misc]

    @classmethod
    def settled(cls) -> set[str]:
        """Options of every experiment that are none of this one: fields that it declares anew, with a value alone."""
        return Settings.options().keys() - cls.options().keys()

    @classmethod
    def flag(cls, name: str) -> str:
        """A field's flag, with its dashes."""
        option = cls.options().get(name)
        return f"--{(option and option.flag) or name.replace('_', '-')}"


S = TypeVar("S", bound=Settings)


def make_settings(kind: type[S], values: Mapping[str, Any]) -> S:
    """Checked settings of an experiment.

    Raises:
        InputError: the first wrong value, by its flag; unknown names with the nearest one.
    """
    if (other := values.get("experiment", kind.experiment)) != kind.experiment:
        raise InputError(f"experiment: this asks for a {other}, not for {kind.experiment}")
    values = {key: value for key, value in values.items() if key != "experiment"}
    asked = kind.options()
    for key, value in values.items():
        if key not in kind.model_fields or (key not in (*asked, *RECORDED) and value not in (None, (), [])):
            flags = {kind.flag(name).removeprefix("--").replace("-", "_"): name for name in asked}
            close = difflib.get_close_matches(key, [*asked, *flags], n=1, cutoff=0.6)
            hint = f"did you mean {flags.get(close[0], close[0])!r}?" if close else f"choices: {', '.join(asked)}"
            raise InputError(f"unknown setting {key!r}; {hint}")
    _refuse_invented(values)
    try:
        settings = kind(**values)
    except ValidationError as error:
        raise InputError(_first(kind, error)) from None
    settings.check()
    return settings


def _refuse_invented(values: Mapping[str, Any]) -> None:
    """What a plan records of its own prompts goes with the prompts as a plan has them, and is nothing to ask for."""
    prompts = values.get("prompts")
    listed = isinstance(prompts, (list, tuple)) and all(isinstance(p, Mapping) and "tags" in p for p in prompts)
    for key in RECORDED:
        if values.get(key) and not (listed and prompts):
            raise InputError(f"{key}: a run records it of its own prompts, it cannot be asked for; leave it out")


def _first(kind: type[Settings], error: ValidationError) -> str:
    """The first of a validation's errors in words, under the name of its flag."""
    first = error.errors()[0]
    flag = kind.flag(str(first["loc"][0]))
    more = f" (and {error.error_count() - 1} more)" if error.error_count() > 1 else ""
    if "error" in first.get("ctx", {}):  # our own readers say the value themselves
        return f"{flag}: {first['ctx']['error']}{more}"
    message = first["msg"][0].lower() + first["msg"][1:]
    return f"{flag}: {message.removeprefix('input ')}, not {shortened(first['input'])}{more}"


def no_rows(kind: type[Settings]) -> set[str]:
    """Fields that change no row: a run that goes on need not ask for the same."""
    names = {name for name, option in kind.options().items() if not option.changes_rows}
    return {*RECORDED, *names}
