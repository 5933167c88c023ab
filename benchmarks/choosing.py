"""What a step of choosing costs beside the forward pass that it chooses from.

    python benchmarks/choosing.py [--model demo] [--prompts 8] [--tokens 32] [--strategies greedy,beam,top-k,top-p]
        [--precision fp32] [--threads 1] [--repeat 5]

One batch is decoded with all strategies together, as a job decodes it: 8 prompts and the default ones are 56 rows. CPU
milliseconds a step, each the median over all repeated passes of their mean; the first pass is not counted.
"""

from __future__ import annotations

import argparse
import functools
import statistics
import time
from collections import defaultdict
from collections.abc import Callable
from typing import Any


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="demo")
    parser.add_argument("--prompts", type=int, default=8)
    parser.add_argument("--tokens", type=int, default=32)
    parser.add_argument("--strategies", default="greedy,beam,top-k,top-p")
    parser.add_argument("--precision", default="fp32")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeat", type=int, default=5)
    arguments = parser.parse_args()

    import torch

    from decodedrift.decoding import beams, choosers, loop
    from decodedrift.decoding.strategies import parse_strategies
    from decodedrift.models.load import loaded
    from decodedrift.models.sources import checkpoints
    from decodedrift.models.steps import Cached
    from decodedrift.models.text.vocabulary import vocabulary
    from decodedrift.models.variants import parse_variants

    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    spent: dict[str, float] = defaultdict(float)

    def timed(call: Callable[..., Any], name: Callable[[Any], str]) -> Callable[..., Any]:
        @functools.wraps(call)
        def noted(self: Any, *given: Any, **more: Any) -> Any:
            begin = time.process_time()
            try:
                return call(self, *given, **more)
            finally:
                spent[name(self)] += time.process_time() - begin

        return noted

    checkpoint = checkpoints.find(arguments.model)
    vocab, (variant,) = vocabulary(checkpoint), parse_variants(arguments.precision)
    cells = [(strategy, 0) for strategy in parse_strategies(arguments.strategies)]
    for chooser in (choosers.Single, beams.Beams):
        chooser.step = timed(chooser.step, lambda self: self.strategy.label)  # type: ignore[method-assign]
    loop.survey = timed(loop.survey, lambda logits: "survey")  # type: ignore[assignment]
    Cached.advance = timed(Cached.advance, lambda self: "advance")  # type: ignore[method-assign]
    passes: dict[str, list[float]] = defaultdict(list)
    with loaded(checkpoint, variant) as model:
        size = model.model.get_input_embeddings().weight.shape[0]
        prompts = {f"p{i}": torch.randint(1, size, (12 + i % 3,)).tolist() for i in range(arguments.prompts)}
        kind = type(model.model)
        kind.forward = timed(kind.forward, lambda self: "forward" if "prefill" in spent else "prefill")
        for _ in range(arguments.repeat + 1):
            spent.clear()
            begin = time.process_time()
            done = loop.generate(model, vocab, prompts, cells, arguments.tokens, keep_scores=True)
            spent["whole"] = time.process_time() - begin
            steps = max(len(trace.token_ids) for trace in done.traces.values())
            for name, seconds in spent.items():
                passes[name].append(seconds / steps * 1e3)
    step = {name: statistics.median(values[1:]) for name, values in passes.items()}
    rows = sum(strategy.rows for strategy, _ in cells) * arguments.prompts
    print(
        f"{arguments.model}, {arguments.precision}, {rows} rows, {arguments.tokens} tokens, {arguments.threads} threads"
    )
    print("CPU ms a step")
    for strategy, _ in cells:
        print(f"  choosing, {strategy.label:<24}{step[strategy.label]:8.2f}")
    print(f"  choosing, seen for all together{step['survey']:12.2f}")
    choosing = step["survey"] + sum(step[strategy.label] for strategy, _ in cells)
    print(f"  choosing, all{choosing:30.2f}")
    print(f"  forward pass{step['forward']:31.2f}")
    advance = step["advance"] - step["forward"]
    print(f"  inputs, cache, rows of beams{advance:15.2f}")
    print(f"  prefill, its forward pass{step['prefill']:18.2f}")
    print(f"  the rest{step['whole'] - choosing - step['advance'] - step['prefill']:35.2f}")
    print(f"  choosing / forward{choosing / step['forward']:25.2f}")
    print(f"  whole / forward{step['whole'] / step['forward']:28.2f}")


if __name__ == "__main__":
    main()
