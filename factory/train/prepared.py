"""A training set on disk: images read once, cut to one size, and what encoders make of them, as arrays that are never whole in memory.

Arrays are named by the content that they are made from, so a second training on the same images starts at once.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
import os
import shutil
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

import numpy as np
import torch

from factory import images, seeds
from factory.contracts import Table
from factory.errors import Undecodable, UserError
from factory.files import cache_folder, write_atomically, write_json
from factory.train.recipe import Streamed

log = logging.getLogger("factory.train")
Batch = TypeVar("Batch")
CHUNK = 256  # images decoded, or encoded, at a time
SYMMETRIES = {"none": (0,), "horizontal": (0, 1), "dihedral": tuple(range(8))}
ENCODED = 200_000  # images and mirror images that a set is encoded as, where the recipe does not say how many views of each


@dataclass(frozen=True)
class Prepared:
    """The decodable rows of a table. pixels: uint8 [N, C, H, W], a memory map.  rows: int64 [N], their places in the table.

    identity: hex digest of the table's content, size and channels.
    """

    table: Table
    pixels: np.ndarray
    rows: np.ndarray
    identity: str
    folder: Path

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def labels(self) -> np.ndarray:
        """int32 [N], -1 unlabelled."""
        return self.table.labels[self.rows]

    def batch(self, rows: np.ndarray) -> torch.Tensor:
        """uint8 [len(rows), C, H, W], in the order of the disk."""
        return torch.from_numpy(self.pixels[np.sort(rows)])

    def seen(self, rows: np.ndarray | slice, symmetry: np.ndarray) -> torch.Tensor:
        """uint8 [n, C, H, W]: these images, each under its symmetry of `symmetry`, int [n]."""
        return transformed(torch.from_numpy(np.array(self.pixels[rows])), torch.from_numpy(symmetry.astype(np.int64)))

    def chunks(self, size: int = CHUNK) -> Iterator[slice]:
        """All rows in order, some at a time."""
        for start in range(0, len(self), size):
            yield slice(start, min(start + size, len(self)))

    def symmetries(self, flips: str, views: int | None = None) -> np.ndarray:
        """Which symmetry of each image the views show that encoders are run on, uint8 [V, N].

        All of them in order where there is room, so that view 0 is the image itself; else `views` different ones, drawn for each image.
        None: as many as make 200,000 images, at least one.
        """
        kinds = np.array(SYMMETRIES[flips], np.uint8)
        count = min(len(kinds), views or max(1, ENCODED // max(1, len(self))))
        if count == len(kinds):
            return np.broadcast_to(kinds[:, None], (count, len(self)))
        return seeds.rng("views").permuted(np.broadcast_to(kinds[:, None], (len(kinds), len(self))), axis=0)[:count]

    def derived(self, key: str, shape: tuple[int, ...], make: Callable[[torch.Tensor], torch.Tensor], symmetries: np.ndarray) -> np.ndarray:
        """float16 memory map [V, N, *shape]: `make` of each image under `symmetries` [V, N], made once for each key."""
        name = hashlib.sha256(f"{self.identity} {key} {shape}".encode() + symmetries.tobytes()).hexdigest()[:32]
        path = self.folder / f"{name}.npy"
        if not path.exists():

            def write(scratch: Path) -> None:
                out = _mapped(scratch, np.float16, (*symmetries.shape, *shape))
                told = _Told(symmetries.size, "encoded")
                for number, view in enumerate(symmetries):
                    for part in self.chunks():
                        out[number, part] = make(self.seen(part, view[part])).float().cpu().numpy()
                        told(part.stop - part.start)
                out.flush()

            write_atomically(path, write)
        return np.load(path, mmap_mode="r")


def prepare(recipe: Streamed) -> Prepared:
    """Open the recipe's source, and decode it unless that has been done. Raises UserError when nothing can be decoded."""
    table = recipe.source.open()
    height, width = recipe.size
    identity = hashlib.sha256(f"{table.fingerprint} {recipe.size} {recipe.channels}".encode()).hexdigest()[:32]
    folder = cache_folder() / "training" / identity
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{folder} cannot be made: {error.strerror}; set FACTORY_CACHE to a folder that can be written") from error
    if not (folder / "rows.json").exists():
        rows: list[int] = []

        def write(scratch: Path) -> None:
            out = _mapped(scratch, np.uint8, (len(table), recipe.channels, height, width))
            told = _Told(len(table), "decoded")
            with ThreadPoolExecutor() as pool:
                for start in range(0, len(table), CHUNK):
                    numbers = range(start, min(start + CHUNK, len(table)))
                    for number, picture in zip(numbers, pool.map(lambda i: _read(table, i, recipe), numbers), strict=True):
                        if picture is not None:
                            out[len(rows)] = picture
                            rows.append(number)
                    told(len(numbers))
            out.flush()

        write_atomically(folder / "pixels.npy", write)
        if not rows:
            raise UserError("source: none of its images can be decoded")
        write_json(folder / "rows.json", rows)
    found = np.array(json.loads((folder / "rows.json").read_text()), np.int64)
    if len(found) < len(table):
        log.warning("%d of %d images cannot be decoded and are left out", len(table) - len(found), len(table))
    return Prepared(table, np.load(folder / "pixels.npy", mmap_mode="r")[: len(found)], found, identity, folder)


