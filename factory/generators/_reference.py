"""Pipelines that vary, edit or enlarge a real image in their own way: their call takes it without a strength, a mask or a control scale."""

from __future__ import annotations

from typing import Any

import numpy as np
from PIL import Image

from factory.generators import _controls
from factory.generators._arguments import parameters
from factory.generators._sizes import fit, own_size
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
    """The call's argument for one image: at the size that the result shall follow, or as it is where the call has a size of its own.

    There an image smaller than the result is enlarged to as many pixels: these pipelines shrink what is too large, and some refuse what is small.
    """
    known, name = parameters(pipe), str(argument(pipe))
    if {"height", "width"} <= known.keys():
        picture = to_pil(image)
        own = own_size(pipe)
        area = (height or (own[0] if own else 0)) * (width or (own[1] if own else 0))
        scale = (area / (picture.width * picture.height)) ** 0.5
        if scale > 1:
            size = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
            picture = picture.resize(size, Image.Resampling.LANCZOS)
    else:
        (picture,) = fit(pipe, [image], height, width, own=False)
    return {name: [picture] if name == "images" else picture}
