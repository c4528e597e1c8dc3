"""A self-supervised image encoder from unlabelled images; losses and heads are lightly's, views are kornia's.

VICReg (Bardes et al. 2022, arXiv 2105.04906), SimCLR (Chen et al. 2020, arXiv 2002.05709), DINO (Caron et al. 2021, arXiv 2104.14294,
with its two large crops).
"""

from __future__ import annotations

import copy
import importlib.util
import logging
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from factory.errors import UserError
from factory.models.pixels import unit
from factory.models.representation import RepresentationEncoder, prepare, timm_tower
from factory.train import encoded, loop, prepared
from factory.train.prepared import Prepared
from factory.train.recipe import Representation
from factory.train.summary import write_training

log = logging.getLogger("factory.train")
NEEDED = "kind: representation needs kornia and lightly; run `pip install synthetic-dataset-factory[train]`"


def train(recipe: Representation) -> None:
    """Train and write `recipe.out`, a folder for `encoder:` of a representation_diffusion recipe and for every `model:` of an encoder."""
    if importlib.util.find_spec("lightly") is None:
        raise UserError(NEEDED)
    data = prepared.prepare(recipe)
    device = loop.device()
    torch.manual_seed(recipe.seed)
    network, spec = _tower(recipe, data)
    method = _METHODS[recipe.method](network, int(spec["dim"]), recipe).to(device)
    weights = [p for p in method.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(loop.decaying(weights), lr=recipe.lr, weight_decay=recipe.weight_decay)
    views = make_views(recipe, int(spec["size"]))
    log.info("%d images, %.2f M parameters", len(data), loop.parameters(network) / 1e6)

    batches = prepared.Ahead(lambda k: data.batch(loop.rows(recipe, len(data), k)))

    def step(k: int) -> dict[str, torch.Tensor]:
        x = unit(batches(k), device).expand(-1, 3, -1, -1)
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):  # kornia draws from the global generator
            torch.manual_seed(int(loop.draws(recipe, k).integers(2**62)))
            pair = [prepare(views(x), spec).to(memory_format=torch.channels_last) for _ in range(2)]
        with torch.autocast(device.type, torch.bfloat16, enabled=recipe.bf16):
            loss = method(pair[0], pair[1], k)
        loop.descend(recipe, k, loss, optimizer, weights, most=3.0)
        method.after_step()
        return {"loss": loss.detach()}

    method.train()
    loop.run(recipe, {"method": method, "optimizer": optimizer}, step, made_from=data.identity)
    encoder = _encoder(method, spec).to(device)
    if recipe.whiten is not None:
        encoder = encoded.whitened(encoder, data, recipe.whiten)
    encoder.save_pretrained(recipe.out)
    accuracy = neighbour_accuracy(encoder, data)
    if accuracy is not None:
        log.info("the class of the nearest other image is an image's own in %.1f%% (labels were not used in training)", 100 * accuracy)
    write_training(recipe, data, {"nearest_neighbour_accuracy": accuracy})
    loop.finish(recipe)


def _encoder(method: _Method, spec: dict[str, Any]) -> RepresentationEncoder:
    """What a method has trained, without its head."""
    encoder = RepresentationEncoder([spec], int(spec["dim"]))
    encoder.networks[0].load_state_dict(method.trained().state_dict())
    return encoder.eval().requires_grad_(False)


