"""The page, its tables and figures, the token view, the terminal, the notebook: how anything is shown.

Here belong builders that take data. What is shown of an experiment is chosen in its own sections.
"""

from __future__ import annotations

from decodedrift.report.terminal import summary_table

__all__ = ["summary_table"]
