"""One large image from the command line: a pipeline, a grid of embeddings or a prompt, a TIFF."""

from __future__ import annotations

import logging
import os
import re
import shutil
import time
from pathlib import Path
from typing import Any

import numpy as np

from factory import images, runtime, seeds
from factory.errors import Undecodable, UserError
from factory.files import write_atomically
from factory.generators._arguments import parameters
from factory.generators.diffusers import Diffusers

log = logging.getLogger("factory")
COPIES = 4  # of the canvas that are in memory at once: noise, answer, their sum, the weights


def run(
    model: str,
    out: Path,
    size: str,
    reference: Path | None,
    patches: Path | None,
    prompt: str | None,
    steps: int,
    guidance: float,
    overlap: float,
    cell: float,
    seed: int,
    device: str,
) -> str:
    """Make and write the image; returns a sentence about it. Raises UserError."""
    import torch

    from factory.generators import _failures, _load
    from factory.models import large
    from factory.models.guided import RepresentationDiffusionPipeline

    height, width = _pixels(size)
    _require_room(out, height, width)
    kind = Diffusers(model=model, guidance=guidance)
    where = runtime.device(runtime.worker(), device)
    pipe = _load.load(kind, where).pipe
    _load.place(pipe, kind, where)
    generator = torch.Generator().manual_seed(seed)
    began = time.monotonic()
    try:
        guided = isinstance(pipe, RepresentationDiffusionPipeline)
        _require_memory(pipe, height, width)
        if not guided:
            _require_prompt(pipe, prompt, reference or patches)
        elif prompt is not None:
            raise UserError("--prompt: a representation-guided model follows images alone; leave it out")
        grid = _grid(pipe, reference, patches, height, width, cell, seed) if guided else None
        call = {"num_inference_steps": steps, "guidance_scale": guidance, **({} if guided else {"prompt": prompt})}
        taken = {name: value for name, value in call.items() if name in parameters(pipe)}
        canvas = large.generate(pipe, height, width, generator, grid, overlap, **taken)
        write_atomically(out, lambda scratch: large.write(scratch, pipe, canvas))
    except ValueError as error:
        raise UserError(str(error)) from error
    except (RuntimeError, TypeError, AttributeError) as error:
        if _load.out_of_memory(error):
            raise UserError(f"--size: {height}×{width} does not fit into the memory of {where}; make it smaller") from error
        explained = _failures.explained(error, pipe, frozenset({"text"}), 1, where)
        if explained is None:
            raise
        raise explained from error
    return f"{out}: {height}×{width} pixels in {time.monotonic() - began:.0f} s"


def _pixels(size: str) -> tuple[int, int]:
    """Height and width of "HEIGHTxWIDTH". Raises UserError."""
    found = re.fullmatch(r"(\d+)\s*[x×]\s*(\d+)", size)
    if not found:
        raise UserError(f"--size: expected HEIGHTxWIDTH such as 1024x2048, got {size!r}")
    return int(found[1]), int(found[2])


def _require_room(out: Path, height: int, width: int) -> None:
    """Raise UserError, before any model is loaded, for a file that cannot be written."""
    if out.suffix.lower() not in (".tif", ".tiff"):
        raise UserError(f"--out: {out} must end in .tif; other formats cannot be written in strips")
    if out.is_dir():
        raise UserError(f"--out: {out} is a folder; name a file")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"--out: {out.parent} cannot be made: {error.strerror}; name another file") from error
    if not os.access(out.parent, os.W_OK):
        raise UserError(f"--out: {out.parent} cannot be written; name another file")
    most, free = 3 * height * width, shutil.disk_usage(out.parent).free
    if most > free:
        raise UserError(f"--size: {height}×{width} takes up to {most / 1e9:,.1f} GB, and {free / 1e9:,.1f} GB are free in {out.parent}")


def _require_memory(pipe: Any, height: int, width: int) -> None:
    """Raise UserError for a canvas that this machine cannot hold: where memory is promised freely, asking for it would end the process."""
    from factory.models import large

    factor, channels = large.factor_of(pipe), int(large.denoiser_of(pipe).config.in_channels)
    needed = COPIES * 4 * channels * (height // factor) * (width // factor)
    there = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") if hasattr(os, "sysconf") else needed
    if needed > there:
        raise UserError(f"--size: the canvas of {height}×{width} takes {needed / 1e9:,.1f} GB, and this machine has {there / 1e9:,.1f} GB")


def _require_prompt(pipe: Any, prompt: str | None, pictures: Path | None) -> None:
    """Raise UserError for a pipeline that no text guides, a prompt that is missing, or images that would go unseen."""
    lacking = [name for name in ("prompt", "height", "width") if name not in parameters(pipe)]
    if lacking:
        raise UserError(f"model: {type(pipe).__name__} takes no {lacking[0]}; name a text-to-image or a representation-guided pipeline")
    if prompt is None:
        raise UserError(f"--prompt: {type(pipe).__name__} needs one")
    if pictures is not None:
        raise UserError(f"--reference, --patches: {type(pipe).__name__} follows its prompt alone; leave {pictures} out")


def _grid(pipe: Any, reference: Path | None, patches: Path | None, height: int, width: int, cell: float, seed: int) -> Any:
    """Embeddings of a reference's patches, or of images of a folder drawn at random for every cell."""
    import torch

    from factory.models import large

    if (reference is None) == (patches is None):
        raise UserError(
            "give --reference (a real image) or --patches (a folder of images), as a representation-guided model follows embeddings"
        )
    if reference is not None:
        return large.reference_grid(pipe, _read(reference), cell)
    from factory.sources.folder import Folder

    try:
        table = Folder(dataset=str(patches), label=None).open()
    except UserError as error:
        raise UserError(f"--patches: {error}") from error
    rng = seeds.rng(seed, "patches")
    counts = [max(1, round((length - side) / (side * cell)) + 1) for length, side in zip((height, width), pipe.sample_size, strict=True)]
    known = rng.permutation(len(table))[: counts[0] * counts[1]]
    embeds = []
    for row in known.tolist():
        try:
            embeds.append(pipe.encode_image(images.fit(table.read(row).image, *pipe.sample_size)[None]))
        except Undecodable as error:
            log.warning("--patches: image %d cannot be decoded and is left out: %s", row, error)
    if not embeds:
        raise UserError(f"--patches: not one image of {patches} can be decoded")
    return torch.cat(embeds)[torch.from_numpy(rng.integers(len(embeds), size=(counts[0], counts[1])))]


def _read(path: Path) -> np.ndarray:
    try:
        return images.decode(path.read_bytes())
    except OSError as error:
        raise UserError(f"--reference: there is no file {path} that can be read: {error.strerror}") from None
    except Undecodable as error:
        raise UserError(f"--reference: {path} cannot be decoded: {error}") from error
