"""Parquet shards that `datasets.load_dataset` opens without code: the format of datasets on the Hub."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import Field

from factory.contracts import DatasetInfo, Exporter
from factory.exporters import _encode
from factory.images import ImageFormat

GROUP_ROWS = 100  # what a viewer reads for one page of images; fixed, so that equal rows give equal bytes
GROUP_BYTES = 32 << 20  # and large images do not fill the memory


class Parquet(Exporter):
    """Writes data/<split>-00000-of-00003.parquet, … with the features (Image, ClassLabel, …) in the schema. Equal rows give equal bytes."""

    shard_mb: int = Field(256, ge=1, description="A file is closed once it holds about this many megabytes.")
    image: ImageFormat = Field("png", description="png is lossless; webp is smaller, and lossless at quality 100.")
    quality: int = Field(95, ge=1, le=100, description="For webp and jpeg.")

    def write(self, rows: Iterable[dict[str, Any]], info: DatasetInfo, folder: Path) -> None:
        """Memory holds one row group. The number of files is known at the end, so names are final only then."""
        schema = features(info).arrow_schema
        shards = _Shards(folder / "data", schema, self.shard_mb << 20, info.split)
        try:
            for row, data in _encode.encoded(rows, self.image, self.quality):
                name = f"{row['id']}.{_encode.SUFFIX[self.image]}" if "id" in row else None
                values = {key: _cell(row.get(key), info.columns.get(key)) for key in schema.names}
                shards.add({**values, "image": {"bytes": data, "path": name}, **_label(row, info)}, len(data))
        except BaseException:
            shards.abandon()
            raise
        shards.finish()


def features(info: DatasetInfo) -> Any:
    """The columns as `datasets.Features`: image, label for a labelled dataset, then info.columns. Raises ValueError for an unknown type."""
    from datasets import ClassLabel, Features, Image, List, Value

    types: dict[str, Any] = {name: Value(name) for name in ("string", "int64", "float32")}
    types |= {f"list<{name}>": List(value) for name, value in types.items()}
    types |= {"list<list<float32>>": List(List(Value("float32"))), "image": Image()}
    known: dict[str, Any] = {"image": Image()}
    if info.class_names:
        known["label"] = ClassLabel(names=info.class_names)
    for name, kind in info.columns.items():
        if kind not in types:
            raise ValueError(f"column {name!r} has type {kind!r}; an export knows {', '.join(types)}")
        known.setdefault(name, types[kind])
    return Features(known)


def _cell(value: Any, kind: str | None) -> Any:
    """A value as Arrow takes it: the file bytes of a further image (a mask) as the struct that `datasets` stores."""
    return {"bytes": value, "path": None} if kind == "image" and isinstance(value, bytes) else value


def _label(row: dict[str, Any], info: DatasetInfo) -> dict[str, int | None]:
    """An unlabelled row of a labelled dataset is null, which ClassLabel keeps; -1 would be read as a class."""
    if not info.class_names:
        return {}
    return {"label": int(row["label"]) if row["label"] is not None and row["label"] >= 0 else None}


class _Shards:
    """Files that grow by row groups and are cut by size."""

    def __init__(self, folder: Path, schema: pa.Schema, limit: int, split: str):
        self.folder, self.schema, self.limit, self.split = folder, schema, limit, split
        self.rows: list[dict[str, Any]] = []
        self.group_bytes = self.shard_bytes = 0
        self.writer: pq.ParquetWriter | None = None
        self.parts: list[Path] = []
        folder.mkdir(parents=True, exist_ok=True)

    def add(self, row: dict[str, Any], size: int) -> None:
        if self.shard_bytes and self.shard_bytes + size > self.limit:
            self._close()
        self.rows.append(row)
        self.group_bytes += size
        self.shard_bytes += size
        if len(self.rows) >= GROUP_ROWS or self.group_bytes >= GROUP_BYTES:
            self._flush()

    def finish(self) -> None:
        if self.writer is not None or self.rows or not self.parts:  # a dataset of no rows is one empty file, which still has columns
            self._close()
        for i, part in enumerate(self.parts):
            part.rename(self.folder / f"{self.split}-{i:05d}-of-{len(self.parts):05d}.parquet")

    def abandon(self) -> None:
        if self.writer is not None:
            self.writer.close()
            self.writer = None
        for part in self.parts:
            part.unlink(missing_ok=True)

    def _flush(self) -> None:
        if self.writer is None:
            self.parts.append(self.folder / f".{self.split}-{len(self.parts):05d}.part")
            repeated = [name for name in self.schema.names if name != "image"]  # no two images are equal: a dictionary of them is waste
            options = {"compression": "zstd", "use_dictionary": repeated, "write_page_index": True}
            self.writer = pq.ParquetWriter(self.parts[-1], self.schema, **options)
        if self.rows:
            self.writer.write_table(pa.Table.from_pylist(self.rows, schema=self.schema), row_group_size=len(self.rows))
        self.rows, self.group_bytes = [], 0

    def _close(self) -> None:
        self._flush()
        if self.writer is not None:
            self.writer.close()
        self.writer, self.shard_bytes = None, 0
