"""Image files in folders, with a metadata.jsonl, .csv or .parquet beside them, or a caption file beside each."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import Field

from factory import cells
from factory.corpora import _columns, _metadata, _places
from factory.corpora._corpus import Columns, Reader, write_names
from factory.errors import UserError
from factory.files import write_atomically
from factory.records import Cut, Found

FOLDER = "folder"


class Folder(Columns):
    """A folder and all folders below it, in the order of their names. A row's id is the file's path there; bytes that are no UTF-8 are escaped.

    Files named in a metadata file that are not there are rows too, refused as `missing`.
    """

    label: str | None = Field(
        None, description="`folder`: the first folder of a file's path is its class; else a column of the metadata; null: unlabelled."
    )
    caption: str | None = Field(
        None, description="Column of the metadata, or the suffix of a text file beside each image, such as `.txt`; null: none."
    )

    def cut(self, rows: int, catalogue: Path) -> Iterator[tuple[Cut, str]]:
        """Lists the files into the catalogue, one row group for each shard; memory holds one folder's names."""
        file_system, base = _places.located(self.dataset)
        if not file_system.isdir(base):
            raise _places.missing(self.dataset)
        listing = _Listing(self, rows)
        beside = self.caption if self.caption is not None and self.caption.startswith(".") else ""
        write_atomically(catalogue / "files.parquet", lambda path: listing.write(path, _metadata.rows(file_system, base, beside)))
        if not listing.cuts:
            raise UserError(f"{self.source_name()}: there are no images")
        names = self.class_names or (sorted(listing.classes) if self.label == FOLDER else None)
        write_names(catalogue, names)
        yield from listing.cuts

    def open(self, catalogue: Path, columns: Sequence[str] | None) -> FolderReader:
        file_system, base = _places.located(self.dataset)
        return FolderReader(self, file_system, base, catalogue, columns)


class _Listing:
    """Rows of (path, stamp, metadata as JSON) as they are found, written as row groups of one shard each."""

    def __init__(self, corpus: Folder, rows: int):
        self.corpus, self.rows = corpus, rows
        self.cuts: list[tuple[Cut, str]] = []
        self.classes: set[str] = set()
        self.count = 0

    def write(self, path: Path, found: Iterator[tuple[str, str, str | None]]) -> None:
        schema = pa.schema([("path", pa.binary()), ("stamp", pa.string()), ("metadata", pa.string())])
        waiting: list[tuple[str, str, str | None]] = []
        with pq.ParquetWriter(path, schema, compression="zstd") as writer:
            for row in found:
                waiting.append(row)
                if self.corpus.label == FOLDER and "/" in row[0]:
                    self.classes.add(cells.clean(row[0].partition("/")[0]))
                if len(waiting) == self.rows:
                    self._flush(writer, schema, waiting)
            if waiting:
                self._flush(writer, schema, waiting)

    def _flush(self, writer: pq.ParquetWriter, schema: pa.Schema, rows: list[tuple[str, str, str | None]]) -> None:
        paths, stamps, metadata = zip(*rows, strict=True)
        columns = [
            pa.array([path.encode("utf-8", "surrogatepass") for path in paths], pa.binary()),
            pa.array(stamps, pa.string()),
            pa.array(metadata, pa.string()),
        ]
        writer.write_table(pa.table(columns, schema=schema), row_group_size=len(rows))
        digest = hashlib.sha256(repr(rows).encode()).hexdigest()
        self.cuts.append((Cut(f"{len(self.cuts):06d}", "", self.count, self.count + len(rows)), digest))
        self.count += len(rows)
        rows.clear()


class FolderReader(Reader):
    """Reads a shard's names from the catalogue; the files themselves are opened by whoever decodes them."""

    def __init__(self, corpus: Folder, file_system: Any, base: str, catalogue: Path, columns: Sequence[str] | None):
        super().__init__(corpus, catalogue, columns)
        self.file_system, self.base = file_system, base
        self.root = base if _places.is_local(file_system) else file_system.unstrip_protocol(base)
        self.catalogue = catalogue

    def read(self, cut: Cut) -> Iterator[Found]:
        self._types = {}
        group = int(cut.name)
        table = pq.ParquetFile(self.catalogue / "files.parquet").read_row_group(group)
        for row in table.to_pylist():
            yield self._found(row["path"].decode("utf-8", "surrogatepass"), _metadata.parsed(row["metadata"]))

    def _found(self, path: str, row: dict[str, Any]) -> Found:
        corpus = self.corpus
        passing = {name: value for name, value in row.items() if name not in (corpus.caption, corpus.label)}
        _columns.note(self._types, passing)
        columns = _columns.chosen(passing, self.columns)
        image = _places.within(self.root, path)
        identity = cells.clean(path)
        value = (path.partition("/")[0] if "/" in path else None) if corpus.label == FOLDER else cells.value_at(row, corpus.label or "")
        try:
            caption = self._caption(path, row)
        except PermissionError as error:
            return Found(identity, image, None, None, columns, "no_permission", f"caption: {error}")
        try:
            label = _columns.label(value, self.class_names)
        except LookupError as error:
            return Found(identity, image, None, caption, columns, "unknown_label", str(error))
        return Found(identity, image, label, caption, columns)

    def _caption(self, path: str, row: dict[str, Any]) -> str | None:
        name = self.corpus.caption
        if name is None or not name.startswith("."):
            return None if name is None else _columns.caption(cells.value_at(row, name))
        beside = _places.within(self.base, path.rpartition(".")[0] + name)
        try:
            with self.file_system.open(beside, "rb") as file:
                return _columns.caption(file.read().strip())
        except FileNotFoundError:
            return None
