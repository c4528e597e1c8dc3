"""Means over seeds and over images, and how far they may be off."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from factory.errors import UserError


class Interval(NamedTuple):
    """A mean and the half-width of its confidence interval; half is None where nothing tells of the spread, as of a single value.

    size: values, or seeds.
    """

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


def over_seeds_and_images(values: Sequence[Sequence[np.ndarray]], confidence: float = 0.95) -> Interval:
    """The mean over classes of values [seeds][classes] float [images], and its interval; every seed measures the same images.

    Trainings differ from seed to seed, and the images of each class are a sample too: without the latter, a classifier that no seed
    changes would be certain of anything. Student's half-widths over the seeds and over the images (a sample of each class) add in quadrature.
    The chance of one training on one image is in both, so that the interval is rather too wide than too narrow.
    half is None for one seed, where no class has two images, and where nothing varies. A class of one image is taken to vary like the most
    various class.
    """
    from scipy.stats import t

    seeds = interval([float(np.mean([own.mean() for own in one])) for one in values], confidence)
    by_image = [np.mean(own, axis=0) for own in zip(*values, strict=True)]  # for each class the images' means over the seeds
    free = sum(len(own) - 1 for own in by_image)
    if seeds.half is None or not free:
        return seeds._replace(half=None)
    most = max(own.var(ddof=1) for own in by_image if len(own) > 1)
    variance = sum((own.var(ddof=1) if len(own) > 1 else most) / len(own) for own in by_image) / len(by_image) ** 2
    half = np.hypot(seeds.half, t.ppf((1 + confidence) / 2, free) * variance**0.5)
    return seeds._replace(half=float(half) or None)
