"""Images in folders: one sub-folder per class, or a metadata.csv, .jsonl or .parquet beside them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from factory.errors import UserError
from factory.sources import _files
from factory.sources._table import TableSource


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
                return data.add_column("label", [parts[0] for parts in names])
            raise UserError(
                f"{where}: {base} has images outside class folders and no `label` in its metadata; unlabelled images need label: null"
            )
        return data

    def _slice(self) -> str:
        return "".join(self.split.partition("[")[1:])


def _inner(path: str, base: Path) -> Path:
    """The path below the folder, or below the archive that holds the file (zip://cat/1.png::/data/cats.zip)."""
    return Path(path.partition("://")[2].partition("::")[0]) if "://" in path else Path(path).relative_to(base)
