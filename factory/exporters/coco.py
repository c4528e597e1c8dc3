"""COCO: images and one JSON file of their objects, for `pycocotools`, `torchvision.datasets.CocoDetection` and most detection toolkits."""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import IO, Any

import numpy as np
from pydantic import Field

from factory.contracts import DatasetInfo
from factory.errors import UserError
from factory.exporters import _encode, _metadata, _objects


class Coco(_objects.ObjectExporter):
    """Writes images/<split>/<id>.jpg and annotations/instances_<split>.json. Masks need the extra `coco` (pycocotools).

    Category ids are the numbers of the categories plus 1, since detectors keep 0 for the background. A mask is a run-length code, which
    keeps holes and parts as they are. An image without objects is listed without annotations. Each image's columns are under `columns`
    of its entry, and in images/<split>/metadata.jsonl for `datasets`.
    """

    license: str | None = Field(None, description="Name or URL of the dataset's licence, for the file's `licenses`.")

    def data_files(self, split: str) -> str:
        return f"images/{split}/**"

    def write(self, rows: Iterable[dict[str, Any]], info: DatasetInfo, folder: Path) -> None:
        """Memory holds one image: annotations are put behind the list of images at the end. Raises UserError."""
        names = self.categories(info)
        if "mask" in info.columns and self.masks != "none":
            _mask_module()
        base, target = folder / "images" / info.split, folder / "annotations" / f"instances_{info.split}.json"
        base.mkdir(parents=True)
        target.parent.mkdir()
        spool = target.with_suffix(".part")
        with (
            target.open("w", encoding="utf-8", newline="\n") as out,
            spool.open("w+", encoding="utf-8", newline="\n") as later,
            (base / "metadata.jsonl").open("w", encoding="utf-8", newline="\n") as lines,
        ):
            out.write(self._head(names, info))
            annotation = 0
            for number, (row, data) in enumerate(self.encoded(rows)):
                size = _encode.size(data)
                file = _objects.write_image(row, number, data, base, _encode.suffix(self.image, data))
                values = _metadata.values(row, info)
                lines.write(_metadata.text({"file_name": file, **values}) + "\n")
                _append(out, number, self._image(number + 1, file, size, values))
                for one in self.objects(row, names, info, size):
                    _append(later, annotation, _annotation(annotation + 1, number + 1, one))
                    annotation += 1
            out.write('\n],\n"annotations": [\n')
            later.seek(0)
            shutil.copyfileobj(later, out)
            out.write("\n]\n}\n")
        spool.unlink()

    def _head(self, names: list[str], info: DatasetInfo) -> str:
        """Everything up to the list of images."""
        about = {"description": f"{info.name}: {'synthetic ' if info.synthetic else ''}images, split {info.split}", "version": "1.0"}
        url = self.license if self.license is not None and "://" in self.license else ""
        licences = [] if self.license is None else [{"id": 1, "name": self.license, "url": url}]
        categories = [{"id": k + 1, "name": name, "supercategory": ""} for k, name in enumerate(names)]
        parts = {"info": about, "licenses": licences, "categories": categories}
        return "{\n" + "".join(f'"{key}": {_metadata.text(value)},\n' for key, value in parts.items()) + '"images": [\n'

    def _image(self, number: int, file: str, size: tuple[int, int], values: dict[str, Any]) -> dict[str, Any]:
        entry = {"id": number, "file_name": file, "width": size[1], "height": size[0]}
        return {**entry, **({} if self.license is None else {"license": 1}), "columns": _objects.unannotated(values)}


def _append(out: IO[str], place: int, value: Any) -> None:
    out.write((",\n" if place else "") + _metadata.text(value))


def _annotation(number: int, image: int, one: _objects.Object) -> dict[str, Any]:
    x0, y0, x1, y1 = one.box
    box = [x0, y0, x1 - x0, y1 - y0]
    area, segmentation = box[2] * box[3], _segmentation(one.mask)
    if one.mask is not None:
        area = float(one.mask.sum())
    return {
        "id": number,
        "image_id": image,
        "category_id": one.category + 1,
        "bbox": box,
        "area": area,
        "iscrowd": 0,
        "segmentation": segmentation,
    }


def _segmentation(mask: np.ndarray | None) -> Any:
    """A compressed run-length code; an empty list, which readers expect, for a box alone."""
    if mask is None:
        return []
    code = _mask_module().encode(np.asfortranarray(mask.astype(np.uint8)))
    return {"size": [int(side) for side in code["size"]], "counts": code["counts"].decode("ascii")}


def _mask_module() -> Any:
    try:
        from pycocotools import mask
    except ImportError:
        raise UserError(
            "export.kind: coco with masks needs pycocotools; install the extra `coco`, or set export.masks: none to export boxes alone"
        ) from None
    return mask
