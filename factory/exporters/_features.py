"""The columns of an export as `datasets.Features`."""

from __future__ import annotations

from typing import Any

from factory.contracts import DatasetInfo


def features(info: DatasetInfo) -> Any:
    """The columns as `datasets.Features`: image, label for a labelled dataset, then info.columns. Raises ValueError for an unknown type."""
    from datasets import ClassLabel, Features, Image, List, Value

    types: dict[str, Any] = {name: Value(name) for name in ("string", "int64", "float32", "float64", "bool")}
    types |= {f"list<{name}>": List(value) for name, value in types.items()}
    types |= {"list<list<float32>>": List(List(Value("float32"))), "image": Image()}
    known: dict[str, Any] = {"image": Image()}
    if info.class_names:
        known["label"] = ClassLabel(names=info.class_names)
    for name, kind in info.columns.items():
        if kind not in types:
            raise ValueError(f"column {name!r} has type {kind!r}; an export knows {', '.join(types)}")
        known.setdefault(name, types[kind])
    return Features(known)
