"""A Study -> one HTML page that opens from disk: no network, and no script but those whose hashes its policy names.

Three things hold for every template. Whatever an expression puts out goes through `texts.shown` and then through
Jinja's autoescape, so that no text of a model or a prompt can act or hide; every number is a `numbers.Number`, whose
title is the value exactly as in the CSV; and data for scripts are islands of escaped JSON, or compressed.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any, Protocol

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from decodedrift.core.memory import give_back
from decodedrift.report import inline
from decodedrift.report.palette import DARK, LIGHT, css
from decodedrift.report.terms import meaning
from decodedrift.report.texts import shown

MOST = 4_950_000  # bytes of a page; the token view takes what all else leaves of them
SHELL = 10_000  # bytes of the page's frame
PLAIN = {"heading": None, "opening": None, "folded": None}  # what a section has without asking
LONGEST = 8000  # characters that any one expression may put out; the page stays small whatever the run


Island = Callable[[int], str]  # characters that there is room for -> what takes no more


@dataclass(frozen=True)
class Options:
    """What a page may be asked for. top: cases that it carries; texts: whether prompts and model text are in it."""

    top: int | None = None
    texts: bool = True


class StudyLike(Protocol):
    """What a page is made of; every table is an attribute too."""

    plan: Mapping[str, Any]
    environment: Mapping[str, Any]
    experiment: Any

    @property
    def verdict(self) -> list[str]:
        """Plain sentences."""
        ...

    def __getattr__(self, name: str) -> Any: ...


Section = Callable[[Any, Options], dict[str, Any] | None]


def render(study: StudyLike, sections: Mapping[str, Section], title: str, options: Options) -> str:
    """The report as one self-contained page that opens from disk.

    Args:
        sections: in order; each gives what its template needs, or None where it has nothing to show. `heading`, where
            given, is its title and its place in the page's list of contents, which stands after the sections that are
            `opening`; `template` names another template than the section's own; `figures` are drawn by the page's
            script; `folded` sections are opened by a click.
    """
    give_back()
    parts: list[dict[str, Any]] = []
    figures: dict[str, Any] = {}
    groups: list[dict[str, Any]] = []
    island: Island | None = None
    for name, section in sections.items():
        context = section(study, options)
        if context is not None:
            body = _template(context.get("template", f"{name}.html.j2")).render(**context)
            part = {key: context.get(key) for key in ("heading", "opening", "folded")}
            parts.append({"name": name, "body": Markup(body), **part})
            island = context.get("island") or island
            if drawings := context.get("figures"):
                figures |= {key: figure.model for key, (_, figure) in drawings.items()}
                groups.append({"choices": context["choices"], "series": [entry[3] for entry in context["entries"]]})
    return page(title, parts, figures, groups, island)


def page(
    title: str, parts: list[dict[str, Any]], figures: dict[str, Any], groups: list[dict[str, Any]],
    island: Island | None,
) -> str:  # fmt: skip
    """The whole document: policy first, then style, sections, islands and scripts; `island` is told its room."""
    from decodedrift.report.drawing import drawing

    style = _template("style.css.j2").render(light=Markup(css(LIGHT)), dark=Markup(css(DARK)))
    drawings = {name: drawing(model) for name, model in figures.items()}
    data = inline.island({"figures": drawings, "groups": groups, "light": LIGHT})
    content = "\n".join([title, *(p["body"] for p in parts), data])
    nonce = hashlib.sha256(content.encode("utf-8", "surrogatepass")).hexdigest()[:32]
    early = inline.own_script("early.js").replace("NONCE", nonce)
    scripts = [early, *([inline.library()] if figures else []), *map(inline.own_script, inline.OWN[1:])]
    spent = len("".join([content, style, *scripts]).encode("utf-8", "surrogatepass")) + SHELL
    tokens = island(MOST - spent) if island else ""
    document: str = _template("page.html.j2").render(
        title=title, style=Markup(style), sections=[PLAIN | part for part in parts], data=data, island=Markup(tokens),
        scripts=list(map(Markup, scripts)), policy=Markup(inline.policy(scripts, style, nonce if figures else "")),
    )  # fmt: skip
    return document


def _template(name: str) -> Any:
    return jinja().get_template(name)


@cache
def jinja() -> Environment:
    """Jinja with autoescape for every template, and with `finalize` as the one gate for text."""
    environment = Environment(
        loader=PackageLoader("decodedrift.report"),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_finalize,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals["meaning"] = meaning
    return environment


def _finalize(value: Any) -> Any:
    """What an expression puts out: markup of ours as it is, text made visible; a bare float is a mistake of ours."""
    if hasattr(value, "__html__") or isinstance(value, int):
        return value
    if not isinstance(value, str):
        raise TypeError(f"a template puts out {value!r}: give it text or a Number")
    return shown(value if len(value) <= LONGEST else value[:LONGEST] + "…")
