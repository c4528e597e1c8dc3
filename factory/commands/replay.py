"""`factory replay`: make one image of a dataset again and compare."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from factory.commands._options import AsJson, Device, Sets


def command(
    dataset: Annotated[str, typer.Argument(help="A run folder, a dataset folder or URL, or a Hub id (owner/name).", show_default=False)],
    row_id: Annotated[str, typer.Argument(metavar="ID", help="The image's id, as in the column `id`.", show_default=False)],
    source: Annotated[
        str | None, typer.Option(help="Where the real images are now, when not where the recipe says.", show_default=False)
    ] = None,
    sets: Sets = None,
    out: Annotated[Path | None, typer.Option(help="Write the remade image as a PNG.", show_default=False)] = None,
    alone: Annotated[
        bool, typer.Option("--alone", help="In a batch of one, not the plan's: faster, and the last bits may differ.")
    ] = False,
    tolerance: Annotated[
        int | None,
        typer.Option(min=0, max=255, help="Largest difference of a channel that counts as a match; default 0, or 8 for lossy files."),
    ] = None,
    plan: Annotated[str, typer.Option(help="The plan of the image, where a dataset holds images of several.", show_default=False)] = "",
    device: Device = "auto",
    as_json: AsJson = False,
) -> None:
    """Make one image again from the recipe and plan that travel with it, and compare it with the stored one. Exit code 1 when they differ.

    Example: factory replay runs/quickstart 3-000012 --out again.png

    Models that were local folders are named with --set 'generator[0].model=PATH'.
    """
    from factory import replay

    result = replay.run(dataset, row_id, source, sets, out, device, alone, tolerance, plan)
    print(json.dumps(result) if as_json else replay.summary(result))
    if not result["match"]:
        raise typer.Exit(1)
