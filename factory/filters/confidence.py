"""How sure is a zero-shot classifier of the picture, whichever class it takes it for?"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from pydantic import Field

from factory.contracts import FilterContext
from factory.errors import UserError
from factory.filters._classes import Classes, ClassFilter, likeliest
from factory.filters._encoded import encode
from factory.records import Samples


class Confidence(ClassFilter):
    """score: 1 - H(p) / log C in [0, 1], 1 for certainty and 0 for a flat answer; column predicted: index of the likeliest class.

    DiffTPT (Feng et al. 2023, arXiv 2308.06038), after TPT, keeps the images with the lowest entropy H of the C class probabilities: the top
    30%, as a rank and no threshold. Theirs is a rank within the variations of one image, here it is one within a class.
    """

    keep_top: str | int | None = Field("30%", description="Keep the best share ('30%') or number of rows; DiffTPT keeps 30%.")

    def open(self, context: FilterContext) -> Scorer:
        if len(context.class_names) == 1:
            raise UserError("confidence needs two classes or more, and the data has one; of one class every answer is certain")
        return Scorer(self.classes(context))


@dataclass(frozen=True)
class Scorer:
    classes: Classes

    def score(self, samples: Samples) -> dict[str, np.ndarray]:
        chances = self.classes.probabilities(encode(self.classes.encoder, samples))
        entropy = -(chances * np.log(np.maximum(chances, np.finfo(np.float64).tiny))).sum(axis=1)
        score = 1 - entropy / np.log(chances.shape[1])
        return {"score": np.clip(score, 0, 1).astype(np.float32), "predicted": likeliest(chances).astype(np.float32)}
