"""The class alone, for generators that were trained with class labels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import numpy as np

from factory.contracts import Condition
from factory.errors import UserError
from factory.records import Example, Inputs, Request


class ClassLabel(Condition):
    """Steers by the class index."""

    needs: ClassVar[frozenset[str]] = frozenset({"class_label"})

    def prepare(self, request: Request, parents: Sequence[Example], rng: np.random.Generator) -> Inputs:
        """The request's class; nothing is drawn. Raises UserError for an unlabelled source."""
        if request.label < 0:
            raise UserError("condition class_label needs a labelled source; set source.label, or use condition: image")
        return Inputs(label=request.label)
