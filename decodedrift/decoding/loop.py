"""Free running: one batch of prompts, decoded by several strategies at once as rows of one mixed batch.

The prompts are prefilled once; each (strategy, seed) then owns `width` rows per prompt, whose caches are copies of the
prefilled ones. Rows are never dropped or regrouped by what they generate: the layout is a function of the plan alone,
so that the reference and every candidate meet in the same one. How a model is called is known to `steps.py` alone.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor

from decodedrift.core.records import Cell, Key, Trace, VariantError
from decodedrift.decoding.choosers import Chooser, Move, ScoreLog, Single
from decodedrift.decoding.deployed import Processing
from decodedrift.decoding.scripted import Injecting, Told
from decodedrift.decoding.strategies.base import kind_of
from decodedrift.decoding.survey import survey
from decodedrift.decoding.tops import Tops
from decodedrift.models.drafting import assisted
from decodedrift.models.kvcache import by_layer, kinds
from decodedrift.models.load import Loaded
from decodedrift.models.own import Process
from decodedrift.models.steps import begin, reading
from decodedrift.models.text.vocabulary import Vocabulary

LOOK_EVERY = 8  # steps between two looks, on a GPU, at whether all rows have ended: it is waited for there


@dataclass
class Generated:
    """What one batch produced. Keys are (strategy label, seed, prompt id).

    scores[key]: this variant's scores of the chosen and of the watched token at each position (not for beams).
    logs: every score of the pass, if kept. tops: the top tokens at each position (not for beams).
    """

    traces: dict[Key, Trace] = field(default_factory=dict)
    scores: dict[Key, tuple[list[float], list[float]]] = field(default_factory=dict)
    logs: dict[Key, ScoreLog] = field(default_factory=dict)
    tops: dict[Key, Tops] = field(default_factory=dict)


def generate(
    loaded: Loaded,
    vocab: Vocabulary,
    prompts: Mapping[str, Sequence[int]],
    cells: Sequence[Cell],
    max_new_tokens: int,
    *,
    watch: Mapping[Key, Sequence[int]] | None = None,
    keep_scores: bool = False,
    inject: Mapping[Key, tuple[int, int]] | None = None,
    processes: Mapping[str, Process] | None = None,
    wanted: Collection[str] | None = None,
    see: Callable[[Tensor], None] = lambda logits: None,
    tick: Callable[[int], None] = lambda tokens: None,
    room: int | None = None,
) -> Generated:
    """Decodes one batch of prompts with every (strategy, seed) of `cells` in one mixed batch.

    Args:
        prompts: prompt id -> token ids; together one batch, left-padded.
        watch: (strategy, seed, prompt id) -> token ids whose scores are noted (the reference's, for a candidate).
        keep_scores: keep every score of the pass (for the reference).
        inject: (strategy, seed, prompt id) -> (position, token id) that is taken there in place of the choice. Layout
            and every other row stay what they are without it. Not for beams.
        processes: prompt id -> the model's own processors, see `Processing`. Not for beams, nor with `inject`.
        wanted: ids of prompts, None for all: once these have ended no more is read, and the others are cut off there.
            Beams are all waited for.
        see: shown the raw logits of every step, [rows, vocab]: the cells' rows one after another, a prompt's next to
            each other. Not of a draft.
        tick: told the number of rows advanced, at every step.
        room: tokens that a cache of a fixed length is made for, where that is more than `max_new_tokens`.
    """
    own = {"processes": processes} if processes is not None else {}
    choosers = [
        _chooser(loaded, vocab, prompts, cell, max_new_tokens, watch or {}, keep_scores, inject or {}, own)
        for cell in cells
    ]
    if loaded.draft is None:
        decode(loaded, vocab, prompts, choosers, max_new_tokens, wanted=wanted, see=see, tick=tick, room=room)
    else:
        _follow(loaded, vocab, prompts, choosers, max_new_tokens, tick)
    return _collected(choosers, cells)


def decode(
    loaded: Loaded,
    vocab: Vocabulary,
    prompts: Mapping[str, Sequence[int]],
    choosers: Sequence[Chooser],
    steps: int,
    *,
    wanted: Collection[str] | None = None,
    before: Callable[[Any], None] = lambda cache: None,
    see: Callable[[Tensor], None] = lambda logits: None,
    tick: Callable[[int], None] = lambda tokens: None,
    room: int | None = None,
) -> None:
    """Runs choosers over one batch of prompts.

    Args:
        prompts: prompt id -> token ids, left-padded.
        before: shown the cache (None without one) before every forward pass but the prompts' own; it may write to it.
        wanted, see, room: as of `generate`.
    """

    rows = torch.cat([torch.arange(len(prompts)).repeat_interleave(c.width) for c in choosers])
    with reading(loaded):
        batch = begin(loaded, list(prompts.values()), rows, room=room or steps, pad=vocab.pad)
        loaded.facts["batch_size"] = max(len(prompts), loaded.facts.get("batch_size", 0))
        loaded.facts |= {"decoding_cache": kinds(batch.cache), "cache_layers": by_layer(batch.cache)}
        loaded.facts.setdefault("kv", "")
        over = [c.done for c in choosers]
        for position in range(steps):
            loaded.note(batch.logits)
            see(batch.logits)
            tokens, parents, moving = _step(choosers, over, len(prompts), batch.logits, position)
            tick(len(prompts) * len(choosers))
            if position + 1 == steps:
                break
            if _looks(batch.logits, position):
                over = [c.done for c in choosers]
                if all(done or _ended(c, wanted) for done, c in zip(over, choosers, strict=True)):
                    break
            before(batch.cache)
            batch.advance(tokens, parents, moving)


def _looks(logits: Tensor, position: int) -> bool:
    """Whether it is looked, after this step, at what has ended."""
    return logits.device.type == "cpu" or position % LOOK_EVERY == LOOK_EVERY - 1


def _ended(chooser: Chooser, wanted: Collection[str] | None) -> bool:
    """Whether every wanted row of a chooser has ended."""
    return wanted is not None and isinstance(chooser, Single) and chooser.ended(wanted)


def _follow(
    loaded: Loaded,
    vocab: Vocabulary,
    prompts: Mapping[str, Sequence[int]],
    choosers: Sequence[Chooser],
    steps: int,
    tick: Callable[[int], None],
) -> None:
    """One prompt, whose tokens a draft proposes: the choosers note what was taken, and from which logits."""
    (ids,) = prompts.values()
    with reading(loaded):
        loaded.facts["batch_size"] = 1
        for chooser in choosers:
            assert isinstance(chooser, Told)
            chooser.told, logits = assisted(loaded, ids, chooser.strategy, new=steps, eos=vocab.eos, pad=vocab.pad)
            loaded.note(logits)
            for position in range(len(logits)):
                if not chooser.done:  # it ends where the logits are no numbers
                    chooser.step(logits[position : position + 1], position)
                tick(1)


def _step(
    choosers: Sequence[Chooser], over: Sequence[bool], prompts: int, logits: Tensor, position: int
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """Every chooser's move on its own slice of rows, as `Steps.advance` takes it; one that is over has none.

    Parents are absolute rows. Which rows move a CPU knows; of a GPU, all of a search may.
    """
    tokens, parents, moving = [], [], []
    ends = list(accumulate(chooser.width * prompts for chooser in choosers))
    parts = [slice(end - chooser.width * prompts, end) for chooser, end in zip(choosers, ends, strict=True)]
    asking = [i for i, chooser in enumerate(choosers) if chooser.surveyed and not over[i]]
    seen = dict(zip(asking, survey(logits, [parts[i] for i in asking]), strict=True))
    for i, (chooser, part) in enumerate(zip(choosers, parts, strict=True)):
        start, rows = part.start, torch.arange(part.start, part.stop)
        move = Move(torch.zeros_like(rows)) if over[i] else chooser.step(logits[part], position, seen.get(i))
        tokens.append(move.tokens.to(logits.device))
        parents.append(rows.to(logits.device) if move.parents is None else move.parents + start)
        if move.parents is not None:
            moving.append(rows[move.parents + start != rows] if logits.device.type == "cpu" else rows)
    if not sum(map(len, moving)):
        return torch.cat(tokens), None, None
    return torch.cat(tokens), torch.cat(parents), torch.cat(moving).to(logits.device)


def _chooser(
    loaded: Loaded,
    vocab: Vocabulary,
    prompts: Mapping[str, Sequence[int]],
    cell: Cell,
    max_new_tokens: int,
    watch: Mapping[Key, Sequence[int]],
    keep_scores: bool,
    inject: Mapping[Key, tuple[int, int]],
    own: Mapping[str, Any],
) -> Chooser:
    (strategy, seed), prompt_ids = cell, list(prompts)
    device = torch.device("cpu") if loaded.device.type == "mps" else loaded.device
    if strategy.searches and loaded.draft is None:
        search = kind_of(strategy).chooser
        assert search is not None, "a search names its chooser"
        dtype = torch.float64 if loaded.variant.compute == "fp64" else torch.float32
        chooser: Chooser = search(
            strategy, prompt_ids, eos=vocab.eos, max_new_tokens=max_new_tokens, device=device, dtype=dtype
        )
        return chooser
    watched = {p: watch[key] for p in prompt_ids if (key := Key(strategy.label, seed, p)) in watch}
    forced = {p: inject[key] for p in prompt_ids if (key := Key(strategy.label, seed, p)) in inject}
    settings: dict[str, Any] = {
        "eos": vocab.eos, "pad": vocab.pad, "max_new_tokens": max_new_tokens, "device": device, "watch": watched,
        "keep_scores": keep_scores, "contexts": prompts,
    }  # fmt: skip
    if loaded.draft is not None:
        if strategy.samples or strategy.searches or forced:
            raise VariantError(f"{loaded.variant.name}: a draft is followed by greedy decoding alone")
        return Told(strategy, seed, prompt_ids, **settings)
    if forced:
        return Injecting(strategy, seed, prompt_ids, inject=forced, **settings)
    return (Processing if own else Single)(strategy, seed, prompt_ids, **settings, **own)


def _collected(choosers: Sequence[Chooser], cells: Sequence[Cell]) -> Generated:
    result = Generated()
    for chooser, (strategy, seed) in zip(choosers, cells, strict=True):
        result.traces |= {trace.key: trace for trace in chooser.traces()}
        if isinstance(chooser, Single):
            result.scores |= {Key(strategy.label, seed, p): scores for p, scores in chooser.scores().items()}
            result.tops |= {Key(strategy.label, seed, p): top for p, top in chooser.tops().items()}
            result.logs |= {Key(strategy.label, seed, p): log for p, log in chooser.logs().items()}
    return result
