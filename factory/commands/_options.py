"""Options and first steps that commands share."""

from __future__ import annotations

import sys
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
Out = Annotated[Path | None, typer.Option(help="The run folder; default runs/<recipe name>.", show_default=False)]
Workers = Annotated[int, typer.Option(min=1, help="Processes on this machine, one per GPU where there are GPUs.")]
Join = Annotated[bool, typer.Option("--join", help="Add this worker to a run that another launch holds.")]
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


def run_folder(name: str, out: Path | None) -> Path:
    """Where a recipe of this name leaves its run."""
    return out or Path("runs") / name


def launched(workers: int) -> None:
    """Start the workers and exit with their code, where several are asked for and this process is none of them."""
    from factory import runtime

    if workers > 1 and runtime.worker().world == 1:
        raise typer.Exit(runtime.launch(workers, sys.argv[1:]))
