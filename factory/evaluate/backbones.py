"""Frozen feature extractors by name: the eyes that distances and linear probes see with."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from factory import encoders
from factory.errors import UserError

OFFLINE = encoders.OFFLINE
INCEPTION = "inception"
INCEPTION_WEIGHTS = "weights-inception-2015-12-05-6726825d.pth"  # torch-fidelity's conversion of the network that all papers use
INCEPTION_SHA256 = "6726825d"  # how its digest begins
BATCH, PIXELS = 64, 1 << 26  # images in a batch, and pixels in all
LONGEST = 4  # times the shorter side: of a longer image its middle is looked at, which is all that is cut out in the end


class Backbone:
    """A frozen network under the name that reports give its distances.

    name: as it was asked for.  dim: length of a feature.  identity: what decides a feature, for caches; the name where weights never change.
    """

    def __init__(self, name: str, dim: int, embed: Callable[[np.ndarray], np.ndarray], identity: str | None = None):
        self.name, self.dim, self.identity, self._embed = name, dim, identity or name, embed

    def features(self, images: Sequence[np.ndarray] | np.ndarray) -> np.ndarray:
        """uint8 [H, W, 3] each, of any sizes, or uint8 [N, H, W, 3] -> float32 [N, dim]. Raises UserError for anything else."""
        out = np.empty((len(images), self.dim), np.float32)
        shapes: dict[tuple[int, ...], list[int]] = {}
        for index, image in enumerate(images):
            if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
                raise UserError(f"image {index} is {image.dtype} {list(image.shape)}; backbones take uint8 [height, width, 3]")
            shapes.setdefault(image.shape, []).append(index)
        for shape, places in shapes.items():
            size = max(1, min(BATCH, PIXELS // (shape[0] * shape[1])))
            for start in range(0, len(places), size):
                some = places[start : start + size]
                out[some] = self._embed(np.stack([images[i] for i in some]))
        return out


def open(name: str = OFFLINE, device: str = "cpu") -> Backbone:
    """The backbone of this name. Raises UserError for an unknown one.

    name: "efficientnet_lite0" (ImageNet weights from a wheel, no network needed; "efficientnet_lite0@64" sees 64 instead of 224 pixels a
    side, for small images; so too _lite1 and _lite2, each of another wheel), "inception" (the network of FID, where its weights are on this
    disk), "timm:NAME", "transformers:ID or folder", "open_clip:ARCH/TAG or folder", or a folder that `factory train` wrote. All but the
    first two give features of unit length.
    """
    from factory.models import efficientnet

    if name == INCEPTION:
        return _inception(device)
    if efficientnet.is_offline(name):
        return _efficientnet(name, device)
    encoder = encoders.open(name.removeprefix("open_clip:"), device)
    return Backbone(name, encoder.dim, lambda batch: encoder.encode_images(list(batch)), encoder.identity)


def _efficientnet(name: str, device: str) -> Backbone:
    """EfficientNet-Lite (Tan & Le 2019, arXiv 1905.11946), its mean over places after the head convolution: 1,280 numbers."""
    import torch

    from factory.models import efficientnet

    own, size = efficientnet.parsed(name)
    network = efficientnet.EfficientNetLite(own, pretrained=True).eval().requires_grad_(False)
    network.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]

    def embed(batch: np.ndarray) -> np.ndarray:
        with torch.inference_mode():
            x = _prepared(torch.from_numpy(batch).to(device), size).contiguous(memory_format=torch.channels_last)
            return network(x).float().cpu().numpy()  # type: ignore[no-any-return]

    return Backbone(name, network.dim, embed)


def _inception(device: str) -> Backbone:
    """Inception v3 with the weights and the resizing of FID (Heusel et al. 2017), its last pooling: 2,048 numbers, by torch-fidelity."""
    import torch

    path = Path(torch.hub.get_dir()) / "checkpoints" / INCEPTION_WEIGHTS
    if not path.is_file():
        raise UserError(f"backbone {INCEPTION} needs {path}; fetch it from torch-fidelity's releases, or choose another backbone")
    with path.open("rb") as file:
        digest = _sha256(file)
    if not digest.startswith(INCEPTION_SHA256):
        raise UserError(f"{path} is not the network of FID (its SHA-256 begins {digest[:8]}, not {INCEPTION_SHA256}); fetch it again")
    try:
        from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3
    except ImportError as error:
        raise UserError(f"backbone {INCEPTION} needs torch-fidelity; run `pip install synthetic-dataset-factory[evaluate]`") from error
    network: Any = FeatureExtractorInceptionV3("inception-v3-compat", ["2048"], feature_extractor_weights_path=str(path)).to(device)

    def embed(batch: np.ndarray) -> np.ndarray:
        with torch.inference_mode():
            pixels = torch.from_numpy(np.ascontiguousarray(batch.transpose(0, 3, 1, 2))).to(device)
            return network(pixels)[0].float().cpu().numpy()

    return Backbone(INCEPTION, 2048, embed)


def _sha256(file: Any) -> str:
    total = hashlib.sha256()
    while block := file.read(1 << 20):
        total.update(block)
    return total.hexdigest()


def _prepared(batch: Any, size: int) -> Any:
    """uint8 [N, H, W, 3] -> normalised [N, 3, size, size]: shorter side to size / 0.875, the middle cut out, as the weights were made for."""
    from torch.nn import functional as F

    from factory.models import efficientnet

    most = LONGEST * min(batch.shape[1:3])
    top, left = (max(0, (side - most) // 2) for side in batch.shape[1:3])
    x = batch[:, top : top + most, left : left + most].permute(0, 3, 1, 2).float() / 255
    short, scaled = min(x.shape[2:]), round(size / 0.875)
    height, width = (max(scaled, round(side * scaled / short)) for side in x.shape[2:])
    x = F.interpolate(x, (height, width), mode="bicubic", antialias=True, align_corners=False).clamp(0, 1)
    top, left = (height - size) // 2, (width - size) // 2
    return (x[:, :, top : top + size, left : left + size] - efficientnet.MEAN) / efficientnet.STD
