"""Any transform of torchvision.transforms.v2, by name; masks and boxes move with the pixels wherever torchvision moves them."""

from __future__ import annotations

import difflib
import inspect
from typing import Any

import numpy as np
from pydantic import Field, model_validator

from factory.augment import _torchvision
from factory.contracts import Augment
from factory.records import Annotations


class Torchvision(Augment):
    """One transform with its own options, for example {transform: ColorJitter, options: {brightness: 0.4}}."""

    transform: str = Field(description="Name of a class in torchvision.transforms.v2, for example ColorJitter.")
    options: dict[str, Any] = Field(default_factory=dict, description="Its arguments, by its own names.")

    @model_validator(mode="after")
    def _can_be_made(self) -> Torchvision:
        self.make()
        return self

    def make(self) -> Any:
        """The transform. Raises ValueError for an unknown name or options that it refuses."""
        from torchvision.transforms import v2

        known = {name for name, value in vars(v2).items() if inspect.isclass(value) and issubclass(value, v2.Transform)}
        if self.transform not in known:
            near = difflib.get_close_matches(self.transform, known, n=3)
            raise ValueError(f"transform: torchvision has no {self.transform!r}" + (f"; did you mean {' or '.join(near)}?" if near else ""))
        try:
            return getattr(v2, self.transform)(**self.options)
        except (TypeError, ValueError) as error:
            raise ValueError(f"options: {self.transform} refuses them: {error}") from None

    def apply(
        self, image: np.ndarray, annotations: Annotations | None, rng: np.random.Generator
    ) -> tuple[np.ndarray, Annotations | None, dict[str, float | int | str]]:
        """Records the seed. Raises UserError for a transform whose result is no RGB image."""
        return _torchvision.run(self.make, image, annotations, rng)
