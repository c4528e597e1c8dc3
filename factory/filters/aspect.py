"""Banners and ribbons."""

from __future__ import annotations

import numpy as np
from pydantic import Field

from factory.contracts import Filter, FilterContext
from factory.records import Samples


class Aspect(Filter):
    """score: longer side over shorter side, >= 1 and 1 for a square; NaN for an image that cannot be decoded.

    DataComp's basic filter (Gadre et al. 2023, arXiv 2304.14108) keeps 3 or less.
    """

    max: float | None = Field(3.0, description="Keep rows whose score is at most this; DataComp keeps 3.")

    def open(self, context: FilterContext) -> Scorer:
        return Scorer()


class Scorer:
    def score(self, samples: Samples) -> dict[str, np.ndarray]:
        shapes = [None if image is None else image.shape[:2] for image in samples.images]
        return {"score": np.array([np.nan if shape is None else max(shape) / min(shape) for shape in shapes], dtype=np.float32)}
