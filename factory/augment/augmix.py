"""Several chains of operations, mixed with each other and with the image: AugMix (Hendrycks et al. 2020, arXiv 1912.02781)."""

from __future__ import annotations

import numpy as np
from pydantic import Field

from factory.augment import _torchvision
from factory.contracts import Augment
from factory.records import Annotations


class Augmix(Augment):
    """torchvision's AugMix."""

    severity: int = Field(3, ge=1, le=10, description="Magnitude of the operations.")
    width: int = Field(3, ge=1, description="Chains.")
    depth: int = Field(-1, description="Operations per chain; -1 draws 1 to 3 for each.")
    alpha: float = Field(1.0, gt=0, description="Of the Dirichlet and Beta draws of the mixing weights.")

    def apply(
        self, image: np.ndarray, annotations: Annotations | None, rng: np.random.Generator
    ) -> tuple[np.ndarray, Annotations | None, dict[str, float | int | str]]:
        """Records the seed. The chains move pixels by different amounts, so places in the image are no longer exact: they are dropped."""
        from torchvision.transforms import v2

        out, _, record = _torchvision.run(lambda: v2.AugMix(self.severity, self.width, self.depth, self.alpha), image, None, rng)
        return out, None, record
