"""The terms of art of the page, each with one sentence for a reader who meets it first."""

from __future__ import annotations

TERMS = {
    "answer": "The text that a model writes to one prompt: its continuation, word by word.",
    "word": "What a model chooses at once, a token: a word, part of one, or a sign. Counted from 1 here; the "
    "tables give positions, which count from 0.",
    "reference": "The side that all others are held against: what differs here differs from it.",
    "candidate": "The same model, or another, run in another way: the one that is tested.",
    "strategy": "How words are chosen from the model's probabilities: always the likeliest (greedy), by search (beam), "
    "or by a draw (top-k, top-p). Reference and candidate draw with the same random numbers, where they are coupled.",
    "noise floor": "The candidate against itself, with nothing changed but how prompts share a batch: what differs "
    "there is rounding alone.",
    "95 % interval": "A range made so that it holds the true value in 95 of 100 repetitions with other prompts.",
    "near tie": "Two words that are almost equally likely; a small error can turn the choice between them.",
    "perplexity": "How surprised a model is by a given text: exp of its mean negative log-likelihood per word; lower "
    "is better.",
    "accuracy": "The share of texts in which a side gives the answer that the prompt expects, as it is checked here.",
    "flip": "An answer that was right and is wrong, or was wrong and is right.",
    "margin": "How far the best word's score lies above the next one's, in nats.",
    "KL": "Kullback-Leibler divergence, how far one distribution over the next word lies from another, in nats; 0 "
    "where they are equal.",
    "nats": "Units of natural logarithms: a gap of 0.1 nats is a ratio of 1.1 between two probabilities.",
    "flip law": "A prediction from margins and errors alone: a word flips where the error exceeds the margin.",
}  # fmt: skip


def meaning(term: str) -> str:
    """The sentence of a term.

    Raises:
        KeyError: no such term: a mistake in a template.
    """
    return TERMS[term]
