"""Can the stored bytes be opened as an image at all?"""

from __future__ import annotations

import numpy as np
from pydantic import Field

from factory.contracts import Filter, FilterContext
from factory.records import Samples


class Undecodable(Filter):
    """score: 1 for an image that decodes, 0 for one that does not."""

    min: float | None = Field(1.0, description="Keep rows whose score is at least this.")

    def open(self, context: FilterContext) -> Scorer:
        return Scorer()


class Scorer:
    def score(self, samples: Samples) -> dict[str, np.ndarray]:
        return {"score": np.array([image is not None for image in samples.images], dtype=np.float32)}
