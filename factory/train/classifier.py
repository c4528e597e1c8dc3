"""A small classifier on the real training images, with shifts and flips."""

from __future__ import annotations

import logging

import numpy as np
import torch
from torch.nn import functional as F

from factory.models.classifier import SmallClassifier
from factory.train import data, loop
from factory.train.recipe import Classifier
from factory.train.summary import write_facts

log = logging.getLogger("factory.train")


def train(recipe: Classifier) -> None:
    """Train and write `recipe.out`: config.json and safetensors in float16."""
    pictures = data.load(recipe.source)
    torch.manual_seed(recipe.seed)
    mean, std = float(pictures.pixels.mean()) / 255, float(pictures.pixels.std()) / 255
    channels, size = pictures.pixels.shape[1:3]
    model = SmallClassifier(pictures.class_names, size, recipe.width, round(mean, 4), round(std, 4), channels)
    model.to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(model.parameters(), lr=recipe.lr, weight_decay=recipe.weight_decay)
    pixels, labels = torch.from_numpy(pictures.pixels), torch.from_numpy(pictures.labels)
    log.info("%d images, %.2f M parameters", len(pictures), loop.parameters(model) / 1e6)

    def step(k: int) -> dict[str, torch.Tensor]:
        rng, rows = loop.draws(recipe, k), loop.rows(recipe, len(pictures), k)
        torch.manual_seed(int(rng.integers(2**62)))
        views = model.prepare(shifted(pixels[rows], rng)).contiguous(memory_format=torch.channels_last)
        with torch.autocast("cpu", torch.bfloat16, enabled=recipe.bf16):
            logits = model(views)
        loss = F.cross_entropy(logits.float(), labels[rows], label_smoothing=0.05)
        loop.descend(recipe, k, loss, optimizer)
        return {"loss": loss.detach(), "accuracy": (logits.argmax(1) == labels[rows]).float().mean()}

    model.train()
    loop.run(recipe, {"model": model, "optimizer": optimizer}, step, made_from=pictures.identity)
    model.eval().half().save_pretrained(recipe.out)
    write_facts(recipe, len(pictures), {}, labels_used=True)
    loop.finish(recipe)


def shifted(pixels: torch.Tensor, rng: np.random.Generator, most: int = 2) -> torch.Tensor:
    """uint8 [N, C, H, W] -> the same images, mirrored half the time and moved by up to `most` pixels."""
    count, channels, height, width = pixels.shape
    padded = F.pad(pixels, (most,) * 4)
    rows = torch.from_numpy(rng.integers(0, 2 * most + 1, (count, 1)) + np.arange(height))
    columns = np.where(rng.random((count, 1)) < 0.5, np.arange(width), np.arange(width)[::-1])
    moved = torch.from_numpy(rng.integers(0, 2 * most + 1, (count, 1)) + columns)
    which, planes = torch.arange(count)[:, None, None, None], torch.arange(channels)[:, None, None]
    return padded[which, planes, rows[:, None, :, None], moved[:, None, None, :]]