def transformed(x: torch.Tensor, symmetry: torch.Tensor) -> torch.Tensor:
    """[N, …, H, W], int [N] in 0..7 -> each image under its symmetry of the square: bit 0 mirrors, bits 1 and 2 turn by quarters."""
    out = x.clone()
    for number in torch.unique(symmetry).tolist():
        some = symmetry == number
        part = x[some].flip(-1) if number & 1 else x[some]
        out[some] = part.rot90(number >> 1, (-2, -1))
    return out


class Ahead(Generic[Batch]):
    """make(k) for k = first, first + 1, …, one step ahead in a thread."""

    def __init__(self, make: Callable[[int], Batch]):
        self._make, self._pool = make, ThreadPoolExecutor(1)
        self._next: tuple[int, Future[Batch]] | None = None

    def __call__(self, k: int) -> Batch:
        batch = self._next[1].result() if self._next and self._next[0] == k else self._make(k)
        self._next = (k + 1, self._pool.submit(self._make, k + 1))
        return batch


def _mapped(path: Path, dtype: type, shape: tuple[int, ...]) -> np.memmap[Any, Any]:
    """A fresh array on disk, all of it taken at once: a page for which there is no room kills a process. Raises UserError on a full disk."""
    size, free = math.prod(shape) * np.dtype(dtype).itemsize, shutil.disk_usage(path.parent).free
    if size > free:
        raise UserError(
            f"{path.parent}: {size / 1e9:,.1f} GB are needed and {free / 1e9:,.1f} GB are free; make room, or set FACTORY_CACHE to a folder on "
            "another disk"
        )
    out = np.lib.format.open_memmap(path, "w+", dtype, shape)
    if hasattr(os, "posix_fallocate"):
        with open(path, "rb+") as file:
            os.posix_fallocate(file.fileno(), 0, path.stat().st_size)
    return out


def _read(table: Table, index: int, recipe: Streamed) -> np.ndarray | None:
    try:
        picture = images.fit(table.read(index).image, *recipe.size)
    except Undecodable:
        return None
    if recipe.channels == 1:
        return np.asarray(images.to_pil(picture).convert("L"))[None]
    return picture.transpose(2, 0, 1)


class _Told:
    """Progress in the log, at most every ten seconds."""

    def __init__(self, total: int, verb: str):
        self.total, self.verb, self.done, self.last = total, verb, 0, time.monotonic()

    def __call__(self, more: int) -> None:
        self.done += more
        if time.monotonic() - self.last > 10:
            self.last = time.monotonic()
            log.info("%s %d of %d images", self.verb, self.done, self.total)
