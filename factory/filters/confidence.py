"""How sure is a zero-shot classifier of the picture, whichever class it takes it for?"""

from __future__ import annotations

import numpy as np
from pydantic import Field

from factory.contracts import FilterContext
from factory.errors import UserError
from factory.filters._classes import ClassFilter, Scorer


class Confidence(ClassFilter):
    """score: 1 - H(p) / log C in [0, 1], 1 for certainty and 0 for a flat answer; column predicted: index of the likeliest class.

    DiffTPT (Feng et al. 2023, arXiv 2308.06038), after TPT, keeps the images with the lowest entropy H of the C class probabilities: the top
    30%, as a rank and no threshold. Theirs is a rank within the variations of one image, here it is one within a class.
    """

    keep_top: str | int | None = Field("30%", description="Keep the best share ('30%') or number of rows; DiffTPT keeps 30%.")

    def open(self, context: FilterContext) -> Scorer:
        if len(context.class_names) == 1:
            raise UserError("confidence needs two classes or more, and the data has one; of one class every answer is certain")
        return Scorer(self.classes(context), certainty)


def certainty(chances: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Probabilities float64 [N, C] -> float64 [N] in [0, 1], whatever the labels; NaN where they are."""
    entropy = -(chances * np.log(np.maximum(chances, np.finfo(np.float64).tiny))).sum(axis=1)
    sure: np.ndarray = np.clip(1 - entropy / np.log(chances.shape[1]), 0, 1)
    return sure
