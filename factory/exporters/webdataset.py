"""Tar files of bounded size, for training that reads in sequence: `webdataset`, and the `webdataset` of `datasets`."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import Field

from factory import images
from factory.contracts import DatasetInfo
from factory.exporters import _croissant, _cuts, _encode, _metadata, _names

_BLOCK, _RECORD = 512, 10_240  # bytes: a tar's members are padded to the one, the whole to the other


class WebDataset(_encode.ImageExporter):
    """Writes data/<split>-00000.tar, …: for each row <id>.png, <id>.json, and <id>.cls, <id>.txt where rows have a class and a prompt.

    The json has the name of the image and of its class, and all columns; further images (masks) are <id>.mask.png. Equal rows give equal bytes: no
    times, no owners, one order. Files end where the content says so, so that after rows are dropped most are the bytes they were.
    """

    shard_mb: int = Field(256, ge=1, description="A file holds at most about this many megabytes, and three quarters at least.")
    image: _encode.FileFormat = Field("webp", description=_encode.FORMATS + " All images of a dataset of tars are of one format.")
    croissant: bool = Field(True, description="Write croissant.json beside the files: Croissant metadata of the files and columns.")

    def data_files(self, split: str) -> str:
        return f"data/{split}-*.tar"

    def write(self, rows: Iterable[dict[str, Any]], info: DatasetInfo, folder: Path) -> None:
        """`datasets` wants the same members in every row: an unlabelled row of a labelled dataset has class -1, and a row without a mask
        has a mask of background alone and `mask: null` in its json. An image larger than shard_mb is a file of its own.
        """
        format, rows = _encode.uniform(rows, self.image)
        suffix = _encode.SUFFIX[format]
        tars = _Tars(folder / "data", info.split, self.shard_mb << 20)
        try:
            for number, (row, data) in enumerate(self.encoded(rows, format)):
                key = _names.key(str(row.get("id", f"{number:08d}")))
                members = {suffix: data, **dict(_members(row, data, f"{key}.{suffix}", info))}
                tars.add(key, members, _cuts.draws(row, data)[1])
        except BaseException:
            tars.abandon()
            raise
        tars.finish()
        if self.croissant:
            _croissant.of_tars(folder, info, suffix, tars.parts)


def _members(row: dict[str, Any], data: bytes, file: str, info: DatasetInfo) -> Iterator[tuple[str, bytes]]:
    """Suffix and bytes of what belongs to an image, in the order in which they are written."""
    further = [name for name, kind in info.columns.items() if kind == "image"]
    named = {name: f"{name}.png" if row.get(name) is not None else None for name in further}
    yield "json", _metadata.text({"file_name": file, **_metadata.values(row, info), **named}).encode()
    if info.class_names:
        yield "cls", str(_metadata.label(row, info)).encode()
    text = next((name for name in ("prompt", "caption") if name in info.columns), None)
    if text is not None:
        yield "txt", str(row.get(text) or "").encode()
    for name in further:
        own = row.get(name)
        yield f"{name}.png", images.encode(np.zeros((*_encode.size(data), 3), np.uint8)) if own is None else own


class _Tars:
    """Tar files that grow by rows and are cut by size."""

    def __init__(self, folder: Path, split: str, limit: int):
        self.folder, self.split, self.limit = folder, split, limit
        self.parts: list[Path] = []
        self.keys: set[str] = set()
        self.tar: tarfile.TarFile | None = None
        self.bytes = 0
        folder.mkdir(parents=True, exist_ok=True)

    def add(self, key: str, members: dict[str, bytes], draw: float) -> None:
        """Raises ValueError for two rows of one id, which readers would take for one row."""
        size = sum(_BLOCK + -(-len(data) // _BLOCK) * _BLOCK for data in members.values())
        if self.bytes and self.bytes + size + _RECORD > self.limit:
            self._close()
        if key in self.keys:
            raise ValueError(f"two rows have the id {key!r}; a WebDataset needs an id for each row")
        tar = self._open()
        self.keys.add(key)
        for suffix, data in members.items():
            member = tarfile.TarInfo(f"{key}.{suffix}")  # its time is 0 and it has no owner
            member.size, member.mode = len(data), 0o644
            tar.addfile(member, io.BytesIO(data))
        self.bytes += size
        if _cuts.file_ends(draw, size, self.bytes, self.limit):
            self._close()

    def finish(self) -> None:
        if not self.parts:  # a dataset of no rows is one empty file
            self._open()
        self._close()

    def abandon(self) -> None:
        self._close()
        for part in self.parts:
            part.unlink(missing_ok=True)

    def _open(self) -> tarfile.TarFile:
        if self.tar is None:
            self.parts.append(self.folder / f"{self.split}-{len(self.parts):05d}.tar")
            self.tar = tarfile.open(self.parts[-1], "x", format=tarfile.GNU_FORMAT, encoding="utf-8")  # noqa: SIM115
        return self.tar

    def _close(self) -> None:
        if self.tar is not None:
            self.tar.close()
        self.tar, self.bytes, self.keys = None, 0, set()
