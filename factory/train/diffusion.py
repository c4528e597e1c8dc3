"""A diffusion transformer that learns to follow image and text embeddings, together and alone.

Rectified flow (Liu et al. 2022) with logit-normal times (Esser et al. 2024); conditions are dropped at random so that one
model serves text, variations, mixes and guidance (Ho and Salimans 2022).
"""

from __future__ import annotations

import logging
from typing import Any

import numpy as np
import torch
from diffusers.schedulers.scheduling_flow_match_euler_discrete import FlowMatchEulerDiscreteScheduler
from torch.nn import functional as F

from factory import seeds
from factory.errors import UserError
from factory.models.clip import ClipEncoder
from factory.models.pipeline import EmbeddingDiffusionPipeline
from factory.models.pixels import signed
from factory.models.transformer import PatchTransformer
from factory.train import captions, data, encoded, loop
from factory.train.data import Pictures
from factory.train.recipe import Diffusion
from factory.train.summary import write_facts

log = logging.getLogger("factory.train")


def train(recipe: Diffusion) -> None:
    """Train and write `recipe.out`, a diffusers pipeline folder with the averaged weights in float16."""
    pictures = data.load(recipe.source)
    clip = _open(recipe, *pictures.pixels.shape[2:])
    made_from = f"{pictures.identity} {encoded.digest(clip)}"
    image_embeds = encode_images(clip, pictures.pixels, recipe.bf16)
    text_embeds, text_rows = encode_captions(clip, pictures, recipe)
    torch.manual_seed(recipe.seed)
    channels, size = pictures.pixels.shape[1:3]
    model = PatchTransformer(channels, size, recipe.patch, recipe.width, recipe.depth, recipe.heads, clip.embed_dim)
    average = loop.averaged(model, recipe.ema)
    optimizer = torch.optim.AdamW(model.parameters(), lr=recipe.lr, weight_decay=recipe.weight_decay, betas=(0.9, 0.99))
    pixels = torch.from_numpy(pictures.pixels)
    log.info("%d images, %d captions, %.2f M parameters", len(pictures), len(text_embeds), loop.parameters(model) / 1e6)

    def step(k: int) -> dict[str, torch.Tensor]:
        rng, rows = loop.draws(recipe, k), loop.rows(recipe, len(pictures), k)
        noise_source = loop.torch_draws(rng)
        flip = torch.from_numpy(rng.random(recipe.batch) < 0.5)
        x = signed(pixels[rows])
        x = torch.where(flip[:, None, None, None], x.flip(3), x)
        image = jittered(image_embeds[flip.long(), rows], recipe.jitter, noise_source)
        text = text_embeds[text_rows[rows, rng.integers(recipe.captions, size=recipe.batch)]]
        keep_image, keep_text = kept(recipe, rng)
        noise = torch.randn(x.shape, generator=noise_source)
        time = torch.randn(recipe.batch, generator=noise_source).sigmoid()
        at = time[:, None, None, None]
        with torch.autocast("cpu", torch.bfloat16, enabled=recipe.bf16), loop.plain_attention(x.device):
            velocity = model((1 - at) * x + at * noise, time * 1000, image * keep_image, text * keep_text)
        loss = F.mse_loss(velocity.float(), noise - x)
        loop.descend(recipe, k, loss, optimizer, model.parameters())
        average.update_parameters(model)
        return {"loss": loss.detach()}

    model.train()
    loop.run(recipe, {"model": model, "average": average, "optimizer": optimizer}, step, made_from=made_from)
    averaged: Any = average.module
    EmbeddingDiffusionPipeline(averaged.eval().half(), FlowMatchEulerDiscreteScheduler(), clip).save_pretrained(recipe.out)
    write_facts(recipe, len(pictures), {}, labels_used=True)
    loop.finish(recipe)


def _open(recipe: Diffusion, height: int, width: int) -> ClipEncoder:
    """The encoder that conditions the model. Raises UserError, first of all for images of a size that the model cannot have."""
    if height != width or height % recipe.patch:
        raise UserError(
            f"source: images are {height}×{width}; this training needs square ones, of a side that patch: {recipe.patch} divides"
        )
    try:
        return ClipEncoder.from_pretrained(recipe.clip)
    except Exception as error:  # what another kind of training wrote fails in its own way
        raise UserError(f"clip: {recipe.clip} is no folder that kind: clip wrote: {error} ({type(error).__name__})") from error


def kept(recipe: Diffusion, rng: np.random.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """Which rows keep their image and their text embedding: float [batch, 1] of 0 and 1, twice."""
    draw = rng.random((recipe.batch, 1))
    neither = draw < recipe.drop_both
    text_only = ~neither & (draw < recipe.drop_both + recipe.text_only)
    image_only = ~neither & ~text_only & (draw < recipe.drop_both + recipe.text_only + recipe.image_only)
    return torch.from_numpy(~neither & ~text_only).float(), torch.from_numpy(~neither & ~image_only).float()


def jittered(embeds: torch.Tensor, amount: float, source: torch.Generator) -> torch.Tensor:
    """Unit rows [N, D] moved by Gaussian noise of expected norm `amount`, and brought back to unit length."""
    noise = torch.randn(embeds.shape, generator=source) * (amount / embeds.shape[1] ** 0.5)
    return F.normalize(embeds + noise, dim=-1)


@torch.no_grad()
def encode_images(clip: ClipEncoder, pixels: np.ndarray, bf16: bool, batch: int = 500) -> torch.Tensor:
    """uint8 [N, C, H, W] -> float [2, N, D]: embeddings of the images and of their mirror images."""
    both = []
    for flipped in (False, True):
        parts = []
        for start in range(0, len(pixels), batch):
            x = torch.from_numpy(pixels[start : start + batch])
            with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
                parts.append(clip.encode_image(x.flip(3) if flipped else x))
        both.append(torch.cat(parts))
    return torch.stack(both)


@torch.no_grad()
def encode_captions(clip: ClipEncoder, pictures: Pictures, recipe: Diffusion, batch: int = 1000) -> tuple[torch.Tensor, np.ndarray]:
    """Embeddings of all distinct captions, float [M, D], and which of them each image has, int64 [N, captions]."""
    facts = captions.measure(pictures.pixels, pictures.labels, pictures.class_names, recipe.words)
    index: dict[str, int] = {}
    rows = np.empty((len(pictures), recipe.captions), np.int64)
    rng = seeds.rng(recipe.seed, "captions")
    for image in range(len(pictures)):
        for column in range(recipe.captions):
            text = captions.draw(facts, image, rng)[0]
            rows[image, column] = index.setdefault(text, len(index))
    texts = list(index)
    return torch.cat([clip.encode_text(texts[start : start + batch]) for start in range(0, len(texts), batch)]), rows
