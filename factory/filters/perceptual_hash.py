"""Of pictures that look the same but for size, compression and small edits, keep the first."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
from pydantic import Field, model_validator

from factory import images
from factory.contracts import Filter, FilterContext
from factory.records import Samples

BITS = 64


class PerceptualHash(Filter):
    """A row goes when an earlier kept row's hash differs in at most `distance` of 64 bits; the pass over all rows is `factory.neighbours`.

    The hash is the sign pattern of an image's 8×8 lowest cosine frequencies about their median (pHash, Zauner 2010), by imagehash
    (BSD-2-Clause). Distances up to 10 are the usual sign of a copy. Column embedding: float16 [N, 64], each entry 1 or -1, NaN where
    undecodable; the cosine of two rows is 1 - distance / 32.
    """

    whole: ClassVar[bool] = True
    own_rule_fields: ClassVar[frozenset[str]] = frozenset({"distance"})

    distance: int = Field(
        10, ge=0, lt=BITS // 2, description="Two images whose hashes differ in at most this many bits are the same image."
    )
    reach: int = Field(
        11, ge=0, lt=BITS // 2, description="Pairs within this many bits are remembered; distance can be moved up to it for free."
    )

    @model_validator(mode="after")
    def _only_distance(self) -> PerceptualHash:
        if any(value is not None for value in (self.min, self.max, self.between, self.keep_top)):
            raise ValueError("perceptual_hash compares images with each other: its rule is distance alone")
        if self.distance > self.reach:
            raise ValueError(f"distance {self.distance} is beyond reach {self.reach}, and such pairs are not remembered; raise reach too")
        return self

    @property
    def floor(self) -> float:
        """The least cosine that is remembered."""
        return 1 - 2 * self.reach / BITS

    def bounds(self) -> tuple[float, float]:
        """The cosines with an earlier kept row that leave a row in: those of more than `distance` bits."""
        return -np.inf, 1 - (2 * self.distance + 1) / BITS

    def open(self, context: FilterContext) -> Scorer:
        return Scorer()


class Scorer:
    def score(self, samples: Samples) -> dict[str, np.ndarray]:
        import imagehash

        signs = np.full((len(samples), BITS), np.nan, np.float16)
        for row, image in enumerate(samples.images):
            if image is not None:
                signs[row] = np.where(imagehash.phash(images.to_pil(image)).hash.ravel(), 1, -1)
        return {"embedding": signs}
