"""What filters that look through an encoder share."""

from __future__ import annotations

from abc import ABC

import numpy as np
from pydantic import Field

from factory import encoders
from factory.contracts import Filter, FilterContext
from factory.records import Samples

DEFAULT_MODEL = "ViT-B-32/laion2b_s34b_b79k"


class EncodedFilter(Filter, ABC):
    """A filter whose score comes from embeddings."""

    model: str = Field(DEFAULT_MODEL, description="open_clip ARCH/TAG, a local open_clip folder, or hf-hub:org/name.")
    dtype: encoders.Dtype = Field("float32", description="Arithmetic on a GPU; a CPU always computes in float32.")

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
