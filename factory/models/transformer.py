"""A small diffusion transformer conditioned on time and embeddings: as a vector (adaLN), or image embeddings as tokens to attend to."""

from __future__ import annotations

import math
from typing import Any

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.loaders.peft import PeftAdapterMixin
from diffusers.models.modeling_utils import ModelMixin
from torch import nn
from torch.nn import functional as F


class Block(nn.Module):
    """Attention and MLP, both scaled, shifted and gated by the condition (adaLN-zero; Peebles and Xie 2023, section 3.2).

    cross: between the two, attention to condition tokens, as in a latent diffusion model (Rombach et al. 2022, section 3.3).
    """

    def __init__(self, width: int, heads: int, cross: bool = False):
        super().__init__()
        self.heads = heads
        self.modulation = nn.Linear(width, 6 * width)
        self.qkv = nn.Linear(width, 3 * width)
        self.mix = nn.Linear(width, width)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(approximate="tanh"), nn.Linear(4 * width, width))
        if cross:
            self.query, self.keys, self.cross_mix = nn.Linear(width, width), nn.Linear(width, 2 * width), nn.Linear(width, width)

    def forward(self, x: torch.Tensor, condition: torch.Tensor, tokens: torch.Tensor | None = None) -> torch.Tensor:
        """x [N, T, W], condition [N, W], tokens [N, K, W] for a block with cross attention -> [N, T, W]."""
        shift_a, scale_a, gate_a, shift_m, scale_m, gate_m = self.modulation(condition)[:, None].chunk(6, dim=-1)
        x = x + gate_a * self.attend(norm(x) * (1 + scale_a) + shift_a)
        if tokens is not None:
            x = x + self.attend_to(norm(x), tokens)
        return x + gate_m * self.mlp(norm(x) * (1 + scale_m) + shift_m)

    def attend(self, x: torch.Tensor) -> torch.Tensor:
        """[N, T, W] -> [N, T, W], each patch from all patches of its image."""
        count, tokens, width = x.shape
        q, k, v = self.qkv(x).view(count, tokens, 3, self.heads, width // self.heads).permute(2, 0, 3, 1, 4)
        return self.mix(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(count, tokens, width))

    def attend_to(self, x: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
        """[N, T, W] and condition tokens [N, K, W] -> [N, T, W], each patch from the tokens of its image."""
        count, _, width = x.shape

        def split(rows: torch.Tensor) -> torch.Tensor:
            return rows.view(count, -1, self.heads, width // self.heads).transpose(1, 2)

        q, (k, v) = split(self.query(x)), (split(part) for part in self.keys(tokens).chunk(2, dim=-1))
        return self.cross_mix(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(x.shape))


class PatchTransformer(ModelMixin, ConfigMixin, PeftAdapterMixin):  # type: ignore[misc]
    """What a diffusion model predicts, on patches of pixels or latents: a DiT (Peebles and Xie 2023) conditioned by embeddings.

    embed_dim: length of an embedding, of image or text.  sample_size: trained side, or [height, width], in pixels or latents; patch: likewise.
    image_tokens: embeddings per image.  cross_attention: image embeddings are tokens to attend to, any number of them; else they are added
    to the time (one layer over all `image_tokens` of them).
    """

    config: Any

    @register_to_config
    def __init__(
        self,
        in_channels: int = 1,
        sample_size: int | list[int] = 28,
        patch: int = 4,
        width: int = 256,
        depth: int = 6,
        heads: int = 4,
        embed_dim: int = 128,
        image_tokens: int = 1,
        cross_attention: bool = False,
    ):
        super().__init__()
        self.patches = nn.Conv2d(in_channels, width, patch, stride=patch)
        self.time = nn.Sequential(nn.Linear(width, width), nn.SiLU(), nn.Linear(width, width))
        self.image = nn.Linear(embed_dim * (1 if cross_attention else image_tokens), width, bias=False)
        self.text = nn.Linear(embed_dim, width, bias=False)
        self.blocks = nn.ModuleList(Block(width, heads, cross_attention) for _ in range(depth))
        self.last_modulation = nn.Linear(width, 2 * width)
        self.out = nn.Linear(width, patch * patch * in_channels)
        closed: list[Any] = [*(block.modulation for block in self.blocks), self.last_modulation, self.out]
        closed += [block.cross_mix for block in self.blocks if cross_attention]
        for layer in closed:
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)

    @property
    def size(self) -> tuple[int, int]:
        """The trained height and width."""
        side = self.config.sample_size
        return (side, side) if isinstance(side, int) else (side[0], side[1])

    def forward(
        self,
        sample: torch.Tensor,
        timestep: torch.Tensor,
        image_embeds: torch.Tensor | None = None,
        prompt_embeds: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Noisy images -> the prediction, of the same shape (the velocity, noise minus image, for a rectified flow).

        sample: [N, C, H, W], H and W multiples of the patch, images in [-1, 1] at time 0.  timestep: [N] or scalar in
        [0, 1000], 1000 is noise.  image_embeds: [N, D], or [N, K, D] for several; prompt_embeds: [N, D]; unit rows; a row of zeros, or
        None, is no condition.
        """
        config, count = self.config, len(sample)
        patches = self.patches(sample)
        rows, columns = patches.shape[2:]
        x = patches.flatten(2).transpose(1, 2) + self.positions(rows, columns).to(patches)
        condition, tokens = self.time(waves(timestep.expand(count), config.width).to(sample.dtype)), None
        scale = math.sqrt(config.embed_dim)
        if config.cross_attention:
            image_embeds = sample.new_zeros(count, 1, config.embed_dim) if image_embeds is None else image_embeds
            tokens = self.image(image_embeds.view(count, -1, config.embed_dim).to(sample.dtype) * scale)
        elif image_embeds is not None:
            condition = condition + self.image(image_embeds.reshape(count, -1).to(sample.dtype) * scale)
        if prompt_embeds is not None:
            condition = condition + self.text(prompt_embeds.to(sample.dtype) * scale)
        condition = F.silu(condition)
        for block in self.blocks:
            x = block(x, condition, tokens)
        shift, scale_out = self.last_modulation(condition)[:, None].chunk(2, dim=-1)
        x = self.out(norm(x) * (1 + scale_out) + shift)
        x = x.view(count, rows, columns, config.patch, config.patch, config.in_channels)
        return x.permute(0, 5, 1, 3, 2, 4).reshape(sample.shape)

    def positions(self, rows: int, columns: int) -> torch.Tensor:
        """Two-dimensional sine-cosine codes, float [rows*columns, W]; other sizes stretch over the trained grid."""
        trained = [side // self.config.patch for side in self.size]
        across = [(torch.arange(n, device=self.device) + 0.5) * (side / n) for n, side in zip((rows, columns), trained, strict=True)]
        codes = [waves(line, self.config.width // 2, longest=100.0) for line in across]
        grid = torch.cat([codes[0][:, None].expand(-1, columns, -1), codes[1][None].expand(rows, -1, -1)], dim=-1)
        return grid.reshape(rows * columns, -1)


def norm(x: torch.Tensor) -> torch.Tensor:
    """[…, W] with mean 0 and variance 1 along the last axis; scale and shift are the modulation's."""
    return F.layer_norm(x, x.shape[-1:], eps=1e-6)


def waves(values: torch.Tensor, width: int, longest: float = 10000.0) -> torch.Tensor:
    """Numbers [N] -> cosines and sines at geometric frequencies, float [N, width]."""
    rates = torch.exp(torch.arange(width // 2, device=values.device) * (-math.log(longest) / (width // 2)))
    angles = values.float()[:, None] * rates
    return torch.cat([angles.cos(), angles.sin()], dim=-1)
