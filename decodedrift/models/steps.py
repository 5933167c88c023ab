"""How transformers calls a model: prefill, step, cache, output. This file may break with its next release.

Nothing goes by its name where it can go by what it does: a cache is what has `update` and `get_seq_length`. What a
release must go on doing is checked where it is used; a breach is a VariantError that names the version.

A run reads its sequences on one of three *paths*, the same for all its variants (`probe.py` decides):

- `shared`: prompts are prefilled once, each row goes on over a copy of its prompt's cache, written in place; given
  texts that share a prompt are read over one prefill of it;
- `stock`: the same over the model's own kind of cache, given texts whole; `plain`: no cache, all whole at every step.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

import torch
from torch import Tensor

from decodedrift.models.calling import cache_of, calls, check
from decodedrift.models.compilation import compiled
from decodedrift.models.knobs.padding import batch
from decodedrift.models.kvcache import expand, kinds, kv_only, owned, reorder
from decodedrift.models.load import Loaded, measurable
from decodedrift.models.longrope import switch
from decodedrift.models.sources.quiet import quiet

PATHS = ("shared", "stock", "plain")  # the first is the fastest, the last needs least of transformers


class Steps(Protocol):
    """A batch of rows being read. logits: raw, [rows, vocab], what each row's next token is chosen from."""

    logits: Tensor

    @property
    def cache(self) -> Any | None:
        """The rows' KV cache, None without one."""
        ...

    def advance(self, tokens: Tensor, parents: Tensor | None = None, moving: Tensor | None = None) -> None:
        """One token further.

        Args:
            tokens: int64 [rows]. parents: int64 [rows], the row of its prompt that each continues. moving: the rows of
                which that may be another than themselves; None for all.
        """
        ...


@contextmanager
def reading(loaded: Loaded) -> Iterator[None]:
    """The state in which a model is called: its own arithmetic, and transformers' chatter held back."""
    with loaded.running(), quiet():
        yield


def begin(loaded: Loaded, prompts: Sequence[Sequence[int]], rows: Tensor, *, room: int, pad: int) -> Steps:
    """Reads a batch of prompts on the model's path; within `reading`.

    Args:
        prompts: token ids. rows: int64 [rows], the prompt that each row continues. room: tokens that a row may take.

    Raises:
        VariantError: transformers does not do here what this path rests on.
    """
    if loaded.path == "plain":
        return Whole(loaded, prompts, rows, pad=pad)
    return Cached(loaded, prompts, rows, room=room, pad=pad, use_cache=loaded.variant.use_cache, own=True)


