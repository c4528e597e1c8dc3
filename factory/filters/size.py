"""Pictures that are too small or too large."""

from __future__ import annotations

from typing import Literal

import numpy as np
from pydantic import Field

from factory.contracts import Filter, FilterContext
from factory.records import Samples


class Size(Filter):
    """score: the shorter side, the longer side or the number of pixels; NaN for an image that cannot be decoded.

    DataComp's basic filter (Gadre et al. 2023, arXiv 2304.14108) keeps a shorter side of 200 pixels or more.
    """

    min: float | None = Field(200.0, description="Keep rows whose score is at least this; DataComp keeps a shorter side of 200 pixels.")
    of: Literal["shorter", "longer", "pixels"] = Field("shorter", description="What is measured: a side in pixels, or height times width.")

    def open(self, context: FilterContext) -> Scorer:
        return Scorer(self.of)


class Scorer:
    def __init__(self, of: str) -> None:
        self._of = of

    def score(self, samples: Samples) -> dict[str, np.ndarray]:
        return {"score": np.array([np.nan if image is None else self._measure(image) for image in samples.images], dtype=np.float32)}

    def _measure(self, image: np.ndarray) -> float:
        height, width = image.shape[:2]
        return {"shorter": min(height, width), "longer": max(height, width), "pixels": height * width}[self._of]
