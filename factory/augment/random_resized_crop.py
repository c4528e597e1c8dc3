"""A random part of the image, enlarged (Szegedy et al. 2015, the crop of Inception)."""

from __future__ import annotations

import math

import numpy as np
from pydantic import Field, model_validator

from factory.augment import _geometry
from factory.contracts import Augment
from factory.records import Annotations


class RandomResizedCrop(Augment):
    """Cuts a window whose share of the area and whose aspect are drawn, and resizes it."""

    scale: tuple[float, float] = Field((0.08, 1.0), description="Lowest and highest share of the image's area, in (0, 1].")
    ratio: tuple[float, float] = Field(
        (3 / 4, 4 / 3), description="Lowest and highest width / height of the window, even in the logarithm."
    )
    size: int | None = Field(None, ge=1, description="Side of the square result in pixels; null keeps the image's own height and width.")
    min_visible: float = Field(0.1, ge=0, le=1, description="Boxes of which a smaller share of the area stays in view are dropped.")

    @model_validator(mode="after")
    def _ranges(self) -> RandomResizedCrop:
        if not 0 < self.scale[0] <= self.scale[1] <= 1:
            raise ValueError(f"scale must be two shares, low and high, in (0, 1], not {list(self.scale)}")
        if not 0 < self.ratio[0] <= self.ratio[1]:
            raise ValueError(f"ratio must be two positive numbers, low and high, not {list(self.ratio)}")
        return self

    def apply(
        self, image: np.ndarray, annotations: Annotations | None, rng: np.random.Generator
    ) -> tuple[np.ndarray, Annotations | None, dict[str, float | int | str]]:
        """Records crop_x0, crop_y0, crop_x1, crop_y1 in pixels of the input."""
        height, width = image.shape[:2]
        window = self._window(height, width, rng)
        size = (self.size, self.size) if self.size is not None else (height, width)
        out, notes = _geometry.crop_resize(image, annotations, window, size, self.min_visible)
        return out, notes, dict(zip(("crop_x0", "crop_y0", "crop_x1", "crop_y1"), window, strict=True))

    def _window(self, height: int, width: int, rng: np.random.Generator) -> tuple[int, int, int, int]:
        """Ten tries as in torchvision; then the largest centred window whose aspect is allowed."""
        for _ in range(10):
            area = height * width * rng.uniform(*self.scale)
            aspect = math.exp(rng.uniform(math.log(self.ratio[0]), math.log(self.ratio[1])))
            w, h = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
            if 0 < w <= width and 0 < h <= height:
                x0, y0 = int(rng.integers(width - w + 1)), int(rng.integers(height - h + 1))
                return x0, y0, x0 + w, y0 + h
        aspect = min(max(width / height, self.ratio[0]), self.ratio[1])
        w, h = max(1, min(width, round(height * aspect))), max(1, min(height, round(width / aspect)))
        x0, y0 = (width - w) // 2, (height - h) // 2
        return x0, y0, x0 + w, y0 + h
