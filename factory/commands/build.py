"""`factory build`: the whole story, from a recipe to a dataset."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from factory.commands._options import AsJson, Device, RecipeFile, Sets, opened, run_folder


def command(
    recipe_file: RecipeFile,
    out: Annotated[Path | None, typer.Option(help="The run folder; default runs/<recipe name>.", show_default=False)] = None,
    sets: Sets = None,
    workers: Annotated[int, typer.Option(min=1, help="Processes on this machine, one per GPU where there are GPUs.")] = 1,
    device: Device = "auto",
    join: Annotated[bool, typer.Option("--join", help="Add this worker to a run that another launch holds.")] = False,
    as_json: AsJson = False,
) -> None:
    """Generate, filter and export a dataset; run it again to resume.

    Example: factory build recipes/quickstart.yaml --out runs/quickstart --set amount.per_class=50

    On many machines: accelerate launch --multi_gpu --num_processes 16 --num_machines 2 … -m factory build recipes/quickstart.yaml
    """
    recipe, table, plan = opened(recipe_file, sets)
    folder = run_folder(recipe, out)
    from factory import runtime

    if workers > 1 and runtime.worker().world == 1:
        raise typer.Exit(runtime.launch(workers, sys.argv[1:]))
    from factory import build as story
    from factory import report

    result = story.run(recipe, plan, table, folder, device, join)
    if result is not None:
        print(json.dumps(result) if as_json else report.summary(result, folder))
