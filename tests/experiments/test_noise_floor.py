"""The noise floor's figures against closed forms: a model whose logits depend on its filler by a known constant."""

from __future__ import annotations

import copy
import functools
from collections.abc import Mapping
from dataclasses import fields, replace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from bigram import EOS, bigram_model, ids_of, log_softmax, rolled
from conftest import tiny_model
from running import run
from transformers import LlamaForCausalLM

import decodedrift as dd
from decodedrift.core.estimate import READING, Work
from decodedrift.core.progress import Progress
from decodedrift.decoding import forcing
from decodedrift.decoding.preferences import Preferences
from decodedrift.experiments.compare import controls, floors, settings
from decodedrift.experiments.compare.sections import pictures
from decodedrift.measure.passes import Passage
from decodedrift.models import steps
from decodedrift.models.knobs import padding
from decodedrift.models.load import Loaded
from decodedrift.models.longrope import Switch
from decodedrift.models.variants import parse_variants
from decodedrift.report.html import Options

VOCAB, NEW, FELT, EACH = 16, 8, 9, 0.0625
HEIGHT = 2.0**16  # of all logits: within 64 float32 spacings of it, half a nat, batches may differ and a path be sound
WIDER = floors.FLOOR_FILLER
VARIANT = "fp32:attention=eager"
LAST = {"three": 3, "nine": 9, "five": 5, "twelve": 12}

PROMPTS = {"a": "w1 w2", "b": "w9 w4", "c": "w7 w6 w5 w3", "d": "w8 w11", "e": "w12 w30"}
FOUR = {name: PROMPTS[name] for name in "abcd"}


class Filled(LlamaForCausalLM):
    """Each token of a row's filler adds `EACH` to the logit of one token; all is exact in float32."""

    each = EACH

    @functools.wraps(LlamaForCausalLM.forward)  # its signature is looked at
    def forward(self, *args: Any, **kwargs: Any) -> Any:
        outputs = super().forward(*args, **kwargs)
        if (mask := kwargs.get("attention_mask")) is not None and mask.dim() == 2:
            outputs.logits[..., FELT] += self.each * (mask == 0).sum(-1)[:, None]
        return outputs


class Unmoved(Filled):
    each = 0.0


def table() -> np.ndarray:
    """1 -> 2 -> ... -> 15 -> 1, but at 7 the felt token is a quarter of a nat behind."""
    logits = np.zeros((VOCAB, VOCAB))
    for i in range(1, VOCAB):
        logits[i, i % (VOCAB - 1) + 1] = 5.0
        if i != FELT - 1:
            logits[i, FELT] = i / 8
    logits[7, FELT] = 5.0 - 0.25
    logits[:, EOS] = -4.0
    return logits


def study(kind: type[Filled], batch_size: int) -> dd.Study:
    model = bigram_model(table() + HEIGHT, torch.float32)
    model.__class__ = kind
    return run(
        model, candidates=[VARIANT], strategies=["greedy"], noise_floor=True, max_new_tokens=NEW, batch_size=batch_size,
        prompts={name: f"w1 w{last}" for name, last in LAST.items()},
    )  # fmt: skip


def felt(filler: int) -> np.ndarray:
    """The table as rows with so much filler see it."""
    logits = table()
    logits[:, FELT] += EACH * filler
    return logits


def of_floor(frame: pd.DataFrame) -> pd.DataFrame:
    return frame[frame["role"] == "floor"].reset_index(drop=True)


