"""A small convolutional classifier: the independent judge of generated images."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from torch import nn
from torch.nn import functional as F

from factory.models.pixels import unit


class SmallClassifier(ModelMixin, ConfigMixin):  # type: ignore[misc]
    """Five 3×3 convolutions with batch normalisation, a global mean and one linear layer.

    image_size: side in pixels that images are resized to.  mean, std: of all values in [0, 1].  channels: 1 sees grey, 3 colour.
    """

    config: Any

    @register_to_config
    def __init__(
        self, class_names: list[str], image_size: int = 28, width: int = 32, mean: float = 0.5, std: float = 0.5, channels: int = 1
    ):
        super().__init__()
        widths = (channels, width, 2 * width, 2 * width, 4 * width, 4 * width)
        self.layers = nn.ModuleList(nn.Conv2d(a, b, 3, padding=1, bias=False) for a, b in pairwise(widths))
        self.norms = nn.ModuleList(nn.BatchNorm2d(b) for b in widths[1:])
        self.head = nn.Linear(4 * width, len(class_names))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Normalised [N, C, S, S] -> logits [N, classes]."""
        for index, (layer, batch_norm) in enumerate(zip(self.layers, self.norms, strict=True)):
            x = F.relu(batch_norm(layer(x)))
            x = F.max_pool2d(x, 2) if index in (0, 2) else x
        return self.head(F.dropout(x.mean((2, 3)), 0.1, self.training))

    @torch.no_grad()
    def features(self, images: torch.Tensor) -> torch.Tensor:
        """uint8, or float in [0, 1], [N, 1 or 3, H, W] -> float [N, 4·width]: what the last layer decides from."""
        seen: list[torch.Tensor] = []
        handle = self.head.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
        try:
            self(self.prepare(images))
        finally:
            handle.remove()
        return seen[0].float()

    def prepare(self, images: torch.Tensor) -> torch.Tensor:
        """uint8, or float in [0, 1], [N, 1 or 3, H, W] -> normalised [N, C, S, S]."""
        x = unit(images, self.device)
        x = x.mean(1, keepdim=True) if self.config.channels == 1 else x.expand(-1, 3, -1, -1)
        size = self.config.image_size
        if x.shape[2:] != (size, size):
            x = F.interpolate(x, (size, size), mode="bilinear", antialias=True, align_corners=False)
        return ((x - self.config.mean) / self.config.std).to(self.dtype)

    @torch.no_grad()
    def probabilities(self, images: torch.Tensor) -> torch.Tensor:
        """uint8, or float in [0, 1], [N, 1 or 3, H, W] -> float [N, classes], rows sum to 1."""
        return self(self.prepare(images)).float().softmax(1)
