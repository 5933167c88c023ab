"""Columns and types of the tables that a training leaves."""

from __future__ import annotations

from decodedrift.measure.metrics.base import INTEGERS

TRAIN_TABLES: dict[str, dict[str, str]] = {
    "training": {
        **dict.fromkeys(["model", "arm", "role", "held_against"], "str"), "seed": INTEGERS, "step": INTEGERS,
        **dict.fromkeys(
            ["loss", "grad_norm_scaled", "grad_norm", "grad_norm_clipped", "scale"], "float64",
        ),
        "skipped": INTEGERS,
        **dict.fromkeys(
            ["cancelled", "arrived", "flushed_weights", "flushed_activations", "overflowed_weights",
             "overflowed_activations", "distance", "distance_running", "cosine"], "float64",
        ),
        "overflow_module": "str", "overflow_pass": "str",
    },
    "arms": {
        **dict.fromkeys(["model", "arm", "role", "held_against"], "str"), "seed": INTEGERS, "steps": INTEGERS,
        **dict.fromkeys(
            ["loss", "distance", "distance_running", "distance_floors", "perplexity", "digits_median", "digits_p5",
             "cancelled", "arrived", "flushed_weights", "flushed_activations", "overflowed_weights",
             "overflowed_activations", "scale"], "float64",
        ),
        **dict.fromkeys(["skipped", "differing", "held_out_tokens", "broken_step"], INTEGERS),
        **dict.fromkeys(["broken_module", "broken_why"], "str"),
        "texts": INTEGERS, "diverged": INTEGERS,
        **dict.fromkeys(
            ["divergence_rate", "first_divergence_median", "kl", "kl_floors", "ppl_change", "ppl_change_low",
             "ppl_change_high"], "float64",
        ),
        **dict.fromkeys(["wording", "wording_note", "quality", "quality_note"], "str"),
    },
    "digits": {
        "model": "str", "seed": INTEGERS, "pair": "str", "epoch": INTEGERS,
        **dict.fromkeys(
            ["significant_digits", "significant_digits_p5", "digits_weights", "loss", "loss_other", "agree", "right"],
            "float64",
        ),
    },
}  # fmt: skip