class Cached:
    """Rows over one left-padded prefill of their prompts.

    Args:
        ahead: tokens that the first call after the prefill reads: 1 for `advance`, more for `read`. use_cache: whether
            a KV cache is kept; without one every step reads all again, left-padded. own: the cache that the variant's
            knobs ask for, if they do.
    """

    def __init__(
        self,
        loaded: Loaded,
        prompts: Sequence[Sequence[int]],
        rows: Tensor,
        *,
        room: int,
        pad: int,
        ahead: int = 1,
        use_cache: bool = True,
        own: bool = False,
    ) -> None:
        self.loaded, self.model, self.use_cache = loaded, loaded.model, use_cache
        self.counts: bool | None = None
        self.owned = None
        with calls(loaded, "prefill"):
            known = _takes(self.model.prepare_inputs_for_generation, "next_sequence_length")
            check(loaded, known, "takes no next_sequence_length")
            ids, self.arguments = _prepared(loaded, prompts, pad, use_cache)
            if own and loaded.variant.knobs.keys() & {"cache", "kv"} and (prepared := self.cache) is not None:
                self.owned = owned(loaded, prepared, ids.shape[1] + room)
                self.arguments = {k: self.owned if v is prepared else v for k, v in self.arguments.items()}
            rows = rows.to(ids.device)
            self.ids = ids
            if (positions := getattr(self.model, "_get_initial_cache_position", None)) is not None:  # of early releases
                self.arguments = positions(ids.shape[1], ids.device, self.arguments)
            outputs = self.model(**self._inputs(ids.shape[1], is_first_iteration=True), return_dict=True)
            self._take(outputs, ids.shape[1], ahead)
            self.logits = measurable(outputs.logits[:, -1])[rows]
            self.ids = ids[rows]
            self.arguments = {k: _per_row(k, v, rows, len(prompts)) for k, v in self.arguments.items()}
            cache = self.cache
            loaded.facts["cache"] = kinds(cache)
            check(loaded, cache is not None or not use_cache, "keeps its state where no KV cache is found")
            plain = not (own and "cache" in loaded.variant.knobs) and not compiled(self.model)
            in_place = loaded.path == "shared" and plain  # torch.compile takes no inputs that share a buffer
            inside = not in_place or cache is None or kv_only(cache)
            check(loaded, inside, f"caches more than the keys and values of every token ({kinds(cache)})")
            if cache is not None:
                expand(cache, rows, room, in_place=in_place)

    @property
    def cache(self) -> Any | None:
        """The KV cache as it is now: some models drop theirs on the way and begin another."""
        cache = cache_of(self.loaded, self.arguments)
        kept = self.owned is None or cache is self.owned
        check(self.loaded, kept, "drops its KV cache on the way, and with it what cache= or kv= asked for")
        return cache

    def advance(self, tokens: Tensor, parents: Tensor | None = None, moving: Tensor | None = None) -> None:
        """One token further, each row on its own cache or on that of the row it continues."""
        with calls(self.loaded, "step"):
            if parents is not None:
                parents = parents.to(self.ids.device)
                self.ids = self.ids[parents]
                if (cache := self.cache) is not None:
                    reorder(cache, parents, moving)
            self.ids = torch.cat([self.ids, tokens[:, None].to(self.ids.device)], dim=-1)
            outputs = self.model(**self._inputs(1), return_dict=True)
            self._take(outputs, self.ids.shape[1], 1)
            self.logits = measurable(outputs.logits[:, -1])

    def read(self, tokens: Tensor, mask: Tensor) -> Tensor:
        """Logits [rows, n, vocab] after each of n given tokens, int64 [rows, n]; mask is 0 at right padding."""
        with calls(self.loaded, "reading"):
            if (whole := self.arguments.get("attention_mask")) is not None:
                whole[:, -mask.shape[1] :] = mask.to(whole.device)
            before, at = self.ids.shape[1], switch(self.model.config)
            across = at is not None and before <= at.length < before + tokens.shape[1]
            check(self.loaded, not across, "changes its rotary factors within what is read at once")
            self.ids = torch.cat([self.ids, tokens.to(self.ids.device)], dim=-1)
            self.arguments.pop("logits_to_keep", None)  # it was the prefill's last one; here all are wanted
            logits = self.model(**self._inputs(tokens.shape[1]), return_dict=True).logits
            check(self.loaded, logits.shape[:2] == tokens.shape, "does not give logits of every token that it reads")
            return measurable(logits)

    def _inputs(self, count: int, **more: Any) -> Mapping[str, Any]:
        """The arguments of a forward pass over the last `count` tokens."""
        inputs: dict[str, Any] = self.model.prepare_inputs_for_generation(
            self.ids, next_sequence_length=count if self.use_cache else None, **more, **self.arguments
        )
        if self.use_cache and cache_of(self.loaded, inputs) is not None:
            check(self.loaded, inputs["input_ids"].shape[1] == count, f"does not read the last {count} tokens alone")
        return {name: value for name, value in inputs.items() if value is not None}  # None is not always the default

    def _take(self, outputs: Any, width: int, ahead: int) -> None:
        """Takes over what a forward pass over `width` tokens leaves for the next, which reads `ahead` more."""
        self.arguments = self.model._update_model_kwargs_for_generation(outputs, self.arguments, num_new_tokens=ahead)
        mask, cache = self.arguments.get("attention_mask"), self.cache
        check(self.loaded, mask is None or mask.shape[1] == width + ahead, "does not lengthen its attention mask")
        if cache is not None:
            whole = bool(cache.get_seq_length() == width)  # a static cache counts in a tensor
            self.counts = whole if self.counts is None else self.counts  # a cache of states alone has no length
            check(self.loaded, whole or not (self.counts or kv_only(cache)), "does not cache every token that it reads")


