"""Questions about two generated token sequences: where they part, and what they share after that.

Pure functions of id lists, reference first. Positions are 0-based and a sequence includes its EOS. Texts are only
looked at by `first_divergence_char`: different ids may print the same. "After t*" is from t* + 1 on: the token at t*
itself is the divergence, and what follows it is the consequence.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import takewhile

from rapidfuzz.distance import Levenshtein

# A shared passage counts as telling the same story again, rather than a phrase or a loop, from this size on.
RECONVERGED_TOKENS = 16
RECONVERGED_DISTINCT = 8
LOOP_PERIOD, LOOP_TIMES = 8, 3  # a text that ends in so short a period, so often, is a loop


def first_divergence(reference: Sequence[int], candidate: Sequence[int]) -> int | None:
    """t* = the first position whose ids differ; None where the sequences are identical.

    Where one is a strict prefix of the other they part at its length: one has a token there and the other has none.

    >>> first_divergence([5, 6, 7], [5, 6, 8]), first_divergence([5, 6], [5, 6, 7]), first_divergence([5], [5])
    (2, 2, None)
    """
    if tuple(reference) == tuple(candidate):
        return None
    return _common_prefix(reference, candidate)


def first_divergence_char(reference_text: str, candidate_text: str) -> int | None:
    """Length in code points of the texts' common prefix; None where the texts are the same.

    >>> first_divergence_char("a tall tree", "a small tree")
    2
    """
    if reference_text == candidate_text:
        return None
    return _common_prefix(reference_text, candidate_text)


def compared_length(reference: Sequence[int], candidate: Sequence[int]) -> int:
    """Positions at risk of being the first divergence: t* + 1 where they diverged, else the common length."""
    t = first_divergence(reference, candidate)
    return len(reference) if t is None else t + 1


def prefix_fraction(reference: Sequence[int], candidate: Sequence[int]) -> float:
    """t* over the longer length; 1 where identical, two empty ones included.

    >>> prefix_fraction([1, 2, 3, 4], [1, 9])
    0.25
    """
    t = first_divergence(reference, candidate)
    return 1.0 if t is None else t / max(len(reference), len(candidate))


def remainders(reference: Sequence[int], candidate: Sequence[int]) -> tuple[Sequence[int], Sequence[int]] | None:
    """Both sequences from t* + 1 on; None where identical. One or both may be empty."""
    t = first_divergence(reference, candidate)
    return None if t is None else (reference[t + 1 :], candidate[t + 1 :])


def agreement_after(reference: Sequence[int], candidate: Sequence[int]) -> float | None:
    """Share of indices after t*, up to the shorter length, at which the ids are equal; None where there is none.

    >>> agreement_after([1, 2, 3, 4], [1, 9, 3, 5])
    0.5
    """
    rest = remainders(reference, candidate)
    if rest is None or not all(rest):
        return None
    equal = [a == b for a, b in zip(*rest, strict=False)]
    return sum(equal) / len(equal)


def edit_similarity(reference: Sequence[int], candidate: Sequence[int]) -> float | None:
    """1 - token edit distance of the remainders after t* / the longer remainder.

    None where identical, and where t* was the last token of both so that nothing follows. 0 where only one goes on.

    >>> edit_similarity([1, 2, 3, 4, 5], [1, 9, 4, 5])  # [3, 4, 5] against [4, 5]
    0.6666666666666667
    """
    rest = remainders(reference, candidate)
    if rest is None or not any(rest):
        return None
    return 1.0 - Levenshtein.distance(*rest) / max(map(len, rest))


def reconverged(reference: Sequence[int], candidate: Sequence[int]) -> bool | None:
    """Whether the remainders after t* share a passage of at least 16 tokens with at least 8 distinct ids.

    The passage is their longest common substring; of several equally long ones, any will do, so that the answer is the
    same with the sides exchanged. None where identical or where a remainder is shorter than 16 tokens.
    """
    rest = remainders(reference, candidate)
    if rest is None or min(map(len, rest)) < RECONVERGED_TOKENS:
        return None
    return reconvergence_lag(reference, candidate) is not None


def reconvergence_lag(reference: Sequence[int], candidate: Sequence[int]) -> int | None:
    """How many tokens later than the reference the candidate tells the shared passage; None where not `reconverged`.

    Candidate start minus reference start, both at the passage's first occurrence. 0 is a lag: test for None.
    """
    rest = remainders(reference, candidate)
    if rest is None:
        return None
    for start, other, length in _longest_common_substrings(*rest):
        passage = rest[0][start : start + length]
        if length >= RECONVERGED_TOKENS and len(set(passage)) >= RECONVERGED_DISTINCT:
            return other - start
    return None


def shared_prefix(sequences: Sequence[Sequence[int]]) -> int:
    """Tokens with which all of one or more sequences begin.

    >>> shared_prefix([[1, 2, 3], [1, 2, 4], [1, 2]])
    2
    """
    first, *others = sequences
    return min((_common_prefix(first, other) for other in others), default=len(first))


def loop_period(tokens: Sequence[int]) -> int | None:
    """The shortest period, of LOOP_PERIOD tokens at most, that ends a text LOOP_TIMES times in a row; None without one.

    >>> loop_period([9, 1, 2, 1, 2, 1, 2]), loop_period([7, 7, 7]), loop_period([1, 2, 1, 2])
    (2, 1, None)
    """
    ids = tuple(tokens)
    for period in range(1, LOOP_PERIOD + 1):
        end = ids[-period * LOOP_TIMES :]
        if len(end) == period * LOOP_TIMES and end == end[:period] * LOOP_TIMES:
            return period
    return None


def shuffled_matches(a: Sequence[int], b: Sequence[int]) -> float:
    """Expected number of places with equal ids once one of two equally long sequences is shuffled.

    Each place of n holds one of a's ids and any of b's alike: the sum over ids of count_a count_b / n.

    >>> shuffled_matches([1, 1, 2, 3], [1, 2, 2, 4])
    1.0
    """
    ours, theirs = Counter(a), Counter(b)
    return sum(count * theirs[token] for token, count in ours.items()) / max(1, len(a))


def _longest_common_substrings(a: Sequence[int], b: Sequence[int]) -> Iterator[tuple[int, int, int]]:
    """(start in a, first start in b, length) of each longest common substring, in the order of a.

    Each id becomes one character, so that Python's own substring search does the inner loop: the length only grows,
    which makes len(a) + length searches in all.
    """
    letters = {token: chr(i) for i, token in enumerate(dict.fromkeys((*a, *b)))}
    text, other = ("".join(letters[t] for t in side) for side in (a, b))
    length = 0
    for start in range(len(text)):
        while start + length < len(text) and text[start : start + length + 1] in other:
            length += 1
    for start in range(len(text) - length + 1 if length else 0):
        at = other.find(text[start : start + length])
        if at >= 0:
            yield start, at, length


def _common_prefix(a: Sequence[object], b: Sequence[object]) -> int:
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(a, b, strict=False)))
