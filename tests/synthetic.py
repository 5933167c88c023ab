"""A run of any size without a model: frames with the shape of a real one, for tests of what a page holds."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from decodedrift.experiments.study import Study
from decodedrift.measure.tables import TABLES, typed

VOCABULARY = 5000


def synthetic(*, prompts: int, tokens: int, candidates: int, strategies: int = 1, alternatives: bool = True) -> Study:
    """prompts x strategies x candidates traces of so many tokens; each candidate leaves every other prompt somewhere."""
    rng = np.random.default_rng(0)
    names, labels = [f"v{i}" for i in range(candidates)], [f"top-k:k={5 + i}" for i in range(strategies)]
    ids = [f"prompt-{i}" for i in range(prompts)]
    reference = rng.integers(1, VOCABULARY, (strategies, prompts, tokens))
    rows: dict[str, list[Any]] = {name: [] for name in TABLES}
    columns: dict[str, list[Any]] = {name: [] for name in ("positions", "alternatives")}
    for s, strategy in enumerate(labels):
        for p, prompt in enumerate(ids):
            rows["traces"].append(_trace("fp32", "reference", strategy, prompt, reference[s, p]))
            for c, name in enumerate(names):
                key = {"model": "m", "reference": "fp32", "candidate": name, "role": "candidate", "strategy": strategy,
                       "seed": 0, "prompt_id": prompt}  # fmt: skip
                at = int(rng.integers(0, tokens)) if (p + c) % 2 else None
                own = reference[s, p].copy()
                if at is not None:
                    own[at:] = rng.integers(1, VOCABULARY, tokens - at)
                rows["traces"].append(_trace(name, "candidate", strategy, prompt, own))
                rows["divergences"].append(key | _divergence(at, reference[s, p], own, rng))
                columns["positions"].append(pd.DataFrame(key | _forced(reference[s, p], rng)))
                if alternatives:
                    columns["alternatives"].append(_tops(key, name, tokens, rng))
    rows["tokens"] = [{"token_id": i, "token": f" word{i}", "bytes": ""} for i in range(VOCABULARY)]
    frames = {name: typed(pd.DataFrame(rows[name]), name) for name in TABLES if name not in columns}
    frames |= {
        name: typed(pd.concat(c, ignore_index=True) if c else pd.DataFrame(), name) for name, c in columns.items()
    }
    made = {"precision": "bf16", "compute": "bf16", "model": None, "options": {}}
    plan = {
        "model": "m", "reference": {"name": "fp32", **made}, "candidates": [{"name": n, **made} for n in names],
        "strategies": [{"name": "top-k", "label": label, "params": {}} for label in labels], "seeds": [0],
        "prompts": [{"id": i, "text": "Once upon a time " * 20, "tags": ["a"]} for i in ids], "texts": [],
        "max_new_tokens": tokens, "near_tie_below": 0.1,
    }  # fmt: skip
    return Study(frames, plan, {"python": "3"})


def _trace(variant: str, role: str, strategy: str, prompt: str, ids: np.ndarray) -> dict[str, Any]:
    return {"model": "m", "variant": variant, "role": role, "strategy": strategy, "seed": 0, "prompt_id": prompt,
            "prompt": "", "tags": "a", "text": "", "token_ids": " ".join(map(str, ids)), "n_tokens": len(ids),
            "finish": "length", "nonfinite": 0}  # fmt: skip


def _divergence(at: int | None, ours: np.ndarray, theirs: np.ndarray, rng: np.random.Generator) -> dict[str, Any]:
    if at is None:
        return {"diverged": 0, "compared": len(ours), "prefix_fraction": 1.0, "nonfinite": 0}
    gap = float(rng.exponential(0.05))
    return {"diverged": 1, "first_divergence": at, "compared": at + 1, "reference_token_id": int(ours[at]), "nonfinite": 0,
            "candidate_token_id": int(theirs[at]), "reference_token": f" word{ours[at]}", "reference_gap": gap,
            "candidate_token": f" word{theirs[at]}", "swing": gap * 1.5, "cause": "near_tie" if gap < 0.1 else "shift",
            "agreement_after": 0.1}  # fmt: skip


def _forced(ids: np.ndarray, rng: np.random.Generator) -> dict[str, Any]:
    n = len(ids)
    noise = {name: rng.exponential(1e-4, n) for name in ("kl", "logit_gap_max", "logit_gap_rms")}
    return noise | {
        "position": np.arange(n), "token_id": ids, "token": [f" word{i}" for i in ids], "significant_digits": 2.0,
        "logit_margin_reference": rng.exponential(1.0, n), "logit_margin_candidate": rng.exponential(1.0, n),
        "top1_agree": 1.0, "choice_agree": 1.0, "nll_reference": rng.exponential(2.0, n),
        "nll_candidate": rng.exponential(2.0, n), "nonfinite": 0,
    }  # fmt: skip


def _tops(key: dict[str, Any], candidate: str, tokens: int, rng: np.random.Generator) -> pd.DataFrame:
    parts = []
    for variant, name in (("fp32", "generated"), (candidate, "generated"), (candidate, "forced")):
        logprob = np.sort(-rng.exponential(2.0, (tokens, 5)))[:, ::-1]
        parts.append(pd.DataFrame(key | {
            "position": np.repeat(np.arange(tokens), 5), "variant": variant, "pass": name,
            "rank": np.tile(np.arange(1, 6), tokens), "token_id": rng.integers(1, VOCABULARY, tokens * 5),
            "logprob": logprob.reshape(-1),
        }))  # fmt: skip
    return pd.concat(parts)
