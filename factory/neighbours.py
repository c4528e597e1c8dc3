"""Which rows of a dataset are nearly the same: exact, blocked, in plan order, from small columns alone.

Embeddings go through blocked matrix products: n²·dim multiplications. Perceptual hashes (rows of 64 signs) go through an index of bits.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

NEIGHBOURS = 16
BLOCK = 4096
SIGNS = 64  # a perceptual hash as a row of ones and minus ones
HASHES = 4  # 64 bits in four parts: of two rows within 4·f + 3 bits some part differs in f bits or fewer
MOST_FLIPS = 4
ENTRIES = 4_000_000  # pairs that are in memory at once
_NONE = -1.0  # the similarity beside index -1; no cosine worth remembering is this low


def earlier_neighbours(
    embeddings: np.ndarray, floor: float, k: int = NEIGHBOURS, block: int = BLOCK, device: str = "cpu"
) -> tuple[np.ndarray, np.ndarray]:
    """For each row its k most similar earlier rows with cosine >= floor, most similar first, then earliest first.

    embeddings: [N, dim] of any float type, may be a memory map; rows with NaN have no neighbours and are nobody's.
    Returns index int32 [N, k], -1 where there are fewer, and similarity float32 [N, k], -1 there. Memory beyond the
    result is a few block x block matrices. A device other than cpu multiplies with torch. Raises ValueError when floor <= 0.
    """
    if floor <= 0:
        raise ValueError(f"floor must be above 0, not {floor:g}")
    bits = int((1 - floor) * SIGNS / 2 + 1e-6)  # a cosine of sign rows is 1 - 2·bits/64
    if embeddings.shape[1] == SIGNS and bits // HASHES <= MOST_FLIPS and _are_signs(embeddings, block):
        return _earlier_hashes(embeddings, bits, k)
    index = np.full((len(embeddings), k), -1, np.int32)
    similarity = np.full((len(embeddings), k), _NONE, np.float32)
    for start in range(0, len(embeddings), block):
        rows = _unit(embeddings[start : start + block])
        for first in range(0, start + 1, block):  # ascending, so that of equals the earliest stays
            columns = rows if first == start else _unit(embeddings[first : first + block])
            enough = np.maximum(np.float32(floor), np.nextafter(similarity[start : start + len(rows), -1], np.float32(2)))
            which, cosines = _at_least(rows, columns, enough, device)
            if first == start:
                cosines[np.arange(cosines.shape[1]) >= which[:, None]] = _NONE
            _merge(index, similarity, start + which, cosines, first, enough[which])
    return index, similarity


def _are_signs(embeddings: np.ndarray, block: int) -> bool:
    """Whether every entry is 1, -1 or NaN."""
    parts = (np.abs(embeddings[start : start + block]) for start in range(0, len(embeddings), block))
    return len(embeddings) > 0 and all(bool(((part == 1) | np.isnan(part)).all()) for part in parts)


def _earlier_hashes(embeddings: np.ndarray, bits: int, k: int) -> tuple[np.ndarray, np.ndarray]:
    """`earlier_neighbours` for rows of signs, by multi-index hashing (Norouzi et al. 2012, arXiv 1307.2982); as exact as comparing all.

    Equal rows are looked up once, so that a crowd of copies costs no more than its size.
    """
    import faiss

    index = np.full((len(embeddings), k), -1, np.int32)
    similarity = np.full((len(embeddings), k), _NONE, np.float32)
    whole = np.flatnonzero(~np.isnan(embeddings[:, 0]))
    packed = np.packbits(embeddings[whole] > 0, axis=1)
    values, owner = np.unique(packed.view(np.uint64)[:, 0], return_inverse=True)
    order = np.argsort(owner, kind="stable")
    starts = np.searchsorted(owner[order], np.arange(len(values) + 1))
    places = starts[:-1, None] + np.arange(k)
    firsts = np.where(places < starts[1:, None], order[np.minimum(places, len(order) - 1)], -1)  # the first k rows of each value
    table: Any = faiss.IndexBinaryMultiHash(SIGNS, HASHES, SIGNS // HASHES)
    table.nflip = bits // HASHES
    codes = values[:, None].view(np.uint8)
    table.add(codes)
    pending = [order[start : start + BLOCK] for start in range(0, len(order), BLOCK)]
    while pending:
        rows = pending.pop()
        asked = np.unique(owner[rows])
        limits, distances, found = table.range_search(codes[asked], bits + 1)  # faiss keeps what is below the radius
        pairs = np.diff(limits.astype(np.int64))[np.searchsorted(asked, owner[rows])]
        if pairs.sum() * k > ENTRIES and len(rows) > 1:
            pending += [rows[: len(rows) // 2], rows[len(rows) // 2 :]]
            continue
        at = np.repeat(limits.astype(np.int64)[np.searchsorted(asked, owner[rows])], pairs) + _counted(pairs)
        earlier = firsts[found[at]]
        row, column = np.nonzero((earlier >= 0) & (earlier < np.repeat(rows, pairs)[:, None]))
        cosines = (1 - distances[at[row]].astype(np.float32) * np.float32(2 / SIGNS)).astype(np.float32)
        numbers = np.repeat(np.arange(len(rows)), pairs)[row]
        _place(index, similarity, whole, rows, numbers, cosines, earlier[row, column])
    return index, similarity


def _counted(lengths: np.ndarray) -> np.ndarray:
    """0, 1, … for each length, one after the other."""
    return np.arange(lengths.sum()) - np.repeat(np.cumsum(lengths) - lengths, lengths)


def _place(
    index: np.ndarray,
    similarity: np.ndarray,
    whole: np.ndarray,
    rows: np.ndarray,
    owner: np.ndarray,
    cosines: np.ndarray,
    other: np.ndarray,
) -> None:
    """Write the best k pairs (rows[owner], other) of each row, in place; most similar first, then earliest."""
    best = np.lexsort((other, -cosines, owner))
    owner = owner[best]
    rank = np.arange(len(owner)) - np.searchsorted(owner, owner)
    few = rank < index.shape[1]
    target, slot, chosen = whole[rows[owner[few]]], rank[few], best[few]
    index[target, slot], similarity[target, slot] = whole[other[chosen]], cosines[chosen]


def _unit(rows: np.ndarray) -> np.ndarray:
    """float32 rows of length 1; a row with NaN becomes zeros, which are similar to nothing."""
    rows = np.asarray(rows, dtype=np.float32)
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    return np.divide(rows, lengths, out=np.zeros_like(rows), where=lengths > 0)


def _at_least(rows: np.ndarray, columns: np.ndarray, enough: np.ndarray, device: str) -> tuple[np.ndarray, np.ndarray]:
    """The rows (positions) with any cosine >= their `enough`, and all cosines [., columns] of those."""
    if device == "cpu":
        cosines = np.minimum(rows @ columns.T, 1)
        which = np.flatnonzero((cosines >= enough[:, None]).any(axis=1))
        return which, cosines[which]
    import torch

    left, right, least = (torch.from_numpy(np.ascontiguousarray(part)).to(device) for part in (rows, columns, enough))
    product = (left @ right.T).clamp(max=1)
    found = (product >= least[:, None]).any(dim=1).nonzero()[:, 0]  # only these rows cross the bus
    return found.cpu().numpy(), product[found].cpu().numpy()


def _merge(index: np.ndarray, similarity: np.ndarray, rows: np.ndarray, cosines: np.ndarray, first: int, enough: np.ndarray) -> None:
    """Put the columns of one block (global number = first + column) into the lists of `rows`, in place."""
    k, width = index.shape[1], cosines.shape[1]
    if width > k:  # no row can take more than k from a block; this keeps the sort below small
        enough = np.maximum(enough, np.partition(cosines, width - k, axis=1)[:, width - k])
    row, column = np.nonzero(cosines >= enough[:, None])
    owner = np.concatenate([np.repeat(np.arange(len(rows)), k), row])
    values = np.concatenate([similarity[rows].ravel(), cosines[row, column]])
    numbers = np.concatenate([index[rows].ravel(), first + column])
    order = np.lexsort((numbers, -values, owner))
    starts = np.searchsorted(owner[order], np.arange(len(rows)))
    best = order[starts[:, None] + np.arange(k)]  # every owner brought its k old places, so k are always there
    index[rows], similarity[rows] = numbers[best], values[best]


def greedy(
    index: np.ndarray, similarity: np.ndarray, kept: np.ndarray, max: float, embeddings: Callable[[], np.ndarray] | None = None
) -> np.ndarray:
    """bool [N]: rows for which an earlier row that itself stays has a cosine above max. Row order decides who stays.

    index, similarity: from earlier_neighbours, with floor <= max.  kept: bool [N], what the other rules keep.
    embeddings: reads the same as there, and is called only for a crowd of near-copies: there a row's k neighbours may all be gone
    while one that stays is further down, so it is compared with all; without embeddings it goes when one of its neighbours does.
    """
    close = np.asarray(similarity > max)
    crowded = np.asarray(close.all(axis=1))
    rows = np.flatnonzero(close.any(axis=1))
    stops = np.cumsum(close[rows].sum(axis=1)).tolist()
    near, start = index[rows][close[rows]].tolist(), 0
    alive, gone = bytearray(np.asarray(kept, dtype=bool).tobytes()), bytearray(len(index))  # read far faster than arrays
    crowd = None if embeddings is None or not crowded.any() else _Crowd(embeddings(), crowded, np.frombuffer(alive, dtype=bool), max)
    for row, stop in zip(rows.tolist(), stops, strict=True):
        neighbours = near[start:stop]
        start = stop
        found = any(alive[other] for other in neighbours)
        if not found and crowded[row]:
            found = crowd.has_twin(row) if crowd else any(gone[other] for other in neighbours)
        if found:
            gone[row], alive[row] = True, False
    return np.frombuffer(gone, dtype=bool)


class _Crowd:
    """Answers for rows whose list of neighbours is too short, in ascending order; block by block, one product each."""

    def __init__(self, embeddings: np.ndarray, crowded: np.ndarray, stays: np.ndarray, max: float) -> None:
        self._embeddings, self._crowded, self._stays, self._max = embeddings, crowded, stays, max
        self._start, self._units, self._before = -1, np.empty((0, 0), np.float32), np.empty(0, bool)

    def has_twin(self, row: int) -> bool:
        """Is any earlier row that stays closer than max? `stays` must be final for all rows before this one."""
        start = row // BLOCK * BLOCK
        if start != self._start:
            self._enter(start)
        if self._before[row - start]:
            return True
        inside = self._units[: row - start][self._stays[start:row]]
        return bool((inside @ self._units[row - start] > self._max).any())

    def _enter(self, start: int) -> None:
        """Compare this block's crowded rows with all rows before the block that stay."""
        self._start, self._units = start, _unit(self._embeddings[start : start + BLOCK])
        asked = np.flatnonzero(self._crowded[start : start + BLOCK])
        found = np.zeros(len(asked), bool)
        for first in range(0, start, BLOCK):
            earlier = _unit(self._embeddings[first : first + BLOCK][self._stays[first : first + BLOCK]])
            if len(earlier):
                found |= (self._units[asked] @ earlier.T > self._max).any(axis=1)
        self._before = np.zeros(len(self._units), bool)
        self._before[asked] = found
