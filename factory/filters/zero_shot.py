"""Would a zero-shot classifier give the picture its intended class?"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from pydantic import Field, field_validator

from factory.contracts import FilterContext
from factory.encoders import Encoder
from factory.errors import UserError
from factory.filters import _templates
from factory.filters._encoded import EncodedFilter, encode
from factory.records import Samples


class ZeroShot(EncodedFilter):
    """score: probability in [0, 1] of the intended class among all classes; column predicted: index of the likeliest.

    Softmax at the model's logit scale over class embeddings that are averaged over templates (Radford et al. 2021, 3.1.4).
    An unlabelled image has no score, yet a prediction.
    """

    template: str | list[str] = Field("a photo of a {label}", description="One or more texts with {label}; their embeddings are averaged.")

    @field_validator("template")
    @classmethod
    def _fillable(cls, template: str | list[str]) -> str | list[str]:
        if not template:
            raise ValueError("give at least one text with {label}")
        for text in [template] if isinstance(template, str) else template:
            _templates.check(text, frozenset({"label"}), required=frozenset({"label"}))
        return template

    def open(self, context: FilterContext) -> Scorer:
        if not context.class_names:
            raise UserError("zero_shot needs class names to choose between, and the data has none; use clip_similarity instead")
        encoder = self.encoder(context)
        texts = [self.template] if isinstance(self.template, str) else self.template
        rows = [encoder.encode_texts([text.format(label=name) for text in texts]).mean(axis=0) for name in context.class_names]
        classes = np.stack(rows)
        return Scorer(encoder, classes / np.linalg.norm(classes, axis=1, keepdims=True))


@dataclass(frozen=True)
class Scorer:
    """classes: float32 [C, dim] of unit length."""

    encoder: Encoder
    classes: np.ndarray

    def score(self, samples: Samples) -> dict[str, np.ndarray]:
        chances = self.probabilities(encode(self.encoder, samples))
        decoded = ~np.isnan(chances).any(axis=1)
        predicted = np.where(decoded, chances.argmax(axis=1), np.nan)
        labels = np.asarray(samples.labels)
        score = np.where(labels >= 0, np.take_along_axis(chances, np.maximum(labels, 0)[:, None].astype(np.int64), axis=1)[:, 0], np.nan)
        return {"score": score.astype(np.float32), "predicted": predicted.astype(np.float32)}

    def probabilities(self, pictures: np.ndarray) -> np.ndarray:
        """float32 [N, dim] -> float64 [N, C]; each row sums to 1, or is NaN."""
        logits = self.encoder.logit_scale * (pictures.astype(np.float64) @ self.classes.T.astype(np.float64))
        weights = np.exp(logits - logits.max(axis=1, keepdims=True))
        chances: np.ndarray = weights / weights.sum(axis=1, keepdims=True)
        return chances
