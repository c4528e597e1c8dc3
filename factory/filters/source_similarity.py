"""How close is a picture to the real images it was made from? A band drops both strangers and near-copies."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from factory.contracts import FilterContext
from factory.encoders import Encoder
from factory.filters._encoded import EncodedFilter, Parents, cosine, encode
from factory.records import Samples


class SourceSimilarity(EncodedFilter):
    """score: the largest cosine in [-1, 1] between an image and its parents; NaN without parents."""

    def open(self, context: FilterContext) -> Scorer:
        encoder = self.encoder(context)
        return Scorer(encoder, Parents(encoder, context))


@dataclass(frozen=True)
class Scorer:
    encoder: Encoder
    parents: Parents

    def score(self, samples: Samples) -> dict[str, np.ndarray]:
        pictures = encode(self.encoder, samples)
        return {"score": self.parents.closest(samples, lambda children, embeddings: cosine(pictures[children], embeddings))}
