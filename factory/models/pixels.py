"""Pixels as networks take them: tensors [N, C, H, W] in other ranges and channels. Between rooms they are as `factory.images` has them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import Any

import numpy as np
import torch

AT_ONCE = 1 << 22  # pixels that an encoder is given in one batch: 16 images of 512 pixels a side, one of 2,048


def batches(images: Sequence[np.ndarray]) -> Iterator[torch.Tensor]:
    """uint8 [H, W, C] each, of any sizes -> uint8 [n, C, H, W], in order: neighbours of one size, as many as are good at once."""
    for shape, alike in groupby(images, key=np.shape):
        pixels = torch.from_numpy(np.stack(list(alike))).permute(0, 3, 1, 2)
        yield from pixels.split(max(1, AT_ONCE // (shape[0] * shape[1])))


def unit(images: torch.Tensor, device: Any = None) -> torch.Tensor:
    """uint8, or float in [0, 1] -> float32 in [0, 1], on a device."""
    x = images.to(device, torch.float32)
    return x / 255 if images.dtype == torch.uint8 else x


def signed(images: torch.Tensor) -> torch.Tensor:
    """uint8 -> float32 in [-1, 1], as diffusion models have it."""
    return images.float() / 127.5 - 1


def grey(images: torch.Tensor) -> torch.Tensor:
    """[N, 3, H, W] -> [N, 1, H, W], by the luma of ITU-R BT.601."""
    weights = torch.tensor([0.299, 0.587, 0.114], device=images.device).view(3, 1, 1)
    return (images * weights).sum(1, keepdim=True)
