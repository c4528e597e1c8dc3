"""Of pictures that are nearly the same, keep the first."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from pydantic import Field, model_validator

from factory.contracts import FilterContext
from factory.encoders import Encoder
from factory.filters._encoded import EncodedFilter, encode
from factory.records import Samples


class NearDuplicate(EncodedFilter):
    """A row goes when an earlier kept row's cosine is above `max`; the pass over all rows is `factory.neighbours`.

    Column embedding: float16 [N, dim] of unit length, NaN where undecodable.
    """

    whole: ClassVar[bool] = True

    max: float = Field(0.96, gt=0, le=1, description="Two images with a cosine above this are the same image.")
    floor: float = Field(0.85, gt=0, lt=1, description="Pairs at least this similar are remembered; max can be moved down to it for free.")

    @model_validator(mode="after")
    def _only_max(self) -> NearDuplicate:
        if self.min is not None or self.between is not None or self.keep_top is not None:
            raise ValueError("near_duplicate compares images with each other: its rule is max alone")
        if self.max < self.floor:
            raise ValueError(f"max {self.max:g} is below floor {self.floor:g}, and less similar pairs are not remembered; lower floor too")
        return self

    def open(self, context: FilterContext) -> Scorer:
        return Scorer(self.encoder(context))


@dataclass(frozen=True)
class Scorer:
    encoder: Encoder

    def score(self, samples: Samples) -> dict[str, np.ndarray]:
        return {"embedding": encode(self.encoder, samples).astype(np.float16)}
