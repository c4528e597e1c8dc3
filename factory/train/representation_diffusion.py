"""A diffusion model guided by embeddings of unlabelled images (Graikos et al. 2024, arXiv 2312.07330), on one process or many.

Noise paths: flow matching (Lipman et al. 2023), stochastic interpolants (Albergo et al. 2023), DDPM (Ho et al. 2020), v-prediction
(Salimans and Ho 2022). Tokens of neighbours: RDM (Blattmann et al. 2022).
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.optim.swa_utils import AveragedModel

from factory import images
from factory.errors import UserError
from factory.models.guided import RepresentationDiffusionPipeline, to_latents
from factory.models.representation import RepresentationEncoder
from factory.models.scheduler import GaussianPathScheduler
from factory.models.transformer import PatchTransformer
from factory.train import loop, prepared
from factory.train.diffusion import moving_average
from factory.train.prepared import Prepared
from factory.train.recipe import RepresentationDiffusion
from factory.train.representation import whitened
from factory.train.summary import write_training
from factory.train.throughput import Throughput, training_flops

log = logging.getLogger("factory.train")


@dataclass(frozen=True)
class Arrays:
    """What steps read. x: uint8 pixels [N, C, H, W] or float16 latents [V, N, C, h, w].  embeds: float16 [V, N, K, D].
    symmetries: uint8 [V, N], of each image's V views.  near: int64 [N, k], each image's neighbours where the model is conditioned on these."""

    x: np.ndarray
    embeds: np.ndarray
    symmetries: np.ndarray
    near: np.ndarray | None


def train(recipe: RepresentationDiffusion) -> None:
    """Train and write `recipe.out`, a diffusers pipeline folder with its encoder and autoencoder. Raises UserError."""
    accelerator = _accelerator(recipe)
    with accelerator.main_process_first():
        data = prepared.prepare(recipe)
        encoder = open_encoder(recipe, data, accelerator.device)
        vae = open_vae(recipe, accelerator.device)
        arrays = read_arrays(recipe, data, encoder, vae)
    _Training(recipe, accelerator, data, encoder, vae, arrays).run()


def _accelerator(recipe: RepresentationDiffusion) -> Any:
    from accelerate import Accelerator

    accelerator = Accelerator(
        mixed_precision="bf16" if recipe.bf16 else "no",
        gradient_accumulation_steps=recipe.accumulate,
        log_with=recipe.tracker,
        project_dir=f"{recipe.out}.ckpt",
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
        self.average = AveragedModel(self.model, avg_fn=moving_average(recipe.ema))
        optimizer = torch.optim.AdamW(self.model.parameters(), lr=recipe.lr, weight_decay=recipe.weight_decay, betas=(0.9, 0.99))
        self.wrapped, self.optimizer = accelerator.prepare(self.model, optimizer)
        self.scheduler = GaussianPathScheduler(recipe.path, recipe.prediction)
        self.reader = Reader(recipe, data, arrays)
        self.batches = prepared.Ahead(self.reader)
        x, embeds, _, time = next(self._own(self.reader(0)))
        self.pace = Throughput(recipe.accumulate * training_flops(self.model, x, time, embeds))

    @property
    def parameters(self) -> int:
        return sum(p.numel() for p in self.model.parameters())

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
        loop.run(recipe, state, self.step, self.after, accelerator.is_main_process)
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
        with accelerator.accumulate(self.wrapped), plain_attention(accelerator.device):
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
        write_samples(self._pipeline(), self.data, self.arrays, path)

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
    except (OSError, ValueError, RuntimeError, ImportError) as error:
        raise UserError(f"encoder: cannot open {', '.join(recipe.encoder)}: {error}") from error
    if recipe.whiten is None:
        return encoder
    if encoder.config.projected:
        raise UserError("whiten: this encoder is whitened already; leave whiten out")
    return whitened(encoder, data, recipe.whiten).to(device)


def open_vae(recipe: RepresentationDiffusion, device: torch.device) -> Any:
    """The autoencoder of latent diffusion, or None. Raises UserError."""
    if recipe.vae is None:
        return None
    from diffusers import AutoModel

    try:
        vae = AutoModel.from_pretrained(recipe.vae, use_safetensors=True)
    except (OSError, ValueError) as error:
        raise UserError(f"vae: cannot open {recipe.vae}: {error}") from error
    if not hasattr(vae.config, "block_out_channels"):
        raise UserError(f"vae: {type(vae).__name__} does not say how much smaller its latents are; use an AutoencoderKL")
    return vae.eval().requires_grad_(False).to(device)


def read_arrays(recipe: RepresentationDiffusion, data: Prepared, encoder: RepresentationEncoder, vae: Any) -> Arrays:
    """Encode the set, or find it encoded."""
    device = encoder.device
    tokens = sum(scale**2 for scale in recipe.scales)
    key = f"{digest(encoder)} {recipe.scales}"
    views = data.symmetries(recipe.flips, recipe.views)
    embeds = data.derived(
        f"embeddings {key}", (tokens, encoder.embed_dim), lambda x: encoder.encode_scales(x.to(device), recipe.scales), views
    )
    near = neighbours(np.asarray(embeds[0, :, 0], np.float32), recipe.neighbours) if recipe.neighbours else None
    if vae is None:
        return Arrays(data.pixels, embeds, views, near)
    factor = 2 ** (len(vae.config.block_out_channels) - 1)
    height, width = recipe.size
    if height % (factor * recipe.patch) or width % (factor * recipe.patch):
        raise UserError(f"size: {height}×{width} is no multiple of {factor * recipe.patch} (the autoencoder's {factor} × patch)")
    channels = int(vae.config.latent_channels)
    shape = (channels, height // factor, width // factor)
    latents = data.derived(f"latents {digest(vae)}", shape, lambda x: to_latents(vae, x.to(device), channels), views)
    return Arrays(latents, embeds, views, near)


def neighbours(units: np.ndarray, k: int) -> np.ndarray:
    """Each row's k nearest other rows by cosine, int64 [N, k]."""
    import faiss

    units = np.ascontiguousarray(units / np.linalg.norm(units, axis=1, keepdims=True).clip(1e-9))
    if len(units) <= k:
        raise UserError(f"neighbours: {len(units)} images have no {k} others")
    index: Any = (
        faiss.IndexFlatIP(units.shape[1]) if len(units) < 50_000 else faiss.IndexHNSWFlat(units.shape[1], 32, faiss.METRIC_INNER_PRODUCT)
    )
    index.add(units)
    found = index.search(units, k + 1)[1]
    own = found == np.arange(len(units))[:, None]
    own[~own.any(1), -1] = True  # a copy of the image stands in its place
    return found[~own].reshape(len(units), k)


