"""A diffusion model guided by embeddings of unlabelled images (Graikos et al. 2024, arXiv 2312.07330), on one process or many.

Noise paths: flow matching (Lipman et al. 2023), stochastic interpolants (Albergo et al. 2023), DDPM (Ho et al. 2020), v-prediction
(Salimans and Ho 2022). Tokens of neighbours: RDM (Blattmann et al. 2022).
"""

from __future__ import annotations

import importlib.util
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F

from factory.errors import UserError
from factory.models.guided import RepresentationDiffusionPipeline
from factory.models.pixels import signed
from factory.models.representation import RepresentationEncoder
from factory.models.scheduler import GaussianPathScheduler
from factory.models.transformer import PatchTransformer
from factory.train import encoded, loop, prepared, samples
from factory.train.encoded import Arrays
from factory.train.prepared import Prepared
from factory.train.recipe import RepresentationDiffusion
from factory.train.summary import write_training
from factory.train.throughput import Throughput, training_flops

log = logging.getLogger("factory.train")


def train(recipe: RepresentationDiffusion) -> None:
    """Train and write `recipe.out`, a diffusers pipeline folder with its encoder and autoencoder. Raises UserError."""
    accelerator = _accelerator(recipe)
    with accelerator.main_process_first():
        data = prepared.prepare(recipe)
        encoder = open_encoder(recipe, data, accelerator.device)
        vae = open_vae(recipe, accelerator.device)
        arrays = encoded.read(recipe, data, encoder, vae)
    _Training(recipe, accelerator, data, encoder, vae, arrays).run()


def _accelerator(recipe: RepresentationDiffusion) -> Any:
    from accelerate import Accelerator

    if recipe.tracker and importlib.util.find_spec(recipe.tracker) is None:
        raise UserError(f"tracker: {recipe.tracker} is not installed; run `pip install {recipe.tracker}`, or leave tracker out")
    accelerator = Accelerator(
        mixed_precision="bf16" if recipe.bf16 else "no",
        gradient_accumulation_steps=recipe.accumulate,
        log_with=recipe.tracker,
        project_dir=f"{recipe.out}.logs",
        cpu=not torch.cuda.is_available() and not torch.backends.mps.is_available(),
    )
    if recipe.batch % (accelerator.num_processes * recipe.accumulate):
        raise UserError(f"batch: {recipe.batch} cannot be shared by {accelerator.num_processes} processes × accumulate {recipe.accumulate}")
    return accelerator


class _Training:
    """One process of a training."""

    def __init__(
        self, recipe: RepresentationDiffusion, accelerator: Any, data: Prepared, encoder: RepresentationEncoder, vae: Any, arrays: Arrays
    ):
        self.recipe, self.accelerator, self.data, self.encoder, self.vae, self.arrays = recipe, accelerator, data, encoder, vae, arrays
        torch.manual_seed(recipe.seed)
        self.model = make_model(recipe, encoder, arrays).to(accelerator.device)
        self.average = loop.averaged(self.model, recipe.ema)
        optimizer = torch.optim.AdamW(self.model.parameters(), lr=recipe.lr, weight_decay=recipe.weight_decay, betas=(0.9, 0.99))
        self.wrapped, self.optimizer = accelerator.prepare(self.model, optimizer)
        self.scheduler = GaussianPathScheduler(recipe.path, recipe.prediction)
        self.reader = Reader(recipe, data, arrays)
        self.batches = prepared.Ahead(self.reader)
        x, embeds, _, time = next(self._own(self.reader(0)))
        self.parameters = loop.parameters(self.model)
        self.pace = Throughput(recipe.accumulate * training_flops(self.model, x, time, embeds))

    def run(self) -> None:
        """Every step that is not done yet, and what is written at the end."""
        recipe, accelerator = self.recipe, self.accelerator
        if accelerator.is_main_process:
            conditions = self.arrays.embeds.shape[2:]
            size = f"{self.parameters / 1e6:.2f} M parameters"
            log.info("%d images, %d conditions of %d numbers, %s", len(self.data), *conditions, size)
        if recipe.tracker:
            accelerator.init_trackers("training", {"recipe": recipe.model_dump_json()})
        self.model.train()
        state = {"model": self.model, "average": self.average, "optimizer": self.optimizer}
        loop.run(recipe, state, self.step, self.after, accelerator.is_main_process, self.arrays.made_from)
        if recipe.tracker:
            accelerator.end_training()
        if accelerator.is_main_process:
            self._write()
        accelerator.wait_for_everyone()

    def step(self, k: int) -> dict[str, torch.Tensor]:
        """Step k of the recipe's; the loss over this process's part of the batch."""
        with self.pace.step():
            loop.set_rate(self.optimizer, self.recipe, k)
            with self.pace.waiting():
                batch = self.batches(k)
            losses = [self._descend(*part) for part in self._own(batch)]
            self.average.update_parameters(self.model)
            return {"loss": torch.stack(losses).mean()}

    def _own(self, batch: tuple[torch.Tensor, ...]) -> Iterator[tuple[torch.Tensor, ...]]:
        """This process's part of a batch, in `accumulate` pieces, on its device."""
        for part in self.reader.share(batch, self.accelerator.process_index, self.accelerator.num_processes):
            yield tuple(tensor.to(self.accelerator.device) for tensor in part)

    def _descend(self, x: torch.Tensor, embeds: torch.Tensor, noise: torch.Tensor, time: torch.Tensor) -> torch.Tensor:
        """Add a piece's gradient; with the last piece of a step, go down. Returns the loss, on the CPU."""
        accelerator = self.accelerator
        with accelerator.accumulate(self.wrapped), loop.plain_attention(accelerator.device):
            noisy = self.scheduler.scale_noise(x, time, noise)
            with accelerator.autocast():
                output = self.wrapped(noisy, time, embeds)
            loss = F.mse_loss(output.float(), self.scheduler.target(x, time, noise))
            accelerator.backward(loss)
            if accelerator.sync_gradients:
                accelerator.clip_grad_norm_(self.wrapped.parameters(), 1.0)
            self.optimizer.step()
            self.optimizer.zero_grad(set_to_none=True)
        return loss.detach().cpu()

    def after(self, done: int, values: dict[str, float]) -> None:
        """Tell the tracker, and draw samples now and then."""
        if self.recipe.tracker:
            self.accelerator.log(values, step=done)
        if self.accelerator.is_main_process and (done % self.recipe.sample_every == 0 or done == self.recipe.steps):
            self._samples(Path(f"{self.recipe.out}.samples") / f"{done:07d}.png")

    def _pipeline(self) -> RepresentationDiffusionPipeline:
        """The averaged model as it is now."""
        model: Any = self.average.eval().module
        made = RepresentationDiffusionPipeline(
            model, self.scheduler, self.encoder, self.vae, list(self.recipe.scales), self.recipe.neighbours
        )
        made.set_progress_bar_config(disable=True)
        return made

    def _samples(self, path: Path) -> None:
        samples.write(self._pipeline(), self.data, self.arrays, path)

    def _write(self) -> None:
        """The pipeline with samples and a card."""
        self._pipeline().save_pretrained(self.recipe.out)
        self._samples(self.recipe.out / "samples.png")
        conditions = list(self.arrays.embeds.shape[2:])
        write_training(self.recipe, self.data, {"parameters": self.parameters, "conditions": conditions, **self.pace.facts()})
        loop.finish(self.recipe)


