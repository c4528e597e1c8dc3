"""A small autoencoder for latent diffusion (Rombach et al. 2022, arXiv 2112.10752), as diffusers' AutoencoderKL."""

from __future__ import annotations

import logging
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F

from factory.models.pixels import signed
from factory.train import loop, prepared
from factory.train.prepared import Prepared
from factory.train.recipe import Autoencoder
from factory.train.summary import write_training

log = logging.getLogger("factory.train")


def train(recipe: Autoencoder) -> None:
    """Train and write `recipe.out`, a folder for `vae:` of a representation_diffusion recipe; latents are scaled to unit variance."""
    data = prepared.prepare(recipe)
    device = loop.device()
    torch.manual_seed(recipe.seed)
    model = make_model(recipe).to(device)
    model.to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(model.parameters(), lr=recipe.lr, weight_decay=recipe.weight_decay, betas=(0.9, 0.99))
    log.info("%d images, %.2f M parameters", len(data), loop.parameters(model) / 1e6)
    batches = prepared.Ahead(lambda k: data.batch(loop.rows(recipe, len(data), k)))

    def step(k: int) -> dict[str, torch.Tensor]:
        rng = loop.draws(recipe, k)
        noise = loop.torch_draws(rng)
        symmetry = torch.from_numpy(rng.choice(prepared.SYMMETRIES[recipe.flips], recipe.batch))
        x = signed(prepared.transformed(batches(k), symmetry).to(device)).expand(-1, 3, -1, -1)
        with torch.autocast(device.type, torch.bfloat16, enabled=recipe.bf16):
            seen = model.encode(x.to(memory_format=torch.channels_last)).latent_dist
            drawn = seen.mean + seen.std * torch.randn(seen.mean.shape, generator=noise).to(device)
            made = model.decode(drawn, return_dict=False)[0]
        made = made.float()
        pixels = F.l1_loss(made, x)
        edges = sum(F.l1_loss(made.diff(dim=dim), x.diff(dim=dim)) for dim in (2, 3))
        kl = 0.5 * (seen.mean.float() ** 2 + seen.var.float() - 1 - seen.logvar.float()).sum() / len(x)
        loop.descend(recipe, k, pixels + recipe.edges * edges + recipe.kl * kl, optimizer, model.parameters())
        return {"pixels": pixels.detach(), "kl": kl.detach()}

    model.train()
    loop.run(recipe, {"model": model, "optimizer": optimizer}, step, made_from=data.identity)
    model.eval()
    some, latents, made = _reconstructed(model, data, device)
    psnr = float(10 * torch.log10(4 / F.mse_loss(made.clamp(-1, 1), some)))
    model.register_to_config(scaling_factor=round(1 / float(latents.std()), 5), shift_factor=round(float(latents.mean()), 5))
    model.save_pretrained(recipe.out)
    log.info("%.1f dB peak signal-to-noise ratio on %d training images", psnr, len(some))
    write_training(recipe, data, {"psnr_db": round(psnr, 2)})
    loop.finish(recipe)


def make_model(recipe: Autoencoder) -> Any:
    """A fresh AutoencoderKL."""
    from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL

    levels = len(recipe.widths)
    return AutoencoderKL(
        block_out_channels=recipe.widths,
        down_block_types=("DownEncoderBlock2D",) * levels,
        up_block_types=("UpDecoderBlock2D",) * levels,
        layers_per_block=recipe.layers,
        latent_channels=recipe.latent,
        norm_num_groups=min(8, *recipe.widths),
        sample_size=max(recipe.size),
        mid_block_add_attention=False,
    )


@torch.no_grad()
def _reconstructed(model: Any, data: Prepared, device: torch.device, most: int = 500) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """(images in [-1, 1], their latents, what is decoded from these) of up to `most` images, evenly spread."""
    some = signed(torch.from_numpy(np.array(data.pixels[:: max(1, len(data) // most)][:most])).to(device)).expand(-1, 3, -1, -1)
    latents = torch.cat([model.encode(part).latent_dist.mode() for part in some.split(50)])
    return some, latents, torch.cat([model.decode(part, return_dict=False)[0] for part in latents.split(50)])