def _tower(recipe: Representation, data: Prepared) -> tuple[nn.Module, dict[str, Any]]:
    some = np.asarray(data.pixels[:: max(1, len(data) // 2000)], np.float32) / 255
    mean, std = (np.broadcast_to(value.round(4), 3).tolist() for value in (some.mean((0, 2, 3)), some.std((0, 2, 3)).clip(0.05)))
    try:
        return timm_tower(recipe.backbone, recipe.input_size or max(recipe.size), mean, std, **recipe.arguments)
    except (RuntimeError, TypeError, ValueError, AssertionError, KeyError) as error:
        size = recipe.input_size or max(recipe.size)
        raise UserError(f"backbone: timm cannot make {recipe.backbone!r} with {recipe.arguments} for {size} pixels: {error}") from error


def make_views(recipe: Representation, size: int) -> nn.Module:
    """Random views of float [N, 3, H, W] in [0, 1], each image with draws of its own."""
    try:
        import kornia.augmentation as K
    except ImportError as error:
        raise UserError(NEEDED) from error
    steps: list[Any] = [K.RandomResizedCrop((size, size), scale=recipe.crop, ratio=(0.8, 1.25), p=1.0)]
    if recipe.flips != "none":
        steps.append(K.RandomHorizontalFlip(p=0.5))
    if recipe.flips == "dihedral":
        steps += [K.RandomVerticalFlip(p=0.5), K.RandomRotation90((0, 3), p=1.0)]
    if recipe.colour:
        hue = recipe.colour / 4 if recipe.channels == 3 else 0.0
        steps.append(K.ColorJitter(recipe.colour, recipe.colour, recipe.colour if recipe.channels == 3 else 0.0, hue, p=0.8))
    if recipe.channels == 3 and recipe.colour:
        steps.append(K.RandomGrayscale(p=0.1))
    if recipe.erase:
        steps.append(K.RandomErasing(scale=(0.02, 0.2), ratio=(0.5, 2.0), value=0.5, p=recipe.erase))
    return K.AugmentationSequential(*steps, data_keys=["input"])


class _Method(nn.Module):
    """A network with a head and a loss between two views of a batch."""

    head: nn.Module
    loss: nn.Module

    def __init__(self, network: nn.Module):
        super().__init__()
        self.network = network

    def forward(self, first: torch.Tensor, second: torch.Tensor, step: int) -> torch.Tensor:
        """The loss of two views of a batch."""
        both = self.head(self.network(torch.cat([first, second]))).float()
        return self.loss(*both.chunk(2))

    def trained(self) -> nn.Module:
        """The network to keep."""
        return self.network

    def after_step(self) -> None:
        """What follows an optimiser's step."""


class _VicReg(_Method):
    def __init__(self, network: nn.Module, dim: int, recipe: Representation):
        from lightly.loss import VICRegLoss
        from lightly.models.modules.heads import VICRegProjectionHead

        super().__init__(network)
        self.head = VICRegProjectionHead(dim, recipe.projector, recipe.projector, num_layers=2)
        self.loss = VICRegLoss()


class _SimClr(_Method):
    def __init__(self, network: nn.Module, dim: int, recipe: Representation):
        from lightly.loss import NTXentLoss
        from lightly.models.modules.heads import SimCLRProjectionHead

        super().__init__(network)
        self.head = SimCLRProjectionHead(dim, recipe.projector, 128)
        self.loss = NTXentLoss(temperature=0.2)


class _Dino(_Method):
    def __init__(self, network: nn.Module, dim: int, recipe: Representation):
        from lightly.loss import DINOLoss
        from lightly.models.modules.heads import DINOProjectionHead

        super().__init__(network)
        self.head = DINOProjectionHead(dim, recipe.projector, 128, recipe.projector)
        head = DINOProjectionHead(dim, recipe.projector, 128, recipe.projector)  # weight normalisation cannot be copied deeply
        head.load_state_dict(self.head.state_dict())
        self.teacher = nn.ModuleList([copy.deepcopy(network), head]).requires_grad_(False)
        self.loss = DINOLoss(output_dim=recipe.projector, warmup_teacher_temp_epochs=10)
        self.momentum, self.steps = recipe.momentum, recipe.steps

    def forward(self, first: torch.Tensor, second: torch.Tensor, step: int) -> torch.Tensor:
        both = torch.cat([first, second])
        with torch.no_grad():
            taught = self.teacher[1](self.teacher[0](both)).float()
        seen = self.head(self.network(both)).float()
        return self.loss(list(taught.chunk(2)), list(seen.chunk(2)), epoch=100 * step // self.steps)

    def trained(self) -> nn.Module:
        return self.teacher[0]

    @torch.no_grad()
    def after_step(self) -> None:
        for mean, own in zip(self.teacher.parameters(), [*self.network.parameters(), *self.head.parameters()], strict=True):
            mean.lerp_(own, 1 - self.momentum)
        for held, fresh in zip(self.teacher.buffers(), [*self.network.buffers(), *self.head.buffers()], strict=True):
            held.copy_(fresh)


_METHODS: dict[str, Any] = {"vicreg": _VicReg, "simclr": _SimClr, "dino": _Dino}


@torch.no_grad()
def neighbour_accuracy(encoder: RepresentationEncoder, data: Prepared, most: int = 5000) -> float | None:
    """How often the nearest other labelled image is of the same class, among up to `most`; None without labels."""
    known = np.flatnonzero(data.labels >= 0)
    if len(known) < 2:
        return None
    known = known[np.linspace(0, len(known) - 1, min(most, len(known))).astype(int)]
    units = [encoder.encode_image(torch.from_numpy(data.pixels[known[i : i + 256]])) for i in range(0, len(known), 256)]
    cosines = F.normalize(torch.cat(units), dim=-1)
    cosines = cosines @ cosines.T
    cosines.fill_diagonal_(-2)
    labels = torch.from_numpy(data.labels[known]).to(cosines.device)
    return float((labels[cosines.argmax(1)] == labels).float().mean())
