"""Captions that are missing, too short, too long, or of words that nobody wants."""

from __future__ import annotations

import re
from typing import Literal

import numpy as np
from pydantic import Field, field_validator

from factory.contracts import Filter, FilterContext
from factory.records import Samples


class Caption(Filter):
    """score: length of the caption (the prompt of a made image) in words or characters; NaN for one that allow or deny refuses.

    A missing caption has length 0, so `min: 0` lets it pass where allow does not ask for a text. Words are what white space separates.
    DataComp's basic filter (Gadre et al. 2023, arXiv 2304.14108) keeps 3 words or more and 6 characters or more.
    """

    min: float | None = Field(3.0, description="Keep captions of at least this length; DataComp keeps 3 words.")
    unit: Literal["words", "characters"] = Field("words", description="What length is counted in.")
    allow: str | None = Field(None, description="Regular expression that must be found in a caption, for example '(?i)bird'.")
    deny: str | None = Field(None, description="Regular expression that must not be found in a caption, for example '(?i)stock photo'.")

    @field_validator("allow", "deny")
    @classmethod
    def _compiles(cls, pattern: str | None) -> str | None:
        try:
            re.compile(pattern or "")
        except re.error as error:
            raise ValueError(f"{pattern!r} is no regular expression: {error}") from None
        return pattern

    def open(self, context: FilterContext) -> Scorer:
        return Scorer(self)


class Scorer:
    def __init__(self, rule: Caption) -> None:
        self._unit = rule.unit
        self._allow, self._deny = (None if pattern is None else re.compile(pattern) for pattern in (rule.allow, rule.deny))

    def score(self, samples: Samples) -> dict[str, np.ndarray]:
        return {"score": np.array([self._length(prompt or "") for prompt in samples.prompts], dtype=np.float32)}

    def _length(self, text: str) -> float:
        text = text.strip()
        refused = (self._allow is not None and not self._allow.search(text)) or (self._deny is not None and self._deny.search(text))
        return np.nan if refused else len(text.split()) if self._unit == "words" else len(text)
