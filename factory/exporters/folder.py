"""One image file per row, for tools that read folders: `torchvision.datasets.ImageFolder` and the `imagefolder` of `datasets`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from pydantic import Field

from factory.contracts import DatasetInfo
from factory.exporters import _croissant, _encode, _metadata, _names


class Folder(_encode.ImageExporter):
    """Writes <split>/<class>/<id>.png and <split>/metadata.jsonl with the class name and the provenance of each file."""

    croissant: bool = Field(True, description="Write croissant.json beside the files: Croissant metadata of the files and columns.")

    def write(self, rows: Iterable[dict[str, Any]], info: DatasetInfo, folder: Path) -> None:
        """An unlabelled dataset has its files in train/images. Beyond 10,000 files a class continues in numbered sub-folders.

        In the metadata `label` is the class name; torchvision numbers the classes by the sorted names of their folders. Further
        images of a row (masks) are beside train/, where no reader takes them for samples: the column `mask` names mask/<class>/<id>.png.
        """
        base = folder / info.split
        folders = _names.safe_names(info.class_names)
        counts: Counter[str] = Counter()
        suffixes: set[str] = set()
        base.mkdir(parents=True, exist_ok=True)
        for name in folders if info.class_names else ["images"]:
            (base / name).mkdir()
        with (base / "metadata.jsonl").open("w", encoding="utf-8", newline="\n") as lines:
            for number, (row, data) in enumerate(self.encoded(rows)):
                label = _metadata.label(row, info)
                place = folders[label] if label >= 0 else "images"
                name = _names.key(str(row.get("id", f"{number:08d}")))
                suffix = _encode.suffix(self.image, data)
                suffixes.add(suffix)
                file = base / _names.within(place, counts[place]) / f"{name}.{suffix}"
                counts[place] += 1
                file.parent.mkdir(parents=True, exist_ok=True)
                with file.open("xb") as out:  # two rows of one id are a bug to hear about, not a file to overwrite
                    out.write(data)
                beside = _write_beside(row, folder, file.relative_to(base).with_suffix(".png"), info)
                line = {"file_name": file.relative_to(base).as_posix(), **_metadata.values(row, info), **beside}
                lines.write(_metadata.text(line) + "\n")
        if self.croissant:
            _croissant.of_folder(folder, info, sorted(suffixes) or ["png"])


def _write_beside(row: dict[str, Any], folder: Path, file: Path, info: DatasetInfo) -> dict[str, str | None]:
    """The further images of a row as files; -> column name: path from the dataset's folder, None without one."""
    written: dict[str, str | None] = {}
    for name in (name for name, kind in info.columns.items() if kind == "image"):
        written[name] = None
        if row.get(name) is not None:
            path = folder / name / file
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(row[name])
            written[name] = path.relative_to(folder).as_posix()
    return written
