"""Does the picture look like the real images of its class on the whole?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from pydantic import Field

from factory.contracts import FilterContext, Table
from factory.encoders import Encoder, ParentEmbeddings
from factory.errors import UserError
from factory.filters._encoded import EncodedFilter, encode
from factory.records import Samples


class InterSimilarity(EncodedFilter):
    """score: mean cosine in [-1, 1] between an image and every real image of its class; NaN for a class that has none.

    DiverGen's filter (Fan et al. 2024, arXiv 2405.10185) compares with the real crops of the class and keeps 0.6 or more: a source of kind
    patches gives crops. The mean over a class is the product with the mean of its unit vectors, so a class costs one vector.
    """

    min: float | None = Field(0.6, description="Keep rows whose score is at least this; DiverGen keeps 0.6.")

    def open(self, context: FilterContext) -> Scorer:
        if context.table is None or not context.table.class_names:
            lacks = "there are none" if context.table is None else "they have no labels"
            raise UserError(f"inter_similarity compares with the real images of a class, and {lacks}; name a labelled source")
        if not set(context.class_names) & set(context.table.class_names):
            raise UserError(
                f"inter_similarity: the rows' classes ({_some(context.class_names)}) are none of the real images' "
                f"({_some(context.table.class_names)}); give both the same class names"
            )
        encoder = self.encoder(context)
        return Scorer(
            encoder, _means(context.table, context.class_names, ParentEmbeddings(context.table, encoder, context.cache), encoder.dim)
        )


@dataclass(frozen=True)
class Scorer:
    """means: float64 [C + 1, dim], the mean unit vector of each class; NaN for one without real images, and for no label."""

    encoder: Encoder
    means: np.ndarray

    def score(self, samples: Samples) -> dict[str, np.ndarray]:
        score = (encode(self.encoder, samples) * self.means[np.asarray(samples.labels)]).sum(axis=1)
        return {"score": np.clip(score, -1, 1).astype(np.float32)}


def _means(table: Table, class_names: Sequence[str], embeddings: ParentEmbeddings, dim: int) -> np.ndarray:
    own = {name: number for number, name in enumerate(class_names)}
    classes = np.array([own.get(name, -1) for name in table.class_names] + [-1])[table.labels]
    sums, counts = np.zeros((len(class_names) + 1, dim)), np.zeros(len(class_names) + 1)
    start = 0
    for rows in embeddings.chunks():
        whole = ~np.isnan(rows).any(axis=1)
        labels = classes[start : start + len(rows)][whole]
        np.add.at(sums, labels, rows[whole].astype(np.float64))
        np.add.at(counts, labels, 1)
        start += len(rows)
    counts[-1] = 0  # where label -1 points
    return np.divide(sums, counts[:, None], out=np.full_like(sums, np.nan), where=counts[:, None] > 0)


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (", …" if len(names) > 3 else "") if names else "none"
