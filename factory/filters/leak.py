"""Is a picture a copy of a real image, of training or of test? A row that is too close goes, and the real image is written down."""

from __future__ import annotations

import contextlib
import hashlib
import json
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, ClassVar

import numpy as np
from pydantic import Field, model_validator

from factory.contracts import FilterContext, Table
from factory.encoders import Encoder, ParentEmbeddings
from factory.errors import Undecodable, UserError
from factory.filters._encoded import EncodedFilter, cosine, encode
from factory.kinds import RealImages
from factory.records import Samples

BLOCK = 16384  # real images in one matrix product


class Leak(EncodedFilter):
    """score: the largest cosine in [-1, 1] to any real image of the sets, found exactly; NaN for an image that cannot be decoded.

    Columns nearest_set (place in `real`, from 0), nearest_row and nearest (sha256 of the stored bytes, as in `parents`) name that real image;
    -1, -1 and empty without a score. Carlini et al. 2023 (arXiv 2301.13188) and Somepalli et al. 2023 (arXiv 2212.03860) find such copies in the
    output of diffusion models; there is no published bound for CLIP, so the default is one that near-duplicate searches use. Memory: 4·dim
    bytes for each real image. The scores belong to what the sets hold, wherever they lie: sets that change are compared with anew.
    """

    own_rule_fields: ClassVar[frozenset[str]] = frozenset({"real", "named"})  # `contents` says what was measured

    real: list[RealImages] = Field(
        default_factory=list,
        description="Real sets, each as `source:` names one: [{dataset: data/birds, split: train}, {dataset: data/birds, split: test}]. "
        "Empty: the run's own source.",
    )
    contents: tuple[str, ...] | None = Field(
        None, description="Fingerprints of the sets in `real`, as stored runs have them; left out, they are read from the sets."
    )
    named: str | None = Field(
        None, description="Digest of `real` as it was when `contents` was read; where `real` is another, so are these."
    )
    max: float | None = Field(0.95, description="Refuse rows that are closer than this to a real image.")

    @model_validator(mode="after")
    def _contents_are_of_these_sets(self) -> Leak:
        if self.named not in (None, self._name):
            self.__dict__["contents"] = None  # `select --set filters[0].real=…`: what the run has measured is no answer
        return self

    @property
    def _name(self) -> str:
        return hashlib.sha256(json.dumps([source.settings() for source in self.real], sort_keys=True).encode()).hexdigest()[:16]

    def settings(self, exclude: frozenset[str] = frozenset()) -> dict[str, Any]:
        """With `contents` filled in, so that a run's stored recipe stands for what it has measured, and is read without the sets."""
        contents = [table.fingerprint for table in self._tables] if self.contents is None else list(self.contents)
        return {**super().settings(exclude), "contents": contents, **({} if "named" in exclude else {"named": self._name})}

    @cached_property
    def _tables(self) -> list[Table]:
        return [source.open() for source in self.real]

    def open(self, context: FilterContext) -> Scorer:
        known = list(self._tables)
        if self.contents is not None and [table.fingerprint for table in known] != list(self.contents):
            raise UserError("leak: the sets in `real` are not those that `contents` stands for; leave `contents` out to compare with them")
        if not known and context.table is not None:
            known = [context.table]
        if not known:
            raise UserError("leak compares with real images, and there are none; name them: real: [{dataset: …, split: test}]")
        encoder = self.encoder(context)
        sets = [_units(ParentEmbeddings(table, encoder, context.cache), encoder.dim) for table in known]
        places = [(number, rows) for number, (rows, _) in enumerate(sets)]
        scorer = Scorer(
            encoder,
            known,
            np.concatenate([units for _, units in sets]),
            np.concatenate([np.full(len(rows), number, np.int32) for number, rows in places]),
            np.concatenate([rows for _, rows in places]),
        )
        if not len(scorer.units):
            raise UserError("leak: no image of the real sets can be decoded, so there is nothing to compare with; look at their files")
        return scorer


def _units(embeddings: ParentEmbeddings, dim: int) -> tuple[np.ndarray, np.ndarray]:
    """(rows int32 [M], unit vectors float32 [M, dim]) of the images that can be decoded."""
    rows, units, start = [np.empty(0, np.int32)], [np.empty((0, dim), np.float32)], 0
    for chunk in embeddings.chunks():
        whole = np.flatnonzero(~np.isnan(chunk).any(axis=1))
        rows.append((start + whole).astype(np.int32))
        units.append(chunk[whole])
        start += len(chunk)
    return np.concatenate(rows), np.concatenate(units)


@dataclass(frozen=True)
class Scorer:
    """units: float32 [M, dim], all sets in order.  sets, rows: int32 [M], where each is from."""

    encoder: Encoder
    tables: list[Table]
    units: np.ndarray
    sets: np.ndarray
    rows: np.ndarray
    _keys: dict[int, str] = field(default_factory=dict)

    def score(self, samples: Samples) -> dict[str, np.ndarray]:
        pictures = encode(self.encoder, samples)
        decoded = np.flatnonzero(~np.isnan(pictures).any(axis=1))
        nearest = np.full(len(samples), -1, np.int64)
        nearest[decoded] = self._nearest(pictures[decoded])
        score = np.full(len(samples), np.nan, np.float32)
        score[decoded] = cosine(pictures[decoded], self.units[nearest[decoded]])
        known = nearest >= 0
        return {
            "score": score,
            "nearest_set": np.where(known, self.sets[nearest], -1).astype(np.int32),
            "nearest_row": np.where(known, self.rows[nearest], -1).astype(np.int32),
            "nearest": np.array([self._key(place) for place in nearest.tolist()], "<U64"),
        }

    def _nearest(self, pictures: np.ndarray) -> np.ndarray:
        """int64 [N], the place of the most similar real image; of equals the first."""
        best, place = np.full(len(pictures), -np.inf, np.float32), np.zeros(len(pictures), np.int64)
        for start in range(0, len(self.units), BLOCK):
            cosines = pictures @ self.units[start : start + BLOCK].T
            own = cosines.argmax(axis=1)
            values = cosines[np.arange(len(pictures)), own]
            better = values > best
            best[better], place[better] = values[better], start + own[better]
        return place

    def _key(self, place: int) -> str:
        if place < 0:
            return ""
        if place not in self._keys:
            self._keys[place] = ""  # a file that has gone since it was encoded has a row and no key
            with contextlib.suppress(Undecodable):
                self._keys[place] = self.tables[int(self.sets[place])].read(int(self.rows[place])).key
        return self._keys[place]
