"""Rows of Parquet files: cut at row groups, read in sequence."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from factory import cells
from factory.corpora import _columns, _places
from factory.corpora._corpus import Columns, Reader, found, image_of, own_columns, passing_types, write_names
from factory.errors import UserError
from factory.records import Cut, Found

ROWS_AT_ONCE = 32  # whole images are in memory meanwhile
BUFFER = 4 << 20  # bytes; without it a whole column of a row group is in memory
UNREADABLE = "unreadable_file"
_LOCAL = "file://"


def cuts(corpus: Columns, files: _places.Files, root: str, rows: int, catalogue: Path) -> Iterator[tuple[Cut, str]]:
    """Row groups of each file joined up to about that many rows; a larger one is cut. A file without a footer is one row with a fault.

    root: what relative paths of images are relative to. Files on this disk that rows name are in the digests, what URLs name is not.
    """
    number, names = 0, corpus.class_names
    write_names(catalogue, names)
    for name, stamp in zip(files.names, files.stamps, strict=True):
        shown = cells.clean(name)
        try:
            with files.file_system.open(files.path(name), "rb") as handle:
                footer = pq.ParquetFile(handle)
                _require(corpus, footer.schema_arrow, shown)
                if names is None and corpus.label is not None:
                    names = _columns.class_label_names(footer.schema_arrow, corpus.label)
                    write_names(catalogue, names)
                spans = list(_spans([footer.metadata.row_group(i).num_rows for i in range(footer.metadata.num_row_groups)], rows))
                stamps = _named(corpus, footer, root, files.file_system)
                named = [_digest(stamps, stop - start) for start, stop in spans]
        except (pa.ArrowInvalid, OSError) as error:
            if isinstance(error, PermissionError):
                raise UserError(f"{corpus.source_name()}: no permission to read {shown}; grant it, or leave the file out") from error
            if not _is_damage(error, files.file_system):
                raise UserError(f"{corpus.source_name()}: {shown} cannot be read for now: {error}; run the same command again") from error
            spans, named = [(0, -1)], [""]
        for (start, stop), images in zip(spans, named, strict=True):
            yield Cut(f"{number:06d}", name, start, stop), f"{shown} {stamp} {start} {stop}{images}"
            number += 1


def _named(corpus: Columns, file: pq.ParquetFile, root: str, file_system: Any) -> Iterator[str]:
    """For each row the stamp of the file on this disk that it names as its image; empty for bytes and URLs.

    Ends early in a damaged file, whose rows say so when they are read. Raises OSError for what may pass: a digest of some rows would not last.
    """
    column = _path_column(file, corpus.image)
    if column is None or "://" in root.removeprefix(_LOCAL):
        return
    try:
        for batch in file.iter_batches(columns=[column], use_threads=False):
            for row in batch.to_pylist():
                named = image_of(row, corpus, root)
                path = named.removeprefix(_LOCAL) if isinstance(named, str) else "://"
                yield "" if "://" in path else _places.local_stamp(path)
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        if not _is_damage(error, file_system):
            raise


def _digest(stamps: Iterator[str], rows: int) -> str:
    """Of the next rows' stamps, to be put behind a file's own; empty where none of them names a file on this disk."""
    own = list(itertools.islice(stamps, rows))
    return " " + hashlib.sha256("\n".join(own).encode()).hexdigest()[:32] if any(own) else ""


def _path_column(file: pq.ParquetFile, image: str) -> str | None:
    """The column that names image files: a text, or the path beside bytes that are null in some rows. None where all rows hold bytes."""
    leaves = {file.schema.column(i).path: i for i in range(len(file.schema))}
    if image in leaves:
        return image if file.schema.column(leaves[image]).logical_type.type == "STRING" else None
    if f"{image}.path" not in leaves or f"{image}.bytes" not in leaves:
        return f"{image}.path" if f"{image}.path" in leaves else None
    groups = (file.metadata.row_group(i).column(leaves[f"{image}.bytes"]) for i in range(file.metadata.num_row_groups))
    whole = all(group.is_stats_set and group.statistics.has_null_count and group.statistics.null_count == 0 for group in groups)
    return None if whole else f"{image}.path"


def _is_damage(error: Exception, file_system: Any) -> bool:
    """Whether an error is about a file's own bytes: Arrow says some of it as an OSError without an errno. A disk or a network has an errno, or is
    not local, and may do better the next time."""
    if not isinstance(error, OSError) or isinstance(error, FileNotFoundError | pa.ArrowException):
        return True
    return error.errno is None and (_places.is_local(file_system) or "thrift" in str(error))


def _spans(groups: Sequence[int], rows: int) -> Iterator[tuple[int, int]]:
    """(start, stop) rows of each shard of a file."""
    start = at = 0
    for count in groups:
        if at > start and at - start + count > rows:
            yield start, at
            start = at
        at += count
        while at - start >= 2 * rows:
            yield start, start + rows
            start += rows
        if at - start >= rows:
            yield start, at
            start = at
    if at > start:
        yield start, at


def _require(corpus: Columns, schema: pa.Schema, name: str) -> None:
    for key in ("image", "label", "caption"):
        column = getattr(corpus, key)
        if column is not None and column not in schema.names and column.partition(".")[0] not in schema.names:
            known = ", ".join(schema.names)
            raise UserError(
                f"{corpus.source_name()}: {name} has no column {column!r} for `{key}`{cells.near(column, schema.names)}; there are: {known}"
            )


class ParquetReader(Reader):
    """Reads cuts; one that begins where the last one ended goes on in the open file, so that large row groups are read once."""

    def __init__(self, corpus: Columns, file_system: Any, base: str, root: str, catalogue: Path, columns: Sequence[str] | None):
        super().__init__(corpus, catalogue, columns)
        self.file_system, self.base, self.root = file_system, base, root
        self._cursor: tuple[str, int, Iterator[dict[str, Any]]] | None = None

    def read(self, cut: Cut) -> Iterator[Found]:
        """The rows of one cut; where a file is damaged, each row that it should have held is one with a fault."""
        if cut.stop < 0:
            yield Found(cells.clean(cut.place), fault=UNREADABLE, detail="not a Parquet file, or cut short")
            return
        number, place = cut.start, cells.clean(cut.place)
        try:
            rows = self._rows(cut)
            while number < cut.stop:
                row = next(rows)
                yield found(self.corpus, row, f"{place}#{number}", self.root, self.class_names, self.columns)
                number += 1
                self._cursor = (cut.place, number, rows)
        except (pa.ArrowException, OSError, StopIteration) as error:
            self._cursor = None
            if not _is_damage(error, self.file_system):
                raise
            detail = str(error) or "the file ends early"
            for rest in range(number, cut.stop):
                yield Found(f"{place}#{rest}", fault=UNREADABLE, detail=detail)

    def _rows(self, cut: Cut) -> Iterator[dict[str, Any]]:
        if self._cursor is not None and self._cursor[:2] == (cut.place, cut.start):
            return self._cursor[2]
        return self._stream(cut.place, cut.start)

    def _stream(self, place: str, start: int) -> Iterator[dict[str, Any]]:
        with self.file_system.open(_places.within(self.base, place), "rb") as handle:
            file = pq.ParquetFile(handle, buffer_size=BUFFER, pre_buffer=False)
            wanted = self._wanted(file.schema_arrow)
            first, offset = 0, 0
            while first < file.metadata.num_row_groups and offset + (size := file.metadata.row_group(first).num_rows) <= start:
                first, offset = first + 1, offset + size
            groups = list(range(first, file.metadata.num_row_groups))
            for batch in file.iter_batches(ROWS_AT_ONCE, row_groups=groups, columns=wanted, use_threads=False):
                if offset + batch.num_rows > start:
                    yield from batch.slice(max(start - offset, 0)).to_pylist()
                offset += batch.num_rows

    def _wanted(self, schema: pa.Schema) -> list[str]:
        """The top-level columns to read; the types of those that pass through are noted."""
        own = {name if name in schema.names else name.partition(".")[0] for name in own_columns(self.corpus)}
        self._types = passing_types(self.corpus, schema)
        return [name for name in schema.names if name in own or self.columns is None or name in self.columns]
