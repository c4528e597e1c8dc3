"""Means over seeds and how far they may be off."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from factory.errors import UserError


class Interval(NamedTuple):
    """A mean and the half-width of its confidence interval; half is None for a single value, which tells nothing of its spread."""

    mean: float
    half: float | None
    size: int


def interval(values: Sequence[float], confidence: float = 0.95) -> Interval:
    """Student's t interval of the mean of independent values. Raises ValueError without values."""
    from scipy.stats import t

    array = np.asarray(values, np.float64)
    if array.ndim != 1 or not len(array):
        raise ValueError(f"expected a row of values, got shape {array.shape}")
    if len(array) < 2:
        return Interval(float(array[0]), None, 1)
    error = array.std(ddof=1) / len(array) ** 0.5
    return Interval(float(array.mean()), float(t.ppf((1 + confidence) / 2, len(array) - 1) * error), len(array))


def paired(ours: Sequence[float], theirs: Sequence[float], confidence: float = 0.95) -> Interval:
    """The interval of the mean difference ours − theirs, where entry i of both comes from the same seed and the same real images."""
    if len(ours) != len(theirs):
        raise UserError(f"{len(ours)} results cannot be paired with {len(theirs)}; run both arms with the same seeds")
    return interval(np.subtract(ours, theirs).tolist(), confidence)
