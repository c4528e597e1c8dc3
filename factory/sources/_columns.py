"""Finding and reading columns of a `datasets` table at the level of Arrow, where nothing is decoded unasked."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from factory.cells import near, value_at
from factory.errors import UserError


def feature_at(features: Any, name: str) -> Any:
    """The feature of a column, or of a field of a struct column written with dots (`json.label`); None when absent."""
    if name in features:
        return features[name]
    head, _, rest = name.partition(".")
    return feature_at(features[head], rest) if rest and isinstance(features.get(head), dict) else None


def require(features: Any, name: str, key: str, where: str) -> None:
    """Raise UserError that lists the columns there are when a recipe's key names one that is not there."""
    if feature_at(features, name) is None:
        names = _names(features)
        hint = f", or write {key}: null" if key != "image" else ""
        raise UserError(f"{where}: no column {name!r} for `{key}`{near(name, names)}; there are: {', '.join(names)}{hint}")


def _names(features: Any, prefix: str = "") -> list[str]:
    names: list[str] = []
    for name, feature in features.items():
        names += _names(feature, f"{prefix}{name}.") if isinstance(feature, dict) else [prefix + name]
    return names


def root(features: Any, name: str) -> str:
    """The top-level column that holds a dotted name."""
    return name if name in features else name.partition(".")[0]


def column(rows: Any, name: str) -> list[Any]:
    """A whole column as Python values; meant for labels and captions, never for images. `rows` is in Arrow format."""
    top = root(rows.features, name)
    values = rows.select_columns([top])[:].column(top).to_pylist()
    return values if top == name else [value_at({top: value}, name) for value in values]


def labels(values: Sequence[Any], feature: Any, names: list[str] | None, where: str) -> tuple[np.ndarray, list[str]]:
    """Label cells -> (int32 [N] with -1 for unlabelled, class names).

    ClassLabel keeps its names. Integers are named by `names[value]`, else by their digits in numeric order. Strings are
    classes in the order of `names`, else sorted. None, NaN, empty text and negative numbers are unlabelled.
    """
    known: list[str] | None = getattr(feature, "names", None)
    if known is not None and names is not None and len(names) != len(known):
        raise UserError(f"{where}: class_names has {len(names)} names, the label column has {len(known)} classes")
    if any(isinstance(value, list | dict) for value in values[:1]):
        raise UserError(f"{where}: the label column holds lists; name a column of one number per class in `soft_label` instead")
    if any(isinstance(value, str) for value in values):
        return _from_strings([None if value is None else str(value) for value in values], names, where)
    numbers = np.fromiter((_whole(value, where) for value in values), np.int64, len(values))
    chosen = names if names is not None else known
    if chosen is not None:
        if numbers.max(initial=-1) >= len(chosen):
            raise UserError(f"{where}: label {numbers.max()} has no name; class_names has {len(chosen)}, it needs {numbers.max() + 1}")
        return np.maximum(numbers, -1).astype(np.int32), list(chosen)
    found = np.unique(numbers[numbers >= 0])
    return np.where(numbers < 0, -1, np.searchsorted(found, numbers)).astype(np.int32), [str(value) for value in found]


def _whole(value: Any, where: str) -> int:
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return -1
    if isinstance(value, float) and not value.is_integer():
        raise UserError(f"{where}: the label column holds {value}; labels are whole numbers or text")
    return max(int(value), -1)


def _from_strings(values: list[str | None], names: list[str] | None, where: str) -> tuple[np.ndarray, list[str]]:
    chosen = names if names is not None else sorted({value for value in values if value})
    index = {name: number for number, name in enumerate(chosen)}
    strange = sorted({value for value in values if value and value not in index})
    if strange:
        raise UserError(f"{where}: label {strange[0]!r} is not in class_names{near(strange[0], chosen)}")
    return np.fromiter((index[value] if value else -1 for value in values), np.int32, len(values)), list(chosen)
