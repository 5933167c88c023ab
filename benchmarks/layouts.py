"""The same contexts measured in both layouts: as they were decoded, and as they are read. What reading costs.

    python benchmarks/layouts.py [--model demo|gpt2] [--prompts 32] [--tokens 64] [--candidates fp32,bf16,fp16,int8]

Up to a divergence both sides have the same context, so that the logits which they generated from say there what reading
says. For each candidate: mean KL and rms directional error of the positions before t* (greedy, top-k, top-p) from the
generating passes and from readings, their ratio, the rank correlation of KL over positions, and the mean KL of the
candidate's reading against its own generating: what the layout alone does. Last, the share of CPU time that reading
takes of generating and reading: as much as sparing it everywhere would bring at most.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path
from typing import Any

BATCH = 8


def sides(model: Any, vocab: Any, prompts: dict[str, Any], tokens: int, texts: Any, cpu: dict[str, float]) -> Any:
    """(traces, decoded logits, read logits) by key; `texts` are what is read, its own where there are none."""
    from decodedrift.core.records import Key, Reading
    from decodedrift.decoding.forcing import force
    from decodedrift.decoding.loop import generate
    from decodedrift.decoding.strategies import parse_strategies

    cells = [(strategy, 0) for strategy in parse_strategies("greedy,top-k,top-p")]
    traces, decoded, forced = {}, {}, {}
    for start in range(0, len(prompts), BATCH):
        batch, steps = dict(list(prompts.items())[start : start + BATCH]), []
        begin = time.process_time()
        made = generate(model, vocab, batch, cells, tokens, see=lambda z, steps=steps: steps.append(z.clone())).traces
        cpu["generate"] = cpu.get("generate", 0.0) + time.process_time() - begin
        keys = [Key(strategy.label, seed, name) for strategy, seed in cells for name in batch]
        decoded |= {key: [step[row] for step in steps] for row, key in enumerate(keys)}
        traces |= made
        read = [Reading(tuple(batch[k.prompt_id]), (texts or made)[k].token_ids, k.prompt_id) for k in keys]
        begin = time.process_time()
        forced |= {keys[index]: logits for index, logits in force(model, read, BATCH, vocab.pad)}
        cpu["read"] = cpu.get("read", 0.0) + time.process_time() - begin
    return traces, decoded, forced


def measured(reference: list[Any], candidate: list[Any]) -> Any:
    """KL and directional error at each position."""
    import torch

    from decodedrift.measure.metrics import token_metrics
    from decodedrift.measure.metrics.token import LogitPair

    z_r, z_c = torch.stack(list(reference)), torch.stack(list(candidate))
    columns = token_metrics(LogitPair(z_r, z_c, z_r.argmax(-1), "fp32"))
    return columns["kl"], columns["directional_error"]


def row(name: str, ours: Any, theirs: Any) -> str:
    """One candidate's line."""
    import numpy as np
    from scipy.stats import spearmanr

    figures: dict[str, list[Any]] = {"decoded": [], "forced": [], "layout": []}
    for key, trace in theirs[0].items():
        own, its = ours[0][key].token_ids, trace.token_ids
        shared = next((t for t, (a, b) in enumerate(zip(own, its, strict=False)) if a != b), min(len(own), len(its)))
        if shared:
            cut = [[part[key][:shared] for part in side[1:]] for side in (ours, theirs)]
            figures["decoded"].append(measured(cut[0][0], cut[1][0]))
            figures["forced"].append(measured(cut[0][1], cut[1][1]))
            figures["layout"].append(measured(cut[1][0], cut[1][1]))
    kl, error = ({k: np.concatenate([f[i] for f in v]) for k, v in figures.items()} for i in (0, 1))
    rms = {k: np.sqrt(np.mean(np.square(v[np.isfinite(v)]))) for k, v in error.items()}
    means = {k: v.mean() for k, v in kl.items()}
    return (f"{name:<22}{len(kl['forced']):>7}{means['decoded']:>11.2e}{means['forced']:>11.2e}"
            f"{means['decoded'] / means['forced']:>7.2f}{spearmanr(kl['decoded'], kl['forced']).statistic:>7.2f}"
            f"{means['layout']:>11.2e}{rms['decoded']:>11.2e}{rms['forced']:>11.2e}{rms['layout']:>11.2e}")  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=("demo", "gpt2"), default="demo")
    parser.add_argument("--prompts", type=int, default=32)
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--candidates", default="fp32,bf16,fp16,int8")
    arguments = parser.parse_args()
    from compare_vs_naive import VOCAB, make_model, make_prompts
    from vs_forward import named

    from decodedrift.core.prompts import load_prompts
    from decodedrift.models.load import loaded
    from decodedrift.models.sources import checkpoints
    from decodedrift.models.text.vocabulary import vocabulary
    from decodedrift.models.variants import parse_variants

    with tempfile.TemporaryDirectory() as folder:
        if arguments.model == "demo":
            checkpoint = checkpoints.find("demo")
            texts = [prompt.text for prompt in load_prompts("stories")][: arguments.prompts]
        else:
            make_model(Path(folder), arguments.model)
            checkpoint, texts = checkpoints.find(folder), make_prompts(arguments.prompts, VOCAB[arguments.model])
        vocab, cpu = vocabulary(checkpoint), {}  # type: ignore[var-annotated]
        prompts = dict(sorted(((str(i), vocab.encode(t)) for i, t in enumerate(texts)), key=lambda item: len(item[1])))
        reference = parse_variants("fp32")
        with loaded(checkpoint, reference[0]) as model:
            ours = sides(model, vocab, prompts, arguments.tokens, None, cpu)
        print(f"{'before t*':<22}{'places':>7}{'KL dec.':>11}{'KL read':>11}{'ratio':>7}{'rank':>7}{'KL layout':>11}"
              f"{'rms dec.':>11}{'rms read':>11}{'rms layout':>11}")  # fmt: skip
        for variant in parse_variants(named(arguments.candidates), reference[0]):
            with loaded(checkpoint, variant) as model:
                print(row(variant.name, ours, sides(model, vocab, prompts, arguments.tokens, ours[0], cpu)), flush=True)
        total = sum(cpu.values())
        print(f"reading: {cpu['read'] / total:.0%} of {total:.0f} CPU s of generating and reading")


if __name__ == "__main__":
    main()
