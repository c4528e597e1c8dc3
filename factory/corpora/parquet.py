"""Parquet files: images as bytes, or their paths."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from pydantic import Field

from factory.corpora import _parquet, _places
from factory.corpora._corpus import Columns
from factory.records import Cut


class Parquet(Columns):
    """A file, a glob, or a folder of *.parquet. A row's id is its file's name and its number there: `part-7.parquet#12`.

    Where rows name images on this disk, these files' sizes and times tell whether the corpus is still the same, beside the Parquet files' own.
    An image behind a URL is known by its URL alone.
    """

    root: str | None = Field(None, description="What relative paths in the image column are relative to; null: the folder of the files.")

    def cut(self, rows: int, catalogue: Path) -> Iterator[tuple[Cut, str]]:
        """Shards are whole row groups of about that many rows; a larger row group is cut."""
        yield from _parquet.cuts(self, _places.files(self.dataset, (".parquet",)), self._root(), rows, catalogue)

    def open(self, catalogue: Path, columns: Sequence[str] | None) -> _parquet.ParquetReader:
        file_system, base = _places.base_of(self.dataset)
        return _parquet.ParquetReader(self, file_system, base, self._root(), catalogue, columns)

    def _root(self) -> str:
        if self.root is not None:
            return self.root
        file_system, base = _places.base_of(self.dataset)
        return str(base if _places.is_local(file_system) else file_system.unstrip_protocol(base))
