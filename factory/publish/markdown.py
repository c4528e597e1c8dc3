"""Tables and numbers in Markdown."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any


def table(head: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """A Markdown table; bars and line breaks in cells do not break it."""

    def line(cells: Sequence[Any]) -> str:
        return "| " + " | ".join(str(cell).replace("|", "\\|").replace("\n", " ") for cell in cells) + " |"

    return "\n".join([line(head), "|" + "---|" * len(head), *map(line, rows)]) + "\n"


def number(value: Any) -> str:
    """Four digits at most; nothing for None."""
    return "" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)


def percent(share: float) -> str:
    """A share in [0, 1] as a percentage."""
    return f"{100 * share:.1f}"
