"""Real images as arrays in memory: what the small trainings here read."""

from __future__ import annotations

import hashlib
import io
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from factory import images
from factory.errors import Undecodable, UserError
from factory.sources import _columns, _content
from factory.train.recipe import SourceSpec

log = logging.getLogger("factory.train")


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
        total = hashlib.sha256(np.ascontiguousarray(self.pixels).data)
        total.update(np.ascontiguousarray(self.labels).data)
        return total.hexdigest()[:32]


def load(spec: SourceSpec) -> Pictures:
    """Decode a whole labelled split; what cannot be decoded is left out. Raises UserError when it cannot be read, lacks labels or mixes sizes.

    A set all of whose images are stored as grey has one channel, any other three.
    """
    from datasets import Image as ImageFeature

    table, where = _table(spec), f"{spec.dataset}, split {spec.split}"
    for column in (spec.image, spec.label):
        if column not in table.column_names:
            hint = "; a folder needs a sub-folder for each of two classes or more" if Path(spec.dataset).is_dir() else ""
            raise UserError(f"{where}: no column {column!r}; there are: {', '.join(table.column_names)}{hint}")
    if spec.limit is not None and spec.skip >= len(table):
        raise UserError(f"{where}: skip: {spec.skip} leaves none of {len(table)} images")
    # Of the whole split, so that its classes have the same numbers in a stretch that lacks one of them.
    labels, names = _columns.labels(list(table[spec.label]), table.features[spec.label], None, where)
    if spec.limit is not None:  # a stretch of rows, so that the others can be held out
        rows = np.arange(len(table))[spec.skip : spec.skip + spec.limit]
        table, labels = table.select(rows), labels[rows]
    if labels.min(initial=0) < 0:
        raise UserError(f"{where}: {(labels < 0).sum()} of {len(labels)} images have no label; this training needs one of each")
    pictures: list[np.ndarray] = []
    kept: list[int] = []
    grey = True
    for row, cell in enumerate(table.cast_column(spec.image, ImageFeature(decode=False))[spec.image]):
        try:
            data = _content.stored_bytes(cell)
            pictures.append(images.decode(data))
        except Undecodable as error:
            log.warning("%s: image %d cannot be decoded and is left out: %s", where, row, error)
            continue
        kept.append(row)
        grey = grey and Image.open(io.BytesIO(data)).mode in ("L", "1")
    if len({picture.shape for picture in pictures}) != 1:
        raise UserError(f"{where}: " + ("images differ in size; this training needs one size" if pictures else "there are no images"))
    pixels = np.stack([picture[..., :1] if grey else picture for picture in pictures]).transpose(0, 3, 1, 2)
    return Pictures(np.ascontiguousarray(pixels), labels[kept].astype(np.int64), names)


def _table(spec: SourceSpec) -> Any:
    from datasets import load_dataset

    path = Path(spec.dataset)
    try:
        if path.is_file():
            return load_dataset("parquet", data_files={spec.split: str(path)}, split=spec.split)
        return load_dataset(str(path) if path.is_dir() else spec.dataset, split=spec.split)
    except Exception as error:  # datasets raises many types for one fact
        raise UserError(f"source.dataset={spec.dataset} split={spec.split}: {error}; give a Parquet file, a folder or a Hub id") from error
