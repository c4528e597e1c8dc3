"""Which rows of a dataset are nearly the same: exact, blocked, in plan order, from small columns alone.

Embeddings go through blocked matrix products: n²/2·dim multiplications, or a fraction of them where a screen in fewer dimensions rules most
pairs out. Perceptual hashes (rows of 64 signs) go through an index of bits.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

NEIGHBOURS = 16
BLOCK = 4096
SIGNS = 64  # a perceptual hash as a row of ones and minus ones
HASHES = 4  # 64 bits in four parts: of two rows within 4·f + 3 bits some part differs in f bits or fewer
MOST_FLIPS = 4
ENTRIES = 4_000_000  # pairs that are in memory at once
SCREENED = 20_000  # rows from which on a screen is worth its making
SAMPLE = 4096  # rows by which its width is chosen
WIDTHS = (16, 32, 48, 64, 80, 96, 112, 128, 160, 192, 256)
PAIR = 30_000  # one pair's cosine costs as much time as so many multiplications in a product of matrices
SLACK = 1e-4  # on cosines: far more than float32 rounding, so that a bound is never too low
STACK, TILE = 8, 256  # blocks of rows that share a pass over the columns; rows in one product
_NONE = -1.0  # the similarity beside index -1; no cosine worth remembering is this low


def earlier_neighbours(embeddings: np.ndarray, floor: float, k: int = NEIGHBOURS, block: int = BLOCK) -> tuple[np.ndarray, np.ndarray]:
    """For each row its k most similar earlier rows with cosine >= floor, most similar first, then earliest first.

    embeddings: [N, dim] of any float type, may be a memory map; rows with NaN have no neighbours and are nobody's.
    Returns index int32 [N, k], -1 where there are fewer, and similarity float32 [N, k], -1 there. Memory beyond the
    result is a few block x block matrices. Raises ValueError when floor <= 0.
    """
    if floor <= 0:
        raise ValueError(f"floor must be above 0, not {floor:g}")
    bits = int((1 - floor) * SIGNS / 2 + 1e-6)  # a cosine of sign rows is 1 - 2·bits/64
    if embeddings.shape[1] == SIGNS and bits // HASHES <= MOST_FLIPS and _are_signs(embeddings, block):
        return _earlier_hashes(embeddings, bits, k)
    lists = _Lists(np.full((len(embeddings), k), -1, np.int32), np.full((len(embeddings), k), _NONE, np.float32))
    basis = _screen(embeddings, floor)
    if basis is not None:
        _through(basis, lists, embeddings, floor, block)
    else:
        _all_pairs(lists, embeddings, floor, block)
    return lists.index, lists.similarity


@dataclass(frozen=True)
class _Lists:
    """The neighbours known so far, filled in place. index: int32 [N, k].  similarity: float32 [N, k], falling along a row."""

    index: np.ndarray
    similarity: np.ndarray

    def enough(self, start: int, stop: int, floor: float) -> np.ndarray:
        """float32 [stop - start]: the least cosine with a later column that changes each row's list."""
        return np.maximum(np.float32(floor), np.nextafter(self.similarity[start:stop, -1], np.float32(2)))

    def add(self, row: np.ndarray, number: np.ndarray, cosine: np.ndarray) -> None:
        """Put pairs into the lists of their rows: the k most similar stay, and of equals the earliest."""
        k = self.index.shape[1]
        rows, owner = np.unique(row, return_inverse=True)
        owner = np.concatenate([np.repeat(np.arange(len(rows)), k), owner])
        values = np.concatenate([self.similarity[rows].ravel(), cosine])
        numbers = np.concatenate([self.index[rows].ravel(), number])
        order = np.lexsort((numbers, -values, owner))
        starts = np.searchsorted(owner[order], np.arange(len(rows)))
        best = order[starts[:, None] + np.arange(k)]  # every owner brought its k old places, so k are always there
        self.index[rows], self.similarity[rows] = numbers[best], values[best]

    def add_block(self, rows: np.ndarray, cosines: np.ndarray, first: int, enough: np.ndarray) -> None:
        """The same for all cosines [rows, columns] with consecutive columns, of which those that are no earlier row are passed over."""
        cosines[first + np.arange(cosines.shape[1]) >= rows[:, None]] = _NONE
        k, width = self.index.shape[1], cosines.shape[1]
        if width > k:  # no row can take more than k from a block; this keeps the sort small
            enough = np.maximum(enough, np.partition(cosines, width - k, axis=1)[:, width - k])
        row, column = np.nonzero(cosines >= enough[:, None])
        self.add(rows[row], first + column, cosines[row, column])


def _all_pairs(lists: _Lists, embeddings: np.ndarray, floor: float, block: int) -> None:
    """Fill the lists by the cosines of all pairs."""
    for start in range(0, len(embeddings), block):
        rows = _unit(embeddings[start : start + block])
        for first in range(0, start + 1, block):  # ascending, so that of equals the earliest stays
            columns = rows if first == start else _unit(embeddings[first : first + block])
            enough = lists.enough(start, start + len(rows), floor)
            cosines = np.minimum(rows @ columns.T, 1)
            which = np.flatnonzero((cosines >= enough[:, None]).any(axis=1))
            lists.add_block(start + which, cosines[which], first, enough[which])


