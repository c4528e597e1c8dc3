"""From other people's columns to ours: labels as text, captions as text, and the types of what passes through."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa

from factory.cells import clean, merged_kind


def label(value: Any, names: list[str] | None) -> str | None:
    """A label cell as the name of its class; None for an unlabelled row (null, NaN, empty, negative).

    names: of classes 0, 1, …; without them a number is its digits. Raises LookupError for a class that is not among the names.
    """
    if isinstance(value, bytes):
        value = value.decode("utf-8", "replace").strip()
    if isinstance(value, str):
        value = clean(value)
        if value.lstrip("-").isdigit() and (names is None or value not in names):
            value = int(value)
        elif not value:
            return None
        elif names is not None and value not in names:
            raise LookupError(f"label {value!r} is none of {', '.join(names[:8])}{', …' if len(names) > 8 else ''}")
        else:
            return value
    if value is None or (isinstance(value, float) and math.isnan(value)) or (isinstance(value, int | float) and value < 0):
        return None
    if not isinstance(value, int | float) or value != int(value):
        raise LookupError(f"label {value!r} is neither a whole number nor text")
    if names is None:
        return str(int(value))
    if value >= len(names):
        raise LookupError(f"label {int(value)} has no name; there are {len(names)}")
    return names[int(value)]


def caption(value: Any) -> str | None:
    """A caption cell as text: the first of a list; None where there is none."""
    if isinstance(value, list | tuple):
        value = value[0] if value else None
    if isinstance(value, bytes):
        value = value.decode("utf-8", "replace")
    return None if value is None else clean(str(value))


def class_label_names(schema: pa.Schema, column: str) -> list[str] | None:
    """The names of a ClassLabel column that `datasets` wrote into a Parquet schema, or None."""
    stored = (schema.metadata or {}).get(b"huggingface")
    if stored is None:
        return None
    feature = json.loads(stored).get("info", {}).get("features", {})
    for step in column.split("."):
        feature = feature.get(step, {}) if isinstance(feature, dict) else {}
    return feature.get("names") if isinstance(feature, dict) else None


def arrow_kind(type: pa.DataType) -> str:
    """The exporters' name for an Arrow type; what they have no type for travels as text (JSON)."""
    if pa.types.is_struct(type) and {type.field(i).name for i in range(type.num_fields)} == {"bytes", "path"}:
        return "image"
    if pa.types.is_list(type) or pa.types.is_large_list(type) or pa.types.is_fixed_size_list(type):
        inner = arrow_kind(type.value_type)
        if inner in ("list<float32>", "list<float64>"):
            return "list<list<float32>>"
        return (
            f"list<{inner}>" if inner in ("string", "int64", "float32", "float64") and not pa.types.is_binary(type.value_type) else "string"
        )
    if pa.types.is_boolean(type):
        return "bool"
    if pa.types.is_integer(type) and type != pa.uint64():
        return "int64"
    if pa.types.is_float32(type) or pa.types.is_float16(type):
        return "float32"
    return "float64" if pa.types.is_float64(type) else "string"


def note(types: dict[str, str], row: Mapping[str, Any]) -> None:
    """Widen the known types, in place, until they hold this row's values."""
    for name, value in row.items():
        kind = merged_kind(types.get(name), value_kind(value))
        if kind is not None:
            types[name] = kind


def chosen(row: dict[str, Any], columns: Sequence[str] | None) -> dict[str, Any]:
    """The wanted columns of a row; None asks for all."""
    return row if columns is None else {name: row[name] for name in columns if name in row}


def value_kind(value: Any) -> str | None:
    """The exporters' name for a value's type; None for null, which fits any."""
    if value is None:
        return None
    if isinstance(value, dict) and set(value) == {"bytes"}:
        return "image"
    if not _is_narrow(value):
        return "string"
    for python, kind in ((bool, "bool"), (int, "int64"), (float, "float64"), (str, "string")):
        if isinstance(value, python):
            return kind
    if isinstance(value, list) and value:
        inner = {value_kind(item) for item in value}
        inner = {"float64"} if inner == {"int64", "float64"} else inner
        return f"list<{inner.pop()}>" if len(inner) == 1 and inner <= {"string", "int64", "float64"} else "string"
    return "string"


def _is_narrow(value: Any) -> bool:
    """Whether 64 bits hold the whole numbers of a JSON value, which may have any number of digits."""
    if isinstance(value, list):
        return all(map(_is_narrow, value))
    return not isinstance(value, int) or -(2**63) <= value < 2**63
