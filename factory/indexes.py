"""Nearest neighbours over any set of real images, with faiss (Douze et al. 2024, arXiv 2401.08281)."""

from __future__ import annotations

from typing import Any

import numpy as np

from factory.contracts import Table
from factory.encoders import Encoder, ParentEmbeddings

EXACT_ROWS = 200_000  # beyond, a graph index: answers in about a millisecond, and misses a neighbour now and then


def by_cosine(units: np.ndarray, exact: int = EXACT_ROWS) -> Any:
    """A faiss index of unit float32 [N, D]: exact up to so many rows, HNSW (M 32; Malkov and Yashunin 2018) beyond."""
    import faiss

    dim = units.shape[1]
    index: Any = faiss.IndexFlatIP(dim) if len(units) <= exact else faiss.IndexHNSWFlat(dim, 32, faiss.METRIC_INNER_PRODUCT)
    index.add(np.ascontiguousarray(units))
    return index


class ImageIndex:
    """The embeddings of a table's images, searchable by cosine: exactly up to 200,000 images, by HNSW (M 32) beyond.

    Rows that cannot be decoded are in no answer.
    """

    def __init__(self, table: Table, embeddings: ParentEmbeddings, encoder: Encoder, rows: np.ndarray):
        self.table, self.encoder = table, encoder
        units = embeddings.get(rows.tolist())
        whole = ~np.isnan(units).any(axis=1)
        self.rows = rows[whole]
        self._index = by_cosine(units[whole])

    def __len__(self) -> int:
        return len(self.rows)

    def search(self, query: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        """Unit float32 [D] -> (table rows int64 [<= k], cosines float32), nearest first; of equals the earlier row."""
        cosines, places = self._index.search(np.ascontiguousarray(query[None], dtype=np.float32), min(k, len(self.rows)))
        found = places[0] >= 0
        rows, cosine = self.rows[places[0][found]], cosines[0][found]
        order = np.lexsort((rows, -cosine))
        return rows[order], cosine[order]


def spread_labels(units: np.ndarray, labels: np.ndarray, classes: int, k: int = 20, alpha: float = 0.99, rounds: int = 60) -> np.ndarray:
    """Unit float32 [N, D], int [N] with -1 for unknown -> the shares of the classes at each row, float32 [N, classes].

    Label spreading, F ← αSF + (1−α)Y over the graph of k nearest neighbours (Zhou et al. 2004) with weights cosine³ (Iscen et al. 2019), every
    class brought to the same mass, then every row to sum 1. A row that no label reaches is all zeros.
    """
    import torch

    count = len(units)
    k = min(k, count - 1)
    cosines, near = by_cosine(units).search(np.ascontiguousarray(units), k + 1)
    own = np.repeat(np.arange(count), k + 1)
    use = (near.ravel() >= 0) & (near.ravel() != own)
    one, other, weight = own[use], near.ravel()[use], np.clip(cosines.ravel()[use], 0, None) ** 3
    places = torch.from_numpy(np.stack([np.concatenate([one, other]), np.concatenate([other, one])]))
    graph = torch.sparse_coo_tensor(
        places, torch.from_numpy(np.concatenate([weight, weight])), (count, count), check_invariants=False
    ).coalesce()
    degree = torch.sparse.sum(graph, 1).to_dense().clamp_min(1e-9)
    ends = graph.indices()
    normed = torch.sparse_coo_tensor(
        ends, graph.values() / (degree[ends[0]] * degree[ends[1]]).sqrt(), (count, count), check_invariants=False
    )
    known = np.flatnonzero(labels >= 0)
    first = torch.zeros(count, classes)
    first[torch.from_numpy(known), torch.from_numpy(labels[known].astype(np.int64))] = 1
    spread = first.clone()
    for _ in range(rounds):
        spread = alpha * torch.sparse.mm(normed, spread) + (1 - alpha) * first
    spread = spread / spread.sum(0).clamp_min(1e-12)
    return (spread / spread.sum(1, keepdim=True).clamp_min(1e-12)).numpy()