def open_encoder(recipe: RepresentationDiffusion, data: Prepared, device: torch.device) -> RepresentationEncoder:
    """The encoder, whitened on this set where the recipe asks for it. Raises UserError."""
    try:
        encoder = RepresentationEncoder.open(recipe.encoder).to(device)
    except UserError:
        raise
    except Exception as error:  # each library says in its own way that it does not know a name, or that a file is damaged
        why = f"{error}".partition("\n")[0][:300]
        raise UserError(f"encoder: cannot open {', '.join(recipe.encoder)}: {why} ({type(error).__name__})") from error
    if recipe.whiten is None:
        return encoder
    if encoder.config.projected:
        raise UserError("whiten: this encoder is whitened already; leave whiten out")
    return encoded.whitened(encoder, data, recipe.whiten).to(device)


def open_vae(recipe: RepresentationDiffusion, device: torch.device) -> Any:
    """The autoencoder of latent diffusion, or None. Raises UserError."""
    if recipe.vae is None:
        return None
    from diffusers import AutoModel

    pipeline = (Path(recipe.vae) / "model_index.json").is_file()
    try:
        vae = AutoModel.from_pretrained(recipe.vae, subfolder="vae" if pipeline else None, use_safetensors=True)
    except Exception as error:  # as above
        why = f"{error}".partition("\n")[0][:300]
        raise UserError(f"vae: cannot open {recipe.vae}: {why} ({type(error).__name__})") from error
    if not hasattr(vae.config, "block_out_channels"):
        raise UserError(f"vae: {type(vae).__name__} does not say how much smaller its latents are; use an AutoencoderKL")
    return vae.eval().requires_grad_(False).to(device)


def make_model(recipe: RepresentationDiffusion, encoder: RepresentationEncoder, arrays: Arrays) -> PatchTransformer:
    """A fresh denoiser for these arrays."""
    channels, height, width = arrays.x.shape[-3:]
    side: Any = height if height == width else [height, width]
    tokens = arrays.embeds.shape[2]
    shape = (recipe.patch, recipe.width, recipe.depth, recipe.heads, encoder.embed_dim, tokens, recipe.cross_attention)
    model = PatchTransformer(channels, side, *shape)
    model.text.requires_grad_(False)  # there are no prompts; processes would wait for its gradient
    return model


class Reader:
    """The tensors of step k: images or latents, conditions (zeros where left out), noise, and times in (0, 1000).

    Everything is drawn for the whole batch and then shared out, so that the number of processes changes no draw.
    """

    def __init__(self, recipe: RepresentationDiffusion, data: Prepared, arrays: Arrays):
        self.recipe, self.data, self.arrays = recipe, data, arrays

    def __call__(self, k: int) -> tuple[torch.Tensor, ...]:
        recipe, arrays = self.recipe, self.arrays
        rng, rows = loop.draws(recipe, k), loop.rows(recipe, len(self.data), k)
        views = rng.integers(len(arrays.symmetries), size=recipe.batch)
        if arrays.x.ndim == 5:
            x = torch.from_numpy(arrays.x[views, rows].astype(np.float32))
        else:
            x = signed(self.data.seen(rows, arrays.symmetries[views, rows]))
        keep = torch.from_numpy(rng.random(recipe.batch) >= recipe.drop).float()
        embeds = arrays.conditions(views, rows) * keep[:, None, None]
        noise = torch.randn(x.shape, generator=loop.torch_draws(rng))
        times = rng.standard_normal(recipe.batch) if recipe.times == "logit_normal" else rng.random(recipe.batch)
        time = torch.from_numpy(times.astype(np.float32))
        time = time.sigmoid() if recipe.times == "logit_normal" else time
        return x, embeds, noise, time.clamp(1e-3, 1 - 1e-3) * 1000

    def share(self, batch: Any, process: int, processes: int) -> list[tuple[torch.Tensor, ...]]:
        """One process's part of a batch, in `accumulate` pieces."""
        own = [tensor.tensor_split(processes)[process].tensor_split(self.recipe.accumulate) for tensor in batch]
        return list(zip(*own, strict=True))