@pytest.mark.parametrize(("size", "name"), [(4, " (5 wider)"), (2, " (5 wider)"), (1, ",batch_size=4 (5 wider)")])
def test_the_floor_is_what_the_other_layout_adds(size: int, name: str) -> None:
    result = study(Filled, size)
    assert not result.failed, result.failures.to_string()
    assert result.environment["generation"]["path"] == "shared"
    walks = {
        filler: {
            p: rolled(lambda before, _, filler=filler: felt(filler)[before].argmax(), last, NEW)
            for p, last in LAST.items()
        }
        for filler in (0, WIDER)
    }
    traces = result.traces.set_index(["role", "prompt_id"])["token_ids"]
    for role, filler in (("reference", 0), ("candidate", 0), ("floor", WIDER)):
        assert {p: ids_of(traces[role, p]) for p in LAST} == walks[filler], role

    positions = of_floor(result.positions)
    added = EACH * WIDER
    before = [b for p in positions["prompt_id"].unique() for b in [LAST[p], *walks[0][p][:-1]]]
    p = np.exp(log_softmax(felt(0)))[before, FELT]
    kl = -added * p + np.log1p(p * np.expm1(added))
    assert len(kl) == len(LAST) * NEW
    np.testing.assert_allclose(positions["kl"], kl, rtol=1e-9)
    np.testing.assert_allclose(positions["logit_gap_max"], added * (1 - 1 / VOCAB), rtol=1e-12)
    np.testing.assert_allclose(positions["logit_gap_rms"], added * np.sqrt((1 - 1 / VOCAB) / VOCAB), rtol=1e-12)

    (row,) = of_floor(result.summary).itertuples()
    assert (row.reference, row.candidate) == (VARIANT, f"{VARIANT}{name}")
    assert row.kl_mean == pytest.approx(kl.mean(), rel=1e-9)
    assert row.kl_max == pytest.approx(kl.max(), rel=1e-9)
    assert row.logit_gap_max == pytest.approx(added * (1 - 1 / VOCAB), rel=1e-12)
    parted = [p for p in LAST if walks[0][p] != walks[WIDER][p]]
    assert (row.traces, row.diverged) == (len(LAST), len(parted))
    (said,) = (s for s in result.verdict if s.startswith("Noise floor"))
    assert f"leaves its own text in {len(parted)} of 4 traces (mean KL {kl.mean():.2g})" in said

    rows = of_floor(result.divergences).set_index("prompt_id").loc[parted]
    assert len(rows) == 2, "the walks that meet the near tie"
    gap = np.diff(np.sort(felt(0)[7])[-2:])[0]
    assert (rows["reference_gap"] == gap).all()
    assert (rows["swing"] == added).all()
    candidates = result.positions[result.positions["role"] == "candidate"]
    assert (candidates["kl"] == 0).all(), "two kernels in one layout"


def test_floors_are_named_by_their_own_batches_and_each_by_another_name() -> None:
    """A sweep over batch sizes has floors of one size; tables tell them apart by their names alone."""
    result = run(candidates="bf16:batch_size=1/4,threads=1", noise_floor=True, strategies=["greedy"],
                 max_new_tokens=2, prompts=FOUR)  # fmt: skip
    names = of_floor(result.summary).set_index("reference")["candidate"].to_dict()
    one, four = (f"bf16:batch_size={size},threads=1" for size in (1, 4))
    assert names == {one: f"{four} (5 wider, beside {one})", four: f"{four} (5 wider)"}
    assert set(of_floor(result.traces)["variant"]) == set(names.values())
    (variant,) = parse_variants(names[one].partition(" ")[0])
    assert (variant.name, variant.batch_size, variant.threads) == (four, 4, 1)
    alone = controls._floor_name("fp32:batch_size=1", 4, WIDER, ["fp32:batch_size=1", "bf16:batch_size=1"])
    assert (alone, controls._floor_name("bf16", 4, 0, ["bf16"])) == ("fp32:batch_size=4 (5 wider)", "bf16:batch_size=4")


def test_without_the_constant_the_floor_is_exactly_nothing() -> None:
    result = study(Unmoved, 4)
    positions, (row,) = of_floor(result.positions), of_floor(result.summary).itertuples()
    assert len(positions) == len(LAST) * NEW
    assert (positions[["kl", "logit_gap_max", "logit_gap_rms"]] == 0).all(axis=None)
    assert (row.kl_mean, row.kl_max, row.logit_gap_max, row.diverged) == (0, 0, 0, 0)
    assert not [s for s in result.verdict if s.startswith("Noise floor")]


