"""What all corpora share: the keys of a recipe's `corpus:`."""

from __future__ import annotations

import json
from abc import ABC
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
from pydantic import Field

from factory import cells
from factory.contracts import Corpus
from factory.corpora import _columns, _places
from factory.files import write_json
from factory.records import Found


class Columns(Corpus, ABC):
    """The keys of every corpus. Column names may reach into a struct or a JSON with dots: `json.caption`."""

    dataset: str = Field(
        description="A file, folder or glob, on this disk or by URL (s3://, hf://, https://, …), or a dataset id on the Hub."
    )
    image: str = Field("image", description="Column with the image: its bytes, a path or URL, or {bytes, path}.")
    label: str | None = Field(None, description="Column with the class: ClassLabel, a number or text; null: unlabelled.")
    caption: str | None = Field(None, description="Column with the caption: text, or a list of which the first is taken; null: none.")
    class_names: list[str] | None = Field(
        None, description="Names of classes 0, 1, …, or the texts that labels may be; needed where a filter compares with all classes."
    )

    def source_name(self) -> str:
        """What the corpus is called in messages."""
        return f"corpus {self.dataset!r}"


class Reader:
    """What every reader of a corpus keeps: the class names that cutting found, and the types of the latest cut's further columns.

    columns: further columns to read; None for all.
    """

    def __init__(self, corpus: Columns, catalogue: Path, columns: Sequence[str] | None):
        self.corpus, self.columns = corpus, columns
        self.class_names = _read_names(catalogue)
        self._types: dict[str, str] = {}

    def types(self) -> dict[str, str]:
        return dict(self._types)


def write_names(catalogue: Path, names: list[str] | None) -> None:
    """Keep the class names that cutting found, for readers in other processes."""
    write_json(catalogue / "class_names.json", names)


def _read_names(catalogue: Path) -> list[str] | None:
    path = catalogue / "class_names.json"
    names: list[str] | None = json.loads(path.read_text(encoding="utf-8")) if path.exists() else None
    return names


def own_columns(corpus: Columns) -> list[str]:
    """The columns that a recipe names; all others pass through."""
    return [name for name in (corpus.image, corpus.label, corpus.caption) if name is not None]


def passing_types(corpus: Columns, schema: pa.Schema) -> dict[str, str]:
    """The types of the columns that pass through."""
    own = own_columns(corpus)
    return {name: _columns.arrow_kind(schema.field(name).type) for name in schema.names if name not in own}


def image_of(row: dict[str, Any], corpus: Columns, root: str) -> bytes | str | None:
    """The bytes of a row's image, or its path or URL; None where it has neither."""
    cell = cells.value_at(row, corpus.image)
    if isinstance(cell, dict):
        cell = cell.get("bytes") if cell.get("bytes") is not None else cell.get("path")
    return _places.within(root, cell) if isinstance(cell, str) else cell if isinstance(cell, bytes) else None


def found(corpus: Columns, row: dict[str, Any], identity: str, root: str, names: list[str] | None, columns: Sequence[str] | None) -> Found:
    """A row of a table as a row of a corpus; root: what relative paths of images are relative to."""
    image = image_of(row, corpus, root)
    caption = _columns.caption(cells.value_at(row, corpus.caption)) if corpus.caption else None
    own = own_columns(corpus)
    passing = _columns.chosen({name: value for name, value in row.items() if name not in own}, columns)
    try:
        label = _columns.label(cells.value_at(row, corpus.label), names) if corpus.label else None
    except LookupError as error:
        return Found(identity, image, None, caption, passing, "unknown_label", str(error))
    return Found(identity, image, label, caption, passing)
