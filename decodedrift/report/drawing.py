"""A Bokeh model as data for the page, the same for the same figure."""

from __future__ import annotations

from typing import Any

import bokeh
from bokeh.core.serialization import Serializer
from bokeh.document import Document
from bokeh.model import Model


class _OfOwn(Serializer):  # type: ignore[misc]
    """Asks a model for the properties that are its own alone: Bokeh's computes every default as well, and drops it."""

    def _encode(self, obj: Any) -> Any:
        if not isinstance(obj, Model):
            return super()._encode(obj)
        self.add_ref(obj, obj.ref)
        own = obj._property_values.keys() | obj._unstable_default_values.keys()
        values = obj.query_properties_with_values(lambda p: p.name in own and p.serialized, include_defaults=False)
        attributes = {name: self.encode(value) for name, value in values.items()}
        kept = {"attributes": attributes} if attributes else {}
        return {"type": "object", "name": obj.__qualified_model__, "id": obj.id, **kept}


def drawing(model: Any) -> dict[str, Any]:
    """What `Bokeh.embed.embed_item` takes, as `bokeh.embed.json_item` gives it, which walks through all models three
    times more. Bokeh numbers its models by a counter: here from 1, so that equal runs give equal pages."""
    serializer, config = _OfOwn(deferred=False), Document().config
    settings, roots = serializer.encode(config), serializer.encode([model])  # it knows what it met by its address
    document = {"version": bokeh.__version__, "title": "", "config": settings, "roots": roots}
    item = {"target_id": None, "root_id": roots[0]["id"], "doc": document, "version": bokeh.__version__}
    names: dict[str, str] = {}
    return dict(_renamed(item, names))


def _renamed(value: Any, names: dict[str, str]) -> Any:
    if isinstance(value, dict):
        return {
            key: _name(part, names) if key in ("id", "root_id", "target_id") else _renamed(part, names)
            for key, part in value.items()
        }
    return [_renamed(part, names) for part in value] if isinstance(value, (list, tuple)) else value


def _name(value: Any, names: dict[str, str]) -> Any:
    if not isinstance(value, str):
        return value
    return names.setdefault(value, f"m{len(names) + 1}")
