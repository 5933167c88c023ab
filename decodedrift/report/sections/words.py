"""The words of the page: every term of art with its sentence."""

from __future__ import annotations

from typing import Any

from decodedrift.report.html import Options, StudyLike
from decodedrift.report.terms import TERMS


def words(study: StudyLike, options: Options) -> dict[str, Any] | None:
    """What each term means, for those who print the page, or read it without scripts."""
    return {"heading": "Words of this page", "folded": True, "terms": TERMS}
