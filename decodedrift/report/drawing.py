"""A Bokeh model as data for the page, the same for the same figure."""

from __future__ import annotations

from typing import Any

from bokeh.embed import json_item


def drawing(model: Any) -> dict[str, Any]:
    """What `Bokeh.embed.embed_item` takes. Bokeh numbers its models by a counter: here from 1, so that equal runs give
    equal pages."""
    item = json_item(model)
    names: dict[str, str] = {}
    return dict(_renamed(item, names))


def _renamed(value: Any, names: dict[str, str]) -> Any:
    if isinstance(value, dict):
        return {
            key: _name(found, names) if key in ("id", "root_id", "target_id") else _renamed(found, names)
            for key, found in value.items()
        }
    return [_renamed(found, names) for found in value] if isinstance(value, (list, tuple)) else value


def _name(found: Any, names: dict[str, str]) -> Any:
    if not isinstance(found, str):
        return found
    return names.setdefault(found, f"m{len(names) + 1}")
