"""A model of p(embedding | class or text) for a representation-guided pipeline (RCG, Li et al. 2024, arXiv 2312.03701)."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F

from factory.errors import UserError
from factory.files import read_object
from factory.models.guided import RepresentationDiffusionPipeline
from factory.models.prior import EmbeddingPriorModel
from factory.models.scheduler import GaussianPathScheduler
from factory.train import encoded, loop, prepared
from factory.train.prepared import Prepared
from factory.train.recipe import EmbeddingPrior
from factory.train.summary import write_training

log = logging.getLogger("factory.train")


def train(recipe: EmbeddingPrior) -> None:
    """Train and write `recipe.out`, a folder for the condition embedding_prior. Raises UserError."""
    device = loop.device()
    pipe, data = _pipeline(recipe), _labelled(recipe)
    labels = torch.from_numpy(data.labels.astype(np.int64))
    embeds = encoded.embeddings(data, pipe.encoder.to(device), pipe.config.scales, data.symmetries(recipe.flips))
    tokens, dim = embeds.shape[2:]
    torch.manual_seed(recipe.seed)
    names = data.table.class_names if recipe.of == "class" else []
    model = EmbeddingPriorModel(tokens, dim, recipe.of, names, width=recipe.width, depth=recipe.depth).to(device)
    texts = None if recipe.of != "text" else model.encode_texts([(data.table.captions or [])[row] for row in data.rows]).cpu()
    average = loop.averaged(model, recipe.ema)
    optimizer = torch.optim.AdamW(model.parameters(), lr=recipe.lr, weight_decay=recipe.weight_decay, betas=(0.9, 0.99))
    scheduler = GaussianPathScheduler()
    log.info("%d images, %.2f M parameters", len(data), loop.parameters(model) / 1e6)

    def step(k: int) -> dict[str, torch.Tensor]:
        rng, rows = loop.draws(recipe, k), loop.rows(recipe, len(data), k)
        x = torch.from_numpy(embeds[rng.integers(len(embeds), size=recipe.batch), rows].astype(np.float32)).flatten(1)
        x = x * dim**0.5
        keep = torch.from_numpy(rng.random(recipe.batch) >= recipe.drop)
        source = loop.torch_draws(rng)
        noise = torch.randn(x.shape, generator=source)
        time = torch.randn(recipe.batch, generator=source).sigmoid() * 1000
        given = torch.where(keep, labels[rows], -1) if recipe.of == "class" else torch.full((recipe.batch,), -1)
        read = None if texts is None else (texts[rows] * keep[:, None]).to(device)
        velocity = model(scheduler.scale_noise(x, time, noise).to(device), time.to(device), given.to(device), read)
        loss = F.mse_loss(velocity, (noise - x).to(device))
        loop.descend(recipe, k, loss, optimizer, model.parameters())
        average.update_parameters(model)
        return {"loss": loss.detach()}

    model.train()
    state = {"model": model, "average": average, "optimizer": optimizer}
    loop.run(recipe, state, step, made_from=f"{data.identity} {encoded.digest(pipe.encoder)}")
    averaged: Any = average.module
    averaged.eval().save_pretrained(recipe.out)
    write_training(recipe, data, {"given": recipe.of}, labels_used=recipe.of == "class")
    loop.finish(recipe)


def _pipeline(recipe: EmbeddingPrior) -> RepresentationDiffusionPipeline:
    index = Path(recipe.pipeline).expanduser() / "model_index.json"
    said = read_object(index, "bring the folder's files back")
    if said is None or said.get("_class_name") != RepresentationDiffusionPipeline.__name__:
        what = "no pipeline" if said is None else f"a {said.get('_class_name')}"
        raise UserError(f"pipeline: {recipe.pipeline} is {what}; name a folder that kind: representation_diffusion wrote")
    try:
        return RepresentationDiffusionPipeline.from_pretrained(str(index.parent), use_safetensors=True)
    except Exception as error:  # each library that reads a damaged file has its own
        raise UserError(f"pipeline: cannot open {recipe.pipeline}: {error}; is each of its files whole?") from error


def _labelled(recipe: EmbeddingPrior) -> Prepared:
    """The images, with what the model is given of each. Raises UserError where the source does not say it."""
    data = prepared.prepare(recipe)
    if recipe.of == "class" and not data.table.class_names:
        raise UserError("of: class needs a labelled source; set source.label, or of: nothing")
    if recipe.of == "text" and data.table.captions is None:
        raise UserError("of: text needs source.caption")
    return data
