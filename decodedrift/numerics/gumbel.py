"""The keyed Gumbel noise of coupled sampling: a pure function of (seed, prompt id, position, token id).

Two variants that add the same noise to their log-probabilities and take the argmax draw exact samples of their own
distributions, yet differ only where the distributions do. The noise therefore may not depend on anything but the four
coordinates: not on the batch, the dtype, the device, the width of the vocabulary, nor on what was drawn before.

A counter-based generator gives that directly. Philox4x64-10 (Salmon et al. 2011) maps (key, counter) to four 64-bit
words; the key is a hash of (seed, prompt id), counter word 1 is the position and counter word 0 walks the token ids,
four a step. Positions are 2**64 steps apart, so they never meet. Only numpy's raw bits are used, which its
compatibility policy fixes; its distributions may change between versions.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

# Part of the key: a change of the construction must change this, so that two noises are never mistaken for one.
STREAM = b"decodedrift gumbel 1"

KEPT_BYTES = 2**25  # of bits that were drawn last
_kept: dict[tuple[int, str, int, int], NDArray[np.uint64]] = {}


@lru_cache(maxsize=4096)
def _key(seed: int, prompt_id: str) -> tuple[int, int]:
    """The first 128 bits of SHA-256 over (stream, seed, prompt id), as two little-endian words."""
    # A seed is digits only, so the zero byte ends it and no two pairs spell the same message.
    message = b"%b\0%d\0%b" % (STREAM, seed, prompt_id.encode("utf-8", "surrogatepass"))
    digest = hashlib.sha256(message).digest()
    return int.from_bytes(digest[:8], "little"), int.from_bytes(digest[8:16], "little")


def gumbel_bits(seed: int, prompt_id: str, position: int, vocab: int) -> NDArray[np.uint64]:
    """64 random bits for each token id below `vocab`: uint64 [vocab].

    Token i's bits do not depend on `vocab`: a wider array only goes on further.

    Args:
        seed: the sampling seed, >= 0.
        prompt_id: `Prompt.id`.
        position: 0-based index among the generated tokens.
        vocab: number of token ids, at most 2**32.
    """
    return _bits([(seed, prompt_id, position)], vocab)[0].copy()


def _bits(keys: Sequence[tuple[int, str, int]], vocab: int) -> list[NDArray[np.uint64]]:
    """`gumbel_bits` of each (seed, prompt id, position), not to be written to: the next caller has them too.

    Strategies of a seed want the same ones at a step, and every variant at the next. One generator is set to each key,
    which takes an eighth of the time that making another does.
    """
    lowest = min((position for _, _, position in keys), default=0)
    if lowest < 0 or not 0 <= vocab <= 2**32:
        raise ValueError(f"position must be >= 0 and vocab within 0..2**32, not {lowest!r} and {vocab!r}")
    generator: Any = None
    rows = []
    for seed, prompt_id, position in keys:
        row = _kept.pop((seed, prompt_id, position, vocab), None)
        if row is None:
            if generator is None:
                generator = np.random.Philox(key=0)
                state: Any = generator.state
                state["buffer_pos"] = len(state["buffer"])  # nothing waits in it
            state["state"]["counter"][:] = 0, position, 0, 0
            state["state"]["key"][:] = _key(seed, prompt_id)
            generator.state = state
            row = generator.random_raw(vocab)
        _kept[seed, prompt_id, position, vocab] = row
        rows.append(row)
    while len(_kept) * vocab * 8 > KEPT_BYTES:  # the last used is the last to go
        del _kept[next(iter(_kept))]
    return rows


def uniform(bits: NDArray[np.uint64]) -> NDArray[np.float64]:
    """u = (k + 1/2) * 2**-52 with k the upper 52 bits: float64, strictly between 0 and 1.

    Every step is exact: 0 <= k < 2**52, so k + 1/2 is a float64 and so is the product; u runs from 2**-53 to
    1 - 2**-53 and is symmetric about 1/2. With 53 bits k + 1/2 would round, at the top up to u = 1.
    """
    return ((bits >> np.uint64(12)).astype(np.float64) + 0.5) * 2.0**-52


def gumbel(
    seed: int, prompt_id: str, position: int, vocab: int, ids: NDArray[np.integer] | None = None
) -> NDArray[np.float64]:
    """Standard Gumbel noise -ln(-ln(u)): float64 [vocab], or [len(ids)] in the order of `ids`.

    The two logarithms cost more than the bits, so a caller that knows which ids are allowed (top-k, top-p) names them;
    the values are those of the whole array. Between about -3.6 and 36.7: an id at -inf stays at -inf.

    >>> whole = gumbel(seed=0, prompt_id="p", position=3, vocab=100)
    >>> bool((gumbel(0, "p", 3, 100, ids=np.array([7, 2])) == whole[[7, 2]]).all())
    True
    """
    bits = gumbel_bits(seed, prompt_id, position, vocab)
    return -np.log(-np.log(uniform(bits if ids is None else bits[ids])))


def rows(
    keys: Sequence[tuple[int, str, int]], vocab: int, ids: NDArray[np.integer] | None = None
) -> NDArray[np.float64]:
    """`gumbel` of n (seed, prompt id, position): float64 [n, vocab], or [n, m] of ids [n, m]."""
    bits = _bits(keys, vocab)
    if ids is not None:
        bits = [row[places] for row, places in zip(bits, ids, strict=True)]
    return -np.log(-np.log(uniform(np.stack(bits))))
