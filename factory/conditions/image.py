"""One real image: as the start of image-to-image, or varied by its embedding or by an editing pipeline."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import numpy as np
from pydantic import Field

from factory.contracts import Condition
from factory.records import Example, Inputs, Request


class Image(Condition):
    """A variation of one real image of the class (strength: null), or image-to-image from it (Meng et al. 2022, SDEdit)."""

    parents: ClassVar[int] = 1
    ways: ClassVar[tuple[frozenset[str], ...]] = (frozenset({"reference"}), frozenset({"image"}))

    strength: float | None = Field(
        None,
        gt=0,
        le=1,
        description="Share of noise that image-to-image starts from; 1 nearly ignores the image. null: a variation, "
        "by its embedding or as the pipeline takes it.",
    )
    text: bool = Field(False, description="Use the prompt too.")

    def required(self) -> frozenset[str]:
        """image for image-to-image, else reference; text as well where it is asked for."""
        return frozenset({"reference" if self.strength is None else "image"} | ({"text"} if self.text else set()))

    def prepare(self, request: Request, parents: Sequence[Example], rng: np.random.Generator) -> Inputs:
        """The parent as it is; nothing is drawn. Masks and boxes stay only below strength 1: an embedding holds no places."""
        (parent,) = parents
        return Inputs(
            prompt=request.prompt if self.text else None,
            images=(parent.image,),
            strength=self.strength,
            annotations=parent.annotations if self.strength is not None and self.strength < 1 else None,
            soft_label=parent.soft_label,
        )
