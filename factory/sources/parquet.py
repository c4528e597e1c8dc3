"""Parquet files, the format of datasets on the Hub."""

from __future__ import annotations

from typing import Any

from factory.sources import _files
from factory.sources._table import TableSource


class Parquet(TableSource):
    """A file or a glob, taken whole whatever `split` says, or a folder whose file names tell the splits (train-00000-of-00002.parquet)."""

    def _load(self) -> Any:
        return _files.load_files("parquet", self.dataset, self.split)
