"""Which images a training recognises, as its row stores them, so that two trainings can be compared image by image."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def written(predicted: np.ndarray, truth: np.ndarray, classes: int) -> list[str]:
    """For each class a 1 or 0 for each of its images, in their order: recognised or not. predicted, truth: int [N]."""
    return ["".join(map(str, (predicted[truth == c] == c).astype(int))) for c in range(classes)]


def read(stored: Sequence[str]) -> list[np.ndarray]:
    """For each class that is tested float [images], 1 where an image was recognised."""
    return [(np.frombuffer(text.encode(), np.uint8) == ord("1")).astype(float) for text in stored if text]


def per_class(stored: Sequence[str]) -> list[float | None]:
    """The accuracy of each class, None for one that is not tested."""
    return [text.count("1") / len(text) if text else None for text in stored]


def balanced_accuracy(stored: Sequence[str]) -> float:
    """The mean accuracy of the classes that are tested."""
    return float(np.mean([value for value in per_class(stored) if value is not None]))
