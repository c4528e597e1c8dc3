"""Does a zero-shot classifier answer alike for a picture and for the real image that it was made from?"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from pydantic import Field

from factory.contracts import FilterContext
from factory.filters._classes import Classes, ClassFilter
from factory.filters._encoded import Parents, encode
from factory.records import Samples


class LogitCosine(ClassFilter):
    """score: the largest cosine in [-1, 1] between an image's class logits and those of a parent; NaN without parents.

    DiffTPT (Feng et al. 2023, arXiv 2308.06038) keeps the top 80%, as a rank and no threshold: logits of one encoder lie close together.
    Theirs is a rank within the variations of one image, here it is one within a class.
    """

    keep_top: str | int | None = Field("80%", description="Keep the best share ('80%') or number of rows; DiffTPT keeps 80%.")

    def open(self, context: FilterContext) -> Scorer:
        classes = self.classes(context)
        return Scorer(classes, Parents(classes.encoder, context))


@dataclass(frozen=True)
class Scorer:
    classes: Classes
    parents: Parents

    def score(self, samples: Samples) -> dict[str, np.ndarray]:
        own = _directions(self.classes.logits(encode(self.classes.encoder, samples)))

        def compare(children: list[int], embeddings: np.ndarray) -> np.ndarray:
            return np.clip((own[children] * _directions(self.classes.logits(embeddings))).sum(axis=1), -1, 1)

        return {"score": self.parents.closest(samples, compare)}


def _directions(logits: np.ndarray) -> np.ndarray:
    lengths = np.linalg.norm(logits, axis=1, keepdims=True)
    return np.divide(logits, lengths, out=np.full_like(logits, np.nan), where=lengths > 0)
