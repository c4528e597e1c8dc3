"""`factory filter`: a corpus that exists, scored and decided."""

from __future__ import annotations

import json
from enum import Enum
from typing import Annotated, Any

import typer

from factory.commands._options import AsJson, Device, Join, Out, RecipeFile, Sets, Workers, launched, run_folder


class Engine(str, Enum):
    """What runs the shards."""

    local = "local"
    ray = "ray"


def command(
    recipe_file: RecipeFile,
    out: Out = None,
    sets: Sets = None,
    workers: Workers = 1,
    device: Device = "auto",
    join: Join = False,
    engine: Annotated[Engine, typer.Option(help="local: processes of this launch; ray: tasks on a Ray cluster.")] = Engine.local,
    address: Annotated[str | None, typer.Option(help="The Ray cluster, such as auto or ray://host:10001.", show_default=False)] = None,
    as_json: AsJson = False,
) -> None:
    """Score a corpus that exists, shard by shard, and keep an index, a dataset or both; run it again to resume.

    Example: factory filter recipes/filter/fashion.yaml --set corpus.dataset=/data/laion/*.tar --set keep=both

    A run goes on only with the corpus that it began with. Files, and images on this disk that rows of Parquet name, are known by size and time or
    checksum; an image behind a URL is known by its URL alone, so a change there goes unseen.

    Afterwards: factory select RUN --set 'filters[0].min=0.3' decides again without a model, and factory sweep RUN FILTER shows what a threshold costs.
    """
    from factory import filtering
    from factory.filtering import ray_engine, report

    recipe = filtering.load(recipe_file, sets or [])
    folder = run_folder(recipe.name, out)
    if engine is Engine.ray:
        result: dict[str, Any] | None = ray_engine.run(recipe, folder, address, device)
    else:
        launched(workers)
        result = filtering.run(recipe, folder, device, join)
    if result is not None:
        print(json.dumps(result) if as_json else report.summary(result, recipe, folder))
