"""An embedding drawn from a model of p(embedding | class or text), so that a child needs no parent.

RCG (Li et al. 2024, arXiv 2312.03701); Graikos et al. 2024 (arXiv 2312.07330) draw patches' embeddings so. Made by `factory train`, kind
embedding_prior.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from pydantic import Field

from factory.contracts import Condition, Context
from factory.errors import UserError
from factory.records import Example, Inputs, Request


class EmbeddingPrior(Condition):
    """Conditions on a drawn embedding of the request's class or prompt."""

    needs: ClassVar[frozenset[str]] = frozenset({"image_embedding"})

    model: str = Field(description="A folder that factory train, kind embedding_prior, wrote for the generator's pipeline.")
    guidance: float = Field(1.5, ge=0, description="Guidance scale of the draw; 1 is none.")
    steps: int = Field(25, ge=1, description="Steps of the draw.")

    def open(self, context: Context) -> OpenPrior:
        """Load the model and find the run's classes in it by name. Raises UserError."""
        from factory.models.prior import EmbeddingPriorModel

        try:
            prior = EmbeddingPriorModel.from_pretrained(self.model, use_safetensors=True).eval().requires_grad_(False)
        except Exception as error:  # what another kind of training wrote fails in its own way
            raise UserError(
                f"condition embedding_prior: {self.model} is no folder that kind: embedding_prior wrote: {error} ({type(error).__name__})"
            ) from error
        known = list(prior.config.class_names)
        missing = [name for name in context.class_names if name not in known] if prior.config.given == "class" else []
        if missing:
            raise UserError(f"condition embedding_prior: {self.model} knows no class {missing[0]!r}; it knows: {', '.join(known)}")
        places = [known.index(name) if name in known else -1 for name in context.class_names]
        return OpenPrior(self, prior, places)

    def prepare(self, request: Request, parents: Sequence[Example], rng: np.random.Generator) -> Inputs:
        """Only an opened one can draw."""
        raise TypeError("open the condition first")


@dataclass(frozen=True)
class OpenPrior:
    """places: the run's classes in the model's list."""

    kind: EmbeddingPrior
    prior: Any
    places: list[int]

    def prepare(self, request: Request, parents: Sequence[Example], rng: np.random.Generator) -> Inputs:
        """Records the seed of the draw."""
        seed = int(rng.integers(2**53))
        given = self.prior.config.given
        label = self.places[request.label] if given == "class" and request.label >= 0 else -1
        text = request.prompt if given == "text" else None
        drawn = self.prior.draw([label], [text] if text is not None else None, [seed], self.kind.steps, self.kind.guidance)
        return Inputs(embedding=drawn[0].numpy(), record={"embedding_seed": seed})
