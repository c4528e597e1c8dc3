"""The loop every training shares: resume, step, report, checkpoint. Randomness belongs to the step, not to the process."""

from __future__ import annotations

import contextlib
import json
import logging
import math
import os
import shutil
import time
from collections.abc import Callable, Iterable, Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.optim.swa_utils import AveragedModel

from factory import locks, seeds
from factory.errors import UserError
from factory.files import write_atomically
from factory.train.recipe import Training

log = logging.getLogger("factory.train")
LOCK = "lock"
Step = Callable[[int], dict[str, torch.Tensor]]


def run(
    recipe: Training,
    state: dict[str, Any],
    step: Step,
    after: Callable[[int, dict[str, float]], None] | None = None,
    main: bool = True,
    made_from: str = "",
) -> None:
    """Call step(0), step(1), … recipe.steps times, continuing from `<out>.ckpt/` where one is there.

    state: name -> anything with state_dict and load_state_dict; all that must survive an interruption. step(k) must draw
    from `draws(recipe, k)` alone, so that a resumed training ends with the same weights.
    after: called with (steps done, that step's numbers) when they are logged.  main: whether this process logs and saves.
    made_from: a digest of the images and models that the recipe names, whose content may change between two runs.
    Raises UserError for a checkpoint that is damaged or of another training, a loss that is no number, and a full disk.
    """
    path = _folder(recipe.out) / "state.pt"
    first = _resume(path, recipe, state, made_from)
    began = time.monotonic()
    means: dict[str, float] = {}
    for k in range(first, recipe.steps):
        values = {name: float(value) for name, value in step(k).items()}
        if not all(map(math.isfinite, values.values())):
            before = f"remove {path.parent} and " if path.exists() else ""
            raise UserError(f"lr: the loss of step {k + 1} is no number; {before}start again with a rate below {recipe.lr:g}")
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
            _save(path, recipe, done, state, made_from)


@contextlib.contextmanager
def claimed(out: Path) -> Iterator[None]:
    """While this lasts, no other process trains into this folder. Raises UserError where one does, or where nothing can be written."""
    if out.exists() and not out.is_dir():
        raise UserError(f"out: {out} is a file, and a model is a folder; give another name")
    place = _folder(out)
    try:
        place.mkdir(parents=True, exist_ok=True)
        if out.exists() and not os.access(out, os.W_OK):
            raise PermissionError(f"{out} is read-only")
        lock = locks.take(place / LOCK)
    except OSError as error:
        raise UserError(f"out: {out} cannot be written: {error.strerror or error}; give another folder with --out") from error
    if lock is None:
        raise UserError(f"out: another process is training {out}; wait for it, or give another folder with --out")
    try:
        yield
    finally:
        with contextlib.suppress(OSError):  # an open file may stay on Windows
            (place / LOCK).unlink(missing_ok=True)
        lock.release()
        with contextlib.suppress(OSError):  # a checkpoint is in it, or the next training
            place.rmdir()


def finish(recipe: Training) -> None:
    """Say where the model is, and drop the checkpoint that is no longer needed."""
    for path in _folder(recipe.out).glob("*"):
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        elif path.name != LOCK:  # held until the training has ended
            path.unlink(missing_ok=True)
    log.info("wrote %s", recipe.out)


def draws(recipe: Training, step: int) -> np.random.Generator:
    """The random numbers of one step."""
    return seeds.rng(recipe.seed, recipe.kind, "step", step)


def torch_draws(rng: np.random.Generator) -> torch.Generator:
    """A step's random numbers for torch, on the CPU so that they do not depend on the device."""
    return torch.Generator().manual_seed(int(rng.integers(2**62)))


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


def parameters(model: torch.nn.Module) -> int:
    """How many numbers a model learns, or holds frozen."""
    return sum(p.numel() for p in model.parameters())


def device() -> torch.device:
    """What a training on one process computes on."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def plain_attention(device: torch.device) -> contextlib.AbstractContextManager[None]:
    """On a CPU the plain kernel: for few tokens the fused one's backward pass costs six times as much."""
    return sdpa_kernel(SDPBackend.MATH) if device.type == "cpu" else contextlib.nullcontext()


def _folder(out: Path) -> Path:
    """Where the checkpoint of an output folder lies: beside it."""
    return Path(f"{out}.ckpt")


def _identity(recipe: Training) -> dict[str, Any]:
    return recipe.model_dump(mode="json", exclude={"out", "checkpoint_every", "log_every", "sample_every", "tracker"})


def _resume(path: Path, recipe: Training, state: dict[str, Any], made_from: str) -> int:
    """How many steps are done; their weights are laid into `state`."""
    if not path.exists():
        return 0
    again = f"or remove {path.parent} to start again"
    try:
        saved = torch.load(path, map_location="cpu", weights_only=True)
        theirs, step, parts = json.loads(saved["recipe"]), int(saved["step"]), saved["state"]
    except Exception as error:  # torch raises nearly everything on a damaged file
        raise UserError(f"{path} cannot be read ({type(error).__name__}); restore it, {again}") from error
    ours = _identity(recipe)
    changed = [key for key, value in ours.items() if theirs.get(key) != value]  # an earlier version may have had more keys
    if changed:
        said = ", ".join(f"{key}: {json.dumps(ours.get(key))} was {json.dumps(theirs.get(key))}" for key in changed)
        raise UserError(f"{path} was left by another recipe ({said}); go on with that one, give another folder with --out, {again}")
    if saved.get("made_from", made_from) != made_from:
        raise UserError(f"{path} was trained on other images or models than those that the recipe names now; bring these back, {again}")
    for name, part in state.items():
        part.load_state_dict(parts[name])
    log.info("resuming from step %d", step)
    return step


def _save(path: Path, recipe: Training, step: int, state: dict[str, Any], made_from: str) -> None:
    parts = {name: part.state_dict() for name, part in state.items()}
    saved = {"step": step, "recipe": json.dumps(_identity(recipe)), "made_from": made_from, "state": parts}

    def write(scratch: Path) -> None:
        with open(scratch, "wb") as file:
            try:
                torch.save(saved, file)
            except RuntimeError as error:  # torch says that it could not write, and the file why: a full disk
                if isinstance(error.__context__, OSError):
                    raise error.__context__ from None
                raise

    write_atomically(path, write)
