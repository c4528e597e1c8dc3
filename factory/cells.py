"""Cells of rows that other people wrote: columns by dotted names, and how to name one that is not there."""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterable, Mapping
from typing import Any


def near(name: str, known: Iterable[str]) -> str:
    """'; did you mean x?' for the end of a message, or nothing."""
    found = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)
    return f"; did you mean {found[0]!r}?" if found else ""


def clean(text: str) -> str:
    """Text that UTF-8 can hold: halves of characters, from cut JSON or from names in another encoding, are written as escapes."""
    return text if text.isascii() else text.encode("utf-8", "backslashreplace").decode("utf-8")


def value_at(row: Mapping[str, Any], name: str) -> Any:
    """One cell of a row, dotted names included (`json.label`); None when any part is missing."""
    if name in row:
        return row[name]
    head, _, rest = name.partition(".")
    inner = row.get(head)
    return value_at(inner, rest) if rest and isinstance(inner, dict) else None


def merged_kind(old: str | None, new: str | None) -> str | None:
    """One type that holds values of both; text where nothing else does."""
    if old is None or new is None or old == new:
        return old or new
    numbers = {"int64": 0, "float32": 1, "float64": 2}
    if old in numbers and new in numbers:
        return "float64"
    return "string"


def fitted(value: Any, kind: str) -> Any:
    """A cell as exporters take it for a type; what does not fit is null, and what has no type of its own is JSON text."""
    if value is None:
        return None
    if kind == "image":
        return value.get("bytes") if isinstance(value, dict) else value if isinstance(value, bytes) else None
    if kind == "string":
        return clean(value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=_text))
    if kind in ("float32", "float64"):
        return float(value)
    if kind == "list<string>":
        return [None if item is None else clean(item) for item in value]
    return value


def _text(value: Any) -> str:
    return value.decode("utf-8", "backslashreplace") if isinstance(value, bytes) else str(value)
