"""Real images as arrays in memory: what the small trainings here read."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from factory.errors import UserError
from factory.train.recipe import SourceSpec


@dataclass(frozen=True)
class Pictures:
    """pixels: uint8 [N, H, W] grey, one size.  labels: int64 [N].  class_names: as the data set spells them."""

    pixels: np.ndarray
    labels: np.ndarray
    class_names: list[str]

    def __len__(self) -> int:
        return len(self.labels)


def load(spec: SourceSpec) -> Pictures:
    """Decode a whole labelled split to grey. Raises UserError when it cannot be read, has no label or mixes sizes."""
    table = _table(spec)
    for column in (spec.image, spec.label):
        if column not in table.column_names:
            raise UserError(f"{spec.dataset}: no column {column!r}; there are: {', '.join(table.column_names)}")
    if spec.limit is not None:
        table = table.select(range(min(spec.limit, len(table))))
    labels = np.asarray(table[spec.label], dtype=np.int64)
    names = getattr(table.features[spec.label], "names", None) or [str(c) for c in range(int(labels.max()) + 1)]
    pictures = [np.asarray(picture.convert("L")) for picture in table[spec.image]]
    if len({picture.shape for picture in pictures}) != 1:
        raise UserError(f"{spec.dataset}: images differ in size; this training needs one size")
    return Pictures(np.stack(pictures), labels, list(names))


def _table(spec: SourceSpec) -> Any:
    from datasets import load_dataset

    path = Path(spec.dataset)
    try:
        if path.is_file():
            return load_dataset("parquet", data_files={spec.split: str(path)}, split=spec.split)
        return load_dataset(str(path) if path.is_dir() else spec.dataset, split=spec.split)
    except Exception as error:  # datasets raises many types for one fact
        raise UserError(f"source.dataset={spec.dataset} split={spec.split}: {error}; give a Parquet file, a folder or a Hub id") from error
