"""How near a set of generated images is to a set of real ones: functions of features [N, D], whatever made them.

Every distance has a value above nothing for two samples of the same distribution: it means something beside that of real images alone.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from factory.errors import UserError

CHUNK = 1024  # rows of a distance matrix held at once


def frechet_distance(real: np.ndarray, fake: np.ndarray) -> float:
    """Squared 2-Wasserstein distance of the Gaussians with the sets' means and covariances (Heusel et al. 2017, arXiv 1706.08500, eq. 6).

    It is "FID" only on features of the Inception network that all papers use. Biased upwards by about 1/N: compare sets of equal size.
    """
    a, b = _checked(real, fake)
    shift = a.mean(0) - b.mean(0)
    # Centred rows over the root of their number less one: a covariance is x.T @ x.
    x, y = ((z - z.mean(0)) / (len(z) - 1) ** 0.5 for z in (a, b))
    few = max(len(a), len(b)) < a.shape[1]  # then x y.T is the smaller matrix, and its singular values are the same roots
    root = float(np.linalg.svd(x @ y.T, compute_uv=False).sum()) if few else _trace_of_root(x.T @ x, y.T @ y)
    return float(max(0.0, shift @ shift + np.square(x).sum() + np.square(y).sum() - 2 * root))


def _trace_of_root(first: np.ndarray, second: np.ndarray) -> float:
    """tr (AB)^½ of two covariances, from the eigenvalues of A^½ B A^½: symmetric, so they are real however singular A and B are."""
    values, vectors = np.linalg.eigh(first)
    root = vectors * np.sqrt(values.clip(0)) @ vectors.T
    return float(np.sqrt(np.linalg.eigvalsh(root @ second @ root).clip(0)).sum())


def kernel_distance(real: np.ndarray, fake: np.ndarray) -> float:
    """Unbiased squared MMD under the kernel (x·y/D + 1)³ (Bińkowski et al. 2018, arXiv 1801.01401); may be slightly negative."""
    a, b = _checked(real, fake)
    return _mmd(a, b, lambda x, y: (x @ y.T / x.shape[1] + 1) ** 3)


def clip_distance(real: np.ndarray, fake: np.ndarray, bandwidth: float = 10.0, scale: float = 1000.0) -> float:
    """CMMD: squared MMD under a Gaussian kernel of unit CLIP embeddings, times 1,000 (Jayasumana et al. 2024, arXiv 2401.09603).

    This is the unbiased estimate; the authors' code gives the biased one, which is higher by about 2,000 (1 − mean kernel) / N.
    """
    a, b = (x / np.linalg.norm(x, axis=1, keepdims=True).clip(1e-12) for x in _checked(real, fake))
    gamma = 1 / (2 * bandwidth**2)
    return scale * _mmd(a, b, lambda x, y: np.exp(-gamma * (2 - 2 * x @ y.T)))


def _mmd(a: np.ndarray, b: np.ndarray, kernel: Callable[[np.ndarray, np.ndarray], np.ndarray]) -> float:
    def total(x: np.ndarray, y: np.ndarray) -> float:
        return sum(float(kernel(x[i : i + CHUNK], y).sum()) for i in range(0, len(x), CHUNK))

    def within(x: np.ndarray) -> float:
        own = sum(float(kernel(row[None], row[None])[0, 0]) for row in x)
        return (total(x, x) - own) / (len(x) * (len(x) - 1))

    return within(a) + within(b) - 2 * total(a, b) / (len(a) * len(b))


def manifold(real: np.ndarray, fake: np.ndarray, neighbours: int = 5) -> dict[str, float]:
    """Precision and recall (Kynkäänniemi et al. 2019, arXiv 1904.06991), density and coverage (Naeem et al. 2020, arXiv 2002.09797).

    Balls reach to each point's k-th neighbour of its own set. All but density, which may pass 1, lie in [0, 1].
    """
    a, b = _checked(real, fake)
    if min(len(a), len(b)) <= neighbours:
        raise UserError(f"precision and recall with {neighbours} neighbours need more than {neighbours} images of each kind")
    real_reach, fake_reach = _reach(a, neighbours), _reach(b, neighbours)
    inside = np.zeros(len(b), np.int64)
    recalled, covered = np.zeros(len(a), bool), np.zeros(len(a), bool)
    for start in range(0, len(a), CHUNK):
        rows = slice(start, start + CHUNK)
        between = _distances(a[rows], b)
        within = between < real_reach[rows, None]
        inside += within.sum(0)
        covered[rows] = within.any(1)
        recalled[rows] = (between < fake_reach[None]).any(1)
    density = float(inside.mean() / neighbours)
    return {
        "precision": float((inside > 0).mean()),
        "recall": float(recalled.mean()),
        "density": density,
        "coverage": float(covered.mean()),
    }


def _reach(x: np.ndarray, neighbours: int) -> np.ndarray:
    """Squared distance of each row to its k-th neighbour, itself not counted."""
    rows = (_distances(x[i : i + CHUNK], x) for i in range(0, len(x), CHUNK))
    return np.concatenate([np.partition(part, neighbours, axis=1)[:, neighbours] for part in rows])


def _distances(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return (np.square(x).sum(1)[:, None] + np.square(y).sum(1)[None] - 2 * x @ y.T).clip(0)


def _checked(real: np.ndarray, fake: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    a, b = _floats(real, "real features"), _floats(fake, "generated features")
    if a.shape[1] != b.shape[1]:
        raise UserError(f"real features have {a.shape[1]} numbers and generated ones {b.shape[1]}; use one backbone for both")
    return a, b


def _floats(x: np.ndarray, what: str) -> np.ndarray:
    array = np.asarray(x, np.float64)
    if array.ndim != 2 or len(array) < 2:
        raise UserError(f"{what} have shape {list(array.shape)}; at least two rows are needed")
    if not np.isfinite(array).all():
        raise UserError(f"{what} of row {int(np.flatnonzero(~np.isfinite(array).all(1))[0])} are not finite")
    return array
