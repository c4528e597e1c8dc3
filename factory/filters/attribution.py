"""Which generator made the picture? A hook for the classifiers that tell."""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import Field

from factory.contracts import FilterContext, Scorer
from factory.errors import UserError
from factory.filters import _labels
from factory.records import Samples

_DOTTED = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)+")


class Attribution(_labels.LabelFilter):
    """score: probability in [0, 1] that one of the named generators made the image (Yu et al. 2019, arXiv 1811.08180).

    No classifier knows every generator, so none is the default: name one that learned from the generators in question. With `max` in place
    of `min`, images of those generators are refused instead. The licence is the model's: see its card.
    """

    min: float | None = Field(0.5, description="Keep rows whose score is at least this.")
    model: str = Field(
        description="An image classifier (Transformers by Hub id or folder, timm:NAME, a folder of `factory train`), or the dotted path of a "
        "function: images uint8 [H, W, 3] -> for each a mapping from generator to probability, or None."
    )
    labels: list[str] = Field(min_length=1, description="The generators that count, as the model calls them.")  # type: ignore[assignment]

    def open(self, context: FilterContext) -> Scorer:
        if not _DOTTED.fullmatch(self.model) or Path(self.model).is_dir():
            return super().open(context)
        module, _, name = self.model.rpartition(".")
        try:
            function = getattr(importlib.import_module(module), name)
        except (ImportError, AttributeError) as error:
            raise UserError(f"attribution: cannot import {self.model!r}: {error}; is it on PYTHONPATH?") from error
        if not callable(function):
            raise UserError(f"attribution: {self.model!r} is no function; give one from images to a mapping of probabilities for each")
        return Hook(self.model, function, frozenset(self.labels))


@dataclass(frozen=True)
class Hook:
    path: str
    function: Callable[[Sequence[np.ndarray]], Sequence[Mapping[str, float] | None]]
    labels: frozenset[str]

    def score(self, samples: Samples) -> dict[str, np.ndarray]:
        decoded = [row for row, image in enumerate(samples.images) if image is not None]
        answers: Any = self.function([image for image in samples.images if image is not None]) if decoded else []
        if len(answers) != len(decoded) or not all(answer is None or isinstance(answer, Mapping) for answer in answers):
            raise UserError(f"attribution: {self.path} must return a mapping from generator to probability, or None, for each image")
        score = np.full(len(samples), np.nan, np.float32)
        for row, answer in zip(decoded, answers, strict=True):
            if answer is not None:
                score[row] = sum(float(answer.get(label, 0)) for label in self.labels)
        return {"score": score}
