"""One large image from the command line: a pipeline, a grid of embeddings or a prompt, a TIFF."""

from __future__ import annotations

import re
import time
from pathlib import Path
from typing import Any

import numpy as np

from factory import images, runtime, seeds
from factory.errors import Undecodable, UserError
from factory.generators.diffusers import Diffusers


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

    from factory.generators import _load
    from factory.models import large
    from factory.models.guided import RepresentationDiffusionPipeline

    height, width = _pixels(size)
    if out.suffix.lower() not in (".tif", ".tiff"):
        raise UserError(f"--out: {out} must end in .tif; other formats cannot be written in strips")
    kind = Diffusers(model=model, guidance=guidance)
    where = runtime.device(runtime.worker(), device)
    pipe = _load.load(kind, where).pipe
    _load.place(pipe, kind, where)
    generator = torch.Generator().manual_seed(seed)
    began = time.monotonic()
    try:
        guided = isinstance(pipe, RepresentationDiffusionPipeline)
        if not guided and prompt is None:
            raise UserError(f"--prompt: {type(pipe).__name__} needs one")
        grid = _grid(pipe, reference, patches, height, width, cell, seed) if guided else None
        call = {"num_inference_steps": steps, "guidance_scale": guidance, **({} if guided else {"prompt": prompt})}
        canvas = large.generate(pipe, height, width, generator, grid, overlap, **call)
        out.parent.mkdir(parents=True, exist_ok=True)
        large.write(out, pipe, canvas)
    except ValueError as error:
        raise UserError(str(error)) from error
    return f"{out}: {height}×{width} pixels in {time.monotonic() - began:.0f} s"


def _pixels(size: str) -> tuple[int, int]:
    """Height and width of "HEIGHTxWIDTH". Raises UserError."""
    found = re.fullmatch(r"(\d+)\s*[x×]\s*(\d+)", size)
    if not found:
        raise UserError(f"--size: expected HEIGHTxWIDTH such as 1024x2048, got {size!r}")
    return int(found[1]), int(found[2])


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

    table = Folder(dataset=str(patches), label=None).open()
    rng = seeds.rng(seed, "patches")
    counts = [max(1, round((length - side) / (side * cell)) + 1) for length, side in zip((height, width), pipe.sample_size, strict=True)]
    known = rng.permutation(len(table))[: counts[0] * counts[1]]
    embeds = torch.cat([pipe.encode_image(images.fit(table.read(int(row)).image, *pipe.sample_size)[None]) for row in known])
    return embeds[torch.from_numpy(rng.integers(len(known), size=(counts[0], counts[1])))]


def _read(path: Path) -> np.ndarray:
    try:
        return images.decode(path.read_bytes())
    except FileNotFoundError:
        raise UserError(f"--reference: there is no file {path}") from None
    except Undecodable as error:
        raise UserError(f"--reference: {path} cannot be decoded: {error}") from error
