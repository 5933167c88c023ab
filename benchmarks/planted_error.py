"""The smallest planted error that leaves the noise certificate, and that another batch layout does not.

    python benchmarks/planted_error.py [--limit 24] [--tokens 64] [--weight transformer.h.0.mlp.c_proj.weight]

One matrix of the bundled model is multiplied by a factor; the copy is cast to bf16 and held beside a plain cast of the
original, against fp32, on the same texts. A candidate is outside where the interval of `sigma_ratio` lies above 1 or that
of `bhattacharyya` below 0.99 (docs/metrics.md), each candidate's own: a run's sentence counts how many there are. Candidates only read, so that many factors take little time.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
import time
from pathlib import Path

from safetensors.torch import load_file, save_file

import decodedrift as dd
from decodedrift.experiments.compare.verdict.certificate import LEAST_OVERLAP, WIDEST

SOURCE = Path(dd.__file__).parent / "data" / "demo"
FACTORS = (1.05, 1.02, 1.01, 1.005, 1.002, 1.001)
LAYOUTS = ("bf16:batch_size=1", "bf16:batch_size=3")
KERNEL = "bf16:attention=eager"  # rounds its scores to bf16: no layout, and outside


def planted(folder: Path, weight: str, factor: float) -> str:
    """The bundled model with one matrix multiplied; its folder."""
    target = folder / f"x{factor:g}"
    shutil.copytree(SOURCE, target)
    weights = load_file(target / "model.safetensors")
    weights[weight] = weights[weight] * factor
    save_file(weights, target / "model.safetensors", metadata={"format": "pt"})
    return str(target)


def measured(weight: str, limit: int, tokens: int) -> dd.Study:
    """One run of all factors and layouts."""
    with tempfile.TemporaryDirectory() as folder:
        folders = [f"x{factor:g}={planted(Path(folder), weight, factor)}:precision=bf16" for factor in FACTORS]
        return dd.compare(
            "demo", candidates=["bf16", *LAYOUTS, KERNEL, *folders], strategies=["greedy"], limit=limit, max_new_tokens=tokens,
            mode="screen", default_text=False, threads=1,
        )  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--limit", type=int, default=24, help="prompts")
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--weight", default="transformer.h.0.mlp.c_proj.weight")
    asked = parser.parse_args()
    begin = time.perf_counter()
    table = measured(asked.weight, asked.limit, asked.tokens).certificate
    print(f"{asked.weight}, {asked.limit} prompts x {asked.tokens} tokens, bf16 against fp32")
    print(f"{'candidate':24} {'spread beside a cast':>24} {'overlap':>24}  outside")
    for row in table[table["sigma_ratio"].notna()].itertuples():
        out = row.sigma_ratio_low > WIDEST or row.bhattacharyya_high < LEAST_OVERLAP
        spread = f"{row.sigma_ratio:.3f} ({row.sigma_ratio_low:.3f} to {row.sigma_ratio_high:.3f})"
        overlap = f"{row.bhattacharyya:.4f} ({row.bhattacharyya_low:.4f} to {row.bhattacharyya_high:.4f})"
        print(f"{row.candidate:24} {spread:>24} {overlap:>24}  {'yes' if out else 'no'}")
    print(f"{time.perf_counter() - begin:.0f} s")


if __name__ == "__main__":
    main()
