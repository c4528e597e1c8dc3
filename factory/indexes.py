"""Nearest neighbours over any set of real images, with faiss (Douze et al. 2024, arXiv 2401.08281)."""

from __future__ import annotations

from typing import Any

import numpy as np

from factory.contracts import Table
from factory.encoders import Encoder, ParentEmbeddings

EXACT_ROWS = 200_000  # beyond, a graph index: answers in about a millisecond, and misses a neighbour now and then


class ImageIndex:
    """The embeddings of a table's images, searchable by cosine: exactly up to 200,000 images, by HNSW (M 32) beyond.

    Rows that cannot be decoded are in no answer.
    """

    def __init__(self, table: Table, embeddings: ParentEmbeddings, encoder: Encoder, rows: np.ndarray):
        import faiss

        self.table, self.encoder = table, encoder
        units = embeddings.get(rows.tolist())
        whole = ~np.isnan(units).any(axis=1)
        self.rows = rows[whole]
        units = np.ascontiguousarray(units[whole])
        flat = len(units) <= EXACT_ROWS
        self._index: Any = faiss.IndexFlatIP(encoder.dim) if flat else faiss.IndexHNSWFlat(encoder.dim, 32, faiss.METRIC_INNER_PRODUCT)
        self._index.add(units)

    def __len__(self) -> int:
        return len(self.rows)

    def search(self, query: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        """Unit float32 [D] -> (table rows int64 [<= k], cosines float32), nearest first; of equals the earlier row."""
        cosines, places = self._index.search(np.ascontiguousarray(query[None], dtype=np.float32), min(k, len(self.rows)))
        found = places[0] >= 0
        rows, cosine = self.rows[places[0][found]], cosines[0][found]
        order = np.lexsort((rows, -cosine))
        return rows[order], cosine[order]
