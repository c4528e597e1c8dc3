"""Encoders of images alone: timm, Transformers, and what `factory train` wrote."""

from __future__ import annotations

import difflib
import json
from collections.abc import Sequence
from functools import cached_property
from typing import Any

import numpy as np

from factory.encoders.encoder import CHUNK, Dtype, digest
from factory.encoders.weights import cannot_open
from factory.errors import UserError


class ImageOnly:
    """A self-supervised or supervised image encoder of any library; it has no text side."""

    def __init__(self, model: str, device: str, dtype: Dtype) -> None:
        import torch

        from factory.models.representation import RepresentationEncoder

        try:
            network: Any = RepresentationEncoder.open([model])
        except Exception as error:  # each library raises its own types
            near = _near_timm(model)
            if near:
                raise UserError(f"unknown model {model!r}; did you mean {near}?") from error
            raise cannot_open(model, error) from error
        self._name, self._network = model, network.to(torch.device(device), getattr(torch, dtype))
        self.dim, self.logit_scale = int(network.embed_dim), 1.0

    @cached_property
    def identity(self) -> str:
        """Digest of the loaded weights, their precision and the preprocessing."""
        return digest(self._network, json.dumps([str(self._network.dtype), self._network.config["towers"]], sort_keys=True, default=str))

    def encode_images(self, pictures: Sequence[np.ndarray]) -> np.ndarray:
        """uint8 [H, W, 3] each, of any sizes -> float32 [N, dim] of unit length."""
        import torch

        out = np.empty((len(pictures), self.dim), np.float32)
        shapes = {picture.shape for picture in pictures}
        for shape in sorted(shapes):
            places = [i for i, picture in enumerate(pictures) if picture.shape == shape]
            for start in range(0, len(places), CHUNK):
                some = places[start : start + CHUNK]
                batch = torch.from_numpy(np.stack([pictures[i] for i in some])).permute(0, 3, 1, 2)
                with torch.autocast(self._network.device.type, enabled=False):
                    out[some] = self._network.encode_image(batch).float().cpu().numpy()
        return out

    def ahead(self, pictures: Sequence[np.ndarray]) -> None:
        """Nothing to do: resizing is part of the network here."""

    def encode_texts(self, texts: Sequence[str]) -> np.ndarray:
        """Raises UserError: it has no text side."""
        raise UserError(f"model {self._name!r} encodes images alone; name an open_clip model where text is compared")


def _near_timm(model: str) -> str | None:
    """The timm model that is called most like an unknown one; None for a known one, and for other libraries'."""
    library, _, name = model.partition(":")
    if library != "timm":
        return None
    import timm

    known = timm.list_models()
    near = [other for other in known if other.startswith(name)] or difflib.get_close_matches(name, known, n=1)
    return f"timm:{near[0]}" if near and name.partition(".")[0] not in known else None
