"""Real images to condition on: folders, Parquet, WebDataset tars, the Hub."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Iterable, Iterator
from glob import has_magic
from itertools import islice
from pathlib import Path

from factory.contracts import Table
from factory.errors import Undecodable, UserError
from factory.images import IMAGE_SUFFIXES
from factory.records import Example
from factory.sources import _files

log = logging.getLogger("factory")
_LOOK_AT = 20_000  # files; a folder shows what it is long before that
_HUB_ID = re.compile(r"[\w][\w.-]*(/[\w][\w.-]*)?")


def readable(table: Table, rows: Iterable[int], what: str = "") -> Iterator[tuple[int, Example]]:
    """(row, what it holds) for those of a table's rows that can be decoded. what: they are, for a warning about each other one."""
    for row in rows:
        try:
            example = table.read(int(row))
        except Undecodable as error:
            if what:
                log.warning("row %d of %s cannot be decoded and is left out: %s", row, what, error)
            continue
        yield int(row), example


def infer(dataset: str) -> str:
    """Which kind of source a path or a Hub id is. Raises UserError for a local path that is not there or holds no images."""
    if "://" in dataset or has_magic(dataset):
        return _by_suffix(dataset)
    path = _files.absolute(dataset)
    if path.is_dir():
        return _by_content(path)
    if path.exists():
        return _by_suffix(dataset)
    if _looks_local(dataset) or not _HUB_ID.fullmatch(dataset):
        raise _files.missing(dataset)
    return "hub"


def _looks_local(dataset: str) -> bool:
    parts = Path(dataset).parts
    is_path = dataset.startswith((".", "/", "~")) or dataset.endswith((".parquet", ".tar", "/"))
    return is_path or (len(parts) > 1 and Path(parts[0]).exists())


def _by_suffix(dataset: str) -> str:
    kinds = {".parquet": "parquet", ".tar": "webdataset"}
    suffix = Path(dataset).suffix
    if suffix not in kinds:
        raise UserError(f"source.dataset: cannot tell what {dataset!r} is; name a folder, *.parquet, *.tar or a Hub id, or say `kind:`")
    return kinds[suffix]


def _by_content(path: Path) -> str:
    if any((path / name).is_file() for name in ("state.json", "dataset_dict.json", "dataset_info.json")):
        return "hub"
    files = (name for folder, folders, names in os.walk(path) if not os.path.basename(folder).startswith(".") for name in names)
    names = {name.lower() for name in islice(files, _LOOK_AT)}
    suffixes = {os.path.splitext(name)[1] for name in names - {"metadata.parquet"}}
    for suffix, kind in ((".parquet", "parquet"), (".tar", "webdataset")):
        if suffix in suffixes:
            return kind
    if suffixes & IMAGE_SUFFIXES:
        return "folder"
    raise UserError(f"source.dataset: {path} holds no images, *.parquet or *.tar")
