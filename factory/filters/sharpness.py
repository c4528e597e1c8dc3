"""Blur: pictures without fine detail."""

from __future__ import annotations

import numpy as np
from pydantic import Field

from factory.contracts import Filter, FilterContext
from factory.records import Samples


class Sharpness(Filter):
    """score: variance of the Laplacian of the grey image, >= 0, in squared grey levels (Pech-Pacheco et al. 2000).

    100 is where tools for photographs commonly draw the line. It falls as the same picture gets larger, so set it for the size at hand,
    or set `side` and compare all pictures at one size. OpenCV is Apache-2.0.
    """

    min: float | None = Field(100.0, description="Keep rows whose score is at least this.")
    side: int | None = Field(None, ge=3, description="Shrink images to this shorter side before measuring; smaller ones stay as they are.")

    def open(self, context: FilterContext) -> Scorer:
        return Scorer(self.side)


class Scorer:
    def __init__(self, side: int | None) -> None:
        self._side = side

    def score(self, samples: Samples) -> dict[str, np.ndarray]:
        return {"score": np.array([np.nan if image is None else self._variance(image) for image in samples.images], dtype=np.float32)}

    def _variance(self, image: np.ndarray) -> float:
        import cv2

        grey = cv2.cvtColor(np.ascontiguousarray(image), cv2.COLOR_RGB2GRAY)
        shorter = min(grey.shape)
        if self._side is not None and self._side < shorter:
            height, width = (max(1, round(n * self._side / shorter)) for n in grey.shape)
            grey = cv2.resize(grey, (width, height), interpolation=cv2.INTER_AREA)
        return float(cv2.Laplacian(grey, cv2.CV_64F).var())
