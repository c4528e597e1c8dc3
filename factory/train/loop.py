"""The loop every training shares: resume, step, report, checkpoint. Randomness belongs to the step, not to the process."""

from __future__ import annotations

import contextlib
import logging
import math
import os
import shutil
import time
from collections.abc import Callable, Iterable
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.optim.swa_utils import AveragedModel

from factory import seeds
from factory.train.recipe import Training

log = logging.getLogger("factory.train")
Step = Callable[[int], dict[str, torch.Tensor]]


def run(
    recipe: Training,
    state: dict[str, Any],
    step: Step,
    after: Callable[[int, dict[str, float]], None] | None = None,
    main: bool = True,
) -> None:
    """Call step(0), step(1), … recipe.steps times, continuing from `<out>.ckpt/` where one is there.

    state: name -> anything with state_dict and load_state_dict; all that must survive an interruption. step(k) must draw
    from `draws(recipe, k)` alone, so that a resumed training ends with the same weights.
    after: called with (steps done, that step's numbers) when they are logged.  main: whether this process logs and saves.
    """
    path = Path(f"{recipe.out}.ckpt") / "state.pt"
    first = _resume(path, recipe, state)
    began = time.monotonic()
    means: dict[str, float] = {}
    for k in range(first, recipe.steps):
        values = {name: float(value) for name, value in step(k).items()}
        for name, value in values.items():
            means[name] = 0.95 * means.get(name, value) + 0.05 * value
        done = k + 1
        if main and (done % recipe.log_every == 0 or done == recipe.steps):
            pace = (time.monotonic() - began) / (done - first)
            losses = "  ".join(f"{name} {value:.4f}" for name, value in means.items())
            log.info("step %d/%d  %s  %.2f s/step  %.0f min left", done, recipe.steps, losses, pace, pace * (recipe.steps - done) / 60)
        if after is not None and (done % recipe.log_every == 0 or done == recipe.steps):
            after(done, values)
        if main and (done % recipe.checkpoint_every == 0 or done == recipe.steps):
            _save(path, recipe, done, state)


def finish(recipe: Training) -> None:
    """Say where the model is, and drop the checkpoint that is no longer needed."""
    shutil.rmtree(f"{recipe.out}.ckpt", ignore_errors=True)
    log.info("wrote %s", recipe.out)


def draws(recipe: Training, step: int) -> np.random.Generator:
    """The random numbers of one step."""
    return seeds.rng(recipe.seed, recipe.kind, "step", step)


def rows(recipe: Training, count: int, step: int) -> np.ndarray:
    """The rows of one step's batch, int64 [batch]: each epoch is a fresh shuffle, a batch may span two."""
    positions = np.arange(step * recipe.batch, (step + 1) * recipe.batch)
    out = np.empty(recipe.batch, np.int64)
    for epoch in np.unique(positions // count).tolist():
        here = positions // count == epoch
        out[here] = _order(recipe.seed, epoch, count)[positions[here] % count]
    return out


@lru_cache(maxsize=2)
def _order(seed: int, epoch: int, count: int) -> np.ndarray:
    return seeds.rng(seed, "epoch", epoch).permutation(count)


def set_rate(optimizer: torch.optim.Optimizer, recipe: Training, step: int) -> None:
    """One cycle: linear to the peak over the first 5%, then a half cosine to zero (Smith and Topin 2018, simplified)."""
    warm = max(1, recipe.steps // 20)
    share = (step + 1) / warm if step < warm else 0.5 * (1 + math.cos(math.pi * (step - warm) / max(1, recipe.steps - warm)))
    for group in optimizer.param_groups:
        group["lr"] = recipe.lr * share


def descend(
    recipe: Training,
    step: int,
    loss: torch.Tensor,
    optimizer: torch.optim.Optimizer,
    weights: Iterable[torch.Tensor] = (),
    most: float = 1.0,
) -> None:
    """One step down a loss, at the rate of this step. weights: those whose gradient is cut to a norm of `most`."""
    set_rate(optimizer, recipe, step)
    optimizer.zero_grad(set_to_none=True)
    loss.backward()  # type: ignore[no-untyped-call]
    torch.nn.utils.clip_grad_norm_(weights, most)
    optimizer.step()


def decaying(weights: Iterable[torch.nn.Parameter]) -> list[dict[str, Any]]:
    """An optimizer's groups of weights: matrices decay, biases and scales do not."""
    own = list(weights)
    return [{"params": [p for p in own if p.ndim > 1]}, {"params": [p for p in own if p.ndim <= 1], "weight_decay": 0.0}]


def averaged(model: torch.nn.Module, decay: float) -> AveragedModel:
    """An exponential moving average of a model's weights that forgets its first steps sooner.

    After n updates it decays by at most (1+n)/(10+n).
    """

    def update(mean: torch.Tensor, value: torch.Tensor, count: torch.Tensor | int) -> torch.Tensor:
        return mean.lerp(value, 1 - min(decay, (1 + int(count)) / (10 + int(count))))

    return AveragedModel(model, avg_fn=update)


def device() -> torch.device:
    """What a training on one process computes on."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def plain_attention(device: torch.device) -> contextlib.AbstractContextManager[None]:
    """On a CPU the plain kernel: for few tokens the fused one's backward pass costs six times as much."""
    return sdpa_kernel(SDPBackend.MATH) if device.type == "cpu" else contextlib.nullcontext()


def _identity(recipe: Training) -> str:
    return recipe.model_dump_json(exclude={"out", "checkpoint_every", "log_every", "sample_every", "tracker"})


def _resume(path: Path, recipe: Training, state: dict[str, Any]) -> int:
    if not path.exists():
        return 0
    saved = torch.load(path, map_location="cpu", weights_only=True)
    if saved["recipe"] != _identity(recipe):
        log.warning("%s belongs to another recipe; starting again", path)
        return 0
    for name, part in state.items():
        part.load_state_dict(saved["state"][name])
    log.info("resuming from step %d", saved["step"])
    return int(saved["step"])


def _save(path: Path, recipe: Training, step: int, state: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".tmp")
    torch.save({"step": step, "recipe": _identity(recipe), "state": {name: part.state_dict() for name, part in state.items()}}, temporary)
    os.replace(temporary, path)
