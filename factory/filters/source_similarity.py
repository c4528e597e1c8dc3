"""How close is a picture to the real images it was made from? A band drops both strangers and near-copies."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from factory.contracts import FilterContext
from factory.encoders import Encoder, ParentEmbeddings
from factory.filters._encoded import EncodedFilter, cosine, encode
from factory.records import Example, Samples


class SourceSimilarity(EncodedFilter):
    """score: the largest cosine in [-1, 1] between an image and its parents; NaN without parents."""

    def open(self, context: FilterContext) -> Scorer:
        encoder = self.encoder(context)
        return Scorer(encoder, None if context.table is None else ParentEmbeddings(context.table, encoder, context.cache))


@dataclass(frozen=True)
class Scorer:
    encoder: Encoder
    known: ParentEmbeddings | None

    def score(self, samples: Samples) -> dict[str, np.ndarray]:
        score = np.full(len(samples), np.nan, np.float32)
        pictures = encode(self.encoder, samples)
        children = [row for row, parents in enumerate(samples.parents) for _ in parents]
        similarity = cosine(pictures[children], self._embed([parent for parents in samples.parents for parent in parents]))
        np.fmax.at(score, children, similarity)  # fmax: a number beats NaN, so an undecodable parent does not hide the others
        return {"score": score}

    def _embed(self, parents: Sequence[Example]) -> np.ndarray:
        if self.known is not None:
            return self.known.get([parent.index for parent in parents])
        distinct = {parent.key: parent.image for parent in parents}
        rows = dict(zip(distinct, self.encoder.encode_images(list(distinct.values())), strict=True))
        return np.stack([rows[parent.key] for parent in parents]) if parents else np.empty((0, self.encoder.dim), np.float32)
