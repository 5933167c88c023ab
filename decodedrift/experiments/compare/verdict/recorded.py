"""What a run says of candidates that another engine wrote: whether it is rounding, and what its file did not say."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from decodedrift.core.untrusted import visible
from decodedrift.experiments.compare.folds.consistency import beside_rounding, in_words
from decodedrift.experiments.compare.settings import reader_word
from decodedrift.models.recorded.lines import SLACK
from decodedrift.report.phrases import listed, number, percent

if TYPE_CHECKING:
    from decodedrift.experiments.study import Study


def alarms(study: Study) -> list[str]:
    """What comes before every figure: prompts that an engine read as other ids, of which only texts can be compared."""
    said, reader = [], reader_word(study.plan)
    for name, told in _told(study):
        if count := told["other_prompts"]:
            prompts = f"{count} prompt{'s' * (count > 1)}"
            first = told["other_ids"][0]
            ids = f" (the {reader} {first['reference']}, it {first['candidate']})" if "reference" in first else ""
            said.append(
                f"{visible(name)} read {prompts} as other ids than the {reader}, first {visible(first['prompt_id'])}, "
                f"from id {first['position']}{ids}. There only the texts are compared, and nothing is read."
            )
    return said


def judged(study: Study) -> list[str]:
    """Who read, where both sides were recorded."""
    judge = study.plan.get("judge")
    if not judge:
        return []
    names = [visible(str(v["name"])) for v in (study.plan["reference"], *study.plan["candidates"])]
    return [
        f"{listed(names)} were recorded, and {visible(str(study.plan['model']))} in {judge['compute']} is the judge of "
        "both: gaps, ranks and likelihoods are its own, and it wrote none of the texts."
    ]


def rounding(study: Study) -> list[str]:
    """A sentence for each recorded candidate: rounding, more, or why nobody can tell; with the largest gaps."""
    rows = {name: beside_rounding(study, name) for name, _ in _told(study)}
    return [
        f"{visible(name)}, {in_words(row['rounding'], row['recorded_in'])}: {visible(row['rounding_note'])}."
        for name, row in rows.items()
    ]


def sentences(study: Study) -> list[str]:
    """How its own text reads, its log-probabilities, and what of its file was left out or had to be assumed."""
    return [sentence for name, told in _told(study) for sentence in (*_read(study, name), *_file(name, told))]


def _told(study: Study) -> Iterator[tuple[str, Mapping[str, Any]]]:
    facts = study.environment.get("variants", {})
    for variant in (study.plan["reference"], *study.plan.get("candidates", ())):
        if told := facts.get(variant["name"], {}).get("recorded"):
            yield str(variant["name"]), told


def _read(study: Study, name: str) -> Iterator[str]:
    yield from _not_best(study, name)
    rows, judge = study.consistency, reader_word(study.plan)
    for row in rows[rows["candidate"] == name].itertuples():
        who = f"{visible(name)} under {visible(str(row.strategy))}"
        if row.tokens:
            first = (
                ""
                if math.isnan(row.first_not_top_median)
                else (f", the first of a text in the median at position {row.first_not_top_median:.0f}")
            )
            took = percent(row.cast_not_top)
            beside = "" if math.isnan(row.cast_not_top) else f" (a plain cast takes another at {took})"
            yield (
                f"Of {row.tokens:.0f} tokens of {who}, {percent(row.not_top)} are not what the {judge} takes there"
                f"{beside}{first}; the lowest has rank {row.rank_max:.0f}."
            )
        if row.logprob_tokens > 0:
            cast = "" if math.isnan(row.cast_delta_rms) else f", a plain cast's by {number(row.cast_delta_rms)}"
            yield (
                f"The log-probabilities of {who} differ from the {judge}'s by {number(row.logprob_delta_rms)} nats "
                f"(rms over {row.logprob_tokens:.0f} tokens){cast}."
            )
        if row.shown_tokens > 0 and not math.isnan(row.kl_shown):
            yield (
                f"Over the {number(row.shown_mean)} ids that {who} shows at a position, renormalised, the KL is "
                f"{number(row.kl_shown)} nats; outside them lie {percent(row.missing_reference)} of the {judge}'s "
                f"probability and {percent(row.missing_candidate)} of its own, of which nothing is said."
            )


def _not_best(study: Study, name: str) -> Iterator[str]:
    """Where its own log-probabilities say that it did not take its best token, though the strategy takes it."""
    rows = study.divergences[(study.divergences["candidate"] == name) & (study.divergences["candidate_gap"] < -SLACK)]
    for strategy, cell in rows.groupby("strategy", sort=False):
        who, gap = f"{visible(name)} under {visible(str(strategy))}", number(-cell["candidate_gap"].min())
        yield (
            f"By its own log-probabilities {who} did not take its best token at {len(cell)} of its first divergences, "
            f"by up to {gap} nats: it chose otherwise than that, or tells them of another pass."
        )


def _file(name: str, told: Mapping[str, Any]) -> Iterator[str]:
    counts = {
        "texts of this run that are not in it": told["missing"],
        "texts that the reference's file has not": told.get("unpaired", 0),
        "texts written several times, of which the first is compared": told["several_runs"],
        "texts of these that are not the same each time": told.get("differing_runs", 0),
        **{f"lines that belong to nothing here ({why})": count for why, count in told["unmatched"].items()},
    }  # fmt: skip
    parts = [f"{what}: {count}" for what, count in counts.items() if count]
    if parts := [visible(part) for part in (*parts, *told["notes"])]:
        yield f"Of the file of {visible(name)}: {'; '.join(parts)}."
