"""LoRA adapters of a small llama, made with peft and saved as it saves them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from packing import kept, small

pytest.importorskip("peft")
RANK, ALPHA = 4, 8
MODULES = ("q_proj", "v_proj", "down_proj")


def base(folder: Path, dtype: torch.dtype = torch.float32) -> Path:
    """The small llama as a checkpoint."""
    return kept(small().to(dtype), folder)


def tuned(folder: Path, of: Path | str, zero: bool = False, model: Any = None, **more: Any) -> Path:
    """An adapter with random matrices, as peft saves it; equal whenever it is made."""
    import peft

    asked = {"r": RANK, "lora_alpha": ALPHA, "target_modules": list(MODULES), "init_lora_weights": False}
    with torch.random.fork_rng():
        torch.manual_seed(1)
        adapted = peft.get_peft_model(model or small(), peft.LoraConfig(**asked | {"task_type": "CAUSAL_LM"} | more))
        for name, parameter in adapted.named_parameters():
            if "lora_" in name:
                parameter.data.normal_(std=0.0 if zero and "lora_B" in name else 0.3)
    adapted.save_pretrained(folder)
    edit(folder, base_model_name_or_path=str(of))
    return folder


def edit(folder: Path, **values: Any) -> None:
    """Changes what an adapter's configuration says."""
    path = folder / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))
