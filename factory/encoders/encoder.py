"""What an opened encoder is, and how one is named by its content."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any, Literal, Protocol

import numpy as np

Dtype = Literal["float32", "float16", "bfloat16"]
CHUNK = 64  # images or texts per forward pass, and source rows per cached file; values depend on it in the last bits


class Encoder(Protocol):
    """An opened encoder.

    dim: length of an embedding.  logit_scale: what the model was trained to multiply cosines by.
    identity: hex digest of everything that decides an embedding; where the weights came from does not matter.
    """

    dim: int
    logit_scale: float

    @property
    def identity(self) -> str: ...

    def encode_images(self, pictures: Sequence[np.ndarray]) -> np.ndarray:
        """uint8 [H, W, 3] each, of any sizes -> float32 [N, dim] of unit length."""
        ...

    def ahead(self, pictures: Sequence[np.ndarray]) -> None:
        """Pictures that will be asked for soon may be made ready meanwhile."""
        ...

    def encode_texts(self, texts: Sequence[str]) -> np.ndarray:
        """float32 [N, dim] of unit length: a pure function of the set of texts, whatever their order and whatever was asked before."""
        ...


def digest(network: Any, settings: str) -> str:
    """Of a network's weights and of what else decides an embedding."""
    import torch

    digest = hashlib.sha256(settings.encode())
    for name, tensor in sorted(network.state_dict().items()):
        digest.update(f"{name}{tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()[:32]
