"""Which tokens end a text, and which one pads it: read from a model's files, whatever else these ask for.

Only two numbers are taken from `generation_config.json`: transformers refuses the file as a whole where any other
setting of it does not fit, and some families (RoCBert, CPM-Ant) have no stop token at all.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from typing import Any

from decodedrift.core.records import InputError
from decodedrift.core.secrecy import excerpt
from decodedrift.models.sources.checkpoints import Checkpoint

GENERATION = "generation_config.json"
TAKEN = ("eos_token_id", "pad_token_id")


def stop_and_pad(checkpoint: Checkpoint, tokenizer: Any) -> tuple[tuple[int, ...], int]:
    """(stop ids, pad id): the generation settings' come first, then the configuration's, then the tokenizer's.

    No stop id is no fault: texts then end at their length. The pad id is what finished rows are fed, always an id.

    Raises:
        InputError: a generation_config.json that cannot be read, or stop ids that are no ids.
    """
    config = checkpoint.config.get_text_config(decoder=True)
    settings = generation_settings(checkpoint)
    values = (settings.get("eos_token_id"), getattr(config, "eos_token_id", None), tokenizer.eos_token_id)
    stop = next((ids for value in values if (ids := _ids(value, checkpoint.name))), ())
    pads = (settings.get("pad_token_id"), tokenizer.pad_token_id, *stop[:1])
    return stop, next((p for p in pads if _is_id(p) and p < config.vocab_size), 0)


def _is_id(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _ids(value: Any, name: str) -> tuple[int, ...]:
    """Stop ids, given as one or as several; -1 is how some configurations write that there is none.

    Raises:
        InputError: something else.
    """
    value = value.tolist() if hasattr(value, "tolist") else value
    ids = value if isinstance(value, (list, tuple)) else () if value is None else (value,)
    if not all(_is_id(i) or i == -1 for i in ids):
        raise InputError(f"{name}: eos_token_id in its configuration must be an id or a list of ids, not {value!r}")
    return tuple(i for i in ids if i != -1)


def generation_settings(checkpoint: Checkpoint, names: Collection[str] = TAKEN) -> Mapping[str, Any]:
    """What the model says of generating, as plain data; its configuration's word of `names` where it says nothing.

    Raises:
        InputError: a generation_config.json that cannot be read.
    """
    if checkpoint.module is not None:
        config = getattr(checkpoint.module, "generation_config", None)
        return {} if config is None else vars(config)
    path = checkpoint.path(GENERATION)
    if path is None:
        return {name: getattr(checkpoint.config, name, None) for name in names}
    try:
        settings = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{checkpoint.name}: its {GENERATION} is not valid JSON ({excerpt(error, 80)})") from None
    if not isinstance(settings, dict):
        raise InputError(f"{checkpoint.name}: its {GENERATION} must hold a table, not {type(settings).__name__}")
    return settings
