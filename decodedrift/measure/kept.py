"""The reference of a job on disk: its texts, the scores it chose them by, and the logits of its reading, bit for bit.

A safetensors file a job. Of the text numbered N (the header's `texts` says which one that is):

- `N.logits` [T, vocab], raw, as it read its text (of a window of a text this alone);
- `N.scores` [T, vocab], greedy: raw logits as it wrote it, in float64 after a penalty;
- `N.allowed_ids`, `N.allowed`, `N.allowed_sizes`: coupled sampling, the ids that might be drawn at each position and
  their scores (nats, noise included), one position behind the other, so many each;
- `N.token_ids`, `N.logprobs`, `N.margins`, `N.chosen`, `N.taken` [T], `N.top_ids`, `N.top_log_p` [T, 5];
- `N.ends` [2]: margin and score of the whole text.

All in the types in which they were computed. It is written a tensor at a time, as what waits in files has not to be in
memory at once.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from decodedrift.core.files import atomic, writing
from decodedrift.core.records import InputError, Key, Trace
from decodedrift.core.secrecy import excerpt
from decodedrift.decoding.choosers import ScoreLog
from decodedrift.decoding.spool import Spool
from decodedrift.decoding.tops import Tops
from decodedrift.measure.passes import Pass, Passage


class Damaged(InputError):
    """What was kept of a job's reference cannot be used: it is gone, or another file is there."""


Pieces = Tensor | list[Tensor]  # a tensor, or several that are one behind the other
NAMES = {torch.float64: "F64", torch.float32: "F32", torch.bfloat16: "BF16", torch.float16: "F16", torch.int64: "I64"}


def keep(path: Path, reference: Pass, spool: Spool) -> None:
    """Writes what a job's reference is held against others by; `path` is whole or not there.

    Raises:
        InputError: the disk is full, or the folder cannot be written.
    """
    tensors: dict[str, Pieces] = {}
    texts = []
    waiting = [key[0] for key in spool.keys("logits")]
    for number, key in enumerate(dict.fromkeys((*reference.traces, *waiting))):
        trace = reference.traces.get(key)
        texts.append({"key": key, "finish": trace and trace.finish, "nonfinite": trace and trace.nonfinite})
        parts: dict[str, Pieces] = {} if trace is None else dict(_of_text(reference, trace))
        if key in waiting:
            parts["logits"] = spool.get(("logits", key))
        tensors |= {f"{number}.{name}": tensor for name, tensor in parts.items()}
    with writing(path.parent):
        path.parent.mkdir(exist_ok=True)
    with atomic(path) as part:
        _write(part, tensors, {"texts": json.dumps(texts)})
    with writing(path.parent), atomic(sum_of(path)) as part:
        part.write_text(_digest(path))


def sum_of(path: Path) -> Path:
    """Where the SHA-256 of a kept file stands."""
    return path.with_name(path.name + ".sha256")


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _of_text(reference: Pass, trace: Trace) -> Iterator[tuple[str, Pieces]]:
    """What is known of a text beside its reading."""
    key = trace.key
    yield "token_ids", torch.tensor(trace.token_ids, dtype=torch.int64)
    for name, values in (("logprobs", trace.logprobs), ("margins", trace.margins)):
        yield name, _reals(values)
    yield "ends", _reals((trace.min_margin, trace.score))
    if key in reference.generated.scores:
        yield "chosen", _reals(reference.generated.scores[key][0])
    if (log := reference.generated.logs.get(key)) is not None:
        yield "taken", _reals(log.taken)
        if isinstance(log.logits, Tensor):
            yield "scores", log.logits
        if log.allowed:
            yield "allowed_ids", [ids for ids, _ in log.allowed]
            yield "allowed", [scores for _, scores in log.allowed]
            yield "allowed_sizes", torch.tensor([len(ids) for ids, _ in log.allowed])
    if (tops := reference.generated.tops.get(key)) is not None:
        yield "top_ids", torch.from_numpy(tops.ids)
        yield "top_log_p", torch.from_numpy(tops.log_p)


