"""What filters that ask a dual encoder for the class share: class embeddings from templates, and logits against them."""

from __future__ import annotations

from abc import ABC
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from pydantic import Field, field_validator

from factory import blanks
from factory.contracts import FilterContext
from factory.encoders import Encoder
from factory.errors import UserError
from factory.filters._encoded import EncodedFilter, encode
from factory.records import Samples


class ClassFilter(EncodedFilter, ABC):
    """A filter whose score comes from the logits of a zero-shot classifier."""

    template: str | list[str] = Field("a photo of a {label}", description="One or more texts with {label}; their embeddings are averaged.")

    @field_validator("template")
    @classmethod
    def _fillable(cls, template: str | list[str]) -> str | list[str]:
        if not template:
            raise ValueError("give at least one text with {label}")
        for text in [template] if isinstance(template, str) else template:
            blanks.check(text, ["label"], required=["label"])
        return template

    def classes(self, context: FilterContext) -> Classes:
        """The classes as the encoder reads them. Raises UserError where there are none to choose between."""
        if not context.class_names:
            raise UserError(
                f"{self.kind} needs class names to choose between, and the data tells none before all of it is read; "
                "list them in class_names of the corpus (or the source), or use clip_similarity instead"
            )
        encoder = self.encoder(context)
        texts = [self.template] if isinstance(self.template, str) else self.template
        rows = [encoder.encode_texts([text.format(label=name) for text in texts]).mean(axis=0) for name in context.class_names]
        units = np.stack(rows)
        return Classes(encoder, units / np.linalg.norm(units, axis=1, keepdims=True))


@dataclass(frozen=True)
class Classes:
    """units: float32 [C, dim] of unit length, averaged over templates (Radford et al. 2021, 3.1.4)."""

    encoder: Encoder
    units: np.ndarray

    def logits(self, pictures: np.ndarray) -> np.ndarray:
        """Unit float32 [N, dim] -> float64 [N, C] at the model's logit scale; NaN rows stay NaN."""
        logits: np.ndarray = self.encoder.logit_scale * (pictures.astype(np.float64) @ self.units.T.astype(np.float64))
        return logits

    def probabilities(self, pictures: np.ndarray) -> np.ndarray:
        """Unit float32 [N, dim] -> float64 [N, C]; each row sums to 1, or is NaN."""
        logits = self.logits(pictures)
        weights = np.exp(logits - logits.max(axis=1, keepdims=True))
        chances: np.ndarray = weights / weights.sum(axis=1, keepdims=True)
        return chances


@dataclass(frozen=True)
class Scorer:
    """What a filter makes of class probabilities. judged: (probabilities float64 [N, C], labels int32 [N]) -> scores [N].

    Column predicted: index of the likeliest class.
    """

    classes: Classes
    judged: Callable[[np.ndarray, np.ndarray], np.ndarray]

    @property
    def encoder(self) -> Encoder:
        return self.classes.encoder

    def score(self, samples: Samples) -> dict[str, np.ndarray]:
        chances = self.classes.probabilities(encode(self.encoder, samples))
        score = self.judged(chances, samples.labels)
        return {"score": score.astype(np.float32), "predicted": likeliest(chances).astype(np.float32)}


def of_label(chances: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """float [N, C] -> each row's entry for its label; NaN where the label is -1."""
    labels = np.asarray(labels)
    own: np.ndarray = np.take_along_axis(chances, np.maximum(labels, 0)[:, None].astype(np.int64), axis=1)[:, 0]
    return np.where(labels >= 0, own, np.nan)


def likeliest(chances: np.ndarray) -> np.ndarray:
    """float [N, C] -> float [N], the index of the largest entry; NaN for a row with NaN."""
    return np.where(np.isnan(chances).any(axis=1), np.nan, chances.argmax(axis=1))
