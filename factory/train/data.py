"""Real images as arrays in memory: what the small trainings here read."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from factory.errors import UserError
from factory.train.recipe import SourceSpec


@dataclass(frozen=True)
class Pictures:
    """pixels: uint8 [N, C, H, W] of one size, C 1 for grey and 3 for colour.  labels: int64 [N].  class_names: as the data set has them."""

    pixels: np.ndarray
    labels: np.ndarray
    class_names: list[str]

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def identity(self) -> str:
        """Hex digest of the pixels and labels."""
        return hashlib.sha256(self.pixels.tobytes() + self.labels.tobytes()).hexdigest()[:32]


def load(spec: SourceSpec) -> Pictures:
    """Decode a whole labelled split. Raises UserError when it cannot be read, has no label or mixes sizes.

    A set all of whose images are stored as grey has one channel, any other three.
    """
    table = _table(spec)
    for column in (spec.image, spec.label):
        if column not in table.column_names:
            raise UserError(f"{spec.dataset}: no column {column!r}; there are: {', '.join(table.column_names)}")
    if spec.limit is not None:  # a stretch of rows, so that the others can be held out
        table = table.select(range(min(spec.skip, len(table)), min(spec.skip + spec.limit, len(table))))
    labels = np.asarray(table[spec.label], dtype=np.int64)
    names = getattr(table.features[spec.label], "names", None) or [str(c) for c in range(int(labels.max()) + 1)]
    mode = "L" if all(picture.mode in ("L", "1") for picture in table[spec.image]) else "RGB"
    pictures = [np.asarray(picture.convert(mode)) for picture in table[spec.image]]
    if len({picture.shape for picture in pictures}) != 1:
        raise UserError(f"{spec.dataset}: images differ in size; this training needs one size")
    pixels = np.stack(pictures)
    return Pictures(pixels[:, None] if mode == "L" else np.ascontiguousarray(pixels.transpose(0, 3, 1, 2)), labels, list(names))


def _table(spec: SourceSpec) -> Any:
    from datasets import load_dataset

    path = Path(spec.dataset)
    try:
        if path.is_file():
            return load_dataset("parquet", data_files={spec.split: str(path)}, split=spec.split)
        return load_dataset(str(path) if path.is_dir() else spec.dataset, split=spec.split)
    except Exception as error:  # datasets raises many types for one fact
        raise UserError(f"source.dataset={spec.dataset} split={spec.split}: {error}; give a Parquet file, a folder or a Hub id") from error
