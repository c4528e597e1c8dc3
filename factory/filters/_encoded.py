"""What filters that look through an encoder share."""

from __future__ import annotations

from abc import ABC
from collections.abc import Callable, Sequence

import numpy as np
from pydantic import Field

from factory import encoders
from factory.contracts import Filter, FilterContext
from factory.records import Example, Samples

DEFAULT_MODEL = "ViT-B-32/laion2b_s34b_b79k"


class EncodedFilter(Filter, ABC):
    """A filter whose score comes from embeddings."""

    model: str = Field(DEFAULT_MODEL, description="open_clip ARCH/TAG, a local open_clip folder, or hf-hub:org/name.")
    dtype: encoders.Dtype = Field(
        "float32", description="Arithmetic of the encoder; bfloat16 moves a cosine by about 0.001, and float16 is for GPUs."
    )

    def encoder(self, context: FilterContext) -> encoders.Encoder:
        """The shared encoder on the context's device. Raises UserError."""
        return encoders.open(self.model, context.device, self.dtype)


def encode(encoder: encoders.Encoder, samples: Samples) -> np.ndarray:
    """float32 [N, dim] of unit length; NaN where an image could not be decoded."""
    rows = np.full((len(samples), encoder.dim), np.nan, np.float32)
    decoded = [row for row, image in enumerate(samples.images) if image is not None]
    rows[decoded] = encoder.encode_images([image for image in samples.images if image is not None])
    return rows


def cosine(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Row by row, float32 in [-1, 1], of unit vectors [N, dim]; NaN where either is NaN."""
    # A matrix product may round a row differently in another batch; a sum along the row does not.
    return np.clip((left * right).sum(axis=-1, dtype=np.float64), -1, 1).astype(np.float32)


class Parents:
    """Compares samples with the real images they were made from, whose embeddings are kept where there is a table."""

    def __init__(self, encoder: encoders.Encoder, context: FilterContext) -> None:
        self._encoder = encoder
        self._known = None if context.table is None else encoders.ParentEmbeddings(context.table, encoder, context.cache)

    def closest(self, samples: Samples, compare: Callable[[list[int], np.ndarray], np.ndarray]) -> np.ndarray:
        """float32 [N], the largest similarity to a parent; NaN where no parent can be compared.

        compare(children, embeddings): rows of the samples, and as many embeddings of parents [M, dim] -> similarities [M].
        """
        score = np.full(len(samples), np.nan, np.float32)
        children = [row for row, parents in enumerate(samples.parents) for _ in parents]
        embeddings = self._embed([parent for parents in samples.parents for parent in parents])
        similarity = np.asarray(compare(children, embeddings), np.float32)
        np.fmax.at(score, children, similarity)  # fmax: a number beats NaN, so an undecodable parent does not hide the others
        return score

    def _embed(self, parents: Sequence[Example]) -> np.ndarray:
        if self._known is not None:
            return self._known.get([parent.index for parent in parents])
        distinct = {parent.key: parent.image for parent in parents}
        rows = dict(zip(distinct, self._encoder.encode_images(list(distinct.values())), strict=True))
        return np.stack([rows[parent.key] for parent in parents]) if parents else np.empty((0, self._encoder.dim), np.float32)
