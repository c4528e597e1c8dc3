"""Left and right exchanged."""

from __future__ import annotations

import numpy as np
from pydantic import Field

from factory.augment import _geometry
from factory.contracts import Augment
from factory.records import Annotations


class HorizontalFlip(Augment):
    """Mirrors the image with probability p."""

    p: float = Field(0.5, ge=0, le=1, description="Probability of a flip.")

    def apply(
        self, image: np.ndarray, annotations: Annotations | None, rng: np.random.Generator
    ) -> tuple[np.ndarray, Annotations | None, dict[str, float | int | str]]:
        """Records flip: 0 or 1."""
        flip = bool(rng.random() < self.p)
        if flip:
            image, annotations = _geometry.mirror(image, annotations)
        return image, annotations, {"flip": int(flip)}
