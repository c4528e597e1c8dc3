"""`factory schema`: what a recipe may say."""

from __future__ import annotations

import json


def command() -> None:
    """Print a JSON Schema of recipes, for editors that complete and check YAML.

    Example: factory schema > recipe.schema.json
    """
    from factory import schema as schemas

    print(json.dumps(schemas.of_recipes(), indent=1))
