"""`factory filter`: a corpus that exists, scored and decided."""

from __future__ import annotations

import json
import sys
from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

from factory.commands._options import AsJson, Device, RecipeFile, Sets


class Engine(str, Enum):
    """What runs the shards."""

    local = "local"
    ray = "ray"


def command(
    recipe_file: RecipeFile,
    out: Annotated[Path | None, typer.Option(help="The run folder; default runs/<recipe name>.", show_default=False)] = None,
    sets: Sets = None,
    workers: Annotated[int, typer.Option(min=1, help="Processes on this machine, one per GPU where there are GPUs.")] = 1,
    device: Device = "auto",
    join: Annotated[bool, typer.Option("--join", help="Add this worker to a run that another launch holds.")] = False,
    engine: Annotated[Engine, typer.Option(help="local: processes of this launch; ray: tasks on a Ray cluster.")] = Engine.local,
    address: Annotated[str | None, typer.Option(help="The Ray cluster, such as auto or ray://host:10001.", show_default=False)] = None,
    as_json: AsJson = False,
) -> None:
    """Score a corpus that exists, shard by shard, and keep an index, a dataset or both; run it again to resume.

    Example: factory filter recipes/filter/fashion.yaml --set corpus.dataset=/data/laion/*.tar --set keep=both

    Afterwards: factory select RUN --set 'filters[0].min=0.3' decides again without a model, and factory sweep RUN FILTER shows what a threshold costs.
    """
    from factory import filter_recipe, runtime

    recipe = filter_recipe.load(recipe_file, sets or [])
    folder = out or Path("runs") / recipe.name
    if engine is Engine.ray:
        from factory import outcome, ray_engine

        told = ray_engine.run(recipe, folder, address, device)
        print(json.dumps(told) if as_json else outcome.summary(told, recipe, folder))
        return
    if workers > 1 and runtime.worker().world == 1:
        raise typer.Exit(runtime.launch(workers, sys.argv[1:]))
    from factory import filtering, outcome

    result = filtering.run(recipe, folder, device, join)
    if result is not None:
        print(json.dumps(result) if as_json else outcome.summary(result, recipe, folder))
