"""`factory train`: the models of the factory itself."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from factory.commands._options import Sets


def command(
    recipe_file: Annotated[Path, typer.Argument(help="A training recipe, such as recipes/train/clip.yaml.", show_default=False)],
    sets: Sets = None,
    out: Annotated[Path | None, typer.Option(help="Where the model goes; default the recipe's own `out`.", show_default=False)] = None,
) -> None:
    """Train one of the factory's own models; run it again to resume.

    Example: factory train recipes/train/clip.yaml --set source.dataset=fashion-mnist/train.parquet
    """
    from factory import train as training

    training.run(recipe_file, sets or [], out)
