"""chrF, the F-score of character n-grams (Popovic 2015), as sacrebleu computes it by default."""

from __future__ import annotations

from collections import Counter

ORDERS = range(1, 7)
WEIGHT = 4  # beta = 2: recall weighs beta^2 as much as precision


def chrf(reference: str, candidate: str) -> float:
    """chrF2 of a candidate against a reference, 0 to 100; white space is left out, 0 where nothing is left.

    Precision and recall are means over the orders 1 to 6 that both texts are long enough for.

    >>> chrf("a tall tree", "a small tree")
    66.58324830789084
    """
    texts = ["".join(text.split()) for text in (reference, candidate)]
    precision = recall = 0.0
    orders = [n for n in ORDERS if n <= min(map(len, texts))]
    for n in orders:
        expected, actual = (_ngrams(text, n) for text in texts)
        matches = (expected & actual).total()
        precision += matches / actual.total()
        recall += matches / expected.total()
    if not precision:
        return 0.0
    precision /= len(orders)
    recall /= len(orders)
    return 100 * ((1 + WEIGHT) * precision * recall / (WEIGHT * precision + recall))


def _ngrams(text: str, n: int) -> Counter[str]:
    return Counter(text[i : i + n] for i in range(len(text) - n + 1))
