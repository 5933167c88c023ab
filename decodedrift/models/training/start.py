"""The model that every arm begins from, and what it became as a checkpoint that anyone can load."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from decodedrift.core.records import Variant
from decodedrift.models.load import read
from decodedrift.models.rewrites import forget_generation_settings
from decodedrift.models.sources.checkpoints import Checkpoint
from decodedrift.models.sources.quiet import quiet


def starting_model(checkpoint: Checkpoint, seed: int | None = None) -> Any:
    """A checkpoint's model in float32 as its files hold it, without dropout: arms then differ in arithmetic alone.

    Args:
        seed: of weights that are drawn anew, as transformers initialises them; None takes the checkpoint's.
    """
    if seed is None:
        model = read(checkpoint, Variant("fp32", "fp32", compute="fp32"), torch.float32)
    else:
        from transformers import AutoModelForCausalLM

        with quiet(), torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            config, trusted = copy.deepcopy(checkpoint.config), checkpoint.trust_remote_code
            model = AutoModelForCausalLM.from_config(config, trust_remote_code=trusted, dtype=torch.float32)
    forget_generation_settings(model)
    for parameter in model.parameters():
        parameter.requires_grad_(True)
    return model.eval()


def save(model: Any, kept: Sequence[Tensor], tokenizer: Any, folder: Path) -> None:
    """A folder that `from_pretrained` reads.

    Args:
        kept: what the parameters are saved as, in their order: of an arm with master weights, these.
    """
    names = {id(p): tensor.detach() for p, tensor in zip(model.parameters(), kept, strict=True)}
    state = dict(model.state_dict())
    state |= {name: names[id(p)] for name, p in model.named_parameters(remove_duplicate=False) if name in state}
    config = copy.deepcopy(model.config)
    config.dtype = kept[0].dtype
    with quiet():
        model.save_pretrained(folder, state_dict=state)
        config.save_pretrained(folder)  # the model writes the type that runs, which masters are not of
        tokenizer.save_pretrained(folder)


def moved_by_one_ulp(tensors: Sequence[Tensor], seed: int) -> None:
    """Moves every number to one of its two neighbours, which is drawn: the smallest change that its type has."""
    generator = torch.Generator().manual_seed(seed)
    for tensor in tensors:
        up = torch.rand(tensor.shape, generator=generator) < 0.5
        ends = torch.where(up, torch.inf, -torch.inf).to(tensor)
        tensor.data.copy_(torch.nextafter(tensor.data, ends))
