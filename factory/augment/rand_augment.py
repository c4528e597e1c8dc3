"""N operations at one shared magnitude: RandAugment (Cubuk et al. 2020, arXiv 1909.13719)."""

from __future__ import annotations

import numpy as np
from pydantic import Field

from factory.augment import _torchvision
from factory.contracts import Augment
from factory.records import Annotations


class RandAugment(Augment):
    """torchvision's RandAugment: each operation is drawn evenly from fourteen."""

    n: int = Field(2, ge=1, description="Operations, one after the other; the paper's ResNet-50 uses 2.")
    m: int = Field(9, ge=0, le=30, description="Magnitude of all of them, 0 to 30; the paper's ResNet-50 uses 9.")

    def apply(
        self, image: np.ndarray, annotations: Annotations | None, rng: np.random.Generator
    ) -> tuple[np.ndarray, Annotations | None, dict[str, float | int | str]]:
        """Records the seed. Shears, rotations and shifts are small, and torchvision leaves masks and boxes alone: these are dropped."""
        from torchvision.transforms import v2

        out, _, record = _torchvision.run(lambda: v2.RandAugment(self.n, self.m), image, None, rng)
        return out, None, record
