"""Cells and lines of tables that commands print and write."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any


def rate(counts: Mapping[str, Any] | None) -> str:
    """Return the rate of counted errors in percent; a dash where it is not known."""
    return "–" if counts is None or counts["rate"] is None else f"{100 * counts['rate']:.2f}"


def markdown_table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """Return the lines of a table in Markdown, whose first column is text and whose others are numbers."""
    return [_line(columns), "|---|" + "--:|" * (len(columns) - 1), *(_line(row) for row in rows)]


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"
