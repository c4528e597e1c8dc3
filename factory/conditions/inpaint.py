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
        """mask; strength where it is set, and text unless it is off."""
        return self.needs | ({"text"} if self.text else set()) | ({"strength"} if self.strength is not None else set())

    def check(self, table: Table) -> None:
        """The source must have what the area is made of."""
        wanted = {"mask": "mask", "background": "mask", "boxes": "boxes"}.get(self.area)
        if wanted is not None and wanted not in table.notes:
            raise UserError(f"condition inpaint: area: {self.area} needs {wanted}; set source.{wanted}, or use area: random")

    def prepare(self, request: Request, parents: Sequence[Example], rng: np.random.Generator) -> Inputs:
        """Records the area and its share. What masks and boxes mark stays in its place, but for what a random rectangle covers.

        A parent without the marks that the area is made of is repainted in a random rectangle: else it would come back as it is, or
        nothing of it.
        """
        (parent,) = parents
        area = self._area_of(parent)
        mask = _masks.dilated(self._repainted(area, parent, rng), self.dilate)
        return Inputs(
            prompt=request.prompt if self.text else None,
            images=(parent.image,),
            strength=self.strength,
            mask=mask,
            annotations=_uncovered(parent.annotations, mask) if area == "random" else parent.annotations,
            soft_label=parent.soft_label,
            record={"area": area, "repainted": round(float((mask > 0).mean()), 6)},
        )

    def _area_of(self, parent: Example) -> str:
        notes = parent.annotations or Annotations()
        boxed, masked = notes.boxes is not None and len(notes.boxes) > 0, notes.mask is not None and bool(notes.mask.any())
        marked = {"boxes": boxed, "mask": masked, "background": masked, "random": True}[self.area]
        return self.area if marked else "random"

    def _repainted(self, area: str, parent: Example, rng: np.random.Generator) -> np.ndarray:
        shape = parent.image.shape[0], parent.image.shape[1]
        notes = parent.annotations or Annotations()
        if area == "random":
            return _masks.rectangle(shape, self.share, rng)
        if area == "boxes":
            return _masks.of_boxes(notes, shape)
        inside = _masks.of_object(notes)
        return inside if area == "mask" else 255 - inside


def _uncovered(notes: Annotations | None, mask: np.ndarray) -> Annotations | None:
    """What a repainted part leaves of annotations: instances without the pixels in it, boxes of which at least half is outside."""
    if notes is None:
        return None
    places = None if notes.mask is None else np.where(mask > 0, 0, notes.mask).astype(np.int32)
    if notes.boxes is None:
        return Annotations(mask=places)
    covered = [float((mask[y0:y1, x0:x1] > 0).mean()) if y1 > y0 and x1 > x0 else 1.0 for x0, y0, x1, y1 in _whole(notes.boxes)]
    stays = np.array(covered, float) <= 0.5
    return Annotations(notes.boxes[stays], None if notes.box_labels is None else notes.box_labels[stays], places)


def _whole(boxes: np.ndarray) -> list[list[int]]:
    """Boxes in whole pixels, cut at the upper left border."""
    return np.rint(boxes).astype(int).clip(0).tolist()
