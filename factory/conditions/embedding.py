"""A parent's embedding as the condition: as it is, jittered, or on the arc to another image of its class.

Learned representation-guided diffusion (Graikos et al. 2024, arXiv 2312.07330); mixes as in augmented conditioning (arXiv 2502.04475).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Literal

import numpy as np
from pydantic import Field

from factory.conditions import _mix
from factory.contracts import Condition
from factory.records import Example, Inputs, Request


class Embedding(Condition):
    """Conditions on one or two parents' embeddings by the pipeline's own image encoder; no pixel of them is used."""

    needs: ClassVar[frozenset[str]] = frozenset({"image_embedding"})

    mix: Literal["none", "slerp", "mixup", "cutmix"] = Field(
        "none", description="How the embeddings of two images of the class become one: along the arc, the chord, or by exchanging features."
    )
    alpha: float = Field(1.0, gt=0, description="The share of the first image is drawn from Beta(alpha, alpha); 1 is uniform.")
    jitter: float = Field(
        0.0, ge=0, description="Length of the Gaussian noise added, as a share of the embedding's; its length stays. 0.2 is mild."
    )
    dropout: float = Field(0.0, ge=0, le=1, description="Probability that an entry of the embedding is zeroed.")
    text: bool = Field(False, description="Use the prompt too.")

    def required(self) -> frozenset[str]:
        """image_embedding; text as well where it is asked for."""
        return self.needs | ({"text"} if self.text else set())

    def parent_count(self) -> int:
        """Two to mix, else one."""
        return 1 if self.mix == "none" else 2

    def prepare(self, request: Request, parents: Sequence[Example], rng: np.random.Generator) -> Inputs:
        """Records mix, lambda (share of the first parent), start (of the exchanged features), and the seeds of jitter and dropout."""
        record: dict[str, float | int | str] = {"mix": self.mix, "jitter": self.jitter, "dropout": self.dropout}
        parents = parents[: self.parent_count()]
        share = float(rng.beta(self.alpha, self.alpha)) if self.mix != "none" else 1.0
        start = float(rng.random()) if self.mix == "cutmix" else 0.0
        record |= {"lambda": share} if self.mix != "none" else {}
        record |= {"start": start} if self.mix == "cutmix" else {}
        seed = record["noise_seed"] = int(rng.integers(2**53))  # exact in JSON for every reader

        def combine(embeddings: np.ndarray) -> np.ndarray:
            mixed = embeddings[0]
            if self.mix == "slerp":
                mixed = _mix.embed_slerp(embeddings, share)
            elif self.mix == "mixup":
                mixed = _mix.embed_mixup(embeddings, share)
            elif self.mix == "cutmix":
                mixed = _mix.embed_cutmix(embeddings, share, start)
            if self.jitter:
                mixed = _mix.jitter(mixed, self.jitter, seed)
            return _mix.drop(mixed, self.dropout, seed) if self.dropout else mixed

        return Inputs(
            prompt=request.prompt if self.text else None,
            images=tuple(parent.image for parent in parents),
            combine=combine if self.mix != "none" or self.jitter or self.dropout else None,
            soft_label=_mix.soft_label(parents[0].soft_label, parents[-1].soft_label, share),
            record=record,
        )
