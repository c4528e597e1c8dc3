"""Black, white and flat images, such as those a safety checker leaves behind."""

from __future__ import annotations

import numpy as np
from pydantic import Field

from factory.contracts import Filter, FilterContext
from factory.records import Samples


class Blank(Filter):
    """score: standard deviation of the most varied colour channel, in [0, 127.5]; 0 is one flat colour.

    The largest of three channels and not luma: red on green of the same brightness is a picture, yet flat in luma.
    """

    min: float | None = Field(4.0, description="Keep rows whose score is at least this.")

    def open(self, context: FilterContext) -> Scorer:
        return Scorer()


class Scorer:
    def score(self, samples: Samples) -> dict[str, np.ndarray]:
        return {"score": np.array([np.nan if image is None else contrast(image) for image in samples.images], dtype=np.float32)}


def contrast(image: np.ndarray) -> float:
    """uint8 [H, W, 3] -> the largest standard deviation of a channel, from exact integer sums."""
    pixels = image.reshape(-1, 3)
    mean = pixels.sum(axis=0, dtype=np.int64) / len(pixels)
    squares = np.square(pixels, dtype=np.uint16).sum(axis=0, dtype=np.int64) / len(pixels)
    return float(np.sqrt(np.maximum(squares - mean**2, 0)).max())
