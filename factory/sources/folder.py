"""Images in folders: one sub-folder per class, or a metadata.csv, .jsonl or .parquet beside them."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from factory.errors import UserError
from factory.sources import _files
from factory.sources._table import TableSource

log = logging.getLogger(__name__)


class Folder(TableSource):
    """An image folder, read with the `imagefolder` builder of `datasets`.

    Without a `label` column in the metadata, the class of an image is the first folder of its path; deeper folders are only storage.
    """

    def _load(self) -> Any:
        from datasets import load_dataset

        base = _files.absolute(self.dataset)
        if not base.is_dir():
            raise _files.missing(self.dataset)
        base = _files.split_folder(base, self.split).resolve()  # `datasets` resolves links, and paths are compared below
        where, split = f"source.dataset {self.dataset!r}", "train" + self._slice()
        files = {"train": ["**"]}
        data = _files.call(where, load_dataset, "imagefolder", data_dir=str(base), data_files=files, split=split, drop_labels=True)
        if self.label == "label" and "label" not in data.column_names and "image" in data.column_names:
            paths = data.with_format("arrow")[:].column("image").combine_chunks().field("path").to_pylist()
            names = [_inner(path, base).parts for path in paths]
            if all(len(parts) > 1 for parts in names):
                _warn_of_empty(base, {parts[0] for parts in names}, where)
                return data.add_column("label", [parts[0] for parts in names])
            others = [name for name in data.column_names if name != "image"]
            raise UserError(
                f"{where}: {base} has images outside class folders and no `label` in its metadata"
                + (f", which has: {', '.join(others)}" if others else "")
                + "; unlabelled images need label: null"
            )
        return data

    def _slice(self) -> str:
        return "".join(self.split.partition("[")[1:])


def _warn_of_empty(base: Path, classes: set[str], where: str) -> None:
    """Tell of the class folders without an image: a class that is not there is easily overlooked. Refuse a COCO folder as one class."""
    folders = {entry.name for entry in base.iterdir() if entry.is_dir() and not entry.name.startswith((".", "__"))}
    if "annotations" in folders - classes and any((base / "annotations").glob("*.json")):
        raise UserError(
            f"{where}: {base} is laid out as COCO: its folders are splits, and its boxes lie in annotations/*.json; write a metadata.jsonl "
            "beside the images of one split (file_name, and a column such as objects: {bbox, categories}), and name that folder"
        )
    for name in sorted(folders - classes):
        log.warning("%s: the folder %r holds no image, so that it is no class", where, name)


def _inner(path: str, base: Path) -> Path:
    """The path below the folder, or below the archive that holds the file (zip://cat/1.png::/data/cats.zip)."""
    return Path(path.partition("://")[2].partition("::")[0]) if "://" in path else Path(path).relative_to(base)
