"""Edges, depth or segmentation of a real image as the layout of a new one: ControlNet (Zhang et al. 2023, arXiv 2302.05543)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
from pydantic import Field, model_validator

from factory.contracts import Condition, Context, Prepares, Table
from factory.errors import UserError
from factory.images import to_pil
from factory.records import Example, Inputs, Request


class Control(Condition):
    """Follows the layout of one real image; below a strength its pixels too."""

    needs: ClassVar[frozenset[str]] = frozenset({"control"})
    ways: ClassVar[tuple[frozenset[str], ...]] = (frozenset({"control"}),)
    parents: ClassVar[int] = 1

    map: Literal["edges", "depth", "segmentation"] = Field("edges", description="What the pipeline's ControlNet was trained to follow.")
    low: float = Field(100, ge=0, description="For edges: Canny's lower threshold (Canny 1986).")
    high: float = Field(200, ge=0, description="For edges: Canny's upper threshold.")
    model: str | None = Field(
        None,
        description="For depth (default Intel/dpt-hybrid-midas) and segmentation (default: the source's own mask): a Transformers model, "
        "local folder or Hub id.",
    )
    strength: float | None = Field(
        None, gt=0, le=1, description="Start image-to-image from the parent too, at this share of noise; null: no."
    )
    text: bool = Field(True, description="Use the prompt too.")

    @model_validator(mode="after")
    def _goes_together(self) -> Control:
        if self.map == "edges" and self.model is not None:
            raise ValueError("edges are found by Canny; leave model out, or use map: depth or segmentation")
        if self.low > self.high:
            raise ValueError(f"low is at most high, not {self.low:g} and {self.high:g}")
        return self

    def required(self) -> frozenset[str]:
        """control; image where it starts from one; text as well unless it is off."""
        return self.needs | ({"text"} if self.text else set()) | ({"image"} if self.strength is not None else set())

    def check(self, table: Table) -> None:
        """Segmentation without a model needs the source's masks."""
        if self.map == "segmentation" and self.model is None and "mask" not in table.notes:
            raise UserError("condition control: map: segmentation needs masks; set source.mask, or name a segmentation model")

    def open(self, context: Context) -> Prepares:
        """Load the model that sees depth or segments, where there is one. Raises UserError."""
        if self.map == "edges" or (self.map == "segmentation" and self.model is None):
            return self
        name = self.model or "Intel/dpt-hybrid-midas"
        task = _depth if self.map == "depth" else _segments
        return OpenControl(self, task(name, context.device))

    def prepare(self, request: Request, parents: Sequence[Example], rng: np.random.Generator) -> Inputs:
        """Nothing is drawn. Masks and boxes are kept: the layout is what the control image holds."""
        (parent,) = parents
        return self.inputs(request, parent, self._edges(parent) if self.map == "edges" else _coloured_mask(parent))

    def inputs(self, request: Request, parent: Example, control: np.ndarray) -> Inputs:
        """What the generator gets for one parent and its control image, uint8 [H, W, 3]."""
        return Inputs(
            prompt=request.prompt if self.text else None,
            images=(parent.image,) if self.strength is not None else (),
            strength=self.strength,
            control=control,
            annotations=parent.annotations,
            soft_label=parent.soft_label,
            record={"map": self.map, "drawn": round(float((control > 0).any(axis=2).mean()), 6)},
        )

    def _edges(self, parent: Example) -> np.ndarray:
        import cv2

        return np.repeat(cv2.Canny(np.ascontiguousarray(parent.image), self.low, self.high)[..., None], 3, axis=2).astype(np.uint8)


@dataclass(frozen=True)
class OpenControl:
    """see: uint8 [H, W, 3] -> control image of the same size."""

    kind: Control
    see: Callable[[np.ndarray], np.ndarray]

    def prepare(self, request: Request, parents: Sequence[Example], rng: np.random.Generator) -> Inputs:
        """As the kind's own."""
        return self.kind.inputs(request, parents[0], self.see(parents[0].image))


def _coloured_mask(parent: Example) -> np.ndarray:
    notes = parent.annotations
    if notes is None or notes.mask is None:
        return np.zeros_like(parent.image)
    return _palette(notes.mask)


def _palette(classes: np.ndarray) -> np.ndarray:
    """int [H, W] -> uint8 [H, W, 3]: 0 is black, each other number its own colour, the same in every image."""
    numbers = classes.astype(np.uint32)
    mixed = (numbers * np.uint32(2654435761)) ^ (numbers * np.uint32(40503) << np.uint32(7))
    colours = np.stack([(mixed >> np.uint32(shift)) & np.uint32(0xFF) for shift in (0, 8, 16)], axis=-1) | np.uint32(32)
    return np.where(numbers[..., None] == 0, 0, colours).astype(np.uint8)


def _opened(name: str, auto: str, device: str) -> tuple[Any, Any]:
    import transformers

    try:
        processor = transformers.AutoImageProcessor.from_pretrained(name)
        network = getattr(transformers, auto).from_pretrained(name, use_safetensors=True).eval().requires_grad_(False).to(device)
    except (OSError, ValueError) as error:
        raise UserError(f"condition control: cannot open model {name!r}: {str(error).strip().splitlines()[-1]}") from error
    return processor, network


def _depth(name: str, device: str) -> Callable[[np.ndarray], np.ndarray]:
    """Near is white, as ControlNets were trained."""
    processor, network = _opened(name, "AutoModelForDepthEstimation", device)

    def see(image: np.ndarray) -> np.ndarray:
        import torch

        with torch.inference_mode():
            output = network(**processor(images=to_pil(image), return_tensors="pt").to(device))
        (found,) = processor.post_process_depth_estimation(output, target_sizes=[image.shape[:2]])
        depth = found["predicted_depth"].float().cpu().numpy()
        low, high = float(depth.min()), float(depth.max())
        return np.repeat(((depth - low) / max(high - low, 1e-6) * 255).astype(np.uint8)[..., None], 3, axis=2)

    return see


def _segments(name: str, device: str) -> Callable[[np.ndarray], np.ndarray]:
    processor, network = _opened(name, "AutoModelForSemanticSegmentation", device)

    def see(image: np.ndarray) -> np.ndarray:
        import torch

        with torch.inference_mode():
            output = network(**processor(images=to_pil(image), return_tensors="pt").to(device))
        (found,) = processor.post_process_semantic_segmentation(output, target_sizes=[image.shape[:2]])
        return _palette(found.cpu().numpy() + 1)

    return see
