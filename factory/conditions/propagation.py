"""Unlabelled images as parents, told apart by the few that are labelled.

The labels of the source spread over a graph of nearest neighbours (Zhou et al. 2004, "Learning with local and global consistency"; its
neighbours and weights as in Iscen et al. 2019, arXiv 1904.04717), and a child is conditioned on an unlabelled image that its class has
reached. Generating from guessed labels is dual pseudo training (You et al. 2023, arXiv 2302.10586).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar, Literal, Self

import numpy as np
from pydantic import Field, model_validator

from factory import encoders, indexes
from factory.conditions import _mix
from factory.contracts import Condition, Context, Table
from factory.errors import Undecodable, UserError
from factory.kinds import RealImages
from factory.records import Example, Inputs, Request


class Propagation(Condition):
    """Conditions on the embedding of a library image that the request's class has reached, or starts from that image (strength)."""

    needs: ClassVar[frozenset[str]] = frozenset({"image_embedding"})
    ways: ClassVar[tuple[frozenset[str], ...]] = (needs, frozenset({"image"}))
    looked_up: ClassVar[str] = "library"

    model: str = Field("ViT-B-32/laion2b_s34b_b79k", description="Encoder of the graph: an open_clip name or a local folder.")
    library: RealImages = Field(description="Unlabelled images of the same kind, {dataset: …} as in source; labels in it are not read.")
    k: int = Field(20, ge=1, description="Neighbours of each image in the graph.")
    alpha: float = Field(0.99, gt=0, lt=1, description="How far labels spread; the share that an image takes from its neighbours.")
    keep: float = Field(
        1.0,
        gt=0,
        le=1,
        description="Share of the images that a class has reached, the surest first, that serve as parents; fewer are truer and alike.",
    )
    jitter: float = Field(0.0, ge=0, description="Length of the Gaussian noise added to an embedding, as a share of its length.")
    strength: float | None = Field(
        None,
        gt=0,
        le=1,
        description="null: the image's embedding alone. Otherwise image-to-image from it, as from labelled images in DA-Fusion (Trabucco et al. 2023, "
        "arXiv 2302.07944): the share of noise to start from. Less keeps more of a real image, for models that draw poorly.",
    )
    text: bool = Field(False, description="Use the prompt too.")

    @model_validator(mode="after")
    def _one_way(self) -> Self:
        if self.strength is not None and self.jitter:
            raise ValueError("jitter moves an embedding, and with strength the child starts from the image itself; remove one of them")
        return self

    def labels_of(self) -> Literal["parents", "looked_up", "source"]:
        """Every labelled image has its part in where the labels went."""
        return "source"

    def required(self) -> frozenset[str]:
        """image_embedding, or image with a strength; text as well where it is asked for."""
        return (self.needs if self.strength is None else frozenset({"image"})) | ({"text"} if self.text else set())

    def identity(self) -> dict[str, Any]:
        """The settings, with the library's content in place of where it lies."""
        return {**self.settings(frozenset({"library"})), "library": self.library.open().fingerprint}

    def check(self, table: Table) -> None:
        """Some class must be known before any can spread."""
        if not table.class_names:
            raise UserError("condition propagation: the source has no labels to spread; set source.label")

    def open(self, context: Context) -> OpenPropagation:
        """Encode the library (kept in the cache by content) and spread the source's labels over it. Raises UserError."""
        library, encoder = self.library.open(), encoders.open(self.model, context.device)
        known = np.flatnonzero(context.table.labels >= 0)
        labelled, pool = (
            encoders.ParentEmbeddings(table, encoder, context.cache).get(rows)
            for table, rows in ((context.table, known.tolist()), (library, range(len(library))))
        )
        readable = np.flatnonzero(~np.isnan(pool).any(axis=1))
        seen = ~np.isnan(labelled).any(axis=1)
        labels = np.concatenate([context.table.labels[known[seen]], np.full(len(readable), -1)])
        spread = indexes.spread_labels(
            np.concatenate([labelled[seen], pool[readable]]), labels, len(context.class_names), self.k, self.alpha
        )
        shares = spread[seen.sum() :]
        guess, sure = shares.argmax(1), shares.max(1)
        rows = []
        for label, name in enumerate(context.class_names):
            own = np.flatnonzero((guess == label) & (sure > 0))
            if not len(own):
                raise UserError(
                    f"condition propagation: no library image is near a labelled one of class {name!r}; use a larger library or k"
                )
            own = own[np.argsort(-sure[own], kind="stable")][: max(1, round(self.keep * len(own)))]
            rows.append(readable[own])
        certainty = np.zeros(len(library), np.float32)
        certainty[readable] = sure
        return OpenPropagation(self, library, rows, certainty)

    def prepare(self, request: Request, parents: Sequence[Example], rng: np.random.Generator) -> Inputs:
        """Only an opened one has spread its labels."""
        raise TypeError("open the condition first")


@dataclass(frozen=True)
class OpenPropagation:
    """rows: for each class the library's rows that may be parents, the surest first.  certainty: float32 [rows of the library]."""

    kind: Propagation
    library: Table
    rows: list[np.ndarray]
    certainty: np.ndarray

    def prepare(self, request: Request, parents: Sequence[Example], rng: np.random.Generator) -> Inputs:
        """Records the library image (its content key), how sure its class is, and the seed of the jitter."""
        row, example = self._draw(self.rows[request.label], rng)
        record: dict[str, float | int | str] = {"library": example.key, "certainty": round(float(self.certainty[row]), 6)}
        combine = None
        if self.kind.jitter:
            seed = record["noise_seed"] = int(rng.integers(2**53))
            combine = partial(_jittered, scale=self.kind.jitter, seed=seed)
        prompt = request.prompt if self.kind.text else None
        return Inputs(prompt=prompt, images=(example.image,), combine=combine, strength=self.kind.strength, record=record)

    def _draw(self, rows: np.ndarray, rng: np.random.Generator) -> tuple[int, Example]:
        for row in rng.permutation(rows).tolist():
            try:
                return row, self.library.read(row)
            except Undecodable:  # since it was encoded
                continue
        raise UserError("condition propagation: the library's images can no longer be decoded")


def _jittered(embeddings: np.ndarray, scale: float, seed: int) -> np.ndarray:
    return _mix.jitter(embeddings[0], scale, seed)
