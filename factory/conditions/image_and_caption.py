"""A real image as the start and its own caption as the text: the third strategy of Bansal and Grover 2023 (arXiv 2302.02503)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, ClassVar

import numpy as np
from pydantic import Field

from factory import blanks
from factory.contracts import Condition, Table
from factory.errors import UserError
from factory.records import Example, Inputs, Request


class ImageAndCaption(Condition):
    """Image-to-image (Meng et al. 2022, SDEdit) from a real image, steered by the caption that the source has for it."""

    needs: ClassVar[frozenset[str]] = frozenset({"image", "text"})
    parents: ClassVar[int] = 1

    strength: float = Field(0.8, gt=0, le=1, description="Share of noise to start from; the authors' 1.0 nearly ignores the image.")
    text: Annotated[str, blanks.of("caption", "prompt")] = Field(
        "{caption}", description="What is asked for; {caption} is the parent's, {prompt} the request's own."
    )

    def check(self, table: Table) -> None:
        """The source must have captions."""
        if "caption" not in table.notes:
            raise UserError(
                "condition image_and_caption: the source has no captions; set source.caption, or use condition: image with text: true"
            )

    def prepare(self, request: Request, parents: Sequence[Example], rng: np.random.Generator) -> Inputs:
        """Nothing is drawn; records caption: 0 where the parent has none and the request's prompt is used. Places stay below strength 1."""
        (parent,) = parents
        caption = (parent.caption or "").strip()
        return Inputs(
            prompt=self.text.format(caption=caption, prompt=request.prompt) if caption else request.prompt,
            images=(parent.image,),
            strength=self.strength,
            annotations=parent.annotations if self.strength < 1 else None,
            soft_label=parent.soft_label,
            record={"caption": int(bool(caption)), "strength": self.strength},
        )
