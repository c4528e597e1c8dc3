"""An image of one class repainted as another: Diff-Mix (Wang et al. 2024, arXiv 2403.19600)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Literal

import numpy as np
from pydantic import Field

from factory.contracts import Condition, Table
from factory.errors import UserError
from factory.records import Example, Inputs, Request


class OtherClass(Condition):
    """Image-to-image from a real image of another class with this class's prompt; the label is shared between both by strength."""

    needs: ClassVar[frozenset[str]] = frozenset({"image", "text"})
    parents: ClassVar[int] = 1
    parents_of: ClassVar[Literal["class", "others"]] = "others"

    strength: float = Field(0.8, gt=0, le=1, description="Share of noise to start from; the paper uses 0.7 to 0.8. Sweep it for several.")
    gamma: float = Field(0.5, gt=0, description="The request's class gets strength^gamma of the soft label, the parent's class the rest.")

    def check(self, table: Table) -> None:
        """The source must be labelled."""
        if not table.class_names:
            raise UserError("condition other_class needs a labelled source; set source.label, or use condition: image")

    def prepare(self, request: Request, parents: Sequence[Example], rng: np.random.Generator) -> Inputs:
        """Nothing is drawn. The soft label is (1 − s^γ) of the parent's and s^γ of the request's class (section 3.3); no places are kept."""
        (parent,) = parents
        share = self.strength**self.gamma
        target = np.zeros(request.classes, np.float32)
        target[request.label] = 1
        source = np.zeros(request.classes, np.float32)
        if parent.soft_label is not None:
            source[: len(parent.soft_label)] = parent.soft_label
        else:
            source[parent.label] = 1
        return Inputs(
            prompt=request.prompt,
            images=(parent.image,),
            strength=self.strength,
            soft_label=(share * target + (1 - share) * source).astype(np.float32),
            record={"strength": self.strength, "parent_label": int(parent.label), "share": share},
        )
