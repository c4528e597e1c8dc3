"""Which real images an experiment may use: draws by class, a function of labels and seed alone."""

from __future__ import annotations

import numpy as np

from factory import seeds
from factory.errors import UserError


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
