"""Channel statistics pushed towards the harder side, after AdvStyle (Zhong et al. 2022, arXiv 2207.04892)."""

from __future__ import annotations

import numpy as np
from pydantic import Field

from factory.contracts import Augment
from factory.records import Annotations


class AdvStyle(Augment):
    """Moves each channel's mean and deviation away from typical ones.

    The paper follows a task model's loss gradient. There is no task model here, so the harder side is taken to be the one further
    from the statistics that models are trained on: an image that is bright already gets brighter, a flat one flatter.
    """

    step: float = Field(0.5, ge=0, description="Largest step, in units of the typical deviation; each channel draws its own share of it.")
    mean: tuple[float, float, float] = Field((0.485, 0.456, 0.406), description="Typical means of R, G, B in [0, 1]; ImageNet's.")
    std: tuple[float, float, float] = Field((0.229, 0.224, 0.225), description="Typical deviations of R, G, B; ImageNet's.")

    def apply(
        self, image: np.ndarray, annotations: Annotations | None, rng: np.random.Generator
    ) -> tuple[np.ndarray, Annotations | None, dict[str, float | int | str]]:
        """Records the six steps; places stay where they are."""
        pixels = image.astype(np.float32) / 255
        typical_mean, typical_std = np.array(self.mean, np.float32), np.array(self.std, np.float32)
        mean, std = pixels.mean((0, 1)), pixels.std((0, 1))
        steps = self.step * rng.random((2, 3)).astype(np.float32)
        new_mean = mean + np.where(mean >= typical_mean, 1, -1) * steps[0] * typical_std
        new_std = np.maximum(std * np.exp(np.where(std >= typical_std, 1, -1) * steps[1]), 1e-3)
        out = (pixels - mean) / np.maximum(std, 1e-3) * new_std + new_mean
        record: dict[str, float | int | str] = {
            f"{what}_{channel}": round(float(steps[row, column]), 6)
            for row, what in enumerate(("mean", "std"))
            for column, channel in enumerate("rgb")
        }
        return np.clip(np.rint(out * 255), 0, 255).astype(np.uint8), annotations, record
