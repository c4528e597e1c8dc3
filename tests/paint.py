"""A generator kind from outside the project: paints noise over the parent's mean colour. Real kinds' contracts, no model."""

from __future__ import annotations

import time
from collections.abc import Sequence

import numpy as np
from pydantic import Field

from factory.contracts import Generator
from factory.errors import UserError
from factory.records import Inputs


class Paint(Generator):
    """Seeded noise, tinted by the first condition image."""

    size: int = Field(16, ge=1)
    seconds: float = 0.0

    def open(self, device: str) -> OpenPaint:
        return OpenPaint(self.size, self.seconds)


class OpenPaint:
    """See factory.contracts.OpenGenerator."""

    accepts = frozenset({"text", "image", "image_embedding", "reference"})

    def __init__(self, size: int, seconds: float):
        self.size, self.seconds = size, seconds

    def check(self, needs: frozenset[str], class_names: Sequence[str]) -> None:
        missing = needs - self.accepts
        if missing:
            raise UserError(f"generator: paint cannot take {', '.join(sorted(missing))}; it takes {', '.join(sorted(self.accepts))}")

    def generate(self, seeds: Sequence[int], inputs: Sequence[Inputs]) -> list[np.ndarray]:
        time.sleep(self.seconds)
        return [self._one(seed, given) for seed, given in zip(seeds, inputs, strict=True)]

    def describe(self) -> dict[str, object]:
        return {"pipeline": "paint", "weights": {}}

    def _one(self, seed: int, given: Inputs) -> np.ndarray:
        noise = np.random.default_rng(seed).integers(0, 256, (self.size, self.size, 3), dtype=np.uint8)
        if not given.images:
            return noise
        tint = given.images[0].reshape(-1, 3).mean(axis=0)
        return ((noise.astype(np.float32) + tint) / 2).astype(np.uint8)