@pytest.mark.parametrize("asked", [{"strategies": ["greedy"]}, {"strategies": ["beam:num_beams=2"]}, {"batch_size": 1},
                                   {"strategies": ["greedy", "top-k"], "layout": "per-strategy"}, {}])  # fmt: skip
@pytest.mark.parametrize("filler", [WIDER, 0])
def test_a_floor_reads_no_sequence_as_its_candidate_did(
    asked: dict[str, Any], filler: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A sequence that is read whole has the same bits in batches of 1 and of 4: no other layout."""
    forms: dict[tuple[str, Any], list[Any]] = {}

    def noted(name: str) -> Any:
        real = getattr(forcing, name)

        def read(held: Any, batch: Any, pad: int) -> Any:
            for reading in batch:
                forms.setdefault((held.variant.name, reading), []).append((name, held.filler))
            return real(held, batch, pad)

        return read

    monkeypatch.setattr(controls, "FLOOR_FILLER", filler)
    for name in ("_whole", "_after_contexts"):
        monkeypatch.setattr(forcing, name, noted(name))
    result = run(
        candidates=["bf16"], noise_floor=True, max_new_tokens=6, prompts=FOUR,
        **({"strategies": ["greedy", "top-k", "beam:num_beams=2"], "batch_size": 4} | asked),
    )  # fmt: skip
    assert result.environment["generation"]["path"] == "shared"
    floor, candidate = of_floor(result.positions), result.positions[result.positions["role"] == "candidate"]
    assert len(floor) == len(candidate) > 0
    texts = {tuple(ids_of(ids)) for ids in result.traces.loc[result.traces["role"] == "reference", "token_ids"]}
    read = [names for (name, reading), names in forms.items() if name == "bf16" and reading.continuation in texts]
    whole, after = ("_whole", 0), ("_after_contexts", 0)
    others = {whole: ("_after_contexts", filler), after: ("_after_contexts", filler) if filler else whole}
    assert read and all(len(set(names)) > 1 for names in read)
    assert all(others[own] in names for names in read for own in {whole, after} & set(names))


def test_only_a_page_with_floors_speaks_of_their_line() -> None:
    held = run(candidates=["bf16"], noise_floor=True, strategies=["greedy"], max_new_tokens=4, prompts=FOUR)
    bare = copy.copy(held)
    bare.divergences = held.divergences[held.divergences["role"] != "floor"]
    with_floors, plain = (pictures.survival(study, Options()) for study in (held, bare))
    assert with_floors and "as the dotted one does" in with_floors["lead"]
    assert plain and plain["lead"].endswith("with its 95 % band.")


def test_what_a_candidate_prefers_is_not_computed_again_for_its_floor(monkeypatch: pytest.MonkeyPatch) -> None:
    real, again, looks = Passage.prefer, [], []

    def noted(self: Passage, logits: torch.Tensor, reference: Preferences | None = None) -> Preferences | None:
        made = real(self, logits, reference)
        if logits.dtype == torch.bfloat16 and reference is None:
            again.append(self)
        elif made is not None and reference is not None:
            ours, plain = made.alone(), real(self, logits)
            looks.append(all(torch.equal(getattr(ours, f.name), getattr(plain, f.name)) for f in fields(plain)))
        return made

    monkeypatch.setattr(Passage, "prefer", noted)
    result = run(candidates=["bf16"], noise_floor=True, strategies=["greedy:repetition_penalty=1.3", "top-k"],
                 max_new_tokens=4, prompts=FOUR, batch_size=4)  # fmt: skip
    assert len(of_floor(result.positions)) == 2 * 4 * 4 and not again
    assert len(looks) == 3 * 2 * 4 and all(looks), "the control, the candidate, its floor: each as if alone"


def test_the_floor_of_one_strategy_alone_is_no_row_of_zeros() -> None:
    """Nor that of a beam, which never shares its group; read whole by both, three of four positions were equal."""
    result = run(
        "demo", candidates=["bf16"], noise_floor=True, strategies=["greedy", "beam"], limit=4, max_new_tokens=8
    )
    for strategy, rows in of_floor(result.positions).groupby("strategy"):
        assert (rows["logit_gap_rms"] == 0).mean() < 0.5, strategy
        assert 2e-5 < rows["kl"].mean() < 5e-4, strategy


def test_what_can_be_read_in_one_form_alone_has_no_floor_of_reading() -> None:
    """A sliding window's cache is not the whole past, and so nothing is read over a prefill."""
    result = run("mistral", candidates=["bf16"], noise_floor=True, max_new_tokens=6, prompts=FOUR, batch_size=4)
    assert result.environment["generation"]["path"] == "stock"
    assert not len(of_floor(result.positions)) and not result.failed
    assert result.certificate["floor_positions"].isna().all() and result.certificate["noise_ratio"].isna().all()
    assert set(of_floor(result.divergences)["prompt_id"]) == set(FOUR), "it generates in another layout all the same"


@pytest.mark.parametrize("size", [4, 3, 1])
def test_a_floors_batches_are_filled_wider(size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Read from the batches that ran, of generating and of reading over a prefill."""
    filled: dict[tuple[Any, ...], list[int]] = {}

    def noted(held: Any, texts: Any, pad: int, *, given: bool) -> Any:
        ids, mask, begins = padding.batch(held, texts, pad, given=given)
        if held.variant.name == "bf16" and not given:
            filled.setdefault(tuple(map(tuple, texts)), []).append(int((mask == 0).sum(-1).min()))
        return ids, mask, begins

    monkeypatch.setattr(steps, "batch", noted)
    result = run(candidates=["bf16"], noise_floor=True, max_new_tokens=4, strategies=["greedy", "top-k"],
                 prompts=FOUR, batch_size=size)  # fmt: skip
    assert not result.failed
    if size == 1:
        own, other = [n for b, n in filled.items() if len(b) == 1], [n for b, n in filled.items() if len(b) == 4]
        assert own == [[0]] * 4 and other == [[WIDER] * 2], "it reads whole what is alone, and the floor does not"
    else:
        counts = [sorted(counts) for batch, counts in filled.items() if len(batch) == size]
        assert counts == [[0, 0, WIDER, WIDER]], "generates and reads, each in both"


class Told(Progress):
    """The jobs' work as it was foretold, and the tokens that phases of floors said they would write."""

    work: Mapping[str, Work]
    floors = 0

    def begin(self, todo: Mapping[str, Work], finished: Work) -> None:
        self.work = todo

    def start(self, variant: str, what: str, tokens: int) -> None:
        self.floors += tokens * ("wider" in variant and what != READING)


@pytest.mark.parametrize("strategies", [["greedy"], ["greedy", "top-k"]])
def test_a_floor_of_some_prompts_runs_whole_batches(strategies: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Those that hold a prompt it is measured on, so that the filler of each text differs by one number."""
    batches: dict[int, set[tuple[int, ...]]] = {0: set(), WIDER: set()}
    filled: dict[tuple[tuple[int, ...], int], set[int]] = {}

    def noted(held: Any, texts: Any, pad: int, *, given: bool) -> Any:
        ids, mask, begins = padding.batch(held, texts, pad, given=given)
        if held.variant.name == "bf16" and not given and len(texts) == 3:
            batches[held.filler].add(tuple(map(len, texts)))
            for text, row in zip(texts, mask, strict=True):
                filled.setdefault((tuple(text), held.filler), set()).add(int((row == 0).sum()))
        return ids, mask, begins

    for module in (controls, settings):
        monkeypatch.setattr(module, "FLOOR_PROMPTS", 2)
    monkeypatch.setattr(steps, "batch", noted)
    counts = {"a": 2, "b": 7, "c": 3, "d": 4, "e": 12, "f": 6, "g": 8, "h": 11, "i": 9}  # in batches of 3: acd fbg ihe
    prompts = {name: " ".join(["w5"] * count) for name, count in counts.items()}
    result = run(candidates=["bf16"], noise_floor=True, max_new_tokens=4, strategies=strategies, prompts=prompts,
                 batch_size=3, progress=(told := Told()))  # fmt: skip
    assert not result.failed and len(batches[0]) == 3
    (written,), tokens = {work.written for work in told.work.values()}, len(strategies) * 4
    assert told.floors == 6 * tokens and written == 2 * 9 * tokens + told.floors, "what was foretold is what it runs"
    assert batches[WIDER] == set(sorted(batches[0])[:2]), "whole ones, and not the one that holds neither a nor b"
    for (text, filler), numbers in filled.items():
        assert len(numbers) == 1 and (not filler or filled[text, 0] == {n - WIDER for n in numbers})
    for frame in (result.divergences, result.positions, result.traces):
        assert set(of_floor(frame)["prompt_id"]) == {"a", "b"}


@pytest.mark.parametrize("path", ["shared", "stock", "plain"])
@pytest.mark.parametrize("device", ["cpu", "cuda"])
@pytest.mark.parametrize("factors", [None, Switch(8, True)])
def test_no_batch_of_a_floor_is_one_of_its_candidates(
    path: str, device: str, factors: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever the size: not the same prompts at the same width, but for one that is alone in both."""
    monkeypatch.setattr(controls, "switch", lambda config: factors)
    (variant,) = parse_variants("bf16")
    model = Loaded(tiny_model("llama"), variant, torch.device(device), path=path)
    lengths = [2, 3, 3, 4, 5, 7, 7, 8, 9, 11, 12, 14, 15, 16, 17, 19, 20]

    def batches(size: int, filler: int) -> set[tuple[int, int, int]]:
        """First prompt, prompts and width of each batch, as prompts are padded on this path."""
        wider, given = replace(model, filler=filler), path == "plain"
        parts = [(start, lengths[start : start + size]) for start in range(0, len(lengths), size)]
        return {(i, len(part), padding.layout(wider, part, given=given)[0]) for i, part in parts}

    for size in range(1, len(lengths) + 1):
        other, filler = controls.relayout(model, size)
        assert other <= max(size, floors.FLOOR_BATCH) and not (filler and (factors or path == "plain"))
        same = batches(size, 0) & batches(other, filler)
        assert {count for _, count, _ in same} <= {1}, size
        if filler:
            assert not same, size


@pytest.mark.parametrize(
    ("count", "size", "alone"),
    [(1, 4, "a"), (1, 1, "a"), (5, 4, "c"), (5, 1, "e"), (5, 2, "c"), (5, 5, ""), (4, 1, "")],
)
def test_a_prompt_alone_in_both_layouts_is_not_of_the_floor(count: int, size: int, alone: str) -> None:
    """The batches sort by length where that saves padding; c is the longest, and e the last of those as they came."""
    prompts = dict(list(PROMPTS.items())[:count])
    result = run(candidates=["bf16"], noise_floor=True, strategies=["greedy", "top-k"], max_new_tokens=4,
                 prompts=prompts, batch_size=size)  # fmt: skip
    assert not result.failed
    (answer,) = result.answer.itertuples()
    for frame in (result.divergences, result.positions):
        assert set(of_floor(frame)["prompt_id"]) == set(prompts) - {alone}
    if count == 1:
        assert np.isnan(answer.floor_rate) and np.isnan(answer.floor_prompts) and np.isnan(answer.excess_rate)
        assert answer.wording in ("same", "differs")
    else:
        assert answer.floor_prompts == count - len(alone)
