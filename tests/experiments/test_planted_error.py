"""A planted error leaves the noise certificate; another batch layout does not."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import pytest

from decodedrift.experiments.compare.verdict import certificate


def benchmark() -> Any:
    path = Path(__file__).parents[2] / "benchmarks" / "planted_error.py"
    spec = importlib.util.spec_from_file_location("planted_error", path)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.slow
def test_one_matrix_times_1_05_is_found_and_a_layout_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    bench = benchmark()
    monkeypatch.setattr(bench, "FACTORS", (1.05,))
    study = bench.measured("transformer.h.0.mlp.c_proj.weight", 16, 48)
    rows = study.certificate.set_index("candidate")
    for name in bench.LAYOUTS:
        assert rows.loc[name, "sigma_ratio_low"] <= 1 and rows.loc[name, "bhattacharyya_high"] >= 0.99, name
    assert rows.loc["x1.05", "sigma_ratio_low"] > 1
    (sentence,) = certificate.outside(study)
    assert rows.loc[bench.KERNEL, "sigma_ratio_low"] > 1, "a kernel that rounds its scores does more than a plain cast"
    assert "x1.05, " in sentence and not any(name in sentence for name in bench.LAYOUTS)
