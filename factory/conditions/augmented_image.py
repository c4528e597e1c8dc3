"""Augmented conditioning (Chen et al. 2025, arXiv 2502.04475): classical augmentation of what the generator is conditioned on.

Ten variants: mix none, mixup, cutmix, embed_mixup or embed_cutmix, each with and without dropout on the image embedding.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
from pydantic import BeforeValidator, Field, PlainSerializer, WithJsonSchema, model_validator

from factory import kinds
from factory.conditions import _mix
from factory.contracts import Augment, Condition
from factory.records import Example, Inputs, Request

PIXEL_MIXES = ("mixup", "cutmix")
Record = dict[str, float | int | str]


def _augment(value: Any) -> Augment:
    """`name` or `{kind: name, …}` -> the augment. Raises ValueError that says what to write instead."""
    kind = value.get("kind") if isinstance(value, dict) else value
    if kind in (*PIXEL_MIXES, "embed_mixup", "embed_cutmix"):
        raise ValueError(f"{kind} takes two images, so it is no augment; write `mix: {kind}` beside it")
    return kinds.nested("augment", Augment, value)  # type: ignore[return-value]


AnyAugment = Annotated[
    Augment,
    BeforeValidator(_augment),
    PlainSerializer(lambda augment: augment.settings()),
    WithJsonSchema({"anyOf": [{"type": "string"}, {"type": "object", "required": ["kind"], "properties": {"kind": {"type": "string"}}}]}),
]


@dataclass(frozen=True)
class _Drawn:
    """Two parents made into what the encoder sees, and what is left to do with the embeddings."""

    images: tuple[np.ndarray, ...]
    combine: Callable[[np.ndarray], np.ndarray] | None = None
    first_share: float = 1.0


class AugmentedImage(Condition):
    """Augments one or two real images of the class, mixes them as pixels or as embeddings, and may drop entries of the embedding."""

    ways: ClassVar[tuple[frozenset[str], ...]] = (frozenset({"reference"}), frozenset({"image_embedding"}), frozenset({"image"}))

    mix: Literal["none", "mixup", "cutmix", "embed_mixup", "embed_cutmix"] = Field(
        "none", description="How two images of the class become one, as pixels (mixup, cutmix) or embeddings (embed_…); none: one image."
    )
    dropout: float = Field(0.0, ge=0, le=1, description="Probability that an entry of the image embedding is zeroed; the paper uses 0.4.")
    alpha: float = Field(1.0, gt=0, description="The share of the first image is drawn from Beta(alpha, alpha); 1 is uniform.")
    augment: tuple[AnyAugment, ...] | None = Field(
        None,
        description="Applied to each image before mixing, names or {kind: …}; null: random_resized_crop for mixup and cutmix, else none.",
    )
    space: Literal["embedding", "pixel"] = Field(
        "embedding", description="embedding: condition on the image's embedding; pixel: start image-to-image from the augmented image."
    )
    strength: float | None = Field(
        None, gt=0, le=1, description="For space: pixel, the share of noise to start from; 1 nearly ignores the image."
    )
    text: bool = Field(True, description="Use the prompt too.")

    @model_validator(mode="after")
    def _space_fits(self) -> AugmentedImage:
        if self.space == "pixel":
            if self.mix.startswith("embed_") or self.dropout:
                name = "dropout" if self.dropout else self.mix
                raise ValueError(f"{name} works on embeddings; use space: embedding, or mix: mixup or cutmix")
            if self.strength is None:
                raise ValueError("space: pixel needs strength, for example strength: 0.5")
        elif self.strength is not None:
            raise ValueError("strength is for space: pixel; an embedding has no strength")
        return self

    def required(self) -> frozenset[str]:
        """image for space: pixel; image_embedding to mix or drop embeddings, reference where one image is all; text as well unless it is off."""
        whole = "image_embedding" if self.mix.startswith("embed_") or self.dropout else "reference"
        return frozenset({"image" if self.space == "pixel" else whole} | ({"text"} if self.text else set()))

    def parent_count(self) -> int:
        """Two to mix, else one."""
        return 1 if self.mix == "none" else 2

    def augments(self) -> tuple[Augment, ...]:
        """The augments in force: those given, else the paper's crop before a mix of pixels."""
        if self.augment is not None:
            return self.augment
        return (_augment("random_resized_crop"),) if self.mix in PIXEL_MIXES else ()

    def prepare(self, request: Request, parents: Sequence[Example], rng: np.random.Generator) -> Inputs:
        """Draws come in a fixed order: each parent's augments, the mix, the dropout.

        Records mix; lambda (share of the first parent) for mixes; the pasted window, the first feature or the dropout seed where
        there is one; and each augment's draws as `parent<i>.<place>.<name>`. Masks and boxes are inherited only from pixels below
        strength 1: an embedding keeps no places, and a MixUp shows two objects in one.
        """
        record: Record = {"mix": self.mix}
        parents = [self._augmented(i, parent, rng, record) for i, parent in enumerate(parents[: self.parent_count()])]
        drawn = self._mixed(parents, rng, record)
        combine = self._with_dropout(drawn.combine, rng, record)
        return Inputs(
            prompt=request.prompt if self.text else None,
            images=drawn.images,
            combine=combine,
            strength=self.strength,
            annotations=self._notes(parents, record),
            soft_label=_mix.soft_label(parents[0].soft_label, parents[-1].soft_label, drawn.first_share),
            record=record,
        )

    def _augmented(self, number: int, parent: Example, rng: np.random.Generator, record: Record) -> Example:
        image, notes = parent.image, parent.annotations
        for place, augment in enumerate(self.augments()):
            image, notes, drawn = augment.apply(image, notes, rng)
            record.update({f"parent{number}.{place}.{name}": value for name, value in drawn.items()})
        return replace(parent, image=image, annotations=notes)

    def _mixed(self, parents: list[Example], rng: np.random.Generator, record: Record) -> _Drawn:
        first = parents[0].image
        if self.mix == "none":
            return _Drawn((first,))
        lam = record["lambda"] = float(rng.beta(self.alpha, self.alpha))
        if self.mix == "embed_mixup":
            return _Drawn((first, parents[1].image), partial(_mix.embed_mixup, lam=lam), lam)
        if self.mix == "embed_cutmix":
            start = record["start"] = float(rng.random())
            return _Drawn((first, parents[1].image), partial(_mix.embed_cutmix, lam=lam, start=start), lam)
        second, resized = _mix.same_size(parents[1].image, first)
        if resized:
            record["parent1.resized"] = 1
        if self.mix == "mixup":
            return _Drawn((_mix.mixup(first, second, lam),), None, lam)
        window = _mix.cut_window(first.shape, lam, rng)
        record.update(zip(("cut_x0", "cut_y0", "cut_x1", "cut_y1"), window, strict=True))
        share = 1 - (window[2] - window[0]) * (window[3] - window[1]) / (first.shape[0] * first.shape[1])
        return _Drawn((_mix.cutmix(first, second, window),), None, share)

    def _with_dropout(
        self, combine: Callable[[np.ndarray], np.ndarray] | None, rng: np.random.Generator, record: Record
    ) -> Callable[[np.ndarray], np.ndarray] | None:
        record["dropout"] = self.dropout
        if not self.dropout:
            return combine
        seed = record["dropout_seed"] = int(rng.integers(2**53))  # exact in JSON for every reader
        dropout = self.dropout

        def mix_and_drop(embeddings: np.ndarray) -> np.ndarray:
            return _mix.drop(embeddings[0] if combine is None else combine(embeddings), dropout, seed)

        return mix_and_drop

    def _notes(self, parents: list[Example], record: Record) -> Any:
        if self.strength is None or self.strength >= 1 or self.mix == "mixup":
            return None
        if self.mix == "none":
            return parents[0].annotations
        if "parent1.resized" in record:
            return None
        window = tuple(int(record[f"cut_{side}"]) for side in ("x0", "y0", "x1", "y1"))
        return _mix.cutmix_notes(parents[0].annotations, parents[1].annotations, window)  # type: ignore[arg-type]
