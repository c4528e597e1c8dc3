"""Filter kinds from outside the project that need no model: they measure colours."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
from pydantic import Field

from factory.contracts import Filter, FilterContext
from factory.records import Samples


class Brightness(Filter):
    """score: mean of all pixels in [0, 1]."""

    def open(self, context: FilterContext) -> Brightness:
        return self

    def score(self, samples: Samples) -> dict[str, np.ndarray]:
        means = [np.nan if image is None else image.mean() / 255 for image in samples.images]
        return {"score": np.array(means, np.float32)}


class Contrast(Brightness):
    """score: standard deviation of all pixels in [0, 1]."""

    def score(self, samples: Samples) -> dict[str, np.ndarray]:
        return {"score": np.array([np.nan if image is None else image.std() / 255 for image in samples.images], np.float32)}


class Twins(Filter):
    """Rows whose four corner pixels are nearly those of an earlier row."""

    whole: ClassVar[bool] = True
    max: float = 0.99
    floor: float = Field(0.5, gt=0)

    def open(self, context: FilterContext) -> Twins:
        return self

    def score(self, samples: Samples) -> dict[str, np.ndarray]:
        corners = [image[::15, ::15].reshape(-1)[:8].astype(np.float32) / 255 for image in samples.images if image is not None]
        return {"embedding": np.array(corners, np.float16)}
