"""Installed versions: decodedrift's own, and of what its numbers stand on."""

from __future__ import annotations

from importlib import metadata

PACKAGES = (
    "decodedrift", "torch", "transformers", "tokenizers", "numpy", "pandas", "pyarrow", "scipy", "bitsandbytes",
    "optimum-quanto", "hqq",
)  # fmt: skip


TESTED = ("5.3", "5.24")  # the first and the last minor release of transformers that decodedrift is tested with


def version() -> str:
    """decodedrift's own version."""
    try:
        return metadata.version("decodedrift")
    except metadata.PackageNotFoundError:
        return "0 (not installed)"


def versions() -> dict[str, str]:
    """Installed versions of what the numbers stand on."""
    table = {}
    for package in PACKAGES:
        try:
            table[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return table


def untested(version: str) -> str | None:
    """A sentence where a version of transformers lies outside the tested ones."""
    first, last = (tuple(map(int, v.split("."))) for v in TESTED)
    if first <= tuple(int(p) for p in version.split(".")[:2] if p.isdigit()) <= last:
        return None
    return f"transformers {version} is outside the tested versions {TESTED[0]} to {TESTED[1]}"
