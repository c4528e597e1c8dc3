"""Real images like the parent, or like the prompt, as the condition: semi-parametric synthesis (Blattmann et al. 2022, arXiv 2204.11824).

The library may be any set of real images; another library moves the same generator to another domain.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar, Literal

import numpy as np
from pydantic import Field

from factory import encoders, indexes
from factory.conditions import _mix
from factory.contracts import Condition, Context, Table
from factory.errors import Undecodable, UserError
from factory.kinds import RealImages
from factory.records import Example, Inputs, Request


class Retrieval(Condition):
    """Conditions on the k nearest neighbours in a library: as so many tokens where the pipeline takes several, else on their mean."""

    needs: ClassVar[frozenset[str]] = frozenset({"image_embedding"})
    looked_up: ClassVar[str] = "neighbours"

    model: str = Field("ViT-B-32/laion2b_s34b_b79k", description="Encoder of the index: an open_clip name or a local folder.")
    k: int = Field(4, ge=1, description="Neighbours per image; the paper uses 4.")
    of: Literal["parent", "prompt"] = Field("parent", description="Whose neighbours: those of a real image of the class, or of the text.")
    library: RealImages | None = Field(None, description="Images to search, {dataset: …} as in source; null: the run's own source.")
    within: Literal["all", "class"] = Field("all", description="class: only library images whose class is called like the request's.")
    mix: Literal["none", "random"] = Field(
        "none", description="random: one embedding, a random convex mix of the neighbours' (weights from a flat Dirichlet)."
    )
    include_parent: bool = Field(False, description="Whether a parent may be its own neighbour.")
    text: bool = Field(False, description="Use the prompt too.")

    def labels_of(self) -> Literal["parents", "looked_up", "source"]:
        """Classes of the library are read where neighbours are sought within one."""
        return "looked_up" if self.within == "class" else "parents"

    def required(self) -> frozenset[str]:
        """image_embedding; text as well where it is asked for."""
        return self.needs | ({"text"} if self.text else set())

    def parent_count(self) -> int:
        """One, unless the prompt is what is looked for."""
        return int(self.of == "parent")

    def identity(self) -> dict[str, Any]:
        """The settings, with the library's content in place of where it lies."""
        library = None if self.library is None else self.library.open().fingerprint
        return {**self.settings(frozenset({"library"})), "library": library}

    def check(self, table: Table) -> None:
        """Classes are compared by name, so there must be some."""
        if self.within == "class" and not table.class_names:
            raise UserError("condition retrieval: within: class needs a labelled source; set source.label, or within: all")

    def open(self, context: Context) -> OpenRetrieval:
        """Encode the library (kept in the cache by content) and index it, one index for each class where classes are apart."""
        library = self.library.open() if self.library is not None else context.table
        encoder = encoders.open(self.model, context.device)
        embeddings = encoders.ParentEmbeddings(library, encoder, context.cache)
        own = {i: library.class_names.index(name) for i, name in enumerate(context.class_names) if name in library.class_names}
        rows = {i: np.flatnonzero(library.labels == j) for i, j in own.items()} if self.within == "class" else {-1: np.arange(len(library))}
        missing = [name for i, name in enumerate(context.class_names) if self.within == "class" and i not in own]
        if missing:
            raise UserError(
                f"condition retrieval: the library has no class {', '.join(map(repr, missing[:5]))}; use within: all, or rename its classes"
            )
        built = {i: indexes.ImageIndex(library, embeddings, encoder, some) for i, some in rows.items()}
        return OpenRetrieval(self, library, encoder, built)

    def prepare(self, request: Request, parents: Sequence[Example], rng: np.random.Generator) -> Inputs:
        """Only an opened one has an index."""
        raise TypeError("open the condition first")


@dataclass(frozen=True)
class OpenRetrieval:
    """built: class index -> index over the library's images of that class, or -1 -> over all."""

    kind: Retrieval
    library: Table
    encoder: encoders.Encoder
    built: dict[int, indexes.ImageIndex]

    def prepare(self, request: Request, parents: Sequence[Example], rng: np.random.Generator) -> Inputs:
        """Draws the weights of a random mix. Records neighbours (content keys, nearest first), the cosines of the nearest and the furthest, and weights."""
        of_text = self.kind.of == "prompt"
        query = (self.encoder.encode_texts([request.prompt]) if of_text else self.encoder.encode_images([parents[0].image]))[0]
        skip = None if of_text or self.kind.include_parent else parents[0]
        found = self._neighbours(self.built[request.label if self.kind.within == "class" else -1], query, skip)
        if not found:
            raise UserError(
                f"condition retrieval: the library has no image to go with request {request.id}; set include_parent, or a larger library"
            )
        examples, cosines = zip(*found, strict=True)
        weights = rng.dirichlet(np.ones(len(examples))) if self.kind.mix == "random" else None
        mixed = {} if weights is None else {"weights": " ".join(f"{weight:.6f}" for weight in weights)}
        return Inputs(
            prompt=request.prompt if self.kind.text else None,
            images=tuple(example.image for example in examples),
            tokens=weights is None,
            combine=None if weights is None else partial(_mix.embed_mean, weights=weights),
            record={
                **mixed,
                "neighbours": " ".join(example.key for example in examples),
                "nearest": round(cosines[0], 6),
                "furthest": round(cosines[-1], 6),
            },
        )

    def _neighbours(self, index: indexes.ImageIndex, query: np.ndarray, skip: Example | None) -> list[tuple[Example, float]]:
        """The k nearest that can be decoded and are not `skip`, which may be there several times and in other files: pixels tell."""
        asked = self.kind.k + (8 if skip else 0)
        while True:
            found: list[tuple[Example, float]] = []
            rows, cosines = index.search(query, asked)
            for row, cosine in zip(rows, cosines, strict=True):
                try:
                    example = self.library.read(int(row))
                except Undecodable:
                    continue
                if skip is None or not _same(example, skip):
                    found.append((example, float(cosine)))
                if len(found) == self.kind.k:
                    return found
            if asked >= len(index):
                return found
            asked *= 4


def _same(one: Example, other: Example) -> bool:
    return one.key == other.key or np.array_equal(one.image, other.image)
