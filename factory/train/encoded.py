"""What encoders make of a training set: embeddings, latents, neighbours. Computed once, and kept beside the images."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from factory import indexes
from factory.errors import UserError
from factory.models.guided import latent_factor, to_latents
from factory.models.representation import RepresentationEncoder
from factory.train.prepared import Prepared
from factory.train.recipe import RepresentationDiffusion

log = logging.getLogger("factory.train")
FITTED = 20_000  # images at most that whitening is fitted to
# Fitted again at every start, to other last bits on another machine or with other threads: no part of what a checkpoint was made from.
WHITENING = ("dim", "projected", "centre", "projection")
EXACT_ROWS = 49_999  # images up to which each one's neighbours are searched exactly: the time grows with their square


@dataclass(frozen=True)
class Arrays:
    """What steps read. x: uint8 pixels [N, C, H, W] or float16 latents [V, N, C, h, w].  embeds: float16 [V, N, K, D].
    symmetries: uint8 [V, N], of each image's V views.  near: int64 [N, k], each image's neighbours where the model is conditioned on these.
    made_from: a digest of the images, the encoder and the autoencoder."""

    x: np.ndarray
    embeds: np.ndarray
    symmetries: np.ndarray
    near: np.ndarray | None
    made_from: str

    def conditions(self, views: np.ndarray, rows: np.ndarray) -> torch.Tensor:
        """The tokens of these views of these images, int [n] both -> float32 [n, K, D], or [n, k, D] of their neighbours."""
        own = self.embeds[views, rows] if self.near is None else self.embeds[views[:, None], self.near[rows], 0]
        return torch.from_numpy(own.astype(np.float32))


def read(recipe: RepresentationDiffusion, data: Prepared, encoder: RepresentationEncoder, vae: Any) -> Arrays:
    """Encode the set, or find it encoded. vae: None for a model of pixels. Raises UserError, before anything is encoded for a wrong size."""
    shape = None if vae is None else _latent_shape(recipe, vae)
    views = data.symmetries(recipe.flips, recipe.views)
    embeds = embeddings(data, encoder, recipe.scales, views)
    near = neighbours(np.asarray(embeds[0, :, 0], np.float32), recipe.neighbours) if recipe.neighbours else None
    made_from = f"{data.identity} {digest(encoder, WHITENING)}"
    if shape is None:
        return Arrays(data.pixels, embeds, views, near, made_from)
    own = digest(vae)
    latents = data.derived(f"latents {own}", shape, lambda x: to_latents(vae, x.to(encoder.device), shape[0]), views)
    return Arrays(latents, embeds, views, near, f"{made_from} {own}")


def _latent_shape(recipe: RepresentationDiffusion, vae: Any) -> tuple[int, int, int]:
    """[C, h, w] of the set's latents, after one image has been encoded to see that they are so. Raises UserError."""
    factor = latent_factor(vae)
    height, width = recipe.size
    if height % (factor * recipe.patch) or width % (factor * recipe.patch):
        raise UserError(f"size: {height}×{width} is no multiple of {factor * recipe.patch} (the autoencoder's {factor} × patch)")
    shape = (int(getattr(vae.config, "latent_channels", 0)), height // factor, width // factor)
    try:
        found = tuple(to_latents(vae, torch.zeros(1, 3, height, width, dtype=torch.uint8, device=vae.device), shape[0]).shape[1:])
    except Exception as error:  # what is no autoencoder of images fails in its own way
        raise UserError(f"vae: {type(vae).__name__} does not encode images ({error}); use an AutoencoderKL") from error
    if found != shape:
        raise UserError(f"vae: {type(vae).__name__} makes latents {list(found)}, not {list(shape)} as it says; use an AutoencoderKL")
    return shape


def embeddings(data: Prepared, encoder: RepresentationEncoder, scales: Sequence[int], symmetries: np.ndarray) -> np.ndarray:
    """float16 [V, N, K, D], K the sum of s²: `encode_scales` of each image under `symmetries` [V, N]."""
    shape = (sum(scale**2 for scale in scales), encoder.embed_dim)
    key = f"embeddings {digest(encoder)} {tuple(scales)}"
    return data.derived(key, shape, lambda x: encoder.encode_scales(x.to(encoder.device), scales), symmetries)


def neighbours(units: np.ndarray, k: int) -> np.ndarray:
    """Each row's k nearest other rows by cosine, int64 [N, k]. Raises UserError where there are no k others."""
    units = np.ascontiguousarray(units / np.linalg.norm(units, axis=1, keepdims=True).clip(1e-9))
    if len(units) <= k:
        raise UserError(f"neighbours: {len(units)} images have no {k} others")
    found = indexes.by_cosine(units, EXACT_ROWS).search(units, k + 1)[1]
    own = found == np.arange(len(units))[:, None]
    own[~own.any(1), -1] = True  # a copy of the image stands in its place
    return found[~own].reshape(len(units), k)


def whitened(encoder: RepresentationEncoder, data: Prepared, dim: int) -> RepresentationEncoder:
    """An encoder whose embeddings of this set are uncorrelated, of `dim` numbers; fitted to at most 20,000 of its images. Raises UserError."""
    some = np.linspace(0, len(data) - 1, min(len(data), FITTED)).astype(int)
    try:
        fitted = encoder.fit_whitening(_wide(encoder, data, some), dim)
    except ValueError as error:
        raise UserError(f"whiten: {error} ({len(data)} images); leave whiten out, or give more images") from error
    if fitted.embed_dim < dim:
        log.warning("whiten: %d images differ in so many directions alone: %d of %d", len(data), fitted.embed_dim, dim)
    return fitted


@torch.no_grad()
def _wide(encoder: RepresentationEncoder, data: Prepared, rows: np.ndarray, batch: int = 256) -> torch.Tensor:
    """Unprojected embeddings of some rows, float32 [len(rows), W] on the CPU."""
    parts = [encoder.wide(torch.from_numpy(data.pixels[rows[i : i + batch]])).cpu() for i in range(0, len(rows), batch)]
    return torch.cat(parts)


def digest(module: torch.nn.Module, without: Sequence[str] = ()) -> str:
    """Of a model's weights, and configuration where it is diffusers', but for some."""
    config = getattr(module, "config", None)
    said = {
        name: value
        for name, value in (config.items() if isinstance(config, Mapping) else ())
        if not name.startswith("_") and name not in without
    }  # diffusers' own notes differ by process
    total = hashlib.sha256(json.dumps(said, sort_keys=True, default=str).encode())
    for name, tensor in sorted(module.state_dict().items()):
        if name in without:
            continue
        total.update(name.encode())
        total.update(tensor.detach().float().cpu().contiguous().numpy().tobytes())
    return total.hexdigest()[:32]
