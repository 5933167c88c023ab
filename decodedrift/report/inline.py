"""What the page carries inside itself: scripts with their hashes, data as inert islands, and the policy for them."""

from __future__ import annotations

import base64
import gzip
import hashlib
import json
from collections.abc import Sequence
from functools import cache
from importlib.resources import files
from typing import Any

from markupsafe import Markup

from decodedrift.core.untrusted import to_json

OWN = ("early.js", "page.js", "terms.js", "cases.js", "island.js", "tokens.js", "fork.js", "prompts.js")
_INERT = str.maketrans({c: f"\\u{ord(c):04x}" for c in "<>&\u2028\u2029"})


def digest(text: str) -> str:
    """The source expression of a content security policy for an inline script or style."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode('utf-8')).digest()).decode('ascii')}'"


def policy(scripts: Sequence[str], style: str, nonce: str) -> str:
    """The content security policy: these scripts, this style, and the charting library's own style sheets.

    No `unsafe-eval`, no `unsafe-inline`, nothing from the network. BokehJS writes a style sheet into each view; their
    text is made as it goes, so that no hash can name them: `early.js` marks them with the nonce.
    """
    allowed = " ".join(map(digest, scripts)) or "'none'"
    styles = digest(style) + (f" 'nonce-{nonce}'" if nonce else "")
    rules = f"default-src 'none'; script-src {allowed}; style-src {styles}; img-src data:"
    return f"{rules}; base-uri 'none'; form-action 'none'"


def island(value: Any) -> Markup:
    """Data for a `<script type="application/json">`: JSON in which nothing can end the element or begin another."""
    return Markup(to_json(value, indent=None).translate(_INERT))


def compressed(value: Any) -> Markup:
    """Data as base64 of gzip of JSON, for what is large; the same data give the same text.

    Markup, or a template would cut it as it cuts every long text.
    """
    text = json.dumps(value, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return Markup(base64.b64encode(gzip.compress(text.encode("utf-8"), 6, mtime=0)).decode("ascii"))


@cache
def own_script(name: str) -> str:
    """One of the page's own scripts."""
    return (files("decodedrift.report") / "static" / name).read_text("utf-8")


@cache
def library() -> str:
    """BokehJS, from Bokeh's own package: the plots, without widgets, tables, WebGL and TeX."""
    return (files("bokeh") / "server" / "static" / "js" / "bokeh.min.js").read_text("utf-8")
