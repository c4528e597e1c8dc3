"""How long near-duplicates take, and whether all are found: python -m bench.duplicates [--rows N] [--of hash|embedding] [--json]

Stores a column as the filters do, for rows that are different but for planted copies, lets the run's own rule find and drop the copies, and
compares with a brute-force search for some rows: recall is the share of their twins that were found. A million embeddings of 512
numbers are 5·10^11 pairs, of which a screen rules out nearly all; a million hashes are minutes. Both have fewer rows unless --rows says more.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np

from bench._report import emit, parser, peak_mb
from factory.filters.near_duplicate import NearDuplicate
from factory.filters.perceptual_hash import BITS, PerceptualHash
from factory.neighbours import earlier_neighbours, greedy

ROWS = {"hash": 200_000, "embedding": 20_000}
DIM = 512
LATENT = 64  # real hashes are no coin tosses: their bits hang together
COPIES = 0.05
ASKED = 2_000
STRETCH = 10_000  # rows at a time, so that the bench itself stays small


def planted(
    count: int, dim: int, draw: np.random.Generator, fresh: Callable[[int], np.ndarray], change: Callable[[np.ndarray], np.ndarray]
) -> np.ndarray:
    """float16 [count, dim]: fresh rows, and for a share of them, anywhere after it, a changed copy of another."""
    rows = np.empty((count, dim), np.float16)
    for start in range(0, count, STRETCH):
        rows[start : start + STRETCH] = fresh(min(STRETCH, count - start))
    copies = 1 + draw.permutation(count - 1)[: int(COPIES * count)]
    originals = (draw.random(len(copies)) * copies).astype(np.int64)
    rows[copies] = change(rows[originals])
    return rows


def hashes(count: int, draw: np.random.Generator) -> np.ndarray:
    """Sign patterns of a low-dimensional projection; copies with up to 8 changed bits."""
    mix = draw.normal(size=(LATENT, BITS)).astype(np.float32)

    def change(rows: np.ndarray) -> np.ndarray:
        return np.where(draw.random(rows.shape).argsort(axis=1) < draw.integers(0, 9, (len(rows), 1)), -rows, rows)

    return planted(count, BITS, draw, lambda n: np.where(draw.normal(size=(n, LATENT)).astype(np.float32) @ mix > 0, 1, -1), change)


def embeddings(count: int, draw: np.random.Generator) -> np.ndarray:
    """Unit vectors as a CLIP makes them of real pictures; copies with a cosine of about 0.98.

    A mean that all share (two pictures have a cosine of about 0.45), clusters of unequal size and spread, and variances that fall as a power
    of their rank (64 of 512 directions hold two thirds).
    """
    turn = np.linalg.qr(draw.normal(size=(DIM, DIM)))[0].astype(np.float32)
    scale = np.sqrt(0.55 * (falling := (np.arange(DIM) + 8.0) ** -1.1) / falling.sum()).astype(np.float32)
    mean = np.sqrt(0.45) * np.eye(1, DIM, DIM // 2, dtype=np.float32)
    clusters = max(50, count // 50)
    centres = np.sqrt(0.4) * scale * draw.normal(size=(clusters, DIM)).astype(np.float32)
    spread, sizes = draw.uniform(0.7, 1.3, clusters).astype(np.float32), draw.dirichlet(np.full(clusters, 0.3))

    def unit(rows: np.ndarray) -> np.ndarray:
        return rows / np.linalg.norm(rows, axis=1, keepdims=True)

    def fresh(number: int) -> np.ndarray:
        own = draw.choice(clusters, number, p=sizes)
        around = np.sqrt(0.6) * spread[own, None] * scale * draw.normal(size=(number, DIM)).astype(np.float32)
        return unit((mean + centres[own] + around).astype(np.float32) @ turn)

    def change(rows: np.ndarray) -> np.ndarray:
        return unit(rows.astype(np.float32) + 0.2 * DIM**-0.5 * draw.normal(size=rows.shape).astype(np.float32))

    return planted(count, DIM, draw, fresh, change)


def recall(rows: np.ndarray, index: np.ndarray, similarity: np.ndarray, limit: float, asked: np.ndarray) -> float:
    """The share of the asked rows with an earlier twin for which the nearest one found is as near as the nearest there is."""
    units = rows[asked].astype(np.float32)
    units /= np.linalg.norm(units, axis=1, keepdims=True)
    nearest = np.full(len(asked), -1, np.float32)
    for start in range(0, int(asked.max()), STRETCH):
        part = rows[start : start + STRETCH].astype(np.float32)
        cosines = units @ (part / np.linalg.norm(part, axis=1, keepdims=True)).T
        cosines[start + np.arange(len(part)) >= asked[:, None]] = -1
        nearest = np.maximum(nearest, cosines.max(axis=1))
    twin = nearest > limit
    found = (index[asked, 0] >= 0) & (similarity[asked, 0] > nearest - 1e-5)
    return float((found & twin).sum() / max(twin.sum(), 1))


def main() -> None:
    """Plant, find, drop, compare, print."""
    options = parser(__doc__)
    options.add_argument("--of", choices=list(ROWS), default="hash")
    options.add_argument("--rows", type=int)
    given = options.parse_args()
    draw = np.random.default_rng(0)
    f = PerceptualHash() if given.of == "hash" else NearDuplicate()
    count, limit = given.rows or ROWS[given.of], f.bounds()[1]
    rows = (hashes if given.of == "hash" else embeddings)(count, draw)
    asked = np.sort(1 + draw.permutation(count - 1)[:ASKED])  # about one in twenty has a twin
    started = time.perf_counter()
    index, similarity = earlier_neighbours(rows, f.floor)
    dropped = greedy(index, similarity, np.ones(count, bool), limit, lambda: rows)
    seconds, peak = time.perf_counter() - started, peak_mb()
    found = recall(rows, index, similarity, limit, asked)
    emit(
        {
            "rows": count,
            "of": given.of,
            "seconds": round(seconds, 2),
            "peak_mb": peak,
            "recall": round(found, 6),
            "dropped": int(dropped.sum()),
        },
        given.json,
    )


if __name__ == "__main__":
    main()
