"""Embeddings of a source's real images, kept in files that are named by content."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from factory.contracts import Table
from factory.encoders.encoder import CHUNK, Encoder
from factory.errors import Undecodable
from factory.files import array_once


class ParentEmbeddings:
    """Embeddings of a table's real images, each computed once in fixed chunks of consecutive rows.

    The chunks make a value independent of who asks first and of how many workers there are; with a cache folder the
    workers also share them. Files are named by content, so a changed source or model never meets an old value.
    """

    def __init__(self, table: Table, encoder: Encoder, cache: Path | None) -> None:
        self._table, self._encoder = table, encoder
        self._folder = None if cache is None else cache / "embeddings"
        self._chunks: dict[int, np.ndarray] = {}

    def get(self, indices: Sequence[int]) -> np.ndarray:
        """float32 [N, dim] of unit length, in the order asked; NaN for an image that cannot be decoded."""
        rows = np.empty((len(indices), self._encoder.dim), np.float32)
        for row, index in enumerate(indices):
            if not 0 <= index < len(self._table):
                raise IndexError(f"source row {index} of {len(self._table)}")
            number = index // CHUNK
            if number not in self._chunks:
                self._chunks[number] = self._chunk(number)
            rows[row] = self._chunks[number][index % CHUNK]
        return rows

    def chunks(self) -> Iterator[np.ndarray]:
        """All rows in order, some at a time, float32 [<= 64, dim]; NaN where undecodable. None of them stays in memory."""
        for number in range(-(-len(self._table) // CHUNK)):
            known = self._chunks.get(number)
            yield self._chunk(number) if known is None else known

    def _chunk(self, number: int) -> np.ndarray:
        span = range(number * CHUNK, min((number + 1) * CHUNK, len(self._table)))
        if self._folder is None:
            return self._encode(span)
        # The fingerprint stands for every row's content, so a hit decodes nothing.
        key = f"{self._encoder.identity} {self._table.fingerprint} {span.start} {span.stop}"
        path = self._folder / f"{hashlib.sha256(key.encode()).hexdigest()[:32]}.npy"
        return array_once(path, (len(span), self._encoder.dim), lambda: self._encode(span))

    def _encode(self, span: range) -> np.ndarray:
        rows = np.full((len(span), self._encoder.dim), np.nan, np.float32)
        decoded: dict[int, np.ndarray] = {}
        for position, index in enumerate(span):
            try:
                decoded[position] = self._table.read(index).image
            except Undecodable:
                continue
        rows[list(decoded)] = self._encoder.encode_images(list(decoded.values()))
        return rows
