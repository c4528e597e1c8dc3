"""A real image's embedding through an image-prompt adapter, as strong as CLIP is unsure: DALDA (Jung et al. 2024).

The adapter is that of Ye et al. 2023 (arXiv 2308.06721).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar

import numpy as np
from pydantic import Field, model_validator

from factory import blanks, encoders
from factory.contracts import Condition, Context, Table
from factory.errors import UserError
from factory.records import Example, Inputs, Request

TRIES = 100  # a normal of any width falls into its own band within a few


class IpAdapter(Condition):
    """The prompt and one real image; the image counts for more where CLIP does not see the class in it."""

    needs: ClassVar[frozenset[str]] = frozenset({"image_embedding", "adapter_scale", "text"})
    parents: ClassVar[int] = 1

    model: str = Field("ViT-B-32/laion2b_s34b_b79k", description="CLIP that judges the parents: an open_clip name or a local folder.")
    template: Annotated[str, blanks.of("label")] = Field("a photo of a {label}", description="Text of a class for that judgement.")
    low: float = Field(0.3, ge=0, description="The adapter's scale for an image in which CLIP is sure of the class.")
    high: float = Field(0.9, ge=0, description="The adapter's scale for an image in which it is not.")
    sigma: float = Field(0.1, ge=0, description="Width of the normal, cut to [low, high], that an image's scale is drawn from.")
    levels: int = Field(4, ge=1, description="Scales are rounded to so many values, since images of one scale are denoised together.")

    @model_validator(mode="after")
    def _band(self) -> IpAdapter:
        if self.low > self.high:
            raise ValueError(f"low is at most high, not {self.low:g} and {self.high:g}")
        return self

    def check(self, table: Table) -> None:
        """The source must be labelled."""
        if not table.class_names:
            raise UserError(
                "condition ip_adapter asks how sure CLIP is of a class; set source.label, or use condition: image with text: true"
            )

    def open(self, context: Context) -> OpenIpAdapter:
        """Load CLIP and encode the classes."""
        encoder = encoders.open(self.model, context.device)
        texts = encoder.encode_texts([self.template.format(label=name) for name in context.class_names])
        return OpenIpAdapter(self, encoder, texts, {})

    def scale(self, confidence: float, rng: np.random.Generator) -> float:
        """The scale for one image, in [low, high]: drawn round high − confidence·(high − low), then rounded to a level."""
        mean = self.high - confidence * (self.high - self.low)
        draws = rng.normal(mean, self.sigma, TRIES) if self.sigma else np.array([mean])
        inside = draws[(draws >= self.low) & (draws <= self.high)]
        drawn = float(inside[0]) if len(inside) else mean
        values = np.linspace(self.low, self.high, self.levels) if self.levels > 1 else np.array([(self.low + self.high) / 2])
        return float(values[np.abs(values - drawn).argmin()])

    def prepare(self, request: Request, parents: Sequence[Example], rng: np.random.Generator) -> Inputs:
        """Only an opened one can judge its parents."""
        raise TypeError("open the condition first")


@dataclass(frozen=True)
class OpenIpAdapter:
    """texts: float32 [classes, D] of unit length.  seen: confidences by the parents' content keys."""

    kind: IpAdapter
    encoder: encoders.Encoder
    texts: np.ndarray
    seen: dict[tuple[str, int], float]

    def prepare(self, request: Request, parents: Sequence[Example], rng: np.random.Generator) -> Inputs:
        """Records confidence, the probability CLIP gives to the request's class, and scale. An embedding keeps no places."""
        (parent,) = parents
        confidence = self.confidence(parent, request.label)
        scale = self.kind.scale(confidence, rng)
        return Inputs(
            prompt=request.prompt,
            images=(parent.image,),
            adapter_scale=scale,
            soft_label=parent.soft_label,
            record={"confidence": round(confidence, 6), "scale": scale},
        )

    def confidence(self, parent: Example, label: int) -> float:
        """Zero-shot probability of a class for a real image, in [0, 1] (Radford et al. 2021)."""
        key = parent.key, label
        if key not in self.seen:
            logits = self.encoder.logit_scale * (self.texts @ self.encoder.encode_images([parent.image])[0])
            odds = np.exp(logits - logits.max())
            self.seen[key] = float(odds[label] / odds.sum())
        return self.seen[key]
