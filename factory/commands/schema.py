"""`factory schema`: what a recipe may say."""

from __future__ import annotations

import json
from enum import Enum
from typing import Annotated

import typer


class For(str, Enum):
    """The commands that read a recipe made of kinds."""

    build = "build"
    filter = "filter"


def command(of: Annotated[For, typer.Option("--for", help="The command whose recipes are described.")] = For.build) -> None:
    """Print a JSON Schema of recipes, for editors that complete and check YAML.

    Example: factory schema --for filter > filter.schema.json
    """
    from factory import schema as schemas

    print(json.dumps(schemas.of_filter_recipes() if of is For.filter else schemas.of_recipes(), indent=1))
