"""`factory build`: the whole story, from a recipe to a dataset."""

from __future__ import annotations

import json

from factory.commands._options import AsJson, Device, Join, Out, RecipeFile, Sets, Workers, launched, opened, run_folder


def command(
    recipe_file: RecipeFile,
    out: Out = None,
    sets: Sets = None,
    workers: Workers = 1,
    device: Device = "auto",
    join: Join = False,
    as_json: AsJson = False,
) -> None:
    """Generate, filter and export a dataset; run it again to resume.

    Example: factory build recipes/quickstart.yaml --out runs/quickstart --set amount.per_class=50

    On many machines: accelerate launch --multi_gpu --num_processes 16 --num_machines 2 … -m factory build recipes/quickstart.yaml
    """
    recipe, table, plan = opened(recipe_file, sets)
    folder = run_folder(recipe.name, out)
    launched(workers)
    from factory import build as story
    from factory import report

    result = story.run(recipe, plan, table, folder, device, join)
    if result is not None:
        print(json.dumps(result) if as_json else report.summary(result, folder))
