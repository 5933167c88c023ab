"""When a beam search stops: its best hypotheses, and how far apart they are, are those of transformers' `generate`."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from bigram import EOS, bigram_model
from conftest import tiny_tokenizer

from decodedrift.core.records import Trace
from decodedrift.decoding.loop import generate
from decodedrift.decoding.strategies import parse_strategies
from decodedrift.models.load import loaded
from decodedrift.models.sources.checkpoints import in_memory
from decodedrift.models.text.vocabulary import vocabulary
from decodedrift.models.variants import parse_variants

VOCAB, NEW, WIDTH, PENALTY = 16, 12, 3, 2.0
STARTS = range(1, VOCAB)


def table(seed: int) -> np.ndarray:
    """Logits in eighths, exact in float32, that often let a hypothesis end."""
    logits = np.round(np.random.default_rng(seed).normal(size=(VOCAB, VOCAB)) * 16) / 8
    logits[:, EOS] += 1.0
    return logits


def searched(logits: np.ndarray, early: str) -> list[Trace]:
    """The winner from each start, all starts in one batch."""
    checkpoint = in_memory(bigram_model(logits, torch.float32), tiny_tokenizer(VOCAB))
    label = f"beam:early_stopping={early},length_penalty={PENALTY},num_beams={WIDTH}"
    cells = [(strategy, 0) for strategy in parse_strategies(label)]
    prompts = {str(start): [start] for start in STARTS}
    with loaded(checkpoint, parse_variants("fp32")[0]) as model:
        return list(generate(model, vocabulary(checkpoint), prompts, cells, NEW).traces.values())


@pytest.mark.parametrize("early", ["never", "false"])
@pytest.mark.parametrize("seed", [3, 112, 344])
def test_a_search_that_improves_late_stops_when_generate_does(early: str, seed: int) -> None:
    """With a length penalty of 2 a late ending may beat the worst that is kept, and a longer text the best.

    The second best shows what the winner does not: under `never` it is all that one step too few would change.
    """
    logits = table(seed)
    out = bigram_model(logits, torch.float32).generate(
        torch.tensor([[start] for start in STARTS]), attention_mask=torch.ones(len(STARTS), 1, dtype=torch.long),
        max_new_tokens=NEW, num_beams=WIDTH, num_return_sequences=2, length_penalty=PENALTY, do_sample=False,
        early_stopping={"never": "never", "false": False}[early], pad_token_id=EOS, eos_token_id=EOS,
        output_scores=True, return_dict_in_generate=True,
    )  # fmt: skip
    best, second = out.sequences_scores.view(-1, 2).T.double()
    traces = searched(logits, early)
    for row, trace in enumerate(traces):
        ids = out.sequences[2 * row, 1:].tolist()
        assert list(trace.token_ids) == ids[: ids.index(EOS) + 1 if EOS in ids else NEW]
        assert trace.score == pytest.approx(float(best[row]), rel=1e-6)
        assert trace.min_margin == pytest.approx(float(best[row] - second[row]), abs=1e-6)
    hasty = searched(logits, "true")
    assert any(a.token_ids != b.token_ids for a, b in zip(traces, hasty, strict=True)), "nothing improved late"
