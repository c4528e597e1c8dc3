"""A part of a real image repainted, the rest kept; labels and places stay exact (GenAug, Chen et al. 2023, arXiv 2302.06671)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Literal

import numpy as np
from pydantic import Field

from factory.conditions import _masks
from factory.contracts import Condition, Table
from factory.errors import UserError
from factory.records import Annotations, Example, Inputs, Request


class Inpaint(Condition):
    """Repaints the object in its place, or all but the object, or a rectangle."""

    needs: ClassVar[frozenset[str]] = frozenset({"mask"})
    ways: ClassVar[tuple[frozenset[str], ...]] = (frozenset({"mask"}),)
    parents: ClassVar[int] = 1

    area: Literal["mask", "background", "boxes", "random"] = Field(
        "mask", description="mask: where the source's mask is above 0; background: all else; boxes: inside the boxes; random: a rectangle."
    )
    share: float = Field(0.35, gt=0, lt=1, description="For random: the rectangle's share of the image.")
    dilate: int = Field(0, ge=0, description="Grow the repainted part by so many pixels; a new background then touches the object's rim.")
    strength: float | None = Field(
        None, gt=0, le=1, description="Share of noise to start from in the repainted part; null: the pipeline's own."
    )
    text: bool = Field(True, description="Use the prompt too.")

    def required(self) -> frozenset[str]:
        """mask; text as well unless it is off."""
        return self.needs | ({"text"} if self.text else set())

    def check(self, table: Table) -> None:
        """The source must have what the area is made of."""
        wanted = {"mask": "mask", "background": "mask", "boxes": "boxes"}.get(self.area)
        if wanted is not None and wanted not in table.notes:
            raise UserError(f"condition inpaint: area: {self.area} needs {wanted}; set source.{wanted}, or use area: random")

    def prepare(self, request: Request, parents: Sequence[Example], rng: np.random.Generator) -> Inputs:
        """Records the repainted share. Masks and boxes are inherited as they are: what they mark stays in its place."""
        (parent,) = parents
        mask = _masks.dilated(self._area(parent, rng), self.dilate)
        return Inputs(
            prompt=request.prompt if self.text else None,
            images=(parent.image,),
            strength=self.strength,
            mask=mask,
            annotations=parent.annotations,
            soft_label=parent.soft_label,
            record={"area": self.area, "repainted": round(float((mask > 0).mean()), 6)},
        )

    def _area(self, parent: Example, rng: np.random.Generator) -> np.ndarray:
        shape = parent.image.shape[0], parent.image.shape[1]
        notes = parent.annotations or Annotations()
        if self.area == "random":
            return _masks.rectangle(shape, self.share, rng)
        if self.area == "boxes":
            return _masks.of_boxes(notes, shape) if notes.boxes is not None else np.zeros(shape, np.uint8)
        inside = _masks.of_object(notes) if notes.mask is not None else np.zeros(shape, np.uint8)
        return inside if self.area == "mask" else 255 - inside
