"""What every job of a run shares: checkpoints, tokenizer, tokenized prompts and texts, and the memory to work in."""

from __future__ import annotations

import os
import pickle
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from decodedrift.core.notation import AUTO
from decodedrift.core.records import InputError, Variant
from decodedrift.core.settings import Settings
from decodedrift.models.footprint import NOTHING, Footprint
from decodedrift.models.knobs import device_map
from decodedrift.models.knobs.base import setting
from decodedrift.models.load import Loaded, loaded
from decodedrift.models.longrope import readable_tokens, switch
from decodedrift.models.own import Own
from decodedrift.models.probe import Route
from decodedrift.models.recorded.continuation import Matched
from decodedrift.models.recorded.repeated import Repeated
from decodedrift.models.sources.checkpoints import Checkpoint, find, in_memory
from decodedrift.models.text.tokenizer import check_same_vocabulary
from decodedrift.models.text.vocabulary import Vocabulary
from decodedrift.models.text.windows import WindowedText
from decodedrift.models.variants import IN_MEMORY

SPREAD = 0.5  # of the memory, for the weights of a spread model that are on one device; the rest is for batches


@dataclass
class World:
    """Everything that was found and read before the first weight is loaded.

    own: what sides generate with as they are deployed, by name; empty where all do with the reference's. code: SHA-256
    of what of the user's own code decides rows, by what it does. recorded: what other engines wrote, by name.
    repeated: the same, each repetition, by name and, of an endpoint, what varied. folder: the run's, None without one.
    workers: processes that run its jobs; memory is what each may use. least: bytes that
    a job needs, where its experiment says so.
    """

    plan: Settings
    checkpoint: Checkpoint
    vocab: Vocabulary
    prompts: Mapping[str, Sequence[int]]
    texts: Mapping[str, WindowedText] = field(default_factory=dict)
    others: Mapping[str, Checkpoint] = field(default_factory=dict)
    memory: int = 8 * 2**30
    footprint: Footprint = NOTHING
    code: dict[str, str] = field(default_factory=dict)
    keeps: bool = False
    resident: dict[str, Loaded] = field(default_factory=dict)
    stack: ExitStack = field(default_factory=ExitStack)
    route: Route = field(default_factory=Route)
    own: Mapping[str, Own] = field(default_factory=dict)
    recorded: Mapping[str, Matched] = field(default_factory=dict)
    repeated: Mapping[str, Repeated] = field(default_factory=dict)
    folder: Path | None = None
    workers: int = 1
    least: int = 0

    def __getstate__(self) -> dict[str, Any]:
        """What another process works with: all but the weights that are in this one's memory."""
        return self.__dict__ | {"resident": {}, "stack": ExitStack()}

    @cached_property
    def drafts(self) -> dict[str, Checkpoint]:
        """The drafts of variants that have one, by the variant's name."""
        return {v.name: find(v.knobs["assisted"]) for v in self.plan.running if "assisted" in v.knobs}

    @contextmanager
    def load(self, variant: Variant) -> Iterator[Loaded]:
        """A variant's weights: kept from an earlier job, copied from the resident reference, or read from its files."""
        if variant.name in self.resident:
            yield self.resident[variant.name]
            return
        donor = self.resident.get(self.plan.reader.name) if variant.name not in self.others else None
        with ExitStack() as temporary:
            keeps = self.keeps and variant in self.plan.running
            stack = self.stack if keeps else temporary
            checkpoint = self.others.get(variant.name, self.checkpoint)
            model = stack.enter_context(loaded(checkpoint, self._settled(variant), donor))
            if keeps or variant.name == self.plan.reader.name:
                self.resident[variant.name] = model
                stack.callback(self.resident.pop, variant.name)
            yield model

    @property
    def written(self) -> dict[str, Matched | Repeated]:
        """What other engines wrote, whichever way it is looked at."""
        return {**self.recorded, **self.repeated}

    def side(self, name: str) -> Own:
        """What a variant generates with: its own as deployed, else the reference's."""
        return self.own.get(name) or self.own.get(self.plan.reference.name) or Own(self.vocab, self.prompts)

    def reads(self, name: str, prompt_id: str) -> bool:
        """Whether a variant and the reference read the same ids of a prompt, and choose from the logits they read."""
        sides = self.side(self.plan.reference.name), self.side(name)
        same = list(sides[0].prompts[prompt_id]) == list(sides[1].prompts[prompt_id])
        if name in self.recorded:
            same = same and all(other.prompt_id != prompt_id for other in self.recorded[name].other_ids)
        return same and not any(side.settings for side in sides)

    def close(self) -> None:
        """Lets go of the weights that were kept from job to job."""
        self.stack.close()

    def on_a_device(self, variant: Variant, weights: int) -> int:
        """Bytes of so many that are on one device at most: of a spread model the others hold the rest."""
        if (how := setting(variant, "device_map")) is None:
            return weights
        return min(weights, device_map.room(how) or int(self.memory * SPREAD))

    def _settled(self, variant: Variant) -> Variant:
        knobs = dict(variant.knobs)
        if knobs.get("device_map") == AUTO:
            knobs["device_map"] = f"{AUTO}@{self.memory * SPREAD / 2**30:g}"
        device, threads = variant.device or self.plan.device, variant.threads or self.plan.threads
        return replace(variant, device=device, threads=threads, knobs=knobs)

    @property
    def width(self) -> int:
        """Vocabulary width of the logits."""
        return int(self.checkpoint.config.get_text_config(decoder=True).vocab_size)

    def readable_tokens(self, order: Sequence[str]) -> dict[str, int]:
        """How many new tokens can be read again, of the prompts where not all can; ids in the order of the batches."""
        most = max(v.batch_size or self.plan.batch_size for v in self.plan.running)
        return readable_tokens({p: len(self.prompts[p]) for p in order}, most, switch(self.checkpoint.config))


