"""`factory plan`: what a build would do."""

from __future__ import annotations

import json
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from factory.commands._options import AsJson, Device, RecipeFile, Sets, opened


def command(
    recipe_file: RecipeFile,
    sets: Sets = None,
    probe: Annotated[bool, typer.Option("--probe", help="Load the models and make one batch, to estimate time and disk.")] = False,
    device: Device = "auto",
    as_json: AsJson = False,
) -> None:
    """Show what a build would do: slots, parents, shards and disk; generates nothing.

    Example: factory plan recipes/quickstart.yaml --probe
    """
    from factory import preview

    recipe, table, planned = opened(recipe_file, sets)
    facts = preview.facts(recipe, planned, table)
    if probe:
        facts["probe"] = preview.probe(recipe, planned, table, device)
    if as_json:
        print(json.dumps(facts))
        return
    grid = Table("class", "real parents", "to keep", title=f"{recipe.name}  plan {planned.id}", title_justify="left")
    for row in facts["classes"]:
        grid.add_row(row["name"], str(row["parents"]), str(row["wanted"]))
    Console().print(grid)
    print("\n".join(preview.lines(facts)))
