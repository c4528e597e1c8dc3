"""How much do people like the picture? LAION's aesthetic predictors over CLIP embeddings."""

from __future__ import annotations

import re
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import Field

from factory.contracts import FilterContext
from factory.encoders import Encoder
from factory.errors import UserError
from factory.filters._encoded import EncodedFilter, encode
from factory.records import Samples


class Aesthetic(EncodedFilter):
    """score: the predicted mean rating of people, about 1 to 10 (Schuhmann et al. 2022, arXiv 2210.08402, 3.2).

    LAION-Aesthetics was cut at 4.5, 5, 6 and 6.5. The default head was trained on SAC, LAION-Logos and AVA, over embeddings of OpenAI's
    CLIP L/14, which must be the model; the linear heads of LAION's aesthetic-predictor fit too. CLIP's weights are MIT; look at the card of
    a head, and at the terms of the ratings it learned from, before publishing what it chose.
    """

    min: float | None = Field(5.0, description="Keep rows whose score is at least this.")
    model: str = Field("ViT-L-14/openai", description="The encoder that the head was trained on: open_clip ARCH/TAG, or a local folder.")
    head: str = Field(
        "trl-lib/ddpo-aesthetic-predictor/aesthetic-model.pth",
        description="Weights of linear layers, .safetensors or .pth: a local file, or org/name/file on the Hub.",
    )
    activation: Literal["none", "relu"] = Field("none", description="Between the head's layers; LAION's published heads have none.")

    def open(self, context: FilterContext) -> Scorer:
        encoder = self.encoder(context)
        layers = _layers(_tensors(_file(self.head)), self.head)
        wide, out = layers[0][0].shape[1], layers[-1][0].shape[0]
        if (wide, out) != (encoder.dim, 1):
            raise UserError(
                f"aesthetic: head {self.head!r} maps {wide} numbers to {out}, and {self.model!r} gives {encoder.dim}, of which one score "
                "is wanted; name the encoder that the head was trained on"
            )
        return Scorer(encoder, layers, self.activation == "relu")


@dataclass(frozen=True)
class Scorer:
    """layers: (weight float64 [out, in], bias float64 [out]), first to last."""

    encoder: Encoder
    layers: list[tuple[np.ndarray, np.ndarray]]
    relu: bool

    def score(self, samples: Samples) -> dict[str, np.ndarray]:
        x = encode(self.encoder, samples).astype(np.float64)
        for number, (weight, bias) in enumerate(self.layers):
            x = (np.maximum(x, 0) if self.relu and number else x) @ weight.T + bias
        return {"score": x[:, 0].astype(np.float32)}


def _file(head: str) -> Path:
    path = Path(head).expanduser()
    if path.is_file():
        return path
    parts = head.split("/")
    if head.startswith(("/", ".", "~")) or len(parts) < 3:
        raise UserError(f"aesthetic: there is no file {path.absolute()}; give a local .safetensors or .pth, or org/name/file on the Hub")
    from huggingface_hub import hf_hub_download

    try:
        return Path(hf_hub_download("/".join(parts[:2]), "/".join(parts[2:])))
    except Exception as error:  # offline, gated, missing: each has its own type
        reason = " ".join(str(error).split())[:300]
        raise UserError(f"aesthetic: cannot get head {head!r}: {reason}; without a network, download it and name the file") from error


def _tensors(path: Path) -> dict[str, np.ndarray]:
    import torch
    from safetensors.torch import load_file

    try:
        # weights_only: nothing but tensors is read, so that a foreign file runs no code.
        found: Any = load_file(path) if path.suffix == ".safetensors" else torch.load(path, map_location="cpu", weights_only=True)
        return {name: tensor.double().numpy() for name, tensor in found.items()}
    except Exception as error:  # a damaged or foreign file raises many types
        raise UserError(f"aesthetic: {path} holds no weights that can be read safely: {' '.join(str(error).split())[:200]}") from error


def _layers(tensors: dict[str, np.ndarray], head: str) -> list[tuple[np.ndarray, np.ndarray]]:
    """The linear layers in the order of the numbers in their names. Raises UserError for anything else among the tensors."""

    def order(name: str) -> list[int]:
        return [int(number) for number in re.findall(r"\d+", name)]

    layers, used = [], set()
    for name in sorted((name for name in tensors if name.endswith("weight")), key=order):
        weight, bias = tensors[name], name.removesuffix("weight") + "bias"
        layers.append((weight, tensors.get(bias, np.zeros(len(weight)))))
        used |= {name, bias}
    chained = all(before[0].shape[0] == after[0].shape[1] for before, after in pairwise(layers) if before[0].ndim == 2)
    if not layers or set(tensors) - used or any(weight.ndim != 2 for weight, _ in layers) or not chained:
        raise UserError(f"aesthetic: {head!r} is no chain of linear layers; its tensors are {', '.join(sorted(tensors)[:8])}")
    return layers