def restored(data: bytes) -> Any:
    """What was pickled with a World in it, in another process: configurations of a model's own code are found there."""
    from transformers.dynamic_module_utils import init_hf_modules

    init_hf_modules()
    return pickle.loads(data)


def other_checkpoints(plan: Settings, vocab: Vocabulary, live: Mapping[str, Any]) -> dict[str, Checkpoint]:
    """The checkpoints of variants that bring their own, each with its own tokenizer, found to share the vocabulary.

    Args:
        live: candidates that are models in memory, by name. Their tokenizer is the reference's.

    Raises:
        InputError: one that cannot be found, or has other tokens.
    """
    checkpoints: dict[str, Checkpoint] = {}
    for variant in plan.candidates:
        if variant.name in live:
            checkpoints[variant.name] = _live(live[variant.name], vocab, variant.name)
        elif variant.model and not variant.recorded:
            if variant.model == IN_MEMORY and not os.path.isdir(IN_MEMORY):
                ways = f"give it again: compare(..., candidates={{{variant.name!r}: model}})"
                raise InputError(f"--candidates {variant.name}: was a model in memory, which no folder keeps; {ways}")
            found = find(variant.model, variant.revision, plan.trust_remote_code, plan.allow_pickle)
            tokenizer = check_same_vocabulary(vocab.tokenizer, found, variant.name)
            checkpoints[variant.name] = replace(found, tokenizer=tokenizer)
    return checkpoints


def _live(model: Any, vocab: Vocabulary, name: str) -> Checkpoint:
    try:
        checkpoint = in_memory(model, vocab.tokenizer)
    except InputError as error:
        raise InputError(f"--candidates {name}: {error}") from None
    width = checkpoint.config.get_text_config(decoder=True).vocab_size
    if (needed := max(vocab.tokenizer.get_vocab().values(), default=-1) + 1) > width:
        raise InputError(f"--candidates {name}: has {width} token ids, and the reference's tokenizer {needed}")
    return checkpoint
