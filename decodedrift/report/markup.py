"""Text and tables for what is written elsewhere: GitHub-flavoured Markdown and LaTeX, in which no text acts."""

from __future__ import annotations

import re

import pandas as pd

from decodedrift.core.untrusted import visible

# what begins a mention, a reference to an issue or a bare link there: a zero-width space keeps it a word
_LINKS = re.compile(r"@|#|(?<=\w)://|\bwww\.|\b(?:GH|gh)-(?=\d)")
_MARKDOWN = re.compile(r"[\\`*_\[\]|~!$]")
_HTML = {"&": "&amp;", "<": "&lt;", ">": "&gt;"}
_LATEX = {
    "\\": r"\textbackslash{}", "{": r"\{", "}": r"\}", "$": r"\$", "&": r"\&", "#": r"\#", "%": r"\%", "_": r"\_",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"\textless{}", ">": r"\textgreater{}",
    "|": r"\textbar{}", '"': r"\textquotedbl{}", "±": r"$\pm$", "×": r"$\times$", "−": r"$-$", "∞": r"$\infty$",
    "…": r"\dots{}", "–": "--", "‖": r"$\Vert$",
}  # fmt: skip
_POWER = re.compile("[⁻⁰¹²³⁴⁵⁶⁷⁸⁹]+")
_PLAIN = str.maketrans("⁻⁰¹²³⁴⁵⁶⁷⁸⁹", "-0123456789")


def markdown(text: str) -> str:
    """One line of prose as Markdown: nothing in it is markup, a mention, a link or hidden."""
    line = visible(text.replace("\n", " ").replace("\t", " "))
    line = "".join(_HTML.get(c, c) for c in line)
    line = _MARKDOWN.sub(r"\\\g<0>", line)
    line = re.sub(r"^(\d*)([-+=.)])(?=[\s=-]|$)", r"\1\\\2", line)  # no list and no heading
    return _LINKS.sub(lambda m: f"{m[0][:-1]}&#8203;{m[0][-1]}" if m[0] == "://" else f"{m[0]}&#8203;", line)


def fenced(text: str) -> str:
    """Lines as a block of code, whatever they hold: the fence is longer than any run of backticks in it."""
    shown = "\n".join(visible(line) for line in text.split("\n"))
    fence = "`" * max(3, 1 + max(map(len, re.findall("`+", shown)), default=0))
    return f"{fence}text\n{shown}\n{fence}"


def markdown_table(table: pd.DataFrame) -> str:
    """A GitHub-flavoured table of text."""
    head, *rows = ([markdown(str(cell)) for cell in row] for row in (table.columns, *table.to_numpy()))
    return "\n".join(f"| {' | '.join(row)} |" for row in (head, ["---"] * len(head), *rows))


def latex(text: str) -> str:
    """One line of prose as LaTeX, for a document in UTF-8: nothing in it is a command."""
    line = visible(text.replace("\n", " ").replace("\t", " "))
    line = _POWER.sub(lambda m: f"\0{m[0].translate(_PLAIN)}\1", line)  # powers of ten; no text holds these two
    line = "".join(_LATEX.get(c, c) for c in line)
    return line.replace("\0", "$^{").replace("\1", "}$")


def latex_table(table: pd.DataFrame) -> str:
    """A `tabular` of text with the rules of booktabs."""
    head, *rows = (" & ".join(latex(str(cell)) for cell in row) + r" \\" for row in (table.columns, *table.to_numpy()))
    begin, end = rf"\begin{{tabular}}{{{'l' * len(table.columns)}}}", r"\end{tabular}"
    return "\n".join([begin, r"\toprule", head, r"\midrule", *rows, r"\bottomrule", end])
