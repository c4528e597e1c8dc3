"""Datasets on the Hub, read where they are; nothing is downloaded whole."""

from __future__ import annotations

import json
import posixpath
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from pydantic import Field

from factory.contracts import CorpusReader
from factory.corpora import _columns, _parquet, _places, _tars
from factory.corpora._corpus import Columns, Reader, found, passing_types, write_names
from factory.errors import OFFLINE, UserError
from factory.files import write_json
from factory.records import Cut, Found

ROWS_AT_ONCE = 32


class Hub(Columns):
    """A dataset id, a local copy of a dataset repository, or a folder written by `save_to_disk`.

    Parquet files and tars are cut as such and read by range; any other format streams through `datasets`, one shard for each file. No code of a
    repository is ever run: `datasets` 4 and later have no loading scripts.
    """

    split: str = Field("train", description="Which split.")
    subset: str | None = Field(None, description="Configuration of a dataset that has several.")
    revision: str | None = Field(None, description="Branch, tag or commit on the Hub; pin a commit for a dataset that must not change.")

    def cut(self, rows: int, catalogue: Path) -> Iterator[tuple[Cut, str]]:
        """Row groups, tars or files, whichever the dataset is made of; what was found is written into the catalogue."""
        if _is_saved(self.dataset):
            yield from self._cut_saved(rows, catalogue)
            return
        builder = self._call("load_dataset_builder")
        format = type(builder).__module__.rpartition(".")[2]
        urls = [str(url) for url in (builder.config.data_files or {}).get(self.split, [])]
        names = self.class_names or _class_names(builder.info.features, self.label)
        if format in ("parquet", "webdataset") and urls:
            files = _files(urls)
            base = files.file_system.unstrip_protocol(files.base)
            write_json(catalogue / "hub.json", {"format": format, "base": base})
            if format == "parquet":
                yield from _parquet.cuts(self, files, base, rows, catalogue)
            else:
                yield from _tars.cuts(files)
            if names is not None or format == "webdataset":
                write_names(catalogue, names)
            return
        data = self._call("load_dataset", split=self.split, streaming=True)
        count = data.num_shards
        count = -(-count // rows) if format == "imagefolder" else count  # there a file is a row
        write_json(catalogue / "hub.json", {"format": "stream", "shards": count})
        write_names(catalogue, names or self.class_names or _class_names(data.features, self.label))
        revision = getattr(builder, "hash", "")
        for number in range(count):
            yield Cut(f"{number:06d}", f"{self.split}-{number:05d}", 0, -1), f"{revision} {number}"

    def _cut_saved(self, rows: int, catalogue: Path) -> Iterator[tuple[Cut, str]]:
        data = self._saved()
        write_json(catalogue / "hub.json", {"format": "saved"})
        write_names(catalogue, self.class_names or _class_names(data.features, self.label))
        for number, start in enumerate(range(0, len(data), rows)):
            stop = min(start + rows, len(data))
            yield Cut(f"{number:06d}", self.split, start, stop), f"{data._fingerprint} {start} {stop}"

    def open(self, catalogue: Path, columns: Sequence[str] | None) -> CorpusReader:
        facts = json.loads((catalogue / "hub.json").read_text(encoding="utf-8"))
        if facts["format"] == "saved":
            return _Table(self, self._saved(), catalogue, columns)
        if facts["format"] == "stream":
            return _Stream(self, self._call("load_dataset", split=self.split, streaming=True), facts["shards"], catalogue, columns)
        file_system, base = _places.located(facts["base"])
        if facts["format"] == "parquet":
            return _parquet.ParquetReader(self, file_system, base, facts["base"], catalogue, columns)
        return _tars.TarReader(self, file_system, base, catalogue, columns)

    def _call(self, name: str, **options: Any) -> Any:
        """A loader of `datasets`. Raises UserError with its cause."""
        import datasets

        path = str(Path(self.dataset).expanduser())
        try:
            return getattr(datasets, name)(path if Path(path).exists() else self.dataset, self.subset, revision=self.revision, **options)
        except Exception as error:  # each layer below raises its own types
            while error.__cause__ is not None:
                error = error.__cause__  # type: ignore[assignment]
            hint = OFFLINE if isinstance(error, ConnectionError) else ""
            raise UserError(
                f"corpus.dataset: {self.dataset!r} cannot be opened: {type(error).__name__}: {str(error)[:300]}{hint}"
            ) from error

    def _saved(self) -> Any:
        from datasets import DatasetDict, load_from_disk

        data = load_from_disk(str(Path(self.dataset).expanduser()))
        if isinstance(data, DatasetDict):
            if self.split not in data:
                raise UserError(f"corpus.split: {self.dataset} has no split {self.split!r}; there are: {', '.join(data)}")
            data = data[self.split]
        return data


def _is_saved(dataset: str) -> bool:
    path = Path(dataset).expanduser()
    return (path / "state.json").is_file() or (path / "dataset_dict.json").is_file()


def _class_names(features: Any, label: str | None) -> list[str] | None:
    names: list[str] | None = getattr(features.get(label), "names", None) if features and label else None
    return names


def _files(urls: list[str]) -> _places.Files:
    """A dataset's files by their names below the folder that holds them all."""
    file_system, _ = _places.located(urls[0])
    paths = [_places.located(url)[1] for url in urls]
    base = posixpath.commonpath([posixpath.dirname(path) for path in paths])
    stamps = [_places.stamp(file_system, path, file_system.info(path)) for path in paths]
    return _places.Files(file_system, base, [posixpath.relpath(path, base) for path in paths], stamps)


class _Rows(Reader):
    """What readers of rows of `datasets` share."""

    def _found(self, row: dict[str, Any], identity: str) -> Found:
        return found(self.corpus, row, identity, "", self.class_names, self.columns)


class _Table(_Rows):
    """A dataset that `save_to_disk` wrote: a memory map, read by ranges."""

    def __init__(self, corpus: Hub, data: Any, catalogue: Path, columns: Sequence[str] | None):
        super().__init__(corpus, catalogue, columns)
        self.data = data.with_format("arrow")

    def read(self, cut: Cut) -> Iterator[Found]:
        self._types = passing_types(self.corpus, self.data.features.arrow_schema)
        for start in range(cut.start, cut.stop, ROWS_AT_ONCE):
            for offset, row in enumerate(self.data[start : min(start + ROWS_AT_ONCE, cut.stop)].to_pylist()):
                yield self._found(row, f"{cut.place}#{start + offset}")


class _Stream(_Rows):
    """A dataset of any format that `datasets` streams, shard by shard as it stands."""

    def __init__(self, corpus: Hub, data: Any, shards: int, catalogue: Path, columns: Sequence[str] | None):
        super().__init__(corpus, catalogue, columns)
        self.data, self.shards = data, shards

    def read(self, cut: Cut) -> Iterator[Found]:
        from datasets import Image

        data = self.data.shard(self.shards, int(cut.name))
        self._types = {}
        for name, feature in (data.features or {}).items():
            if isinstance(feature, Image):
                data = data.cast_column(name, Image(decode=False))
        for number, row in enumerate(data):
            identity = f"{cut.place}#{number}"
            result = self._found(row, identity)
            _columns.note(self._types, {name: value for name, value in row.items() if name in result.columns or self.columns is None})
            yield result
