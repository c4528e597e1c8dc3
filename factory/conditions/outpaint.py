"""A real image made smaller, and the world painted round it; masks and boxes move with it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import ClassVar

import numpy as np
from pydantic import Field, model_validator

from factory.contracts import Condition
from factory.images import to_pil
from factory.records import Annotations, Example, Inputs, Request


class Outpaint(Condition):
    """Places the shrunken image somewhere on a canvas of its old size and repaints the rest."""

    needs: ClassVar[frozenset[str]] = frozenset({"mask"})
    ways: ClassVar[tuple[frozenset[str], ...]] = (frozenset({"mask"}),)
    parents: ClassVar[int] = 1

    scale: tuple[float, float] = Field((0.5, 0.8), description="Lowest and highest side of the image on the canvas, as a share of it.")
    strength: float | None = Field(None, gt=0, le=1, description="Share of noise to start from in the new part; null: the pipeline's own.")
    text: bool = Field(True, description="Use the prompt too.")

    @model_validator(mode="after")
    def _range(self) -> Outpaint:
        if not 0 < self.scale[0] <= self.scale[1] < 1:
            raise ValueError(f"scale must be two shares, low and high, between 0 and 1, not {list(self.scale)}")
        return self

    def required(self) -> frozenset[str]:
        """mask; strength where it is set, and text unless it is off."""
        return self.needs | ({"text"} if self.text else set()) | ({"strength"} if self.strength is not None else set())

    def prepare(self, request: Request, parents: Sequence[Example], rng: np.random.Generator) -> Inputs:
        """Records scale, x0 and y0. The canvas begins as the image's border carried on, for pipelines that start below strength 1."""
        (parent,) = parents
        height, width = parent.image.shape[:2]
        scale = float(rng.uniform(*self.scale))
        h, w = max(1, round(height * scale)), max(1, round(width * scale))
        y0, x0 = int(rng.integers(height - h + 1)), int(rng.integers(width - w + 1))
        small = np.asarray(to_pil(parent.image).resize((w, h)))
        around = ((y0, height - h - y0), (x0, width - w - x0))
        mask = np.pad(np.zeros((h, w), np.uint8), around, constant_values=255)
        return Inputs(
            prompt=request.prompt if self.text else None,
            images=(np.pad(small, (*around, (0, 0)), mode="edge"),),
            strength=self.strength,
            mask=mask,
            annotations=_placed(parent.annotations, (height, width), (h, w), (y0, x0)),
            soft_label=parent.soft_label,
            record={"scale": round(scale, 6), "x0": x0, "y0": y0},
        )


def _placed(notes: Annotations | None, old: tuple[int, int], new: tuple[int, int], at: tuple[int, int]) -> Annotations | None:
    if notes is None:
        return None
    small = notes.resized(old, new)
    boxes = None if small.boxes is None else (small.boxes + np.array([at[1], at[0]] * 2)).astype(np.float32)
    mask = small.mask
    if mask is not None:
        mask = np.pad(mask, [(start, side - size - start) for side, size, start in zip(old, new, at, strict=True)])
    return replace(small, boxes=boxes, mask=mask)
