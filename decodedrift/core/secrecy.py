"""What must not get into a message, a log or a table: tokens, passwords in URLs, the home folder's name."""

from __future__ import annotations

import os
import re

SECRET_NAME = re.compile(r"TOKEN|SECRET|PASSWORD|PASSWD|CREDENTIAL|API_?KEY|ACCESS_?KEY|PRIVATE|AUTH", re.I)
SHORTEST = 6  # characters of a value that is worth hiding: `1` and `true` are none
HIDDEN = "[hidden]"
WORDS = "token|key|signature|secret|password|credential"  # of a URL's parameters

_PATTERNS = (
    (re.compile(r"([a-z][a-z0-9+.-]*://)[^/\s@'\"]+@", re.I), rf"\1{HIDDEN}@"),
    (re.compile(rf"([?&](?:[\w-]*(?:{WORDS})[\w-]*|sig)=)[^&\s'\"]+", re.I), rf"\1{HIDDEN}"),
    (re.compile(r"(\bauthorization['\"]?\s*[:=]\s*['\"]?(?:bearer\s+)?)[^\s'\"]+", re.I), rf"\1{HIDDEN}"),
    (re.compile(r"\bhf_[A-Za-z0-9]{8,}"), HIDDEN),
)  # fmt: skip


def redacted(text: str) -> str:
    """Text without the values of this process's secret variables, credentials in URLs, hub tokens, the home folder."""
    values = [v for k, v in os.environ.items() if SECRET_NAME.search(k) and len(v) >= SHORTEST and not os.path.isdir(v)]
    for value in sorted(values, key=len, reverse=True):
        text = text.replace(value, HIDDEN)
    for pattern, shown in _PATTERNS:
        text = pattern.sub(shown, text)
    home = os.path.expanduser("~")
    return text.replace(home + os.sep, "~" + os.sep) if len(home) > 1 else text


def excerpt(error: object, width: int, end: int = 0) -> str:
    """An error's words on one line, cut between words; hidden before they are cut: half a secret is matched by nothing.

    Args:
        width: characters at most; a word that is longer than half of them is cut itself. end: of them for its end.
    """
    text = " ".join(redacted(str(error)).split())
    if len(text) <= width:
        return text
    last = text[len(text) - min(end, width // 2) :].partition(" ")[2] if end else ""
    if last:
        return f"{excerpt(text, width - len(last) - 1)} {last}"
    words = text[: max(0, width - 1)].rpartition(" ")[0].rstrip(" ,;:(")  # and a space behind it
    return f"{words} …" if words and len(words) >= width // 2 else f"{text[: max(0, width - 1)]}…"[:width]


def home_shortened(name: str) -> str:
    """A path below the home folder with `~` for it; anything else as it is. `expanduser` gives the path back."""
    home = os.path.expanduser("~")
    inside = len(home) > 1 and (name == home or name.startswith(home + os.sep))
    return "~" + name[len(home) :] if inside else name
