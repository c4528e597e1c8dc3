"""Would a trained classifier give the picture its intended class?"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from pydantic import Field

from factory import classifiers
from factory.contracts import Filter, FilterContext
from factory.errors import UserError
from factory.filters._classes import likeliest, of_label
from factory.filters._labels import classify
from factory.records import Samples


class Classifier(Filter):
    """score: probability in [0, 1] that a classifier gives the row's label; NaN for an unlabelled row.

    column predicted: index of the likeliest of the dataset's classes. The probability is the model's own, over all of its labels. A
    classifier that learned from the same real images tells noise from class; one that learned from these very images tells nothing.
    The licence is the model's: see its card.
    """

    model: str = Field(
        description="Transformers classifier by Hub id or folder, timm:NAME, or a folder of `factory train`, kind classifier."
    )
    names: dict[str, str] = Field(
        default_factory=dict, description="The model's label for each class that it calls otherwise; {wren: 'house wren'}."
    )

    def open(self, context: FilterContext) -> Scorer:
        if not context.class_names:
            raise UserError("classifier asks for the probability of a row's label, and the data has no classes; name a label column")
        strange = next((name for name in self.names if name not in context.class_names), None)
        if strange is not None:
            raise UserError(f"classifier: names has {strange!r}, which is no class of the data ({', '.join(context.class_names[:10])})")
        found = classifiers.open(self.model, context.device)
        wanted = [self.names.get(name, name) for name in context.class_names]
        places = classifiers.positions(found.names, wanted)
        lost = next((name for name, place in zip(wanted, places, strict=True) if place is None), None)
        if lost is not None:
            hint = classifiers.nearest(found.names, lost)
            raise UserError(f"classifier: {self.model!r} has no label {lost!r}; {hint}; say which one it is with `names: {{class: label}}`")
        return Scorer(found, np.array(places, np.int64))


@dataclass(frozen=True)
class Scorer:
    """places: int64 [C], where the dataset's classes are among the classifier's."""

    classifier: classifiers.Classifier
    places: np.ndarray

    def score(self, samples: Samples) -> dict[str, np.ndarray]:
        chances = classify(self.classifier, samples)[:, self.places]
        return {"score": of_label(chances, samples.labels).astype(np.float32), "predicted": likeliest(chances).astype(np.float32)}
