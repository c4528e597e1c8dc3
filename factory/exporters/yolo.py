"""YOLO: one text file of objects beside each image, in the layout that Ultralytics' trainers read."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import Field
from ruamel.yaml import YAML

from factory.contracts import DatasetInfo
from factory.exporters import _encode, _metadata, _objects


class Yolo(_objects.ObjectExporter):
    """Writes images/<split>/<id>.jpg, labels/<split>/<id>.txt and data.yaml with the names of the categories.

    A line is `category cx cy w h`, in shares of the image's width and height. Where the rows have masks every line is instead a polygon,
    `category x0 y0 x1 y1 …` of pixel centres, a box its four corners, since readers take one kind in a file. Parts of one object are one
    polygon, joined by lines of no width; holes are filled, which the format cannot hold. An image without objects has an empty file.
    The columns of each image are in images/<split>/metadata.jsonl.
    """

    val: str | None = Field(
        None, description="Folder of real validation images, for `val` of data.yaml, which training wants; left out, it is empty."
    )

    def data_files(self, split: str) -> str:
        return f"images/{split}/**"

    def write(self, rows: Iterable[dict[str, Any]], info: DatasetInfo, folder: Path) -> None:
        """Memory holds one image. Raises UserError."""
        names = self.categories(info)
        polygons = "mask" in info.columns and self.masks != "none"
        images, labels = (folder / kind / info.split for kind in ("images", "labels"))
        images.mkdir(parents=True)
        labels.mkdir(parents=True)
        with (images / "metadata.jsonl").open("w", encoding="utf-8", newline="\n") as lines:
            for number, (row, data) in enumerate(self.encoded(rows)):
                size = _encode.size(data)
                objects = self.objects(row, names, info, size)
                file = _objects.write_image(row, number, data, images, _encode.suffix(self.image, data))
                text = labels / Path(file).with_suffix(".txt")
                text.parent.mkdir(exist_ok=True)
                text.write_text("".join(_line(one, size, polygons) for one in objects), encoding="utf-8", newline="\n")
                lines.write(_metadata.text({"file_name": file, **_metadata.values(row, info)}) + "\n")
        self._write_yaml(folder / "data.yaml", names, info.split)

    def _write_yaml(self, path: Path, names: list[str], split: str) -> None:
        """Without `path`: the folder of this file is then meant, wherever it lies."""
        use = "test" if split == "stress_test" else "train"
        content = {"train": None, "val": self.val, use: f"images/{split}", "names": dict(enumerate(names))}
        yaml = YAML()
        yaml.width = 10_000  # a long name stays on its line
        with path.open("w", encoding="utf-8", newline="\n") as out:
            out.write("# Synthetic images. Validate and test on real ones: put their folder at `val`.\n")
            yaml.dump(content, out)


def _line(one: _objects.Object, size: tuple[int, int], polygons: bool) -> str:
    height, width = size
    x0, y0, x1, y1 = one.box
    if not polygons:
        numbers = [(x0 + x1) / 2 / width, (y0 + y1) / 2 / height, (x1 - x0) / width, (y1 - y0) / height]
    elif one.mask is None:
        numbers = (np.array([[x0, y0], [x1, y0], [x1, y1], [x0, y1]]) / [width, height]).ravel().tolist()
    else:
        numbers = ((_polygon(one.mask) + 0.5) / [width, height]).ravel().tolist()  # the centre of a pixel
    return " ".join([str(one.category), *(f"{number:.6f}" for number in numbers)]) + "\n"


def _polygon(mask: np.ndarray) -> np.ndarray:
    """bool [H, W] -> the outlines of its parts as one closed polygon, int [N, 2] columns and rows of pixels, N >= 3."""
    import cv2

    found, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
    parts = [part[:, 0] for part in found]
    loops = [np.concatenate([part, part[:1]]) for part in parts] if len(parts) > 1 else parts
    back = [part[:1] for part in parts[-2:0:-1]]  # to the start again, over the lines that led here
    points = np.concatenate([*loops, *back])
    return np.concatenate([points, *([points[-1:]] * (3 - len(points)))])  # a spot of one or two pixels
