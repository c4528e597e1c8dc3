"""The prompt alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import numpy as np

from factory.contracts import Condition
from factory.records import Example, Inputs, Request


class Text(Condition):
    """Steers by the prompt."""

    needs: ClassVar[frozenset[str]] = frozenset({"text"})

    def prepare(self, request: Request, parents: Sequence[Example], rng: np.random.Generator) -> Inputs:
        """The request's prompt; nothing is drawn."""
        return Inputs(prompt=request.prompt)
