"""`factory preview`: the first images of a plan, as a picture."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from factory.commands._options import Device, RecipeFile, Sets, opened


def command(
    recipe_file: RecipeFile,
    sets: Sets = None,
    n: Annotated[int, typer.Option("-n", min=1, help="How many images: the first of the plan.")] = 8,
    out: Annotated[Path | None, typer.Option(help="The picture; default runs/<recipe name>-preview.png.", show_default=False)] = None,
    device: Device = "auto",
) -> None:
    """Make the first images of a plan in seconds and show them beside their parents.

    Example: factory preview recipes/quickstart.yaml -n 12 --set generator.guidance=3
    """
    from factory import preview

    recipe, table, planned = opened(recipe_file, sets)
    path = out or Path("runs") / f"{recipe.name}-preview.png"
    print(preview.make(recipe, planned, table, n, path, device))
