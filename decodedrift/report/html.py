"""A Study -> one HTML page: no network, no script, no external file.

Two things hold for every template. Whatever an expression puts out goes through `texts.shown` and then through Jinja's
autoescape, so that no text of a model or a prompt can act or hide; and every number is a `numbers.Number`, whose title
is the value exactly as in the CSV.
"""

from __future__ import annotations

import base64
import hashlib
from functools import cache
from typing import TYPE_CHECKING, Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from decodedrift.report.sections import SECTIONS
from decodedrift.report.texts import brief, shown

if TYPE_CHECKING:
    from decodedrift.study import Study

LONGEST = 8000  # characters that any one expression may put out; the page stays small whatever the run


def render(study: Study, title: str | None = None) -> str:
    """The report as one self-contained page that opens from disk.

    Args:
        title: what stands at the top; None says what was held against what.
    """
    held = environment()
    parts = []
    for name, section in SECTIONS.items():
        context = section(study)
        if context is not None:
            body = held.get_template(f"{name}.html.j2").render(**context)
            parts.append({"name": name, "heading": context.get("heading"), "body": Markup(body)})
    style = held.get_template("style.css.j2").render()
    digest = base64.b64encode(hashlib.sha256(style.encode("utf-8")).digest()).decode("ascii")
    return held.get_template("page.html.j2").render(
        title=title or _title(study), style=Markup(style), style_hash=digest, sections=parts
    )


@cache
def environment() -> Environment:
    """Jinja with autoescape for every template, and with `finalize` as the one gate for text."""
    return Environment(
        loader=PackageLoader("decodedrift.report"),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_finalize,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def _finalize(value: Any) -> Any:
    """What an expression puts out: markup of ours as it is, text made visible; a bare float is a mistake of ours."""
    if hasattr(value, "__html__") or isinstance(value, int):
        return value
    if not isinstance(value, str):
        raise TypeError(f"a template puts out {value!r}: give it text or a Number")
    return shown(value if len(value) <= LONGEST else value[:LONGEST] + "…")


def _title(study: Study) -> str:
    """What was held against what: `bf16 and int8 against fp32`."""
    names = [brief(str(v["name"]), 40) for v in study.plan.get("candidates", ())]
    if not names:
        return "decodedrift report"
    listed = " and ".join(filter(None, [", ".join(names[:-1]), names[-1]]))
    said = f"{len(names)} variants" if len(names) > 4 else listed
    return f"{said} against {brief(str(study.plan['reference']['name']), 40)}"
