"""`factory tune`: search the settings that matter."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, cast

import typer

from factory import recipe as recipes
from factory.commands._options import AsJson, Device, RecipeFile, Sets


def command(
    recipe_file: RecipeFile,
    real: Annotated[str, typer.Option(help="Real images to validate on; those that the recipe uses are left out.", show_default=False)],
    split: Annotated[str, typer.Option(help="Their split; never a test split.")] = "train",
    test: Annotated[
        str | None,
        typer.Option(help="Test images, which are never used; default: the test split of --real, if it is a folder.", show_default=False),
    ] = None,
    trials: Annotated[int, typer.Option(min=1, help="Settings to measure in all, earlier launches counted in.")] = 20,
    minutes: Annotated[float | None, typer.Option(min=0, help="Begin no further setting after this long.", show_default=False)] = None,
    objective: Annotated[
        str, typer.Option(help="accuracy; or a cheaper proxy: frechet, coverage, or agreement of a linear probe with the wanted class.")
    ] = "accuracy",
    out: Annotated[Path | None, typer.Option(help="The folder; default runs/<recipe name>-tune.", show_default=False)] = None,
    seed: Annotated[int, typer.Option(help="Seed of the search.")] = 0,
    per_class: Annotated[int, typer.Option(min=1, help="Validation images a class at most.")] = 100,
    backbone: Annotated[str, typer.Option(help="For the proxies; see `factory evaluate`.")] = "efficientnet_lite0@64",
    networks: Annotated[int, typer.Option(min=1, help="For accuracy: classifiers to train for each setting.")] = 3,
    steps: Annotated[int, typer.Option(min=1, help="For accuracy: training steps of each.")] = 400,
    sets: Sets = None,
    device: Device = "auto",
    as_json: AsJson = False,
) -> None:
    """Search guidance, strength, mix, filter bounds and ratio by Bayesian optimisation; write the best recipe. Run again to go on.

    Each setting of the generation makes the recipe's amount once; bounds and ratio are decided from stored scores.

    Example: factory tune recipes/quickstart.yaml --real data/fashion-mnist --trials 20 --objective coverage
    """
    from factory.tune import search
    from factory.tune.worth import Objective

    folder = out or Path("runs") / f"{recipes.load(recipe_file, sets or []).name}-tune"
    result = search.run(
        recipe_file, sets or [], real, split, folder, cast(Objective, objective), trials, minutes, seed, per_class, backbone, networks, steps, device, test,
    )  # fmt: skip
    print(json.dumps(result) if as_json else search.summary(result, folder))
