"""How different the rows of a set are from each other, by their embeddings."""

from __future__ import annotations

import numpy as np


def vendi_score(rows: np.ndarray) -> float:
    """The effective number of distinct rows of [N, D], 1 to N (Friedman and Dieng 2023, arXiv 2210.02410).

    exp of the entropy of the eigenvalues of the cosine kernel over N.
    """
    x = _units(rows)
    gram = x.T @ x if x.shape[1] < len(x) else x @ x.T  # both have the same eigenvalues above zero
    values = np.linalg.eigvalsh(gram / len(x))
    values = values[values > 1e-12]
    return float(np.exp(-(values * np.log(values)).sum()))


def mean_cosine_distance(rows: np.ndarray) -> float:
    """The mean over all pairs of rows of [N, D], in [0, 2]; 0 for a single row."""
    x, count = _units(rows), len(rows)
    if count < 2:
        return 0.0
    return max(0.0, float(1 - (np.square(x.sum(axis=0)).sum() - count) / (count * (count - 1))))  # rounding alone goes below


def _units(rows: np.ndarray) -> np.ndarray:
    x = np.asarray(rows, np.float64)
    return x / np.linalg.norm(x, axis=1, keepdims=True).clip(1e-12)