def make_model(recipe: RepresentationDiffusion, encoder: RepresentationEncoder, arrays: Arrays) -> PatchTransformer:
    """A fresh denoiser for these arrays."""
    channels, height, width = arrays.x.shape[-3:]
    if height % recipe.patch or width % recipe.patch:
        raise UserError(f"size: {height}×{width} is no multiple of the patch, {recipe.patch}")
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
        number = rng.integers(len(arrays.symmetries), size=recipe.batch)
        if arrays.x.ndim == 5:
            x = torch.from_numpy(arrays.x[number, rows].astype(np.float32))
        else:
            pixels = torch.from_numpy(arrays.x[rows])
            x = prepared.transformed(pixels, torch.from_numpy(arrays.symmetries[number, rows].astype(np.int64))).float() / 127.5 - 1
        own = arrays.embeds[number, rows] if arrays.near is None else arrays.embeds[number[:, None], arrays.near[rows], 0]
        keep = torch.from_numpy(rng.random(recipe.batch) >= recipe.drop).float()
        embeds = torch.from_numpy(own.astype(np.float32)) * keep[:, None, None]
        noise = torch.randn(x.shape, generator=torch.Generator().manual_seed(int(rng.integers(2**62))))
        times = rng.standard_normal(recipe.batch) if recipe.times == "logit_normal" else rng.random(recipe.batch)
        time = torch.from_numpy(times.astype(np.float32))
        time = time.sigmoid() if recipe.times == "logit_normal" else time
        return x, embeds, noise, time.clamp(1e-3, 1 - 1e-3) * 1000

    def share(self, batch: Any, process: int, processes: int) -> list[tuple[torch.Tensor, ...]]:
        """One process's part of a batch, in `accumulate` pieces."""
        own = [tensor.tensor_split(processes)[process].tensor_split(self.recipe.accumulate) for tensor in batch]
        return list(zip(*own, strict=True))


def plain_attention(device: torch.device) -> Any:
    """On a CPU the plain kernel: for few tokens the fused one's backward pass costs six times as much."""
    return sdpa_kernel(SDPBackend.MATH) if device.type == "cpu" else contextlib.nullcontext()


def write_samples(
    pipe: RepresentationDiffusionPipeline, data: Prepared, arrays: Arrays, path: Path, parents: int = 8, children: int = 5
) -> None:
    """A picture: a row for each of some images, followed by variations of it."""
    rows = np.linspace(0, len(data) - 1, min(parents, len(data))).astype(int)
    own = arrays.embeds[0, rows] if arrays.near is None else arrays.embeds[0][arrays.near[rows], 0]
    embeds = torch.from_numpy(own.astype(np.float32)).repeat_interleave(children, 0)
    embeds = embeds if embeds.shape[1] > 1 else embeds[:, 0]
    generators = [torch.Generator().manual_seed(number) for number in range(len(embeds))]
    made = images.from_output(pipe(image_embeds=embeds, generator=generators, num_inference_steps=20, output_type="np", return_dict=False))
    height, width = made[0].shape[:2]
    sheet = np.full((len(rows) * (height + 2), (children + 1) * (width + 2) + 4, 3), 255, np.uint8)
    for number, row in enumerate(rows):
        own_view = prepared.transformed(torch.from_numpy(np.array(data.pixels[row])[None]), torch.tensor([int(arrays.symmetries[0, row])]))
        real = np.broadcast_to(own_view[0].numpy().transpose(1, 2, 0), (height, width, 3))
        for column, picture in enumerate([real, *made[number * children : (number + 1) * children]]):
            x = column * (width + 2) + (4 if column else 0)
            sheet[number * (height + 2) : number * (height + 2) + height, x : x + width] = picture
    zoom = max(1, 96 // height)
    path.parent.mkdir(parents=True, exist_ok=True)
    images.to_pil(np.repeat(np.repeat(sheet, zoom, 0), zoom, 1)).save(path)


def digest(module: torch.nn.Module) -> str:
    """Of a model's configuration and weights."""
    config: Any = module.config
    said = {
        name: value for name, value in dict(config).items() if not name.startswith("_")
    }  # diffusers' own notes differ between processes
    total = hashlib.sha256(json.dumps(said, sort_keys=True, default=str).encode())
    for name, tensor in sorted(module.state_dict().items()):
        total.update(name.encode())
        total.update(tensor.detach().float().cpu().contiguous().numpy().tobytes())
    return total.hexdigest()[:32]
