"""What filters share that read the probabilities of an image classifier."""

from __future__ import annotations

from abc import ABC
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from pydantic import Field

from factory import classifiers, contracts
from factory.contracts import Filter, FilterContext
from factory.errors import UserError
from factory.records import Samples


class LabelFilter(Filter, ABC):
    """score: probability in [0, 1] that one of the labels applies.

    usual: what published models call it; without `labels`, those of them that the model has.
    """

    usual: ClassVar[tuple[str, ...]] = ()

    model: str
    labels: list[str] | None = Field(None, min_length=1, description="The model's labels that count; null: those with a usual name.")

    def open(self, context: FilterContext) -> contracts.Scorer:
        classifier = classifiers.open(self.model, context.device)
        return Scorer(classifier, self._columns(classifier.names))

    def _columns(self, names: list[str]) -> list[int]:
        places = dict(zip(self.labels or self.usual, classifiers.positions(names, self.labels or self.usual), strict=True))
        missing = [label for label, place in places.items() if place is None]
        if missing and (self.labels is not None or len(missing) == len(places)):
            raise UserError(
                f"{self.kind}: {self.model!r} has no label {missing[0]!r}; {classifiers.nearest(names, missing[0])}; set `labels`"
            )
        return sorted({place for place in places.values() if place is not None})


@dataclass(frozen=True)
class Scorer:
    classifier: classifiers.Classifier
    columns: Sequence[int]

    def score(self, samples: Samples) -> dict[str, np.ndarray]:
        chances = classify(self.classifier, samples)[:, list(self.columns)]
        return {"score": np.minimum(chances.sum(axis=1), 1).astype(np.float32)}


def classify(classifier: classifiers.Classifier, samples: Samples) -> np.ndarray:
    """float32 [N, C], NaN where an image could not be decoded."""
    chances = np.full((len(samples), len(classifier.names)), np.nan, np.float32)
    decoded = [row for row, image in enumerate(samples.images) if image is not None]
    chances[decoded] = classifier.probabilities([image for image in samples.images if image is not None])
    return chances
