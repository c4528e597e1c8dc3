"""Image files of a folder joined with the metadata that stands beside them (`file_name` and any other columns)."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator
from typing import Any

import pyarrow.parquet as pq

from factory.corpora import _places
from factory.errors import UserError

NAMES = ("metadata.jsonl", "metadata.csv", "metadata.parquet")


def rows(file_system: Any, base: str, beside: str) -> Iterator[tuple[str, str, str | None]]:
    """(path below the base, stamp, metadata as JSON) of every image, folder by folder in order.

    beside: suffix of a text file beside each image whose stamp is joined to the image's; empty for none.

    A metadata file speaks of the files beside and below it, by their path from where it stands. What it names and nobody finds comes
    behind its folder's rows, with the stamp of what is absent. Memory holds the names of one folder and the metadata above it.
    """
    above: list[tuple[str, dict[str, str]]] = []
    for inner, files in _places.walk(file_system, base):
        while above and not _is_below(inner, above[-1][0]):
            yield from _missing(*above.pop())
        own = next((name for name, _ in files if name in NAMES), None)
        if own is not None:
            above.append((inner, _read(file_system, base, f"{inner}/{own}" if inner else own)))
        stamps = dict(files)
        for name, stamp in files:
            if _places.is_image(name):
                path = f"{inner}/{name}" if inner else name
                text = stamps.get(name.rpartition(".")[0] + beside, _places.ABSENT) if beside else ""
                yield path, f"{stamp} {text}".rstrip(), _taken(path, above)
    while above:
        yield from _missing(*above.pop())


def parsed(metadata: str | None) -> dict[str, Any]:
    """What `rows` wrote down of one file."""
    return {} if metadata is None else json.loads(metadata)


def _is_below(inner: str, folder: str) -> bool:
    return not folder or inner == folder or inner.startswith(folder + "/")


def _taken(path: str, above: list[tuple[str, dict[str, str]]]) -> str | None:
    """The nearest metadata that knows a file; what is taken is not missing."""
    told = [known.pop(path[len(folder) :].lstrip("/"), None) for folder, known in above]
    return next((metadata for metadata in reversed(told) if metadata is not None), None)


def _missing(folder: str, known: dict[str, str]) -> Iterator[tuple[str, str, str | None]]:
    for name, metadata in known.items():
        yield (f"{folder}/{name}" if folder else name), _places.ABSENT, metadata


def _read(file_system: Any, base: str, name: str) -> dict[str, str]:
    """file_name -> the other columns as JSON. Raises UserError for a file that is not what its name says."""
    found: dict[str, str] = {}
    with file_system.open(_places.within(base, name), "rb") as file:
        try:
            for number, row in enumerate(_lines(file, name), 1):
                key = row.pop("file_name", None)
                if not isinstance(key, str):
                    raise UserError(f"corpus: {name}, row {number}: no `file_name`, which names the row's image")
                found[key.replace("\\", "/").removeprefix("./")] = json.dumps(row, default=str)
        except (ValueError, csv.Error) as error:
            raise UserError(f"corpus: {name} cannot be read: {error}") from error
    return found


def _lines(file: Any, name: str) -> Iterator[dict[str, Any]]:
    if name.endswith(".parquet"):
        for batch in pq.ParquetFile(file).iter_batches():
            yield from batch.to_pylist()
    elif name.endswith(".csv"):
        yield from csv.DictReader(io.TextIOWrapper(file, "utf-8-sig", newline=""))
    else:
        yield from (json.loads(line) for line in io.TextIOWrapper(file, "utf-8") if line.strip())
