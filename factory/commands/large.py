"""`factory large`: one image of any size."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from factory.commands._options import Device


def command(
    model: Annotated[str, typer.Argument(help="A pipeline folder or a Hub id.", show_default=False)],
    out: Annotated[Path, typer.Option(help="The TIFF to write.", show_default=False)],
    size: Annotated[str, typer.Option(help="HEIGHTxWIDTH in pixels.")] = "1024x1024",
    reference: Annotated[
        Path | None, typer.Option(help="A real image whose patches' embeddings guide a representation-guided model.", show_default=False)
    ] = None,
    patches: Annotated[
        Path | None, typer.Option(help="A folder of images, drawn at random onto the grid in place of a reference.", show_default=False)
    ] = None,
    prompt: Annotated[str | None, typer.Option(help="For a text-to-image pipeline.", show_default=False)] = None,
    steps: Annotated[int, typer.Option(min=1, help="Sampling steps.")] = 25,
    guidance: Annotated[float, typer.Option(min=0, help="Guidance scale.")] = 2.0,
    overlap: Annotated[
        float, typer.Option(min=0, max=0.95, help="Share of a window that its neighbours see too; the paper uses 0.75.")
    ] = 0.75,
    cell: Annotated[float, typer.Option(min=0.1, help="Distance of embeddings on the grid, in sides of a patch.")] = 0.5,
    seed: Annotated[int, typer.Option(min=0, max=2**63 - 1, help="Seed of the noise and of drawn patches.")] = 0,
    device: Device = "auto",
) -> None:
    """Make one image of any size from a model of small ones; pixels stream to disk.

    Example: factory large runs/models/bccd --reference smear.png --size 480x640 --out smear.tif
    """
    from factory import panorama

    print(panorama.run(model, out, size, reference, patches, prompt, steps, guidance, overlap, cell, seed, device))
