"""What batching alone does to a model in other layouts: bits kept, texts that part, CPU seconds.

    OMP_NUM_THREADS=1 python benchmarks/floors.py [--model demo] [--precision bf16] [--prompts 64] [--base 8+0]
                                                  [--layouts 1+0,4+0,4+5,8+5,8+5d]

A layout is prompts in a batch + tokens of filler, with d dealt otherwise (every k-th prompt in a batch). Four strategies,
64 tokens. Each is held against `base`, and its share of texts that part against that of 4+5, paired by prompt, where
that is among them: the table of docs/metrics.md, Controls. Prompts are the first of `stories` that fit.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import replace
from typing import Any

TOKENS, BEFORE = 64, "4+5"


def texts(model: Any, vocab: Any, prompts: list[Any], layout: str) -> dict[Any, Any]:
    """The traces of all prompts in one layout, by key."""
    from decodedrift.decoding.loop import generate
    from decodedrift.decoding.strategies import parse_strategies

    size, filler = (int(part) for part in layout.rstrip("d").split("+"))
    count = -(-len(prompts) // size)
    dealt = [prompts[i::count] for i in range(count)]
    chunks = dealt if layout.endswith("d") else [prompts[i : i + size] for i in range(0, len(prompts), size)]
    cells = [(strategy, 0) for strategy in parse_strategies("greedy,beam,top-k,top-p")]
    wider, traces = replace(model, facts={}, filler=filler), {}
    for chunk in chunks:
        traces |= generate(wider, vocab, dict(chunk), cells, TOKENS).traces
    return traces


def parted(ours: Any, theirs: Any) -> int | None:
    """Where two token lists part; None where they do not."""
    shared = next(
        (t for t, (a, b) in enumerate(zip(ours, theirs, strict=False)) if a != b), min(len(ours), len(theirs))
    )
    return None if len(ours) == len(theirs) == shared else shared


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="demo")
    parser.add_argument("--precision", default="bf16")
    parser.add_argument("--prompts", type=int, default=64)
    parser.add_argument("--base", default="8+0")
    parser.add_argument("--layouts", default="1+0,4+0,4+5,8+5,8+5d")
    arguments = parser.parse_args()
    import numpy as np
    from scipy import stats

    from decodedrift.core.prompts import load_prompts
    from decodedrift.models.load import loaded
    from decodedrift.models.sources import checkpoints
    from decodedrift.models.text.vocabulary import vocabulary
    from decodedrift.models.variants import parse_variants

    checkpoint = checkpoints.find(arguments.model)
    vocab = vocabulary(checkpoint)
    prompts = [(p.id, vocab.encode(p.text)) for p in load_prompts("stories")]
    prompts = [entry for entry in prompts if vocab.window is None or len(entry[1]) + TOKENS <= vocab.window]
    prompts = sorted(prompts[: arguments.prompts], key=lambda entry: len(entry[1]))
    results, seconds = {}, {}
    (variant,) = parse_variants(arguments.precision)
    with loaded(checkpoint, variant) as model:
        for layout in dict.fromkeys([arguments.base, *arguments.layouts.split(",")]):
            begin = time.process_time()
            results[layout] = texts(model, vocab, prompts, layout)
            seconds[layout] = time.process_time() - begin
    base, rates = results.pop(arguments.base), {}
    print(
        f"{'against ' + arguments.base:<14}{'bits kept':>10}{'parted':>9}{'t*':>6}{'CPU s':>8}   less {BEFORE}, points"
    )
    for layout, traces in sorted(results.items(), key=lambda item: item[0] != BEFORE):
        places = {key: parted(base[key].token_ids, trace.token_ids) for key, trace in traces.items()}
        kept = [places[k] is None and base[k].logprobs == trace.logprobs for k, trace in traces.items()]
        at = [place for place in places.values() if place is not None]
        rates[layout] = np.array([
            np.mean([place is not None for key, place in places.items() if key.prompt_id == name]) for name, _ in prompts
        ])  # fmt: skip
        line = f"{layout:<14}{np.mean(kept):>10.0%}{rates[layout].mean():>9.1%}{np.median(at) if at else np.nan:>6.1f}"
        line += f"{seconds[layout]:>8.1f}"
        if BEFORE in rates and layout != BEFORE:
            less = 100 * (rates[layout] - rates[BEFORE])
            half = stats.t.ppf(0.975, len(less) - 1) * stats.sem(less)
            line += f"   {less.mean():.1f} ({less.mean() - half:.1f} to {less.mean() + half:.1f})"
        print(line, flush=True)


if __name__ == "__main__":
    main()