def _unit(rows: np.ndarray) -> np.ndarray:
    """float32 rows of length 1; a row with NaN becomes zeros, which are similar to nothing."""
    rows = np.asarray(rows, dtype=np.float32)
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    return np.divide(rows, lengths, out=np.zeros_like(rows), where=lengths > 0)


# ---- a screen in fewer dimensions


@dataclass(frozen=True)
class _Part:
    """Consecutive rows from number `first` on. units: float32 [N, dim].  bounds: float32 [N, width + 2], of which the last column is 1."""

    first: int
    units: np.ndarray
    bounds: np.ndarray

    @classmethod
    def of(cls, embeddings: np.ndarray, first: int, count: int, basis: np.ndarray) -> _Part:
        units = _unit(embeddings[first : first + count])
        return cls(first, units, np.column_stack([_coordinates(units, basis), np.ones(len(units), np.float32)]))

    def tile(self, start: int) -> _Part:
        return _Part(self.first + start, self.units[start : start + TILE], self.bounds[start : start + TILE])


def _screen(embeddings: np.ndarray, floor: float) -> np.ndarray | None:
    """float64 [dim, width], orthonormal: the directions in which a screen is least work, by a sample; None where comparing in full is less.

    What is found never depends on it: of unit a and b with parts Pa, Pb inside of these directions and lengths r, s outside of them,
    a·b <= Pa·Pb + r·s (Cauchy-Schwarz). The leading directions of the sample leave little outside, and so a tight bound.
    """
    if len(embeddings) < SCREENED:
        return None
    sample = _unit(embeddings[:: max(1, len(embeddings) // SAMPLE)])
    fitted, judged = (part[part.any(axis=1)].astype(np.float64) for part in (sample[::2], sample[1::8]))
    basis = np.linalg.eigh(fitted.T @ fitted)[1][:, ::-1]
    pairs = max(len(judged) * (len(judged) - 1) / 2, 1)
    best, least = None, float(embeddings.shape[1])
    for width in (width for width in WIDTHS if width < embeddings.shape[1]):
        bounds = _coordinates(judged, basis[:, :width])
        possible = np.triu(bounds @ bounds.T >= floor - SLACK, 1).sum() / pairs
        if (work := width + possible * PAIR) < least:
            best, least = width, work
    return None if best is None else np.ascontiguousarray(basis[:, :best])


def _coordinates(units: np.ndarray, basis: np.ndarray) -> np.ndarray:
    """float32 [N, width + 1] of unit rows: their parts inside of the basis, and the length of what is outside."""
    exact = units.astype(np.float64)
    inside = exact @ basis
    outside = np.sqrt(np.maximum((exact**2).sum(axis=1) - (inside**2).sum(axis=1), 0))
    return np.column_stack([inside, outside]).astype(np.float32)


def _through(basis: np.ndarray, lists: _Lists, embeddings: np.ndarray, floor: float, block: int) -> None:
    """Fill the lists by the cosines of those pairs alone whose bound is high enough."""
    scratch = np.empty(TILE * block, np.float32)  # fresh memory for each product costs more than its numbers
    for start in range(0, len(embeddings), STACK * block):
        rows = _Part.of(embeddings, start, STACK * block, basis)
        for first in range(0, start + len(rows.units), block):
            columns = _Part.of(embeddings, first, block, basis)
            for top in range(max(first - start, 0) // TILE * TILE, len(rows.units), TILE):
                _compare(lists, rows.tile(top), columns, floor, scratch)


def _compare(lists: _Lists, rows: _Part, columns: _Part, floor: float, scratch: np.ndarray) -> None:
    """Fill the lists of some rows by a block of columns."""
    enough = lists.enough(rows.first, rows.first + len(rows.units), floor)
    asked = np.column_stack([rows.bounds[:, :-1], SLACK - enough])
    shape = (len(asked), len(columns.bounds))
    spare = np.matmul(asked, columns.bounds.T, out=scratch[: shape[0] * shape[1]].reshape(shape))  # how far bounds are above what is enough
    if spare.max() < 0:
        return
    row, column = np.divmod(np.flatnonzero(spare >= 0), shape[1])
    if len(row) * PAIR > spare.size * rows.units.shape[1]:  # a crowd, of which a product costs less
        cosines = np.minimum(rows.units @ columns.units.T, 1)
        lists.add_block(rows.first + np.arange(len(cosines)), cosines, columns.first, enough)
        return
    early = columns.first + column < rows.first + row
    row, column = row[early], column[early]
    cosines = np.minimum(np.einsum("ij,ij->i", rows.units[row], columns.units[column]), 1)
    near = cosines >= enough[row]
    lists.add(rows.first + row[near], columns.first + column[near], cosines[near])


# ---- perceptual hashes


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


# ---- who stays


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
