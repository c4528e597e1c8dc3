"""Objects in images: boxes and masks of rows as what detection formats hold, one category each."""

from __future__ import annotations

import io
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from PIL import Image
from pydantic import Field

from factory.contracts import DatasetInfo
from factory.errors import UserError
from factory.exporters import _encode, _metadata, _names
from factory.images import ImageFormat

log = logging.getLogger(__name__)

_SAME = 0.5  # IoU from which a box and a mask are one object


@dataclass(frozen=True)
class Object:
    """category: index of its name.  box: x0 y0 x1 y1 in pixels, inside the image.  mask: bool [H, W], or None."""

    category: int
    box: tuple[float, float, float, float]
    mask: np.ndarray | None = None


class ObjectExporter(_encode.ImageExporter):
    """A format of objects. A dataset without boxes and masks is refused: a box round the whole image would be an annotation that nobody
    made, and would teach a detector that objects fill their image.

    The category of a box is its number in `box_labels`, an index of `box_names` or, without these, of the dataset's classes. Without
    `box_labels` it is the class of the row. Boxes are cut at the image's edge; what then has no area is left out, and counted in the log.
    """

    image: ImageFormat = Field(
        "jpeg", description="jpeg is read everywhere; png is lossless; webp is smaller, and lossless at quality 100."
    )
    box_names: list[str] | None = Field(
        None, min_length=1, description="Names of the numbers in box_labels, from 0; left out, the dataset's classes."
    )
    masks: Literal["instances", "classes", "none"] = Field(
        "instances",
        description="What the numbers in a mask (0 is background) are: objects, each of the category of its box or else of the row's class; "
        "or classes, the first category being 1; none leaves masks out.",
    )

    def check(self, notes: frozenset[str]) -> None:
        """Raise UserError for a dataset without boxes and masks."""
        super().check(notes)
        self._need_objects(notes)

    def _need_objects(self, notes: frozenset[str]) -> None:
        wanted = ["boxes"] if self.masks == "none" else ["boxes", "mask"]
        if not notes.intersection(wanted):
            raise UserError(
                f"export.kind: {self.kind} is a format of objects, and the rows have no column {' or '.join(wanted)}; "
                f"name it in the source (source.{wanted[0]}: …) and use a condition that keeps it, or export as parquet, webdataset or folder"
            )

    def categories(self, info: DatasetInfo) -> list[str]:
        """The names of all categories. Raises UserError where rows cannot have any."""
        self._need_objects(frozenset(info.columns))
        if self.box_names is not None or info.class_names:
            return list(self.box_names or info.class_names)
        if "box_labels" in info.columns or self.masks == "classes":
            raise UserError("export.box_names: objects have numbers and the dataset has no classes; give their names, from 0: [first, …]")
        return ["object"]

    def objects(self, row: dict[str, Any], names: list[str], info: DatasetInfo, size: tuple[int, int]) -> list[Object]:
        """The objects of one row. size: (height, width) of its image. Raises UserError for one without a category."""
        where = f"row {row.get('id', '?')!r}"
        own = _metadata.label(row, info) if self.box_names is None and info.class_names else 0 if len(names) == 1 else -1
        boxes, labels = np.asarray(row.get("boxes") or [], np.float64).reshape(-1, 4), row.get("box_labels")
        numbers = [own] * len(boxes) if labels is None else [int(number) for number in labels]
        if len(numbers) != len(boxes):
            raise UserError(f"{where}: {len(numbers)} box labels for {len(boxes)} boxes")
        cut = np.clip(boxes, 0, [size[1], size[0], size[1], size[0]])
        data = row.get("mask") if self.masks != "none" else None
        regions = {} if data is None else _regions(data, size, where)
        masks: dict[int, np.ndarray] = {}
        if self.masks == "instances":
            masks = {k: regions.pop(number) for number, k in _pairs(regions, cut).items()}
        found = [Object(n, _tuple(box), masks.get(k)) for k, (n, box) in enumerate(zip(numbers, cut, strict=True))]
        found += [Object(own if self.masks == "instances" else n - 1, _bounds(mask), mask) for n, mask in regions.items()]
        for one in found:
            if not 0 <= one.category < len(names):
                raise UserError(f"{where}: {_nameless(one.category, names)}")
        return _with_area(found, where)


def _nameless(category: int, names: list[str]) -> str:
    if category < 0:
        return (
            "an object has no category: its box has no number in box_labels (or its mask is round no box), and the row has no class for it"
        )
    return f"an object has the number {category}, and the categories are 0 to {len(names) - 1}; give the names as export.box_names"


def _with_area(found: list[Object], where: str) -> list[Object]:
    kept = [one for one in found if one.box[2] > one.box[0] and one.box[3] > one.box[1]]  # false for nan too
    if len(kept) < len(found):
        log.warning("%s: %d of %d boxes have no area inside the image and are left out", where, len(found) - len(kept), len(found))
    return kept


def _regions(data: bytes, size: tuple[int, int], where: str) -> dict[int, np.ndarray]:
    """Number -> bool [H, W] for each number but 0 in the file of a mask."""
    values = np.asarray(Image.open(io.BytesIO(data)))
    values = values[..., 0] if values.ndim == 3 else values
    if values.shape != size:
        raise UserError(f"{where}: the mask is {values.shape[0]}×{values.shape[1]} and its image {size[0]}×{size[1]}")
    return {int(number): values == number for number in np.unique(values) if number != 0}


def _pairs(regions: dict[int, np.ndarray], boxes: np.ndarray) -> dict[int, int]:
    """Number of a mask -> index of the box round the same object: each the best of those that are still free."""
    pairs: dict[int, int] = {}
    for number, mask in regions.items() if len(boxes) else ():
        overlap = _iou(np.array(_bounds(mask)), boxes)
        overlap[list(pairs.values())] = 0
        if overlap.max() >= _SAME:
            pairs[number] = int(overlap.argmax())
    return pairs


def _iou(box: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    """[4] with [K, 4] -> [K]."""
    sides = np.clip(np.minimum(box[2:], boxes[:, 2:]) - np.maximum(box[:2], boxes[:, :2]), 0, None)
    shared = sides.prod(axis=1)
    total = (box[2:] - box[:2]).prod() + (boxes[:, 2:] - boxes[:, :2]).prod(axis=1) - shared
    return np.nan_to_num(shared / np.maximum(total, 1e-9))


def _bounds(mask: np.ndarray) -> tuple[float, float, float, float]:
    """The box round the true pixels, whose last row and column are inside."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    return float(columns[0]), float(rows[0]), float(columns[-1] + 1), float(rows[-1] + 1)


def _tuple(box: np.ndarray) -> tuple[float, float, float, float]:
    x0, y0, x1, y1 = (float(value) for value in box)
    return x0, y0, x1, y1


def unannotated(values: dict[str, Any]) -> dict[str, Any]:
    """A row's JSON values without what its annotations say already."""
    return {name: value for name, value in values.items() if name not in ("boxes", "box_labels")}


def write_image(row: dict[str, Any], number: int, data: bytes, base: Path, suffix: str) -> str:
    """One image of a folder of images; -> the file's name, relative to the folder of images."""
    place = _names.within("", number).lstrip("/")
    file = base / place / f"{_names.key(str(row.get('id', f'{number:08d}')))}.{suffix}"
    file.parent.mkdir(exist_ok=True)
    with file.open("xb") as out:
        out.write(data)
    return file.relative_to(base).as_posix()
