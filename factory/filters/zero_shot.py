"""Would a zero-shot classifier give the picture its intended class?"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from factory.contracts import FilterContext
from factory.filters._classes import Classes, ClassFilter, likeliest, of_label
from factory.filters._encoded import encode
from factory.records import Samples


class ZeroShot(ClassFilter):
    """score: probability in [0, 1] of the intended class among all classes; column predicted: index of the likeliest.

    Softmax at the model's logit scale over class embeddings that are averaged over templates (Radford et al. 2021, 3.1.4).
    An unlabelled image has no score, yet a prediction.
    """

    def open(self, context: FilterContext) -> Scorer:
        return Scorer(self.classes(context))


@dataclass(frozen=True)
class Scorer:
    classes: Classes

    def score(self, samples: Samples) -> dict[str, np.ndarray]:
        chances = self.classes.probabilities(encode(self.classes.encoder, samples))
        score = of_label(chances, samples.labels)
        return {"score": score.astype(np.float32), "predicted": likeliest(chances).astype(np.float32)}