class Whole:
    """Rows that are read from their beginning at every step, right-padded: nothing is kept from step to step."""

    cache = None

    def __init__(self, loaded: Loaded, prompts: Sequence[Sequence[int]], rows: Tensor, *, pad: int) -> None:
        self.loaded, self.pad = loaded, pad
        self.texts = [tuple(prompts[row]) for row in rows.tolist()]
        loaded.facts["cache"] = kinds(None)
        self.logits = self._last([tuple(ids) for ids in prompts])[rows.to(loaded.device)]

    def advance(self, tokens: Tensor, parents: Tensor | None = None, moving: Tensor | None = None) -> None:
        """One token further; all rows are read again."""
        before = self.texts if parents is None else [self.texts[row] for row in parents.tolist()]
        self.texts = [(*text, token) for text, token in zip(before, tokens.tolist(), strict=True)]
        self.logits = self._last(self.texts)

    def _last(self, texts: Sequence[tuple[int, ...]]) -> Tensor:
        logits = read_whole(self.loaded, texts, [(len(text) - 1, len(text)) for text in texts], pad=self.pad)
        return torch.cat(logits)


def read_whole(
    loaded: Loaded, texts: Sequence[Sequence[int]], spans: Sequence[tuple[int, int]], *, pad: int
) -> list[Tensor]:
    """Texts from their beginning, right-padded unless `padding` says otherwise, without a cache; within `reading`.

    Args:
        texts: token ids of at least one token each. kept: of each text the positions [first, end) whose logits are
            wanted.

    Returns:
        raw logits [end - first, vocab] of each text.
    """
    width, at = max(map(len, texts)), switch(loaded.model.config)
    if at is not None and len(texts) > 1 and width > at.length:  # its factors follow the longest text of a batch
        return [read_whole(loaded, [t], [k], pad=pad)[0] for t, k in zip(texts, spans, strict=True)]
    ids, mask, begins = batch(loaded, texts, pad, given=True)
    width, spans = ids.shape[1], [(a + shift, b + shift) for (a, b), shift in zip(spans, begins, strict=True)]
    begin, end = min(first for first, _ in spans), max(last for _, last in spans)
    arguments = {} if bool(mask.all()) else {"attention_mask": mask.to(loaded.device)}
    known = inspect.signature(loaded.model.forward).parameters
    if any(begins) and "position_ids" in known:
        arguments["position_ids"] = (mask.cumsum(-1) - 1).clamp(min=0).to(loaded.device)
    sliced = "logits_to_keep" in known
    if sliced:
        arguments["logits_to_keep"] = torch.arange(begin, max(end, begin + 1), device=loaded.device)
    with calls(loaded, "reading"):
        logits = loaded.model(input_ids=ids.to(loaded.device), use_cache=False, return_dict=True, **arguments).logits
        expected = (len(texts), max(end - begin, 1) if sliced else width)
        check(loaded, logits.shape[:2] == expected, "does not give logits of every token that it reads")
    logits = measurable(logits)
    offset = begin if sliced else 0
    return [logits[row, first - offset : last - offset] for row, (first, last) in enumerate(spans)]


def _prepared(
    loaded: Loaded, prompts: Sequence[Sequence[int]], pad: int, use_cache: bool
) -> tuple[Tensor, dict[str, Any]]:
    """(ids, arguments) of one left-padded batch, as `generate` prepares them for each family."""
    from transformers import GenerationConfig

    input_ids, mask, _ = batch(loaded, prompts, pad, given=False)
    settings = GenerationConfig(max_new_tokens=1, do_sample=False, num_beams=1, pad_token_id=pad, use_cache=use_cache)
    prepared: list[Any] = []

    def keep(model: Any, input_ids: Tensor, **arguments: Any) -> Tensor:
        prepared[:] = input_ids, arguments
        return input_ids

    loaded.model.generate(
        input_ids.to(loaded.device),
        attention_mask=mask.to(loaded.device),
        generation_config=settings,
        custom_generate=keep,
    )
    check(loaded, len(prepared) == 2, "does not hand its prepared inputs to custom_generate")
    ids, arguments = prepared
    for unused in ("generation_config", "logits_processor", "stopping_criteria"):  # the plan says everything
        arguments.pop(unused, None)
    return ids, arguments


def _per_row(name: str, value: Any, rows: Tensor, prompts: int) -> Any:
    """An argument of a batch of prompts, each row taking its prompt's; the cache, and vectors of positions, aside."""
    if not isinstance(value, Tensor) or value.dim() < 2:
        return value
    if name == "position_ids" and value.dim() == 3:  # [kinds of position, batch, tokens]
        return value[:, rows]
    return value[rows] if value.shape[0] == prompts else value


def _takes(function: Any, name: str) -> bool:
    parameters = inspect.signature(function).parameters.values()
    return any(p.name == name or p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters)
