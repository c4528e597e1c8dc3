"""Initial images at the size that the pipeline denoises."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image

from factory.images import to_pil


def fit(pipe: Any, images: Sequence[np.ndarray], height: int | None, width: int | None, own: bool = True) -> list[Image.Image]:
    """uint8 [H, W, 3] -> Pillow images of one size: the one asked for, else (with `own`) the pipeline's own, else the first image's.

    Stretched and not cropped, so that annotations keep their place in relative coordinates.
    """
    default = own_size(pipe) if own else None
    step = int(getattr(pipe, "vae_scale_factor", 8)) * 2  # latents are cut into patches of two by transformers
    first = images[0].shape
    size = (
        width or (default[1] if default else max(step, first[1] // step * step)),
        height or (default[0] if default else max(step, first[0] // step * step)),
    )
    return [picture if picture.size == size else picture.resize(size, Image.Resampling.LANCZOS) for picture in map(to_pil, images)]


def fit_masks(masks: Sequence[np.ndarray], size: tuple[int, int]) -> list[Image.Image]:
    """uint8 [H, W], 255 where it is repainted -> Pillow greys of one size (width, height), by nearest neighbour."""
    return [Image.fromarray(np.ascontiguousarray(mask)).resize(size, Image.Resampling.NEAREST) for mask in masks]


def own_size(pipe: Any) -> tuple[int, int] | None:
    """The pipeline's default height and width in pixels, where it says so."""
    scale = int(getattr(pipe, "vae_scale_factor", 1))
    sample: Any = getattr(pipe, "default_sample_size", None)
    for name in ("unet", "transformer"):
        config = getattr(getattr(pipe, name, None), "config", {})
        sample = sample or config.get("sample_size")
    if isinstance(sample, int):
        return sample * scale, sample * scale
    if isinstance(sample, list | tuple) and len(sample) == 2:
        return int(sample[0]) * scale, int(sample[1]) * scale
    return None
