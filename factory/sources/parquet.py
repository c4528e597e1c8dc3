"""Parquet files, the format of datasets on the Hub."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from factory.sources import _files
from factory.sources._table import TableSource


class Parquet(TableSource):
    """A file or a glob, taken whole whatever `split` says, or a folder whose file names tell the splits (train-00000-of-00002.parquet).

    Images may be in the rows, or named by them: by a path from the folder of the files, from the current folder, or from the root.
    """

    def root(self) -> Path | None:
        return None if "://" in self.dataset else _files.folder_of(self.dataset)

    def _load(self) -> Any:
        return _files.load_files("parquet", self.dataset, self.split, ".parquet")
