"""Options and first steps that commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from factory import recipe as recipes

RecipeFile = Annotated[Path, typer.Argument(help="A recipe, such as recipes/quickstart.yaml.", show_default=False)]
Sets = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        help="Override a key: amount.per_class=50 or 'filters[1].min=0.3'. May be repeated. FACTORY__AMOUNT__PER_CLASS=50 in the environment does the same.",
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object for machines.")]
Device = Annotated[str, typer.Option(help="cpu, cuda, cuda:1, mps, or auto for the fastest there is.")]


def opened(path: Path, sets: list[str] | None) -> tuple[recipes.Recipe, Any, Any]:
    """(recipe, table, plan): everything that is decided before a model is loaded."""
    from factory import honour
    from factory import plan as planning

    recipe = recipes.load(path, sets or [])
    table = recipe.source.open()
    planned = planning.make(recipe, table)
    honour.check(recipe)
    return recipe, table, planned


def run_folder(recipe: recipes.Recipe, out: Path | None) -> Path:
    return out or Path("runs") / recipe.name