class Kept:
    """A job's reference as `keep` left it. Logits stay in the file until they are asked for."""

    def __init__(self, path: Path) -> None:
        """Opens it.

        Raises:
            Damaged: it is not what was written.
        """
        from safetensors import SafetensorError, safe_open

        try:
            self._file = cast(Any, safe_open(path, "pt"))
            texts = json.loads(self._file.metadata()["texts"])
        except (SafetensorError, OSError, ValueError, KeyError, TypeError) as error:
            raise Damaged(f"{path}: damaged ({excerpt(error, 80)}); put it back, or make that run again") from None
        if not sum_of(path).exists() or sum_of(path).read_text().strip() != _digest(path):
            raise Damaged(f"{path}: damaged (its SHA-256 is another); put it back, or make that run again")
        self._path = path
        self._names = set(self._file.keys())
        self._texts: dict[Key, tuple[int, dict[str, Any]]] = {Key(*t["key"]): (n, t) for n, t in enumerate(texts)}

    def restore(self, reference: Pass, contexts: Mapping[str, Sequence[int]]) -> None:
        """The reference's texts and scores, as if it had just written them. contexts: prompt id -> its ids."""
        for key, (_, text) in self._texts.items():
            ends = self._get(key, "ends").tolist()
            ids, logprobs, margins = (tuple(self._get(key, n).tolist()) for n in ("token_ids", "logprobs", "margins"))
            reference.traces[key] = Trace(
                key.prompt_id, key.strategy, key.seed, ids, logprobs, margins, text["finish"], text["nonfinite"], *ends
            )
            if self._has(key, "chosen"):
                reference.generated.scores[key] = (self._get(key, "chosen").tolist(), [])
            if self._has(key, "taken"):
                reference.generated.logs[key] = self._log(key, contexts[key.prompt_id])
            if self._has(key, "top_ids"):
                top = Tops(self._get(key, "top_ids").numpy(), self._get(key, "top_log_p").numpy())
                reference.generated.tops[key] = top

    def lend(self, spool: Spool) -> None:
        """Its logits in a job's spool, where they wait for the candidates; they are not copied."""
        for key in self._texts:
            if self._has(key, "logits"):
                spool.lend(("logits", key), lambda key=key: self._get(key, "logits"))  # type: ignore[misc]

    def logits(self, group: list[Passage], device: torch.device) -> Iterator[tuple[Passage, Tensor]]:
        """(passage, logits) of a group's passages that it has read, as `Bench.logits` gives them.

        Raises:
            InputError: another length of a text was read.
        """
        for passage in group:
            if passage.key in self._texts and self._has(passage.key, "logits"):
                logits = self._get(passage.key, "logits")
                if len(logits) != len(passage.reading.continuation):
                    raise InputError(
                        f"{self._path}: {len(logits)} tokens of {passage.key.prompt_id} were read there, and "
                        f"{len(passage.reading.continuation)} here; leave --reference-run out"
                    )
                yield passage, logits.to(device)

    def _log(self, key: Key, context: Sequence[int]) -> ScoreLog:
        logits: Any = self._get(key, "scores") if self._has(key, "scores") else []
        allowed: list[tuple[Tensor, Tensor]] = []
        if self._has(key, "allowed"):
            sizes = self._get(key, "allowed_sizes").tolist()
            ids, scores = (torch.split(self._get(key, name), sizes) for name in ("allowed_ids", "allowed"))
            allowed = list(zip(ids, scores, strict=True))
        return ScoreLog(logits, allowed, self._get(key, "taken").tolist(), context)

    def _has(self, key: Key, name: str) -> bool:
        return f"{self._texts[key][0]}.{name}" in self._names

    def _get(self, key: Key, name: str) -> Tensor:
        tensor: Tensor = self._file.get_tensor(f"{self._texts[key][0]}.{name}")
        return tensor


def _reals(values: Sequence[float]) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def _write(path: Path, tensors: Mapping[str, Pieces], about: Mapping[str, str]) -> None:
    """A safetensors file, written a piece at a time; the widest types first, so that each begins where it may."""
    pieces = {name: [value] if isinstance(value, Tensor) else value for name, value in tensors.items()}
    order = sorted(pieces, key=lambda name: -pieces[name][0].element_size())
    header: dict[str, Any] = {"__metadata__": about}
    end = 0
    for name in order:
        first = pieces[name][0]
        shape = [sum(len(piece) for piece in pieces[name]), *first.shape[1:]]
        begin, end = end, end + math.prod(shape) * first.element_size()
        header[name] = {"dtype": NAMES[first.dtype], "shape": shape, "data_offsets": [begin, end]}
    head = json.dumps(header).encode()
    head += b" " * (-len(head) % 8)
    with path.open("wb") as handle:
        handle.write(len(head).to_bytes(8, "little") + head)
        for piece in (piece for name in order for piece in pieces[name] if piece.numel()):
            handle.write(piece.contiguous().view(-1).view(torch.uint8).numpy().data)
