"""A row without its pixels as JSON values."""

from __future__ import annotations

import json
import math
from typing import Any

from factory.contracts import DatasetInfo


def label(row: dict[str, Any], info: DatasetInfo) -> int:
    """The class of a row, -1 without one."""
    value = row["label"] if info.class_names else None
    return int(value) if value is not None and value >= 0 else -1


def values(row: dict[str, Any], info: DatasetInfo) -> dict[str, Any]:
    """The name of the row's class and all columns, without images; JSON has no NaN, so a missing score is null."""
    found: dict[str, Any] = {}
    if info.class_names:
        number = label(row, info)
        found["label"] = info.class_names[number] if number >= 0 else None
    for name, kind in info.columns.items():
        if kind != "image":
            found.setdefault(name, _finite(row.get(name)))
    return found


def text(value: Any) -> str:
    """Compact JSON of one line; equal values give equal bytes."""
    return json.dumps(value, ensure_ascii=False, allow_nan=False)


def _finite(value: Any) -> Any:
    if isinstance(value, list | tuple):
        return [_finite(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
