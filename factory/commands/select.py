"""`factory select`: decide again from stored scores."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from factory.commands._options import AsJson, Sets


def command(
    run: Annotated[Path, typer.Argument(help="A run folder, such as runs/quickstart.", show_default=False)],
    recipe_file: Annotated[
        Path | None, typer.Argument(help="A recipe with the new rules; default the run's own.", show_default=False)
    ] = None,
    sets: Sets = None,
    export: Annotated[bool, typer.Option("--export", help="Write the dataset again with the new selection.")] = False,
    as_json: AsJson = False,
) -> None:
    """Decide again from the stored scores, without loading a model.

    Example: factory select runs/quickstart --set 'filters[1].min=0.3' --export
    """
    from factory import reselect

    result = reselect.run(run, recipe_file, sets or [], export)
    print(json.dumps(result) if as_json else reselect.summary(result, run))
