"""`factory schema`: what a recipe may say."""

from __future__ import annotations

import json
from enum import Enum
from typing import Annotated

import typer


class For(str, Enum):
    """The commands whose YAML is described."""

    build = "build"
    filter = "filter"
    evaluate = "evaluate"


def command(of: Annotated[For, typer.Option("--for", help="The command whose YAML is described.")] = For.build) -> None:
    """Print a JSON Schema of recipes, for editors that complete and check YAML.

    Example: factory schema --for filter > filter.schema.json
    """
    from factory import schema as schemas

    if of is For.evaluate:
        from factory.evaluate.settings import Settings

        found = schemas.of_settings("Evaluation settings", Settings)
    else:
        found = schemas.of_filter_recipes() if of is For.filter else schemas.of_recipes()
    print(json.dumps(found, indent=1))
