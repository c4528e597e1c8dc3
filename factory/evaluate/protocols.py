"""Which real images an experiment may use: draws by class, a function of labels and seed alone."""

from __future__ import annotations

import numpy as np

from factory import seeds
from factory.errors import UserError


def few_shot(labels: np.ndarray, shots: int, seed: int) -> np.ndarray:
    """Indices [classes · shots], class by class; the draw of fewer shots with the same seed is part of it.

    labels: int [N].  Raises UserError where a class has fewer images.
    """
    return np.concatenate([_order(labels, c, seed, shots)[:shots] for c in np.unique(labels)])


def long_tail(labels: np.ndarray, most: int, seed: int, ratio: float = 100.0) -> np.ndarray:
    """Indices in which class c of C has most · ratio^(−c/(C−1)) images, at least one (Cui et al. 2019, arXiv 1901.05555).

    The first class is the largest. Draws with the same seed are nested in `most`.  Raises UserError where a class has fewer images.
    """
    counts = long_tail_counts(len(np.unique(labels)), most, ratio)
    return np.concatenate([_order(labels, c, seed, int(n))[:n] for c, n in zip(np.unique(labels), counts, strict=True)])


def long_tail_counts(classes: int, most: int, ratio: float = 100.0) -> np.ndarray:
    """int [classes], falling exponentially from `most` to most / ratio, at least one."""
    if most < 1 or ratio < 1:
        raise UserError(f"a long tail of at most {most} images a class with ratio {ratio} is empty; both must be at least 1")
    return np.maximum(1, most * ratio ** -np.linspace(0, 1, classes)).astype(int)


def stratified(labels: np.ndarray, count: int, seed: int) -> np.ndarray:
    """`count` indices whose classes have the shares they have among all; the largest remainders round up."""
    if not 0 <= count <= len(labels):
        raise UserError(f"cannot take {count} of {len(labels)} images")
    classes, sizes = np.unique(labels, return_counts=True)
    exact = count * sizes / max(1, len(labels))
    quota = np.floor(exact).astype(int)
    quota[np.argsort(quota - exact, kind="stable")[: count - quota.sum()]] += 1
    parts = [_order(labels, c, seed, int(n))[:n] for c, n in zip(classes, quota, strict=True)]
    return np.concatenate(parts) if parts else np.zeros(0, np.int64)


def shot_groups(counts: np.ndarray) -> dict[str, np.ndarray]:
    """Classes by their number of training images: many over 100, medium 20 to 100, few under 20 (Liu et al. 2019, arXiv 1904.05160)."""
    counts = np.asarray(counts)
    groups = {"many": counts > 100, "medium": (counts >= 20) & (counts <= 100), "few": counts < 20}
    return {name: np.flatnonzero(chosen) for name, chosen in groups.items()}


def _order(labels: np.ndarray, label: int, seed: int, wanted: int) -> np.ndarray:
    members = np.flatnonzero(labels == label)
    if len(members) < wanted:
        raise UserError(f"class {label} has {len(members)} images, and {wanted} are asked for; ask for fewer")
    return seeds.rng(seed, "protocol", int(label)).permutation(members)
