"""Pipelines that vary, edit or enlarge a real image in their own way: their call takes it without a strength, a mask or a control scale."""

from __future__ import annotations

from typing import Any

import numpy as np

from factory.generators import _controls
from factory.generators._arguments import parameters
from factory.generators._sizes import fit
from factory.images import to_pil

ALONE = "the pipeline may take a list of images for several of one request"


def argument(pipe: Any) -> str | None:
    """The parameter of a pipeline's (or a class's) call that takes the image, or None."""
    known = parameters(pipe)
    if "strength" in known or "mask_image" in known or _controls.argument(pipe) is not None:
        return None
    return next((name for name in ("image", "images") if name in known), None)


def needed(pipe: Any) -> bool:
    """Whether the call must have the image."""
    name = argument(pipe)
    return name is not None and (found := parameters(pipe)[name]).default is found.empty


def arguments(pipe: Any, image: np.ndarray, height: int | None, width: int | None) -> dict[str, Any]:
    """The call's argument for one image: as it is where the call has a size of its own, else at the size that the result shall follow."""
    known, name = parameters(pipe), str(argument(pipe))
    (picture,) = [to_pil(image)] if {"height", "width"} <= known.keys() else fit(pipe, [image], height, width, own=False)
    return {name: [picture] if name == "images" else picture}
