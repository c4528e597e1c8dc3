"""Would a zero-shot classifier give the picture its intended class?"""

from __future__ import annotations

from factory.contracts import FilterContext
from factory.filters._classes import ClassFilter, Scorer, of_label


class ZeroShot(ClassFilter):
    """score: probability in [0, 1] of the intended class among all classes; column predicted: index of the likeliest.

    Softmax at the model's logit scale over class embeddings that are averaged over templates (Radford et al. 2021, 3.1.4).
    An unlabelled image has no score, yet a prediction.
    """

    def open(self, context: FilterContext) -> Scorer:
        return Scorer(self.classes(context), of_label)
