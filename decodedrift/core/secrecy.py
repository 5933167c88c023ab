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


def excerpt(error: object, width: int) -> str:
    """The beginning of an error's words on one line; hidden before it is cut: half a secret is matched by nothing."""
    return " ".join(redacted(str(error)).split())[:width]


def home_shortened(name: str) -> str:
    """A path below the home folder with `~` for it; anything else as it is. `expanduser` gives the path back."""
    home = os.path.expanduser("~")
    inside = len(home) > 1 and (name == home or name.startswith(home + os.sep))
    return "~" + name[len(home) :] if inside else name
