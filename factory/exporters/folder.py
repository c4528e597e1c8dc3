"""One image file per row, for tools that read folders: `torchvision.datasets.ImageFolder` and the `imagefolder` of `datasets`."""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from pydantic import Field

from factory.contracts import DatasetInfo, Exporter
from factory.exporters import _encode
from factory.images import ImageFormat

FILES_PER_FOLDER = 10_000  # file systems and the Hub grow slow beyond
_SPLIT_WORD = re.compile(
    r"(?:(?<=^)|(?<=[-._ 0-9]))(?=(train|training|validation|valid|dev|val|test|testing|eval|evaluation)([-._ 0-9]|$))", re.IGNORECASE
)


class Folder(Exporter):
    """Writes <split>/<class>/<id>.png and <split>/metadata.jsonl with the class name and the provenance of each file."""

    image: ImageFormat = Field("png", description="png is lossless; webp is smaller, and lossless at quality 100; jpeg is read everywhere.")
    quality: int = Field(95, ge=1, le=100, description="For webp and jpeg.")

    def write(self, rows: Iterable[dict[str, Any]], info: DatasetInfo, folder: Path) -> None:
        """An unlabelled dataset has its files in train/images. Beyond 10,000 files a class continues in numbered sub-folders.

        In the metadata `label` is the class name; torchvision numbers the classes by the sorted names of their folders. Further
        images of a row (masks) are beside train/, where no reader takes them for samples: the column `mask` names mask/<class>/<id>.png.
        """
        base = folder / info.split
        folders = safe_names(info.class_names)
        counts: Counter[str] = Counter()
        base.mkdir(parents=True, exist_ok=True)
        for name in folders if info.class_names else ["images"]:
            (base / name).mkdir()
        with (base / "metadata.jsonl").open("w", encoding="utf-8", newline="\n") as lines:
            for number, (row, data) in enumerate(_encode.encoded(rows, self.image, self.quality)):
                label = int(row["label"]) if info.class_names and row["label"] is not None else -1
                place = folders[label] if label >= 0 else "images"
                file = (
                    base / _within(place, counts[place]) / f"{_file_name(str(row.get('id', f'{number:08d}')))}.{_encode.SUFFIX[self.image]}"
                )
                counts[place] += 1
                file.parent.mkdir(parents=True, exist_ok=True)
                with file.open("xb") as out:  # two rows of one id are a bug to hear about, not a file to overwrite
                    out.write(data)
                beside = _write_beside(row, folder, file.relative_to(base).with_suffix(".png"), info)
                line = _metadata({**row, **beside}, file.relative_to(base), label, info)
                lines.write(json.dumps(line, ensure_ascii=False, allow_nan=False) + "\n")


def safe_names(names: Sequence[str]) -> list[str]:
    """Class names as folder names: distinct on every file system, and never one that `datasets` takes for a split.

    "T-shirt/top" -> "T-shirt-top"; "train" -> "=train"; a name that is taken already gets a number.
    """
    safe: list[str] = []
    taken = {"", "images"}
    for name in names:
        plain = _SPLIT_WORD.sub("=", _file_name(name))
        unique, number = plain, 2
        while unique.casefold() in taken:
            unique, number = f"{plain}~{number}", number + 1
        taken.add(unique.casefold())
        safe.append(unique)
    return safe


def _file_name(name: str) -> str:
    """Without what Windows, a shell's glob or a URL would take for something else; never hidden, at most 120 characters."""
    plain = re.sub(r'[\x00-\x1f/\\:*?"<>|\[\]{}#%]+', "-", name).strip(" .")[:120].rstrip(" .")
    return "_" + plain.lstrip("_") if plain.startswith("__") or not plain else plain


def _within(place: str, count: int) -> str:
    block = count // FILES_PER_FOLDER
    return place if block == 0 else f"{place}/{block:04d}"


def _write_beside(row: dict[str, Any], folder: Path, file: Path, info: DatasetInfo) -> dict[str, str]:
    """The further images of a row as files; -> column name: path from the dataset's folder."""
    written = {}
    for name, kind in info.columns.items():
        if kind == "image" and row.get(name) is not None:
            path = folder / name / file
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(row[name])
            written[name] = path.relative_to(folder).as_posix()
    return written


def _metadata(row: dict[str, Any], file: Path, label: int, info: DatasetInfo) -> dict[str, Any]:
    """One line: JSON has no NaN, so a missing score is null."""
    line: dict[str, Any] = {"file_name": file.as_posix()}
    if info.class_names:
        line["label"] = info.class_names[label] if label >= 0 else None
    for name in info.columns:
        value = row.get(name)
        line.setdefault(name, None if isinstance(value, float) and not math.isfinite(value) else value)
    return line
