"""The shards of a corpus as a run wrote them down: where each begins, and a digest of the files behind it."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from factory import tables
from factory.cells import clean
from factory.errors import UserError
from factory.records import Cut

FILE = "cuts.parquet"
_SCHEMA = pa.schema([("name", pa.string()), ("place", pa.binary()), ("start", pa.int64()), ("stop", pa.int64()), ("digest", pa.string())])


def write(folder: Path, cuts: Iterable[tuple[Cut, str]]) -> None:
    """Cuts with their digests, in order. A place is kept as bytes, since names of files need not be UTF-8."""
    rows = [(cut.name, cut.place.encode("utf-8", "surrogatepass"), cut.start, cut.stop, digest) for cut, digest in cuts]
    columns = [pa.array(column, field.type) for column, field in zip(zip(*rows, strict=True), _SCHEMA, strict=True)]
    tables.write(folder / FILE, pa.table(columns, schema=_SCHEMA))


def read(folder: Path) -> tuple[Cut, ...]:
    """The cuts of a catalogue folder, in order. Raises UserError for one that an earlier version wrote."""
    return tuple(cut for cut, _ in _rows(folder))


def first_change(old: Path, new: Path) -> str:
    """Where two catalogues of one corpus differ first, in words; empty where they do not."""
    for before, after in itertools.zip_longest(_rows(old), _rows(new)):
        if before != after:
            cut = (before or after)[0]
            rows = f"shard {cut.name}" + (f", rows {cut.start} to {cut.stop}" if cut.stop >= 0 else "")
            return clean(cut.place) or rows
    return ""


def _rows(folder: Path) -> list[tuple[Cut, str]]:
    table = pq.read_table(folder / FILE)
    if not table.schema.equals(_SCHEMA):
        raise UserError(
            f"{folder.parent} was begun by an earlier version of the factory, which did not write down what tells that its corpus changed; "
            "filter the corpus into a new --out (`factory select` without --export still decides again there)"
        )
    rows = table.to_pylist()
    return [(Cut(row["name"], row["place"].decode("utf-8", "surrogatepass"), row["start"], row["stop"]), row["digest"]) for row in rows]
