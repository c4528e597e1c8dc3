"""Parquet shards that `datasets.load_dataset` opens without code: the format of datasets on the Hub."""

from __future__ import annotations

import inspect
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import Field

from factory.contracts import DatasetInfo
from factory.exporters import _croissant, _cuts, _encode, _features, _metadata

GROUP_ROWS = 100  # on average, and twice as many at most: what a viewer reads for one page of images
GROUP_BYTES = 32 << 20  # at most, so that large images do not fill the memory
# What `datasets` writes with, so that its republished files share chunks with these.
CHUNKS = {"min_chunk_size": 256 << 10, "max_chunk_size": 1024 << 10, "norm_level": 0}


class Parquet(_encode.ImageExporter):
    """Writes data/<split>-00000-of-00003.parquet, … with the features (Image, ClassLabel, …) in the schema. Equal rows give equal bytes.

    Files, row groups and pages end where the content says so (content-defined chunking), so that after rows are dropped or added most
    files, and of the others most pages, are the bytes they were: uploading them again sends little.
    """

    shard_mb: int = Field(256, ge=1, description="A file holds at most about this many megabytes of images, and three quarters at least.")
    croissant: bool = Field(True, description="Write croissant.json beside the files: Croissant metadata of the files and columns.")

    def data_files(self, split: str) -> str:
        return f"data/{split}-*.parquet"

    def write(self, rows: Iterable[dict[str, Any]], info: DatasetInfo, folder: Path) -> None:
        """Memory holds one row group. The number of files is known at the end, so names are final only then."""
        schema = _features.features(info).arrow_schema
        shards = _Shards(folder / "data", schema, self.shard_mb << 20, info.split)
        try:
            for row, data in self.encoded(rows):
                name = f"{row['id']}.{_encode.suffix(self.image, data)}" if "id" in row else None
                values = {key: _cell(row.get(key), info.columns.get(key)) for key in schema.names}
                shards.add({**values, "image": {"bytes": data, "path": name}, **_label(row, info)}, data)
        except BaseException:
            shards.abandon()
            raise
        shards.finish()
        if self.croissant:
            _croissant.of_parquet(folder, info, self.data_files(info.split))


def _cell(value: Any, kind: str | None) -> Any:
    """A value as Arrow takes it: the file bytes of a further image (a mask) as the struct that `datasets` stores."""
    return {"bytes": value, "path": None} if kind == "image" and isinstance(value, bytes) else value


def _label(row: dict[str, Any], info: DatasetInfo) -> dict[str, int | None]:
    """An unlabelled row of a labelled dataset is null, which ClassLabel keeps; -1 would be read as a class."""
    number = _metadata.label(row, info)
    return {"label": number if number >= 0 else None} if info.class_names else {}


class _Shards:
    """Files that grow by row groups.

    Each end is drawn from the content of the last row alone, once a row group has GROUP_ROWS / 2 rows (or half the bytes) and a file
    3/4 of its limit. So a dropped row moves the ends near it, and the later ones are found again.
    """

    def __init__(self, folder: Path, schema: pa.Schema, limit: int, split: str):
        self.folder, self.schema, self.limit, self.split = folder, schema, limit, split
        self.rows: list[dict[str, Any]] = []
        self.group_bytes = self.shard_bytes = 0
        self.writer: pq.ParquetWriter | None = None
        self.parts: list[Path] = []
        folder.mkdir(parents=True, exist_ok=True)

    def add(self, row: dict[str, Any], data: bytes) -> None:
        if self.shard_bytes and self.shard_bytes + len(data) > self.limit:
            self._close()
        self.rows.append(row)
        self.group_bytes += len(data)
        self.shard_bytes += len(data)
        group, file = _cuts.draws(row, data)
        if not self._group_ends(group, len(data)):
            return
        size = self.group_bytes
        self._flush()
        if _cuts.file_ends(file, size, self.shard_bytes, self.limit):
            self._close()

    def _group_ends(self, draw: float, size: int) -> bool:
        if len(self.rows) >= 2 * GROUP_ROWS or self.group_bytes >= GROUP_BYTES:
            return True
        may = len(self.rows) >= GROUP_ROWS // 2 or self.group_bytes >= GROUP_BYTES // 2
        return may and draw < max(2 / GROUP_ROWS, size / (GROUP_BYTES / 8))

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
            self.writer = _writer(self.parts[-1], self.schema)
        if self.rows:
            self.writer.write_table(pa.Table.from_pylist(self.rows, schema=self.schema), row_group_size=len(self.rows))
        self.rows, self.group_bytes = [], 0

    def _close(self) -> None:
        self._flush()
        if self.writer is not None:
            self.writer.close()
        self.writer, self.shard_bytes = None, 0


def _writer(path: Path, schema: pa.Schema) -> pq.ParquetWriter:
    repeated = [name for name in schema.names if name != "image"]  # no two images are equal: a dictionary of them is waste
    options: dict[str, Any] = {"compression": "zstd", "use_dictionary": repeated, "write_page_index": True}
    chunked = "use_content_defined_chunking" in inspect.signature(pq.ParquetWriter.__init__).parameters  # pyarrow 21 and newer
    writer = pq.ParquetWriter(path, schema, **options, **({"use_content_defined_chunking": CHUNKS} if chunked else {}))
    if chunked:
        writer.add_key_value_metadata({"content_defined_chunking": json.dumps(CHUNKS)})  # by which the Hub knows such files
    return writer
