"""A long tail of labelled images, as a source of recipes."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from typing import Annotated, Any

import numpy as np
from pydantic import BeforeValidator, Field, PlainSerializer

from factory import kinds
from factory.contracts import Source, Table
from factory.evaluate import protocols
from factory.records import Example

Images = Annotated[
    Source, BeforeValidator(lambda value: kinds.nested("sources", Source, value)), PlainSerializer(lambda source: source.settings())
]


class LongTail(Source):
    """Draws fewer and fewer images of each class, from `most` of the first to most / ratio of the last (Cui et al. 2019, arXiv 1901.05555)."""

    images: Images = Field(description="Labelled images.")
    most: int = Field(ge=1)
    ratio: float = Field(100.0, ge=1)
    seed: int = 0

    def open(self) -> Drawn:
        """Raises UserError where a class has too few images."""
        table = self.images.open()
        return Drawn(table, np.sort(protocols.long_tail(table.labels, self.most, self.seed, self.ratio)))


@dataclass
class Drawn:
    """Some rows of a `Table`."""

    whole: Table
    rows: np.ndarray

    def __post_init__(self) -> None:
        self.class_names, self.notes = self.whole.class_names, self.whole.notes
        self.labels = self.whole.labels[self.rows]
        captions: Any = self.whole.captions
        self.captions = None if captions is None else [captions[row] for row in self.rows]
        self.fingerprint = hashlib.sha256(self.whole.fingerprint.encode() + self.rows.astype(np.int64).tobytes()).hexdigest()

    def __len__(self) -> int:
        return len(self.rows)

    def read(self, index: int) -> Example:
        """One drawn row. Raises Undecodable, and IndexError past the end."""
        return replace(self.whole.read(int(self.rows[index])), index=index)
