"""Pixels as networks take them: tensors [N, C, H, W] in other ranges and channels. Between rooms they are as `factory.images` has them."""

from __future__ import annotations

from typing import Any

import torch


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
