"""Whether a recipe's generators can honour its condition, told before any weights are loaded."""

from __future__ import annotations

from collections.abc import Mapping

from factory import kinds
from factory.contracts import NEEDS, Condition
from factory.errors import UserError
from factory.recipe import Recipe


def check(recipe: Recipe) -> None:
    """Raise UserError for the first generator that lacks what the recipe needs, with the kinds of condition that it can honour."""
    for number, generator in enumerate(recipe.generator):
        lacks = generator.lacks()
        missing = sorted(recipe.needs() & lacks.keys())
        if missing:
            where = "generator" if len(recipe.generator) == 1 else f"generator[{number}]"
            asks = f"condition {recipe.condition.kind}" if missing[0] in recipe.condition.required() else f"sweep.{missing[0]}"
            raise UserError(
                f"{where}: {asks} needs {NEEDS[missing[0]]} ({missing[0]}), but {lacks[missing[0]]}; "
                f"conditions that it can honour: {', '.join(honoured(lacks)) or 'none'}"
            )


def honoured(lacks: Mapping[str, str]) -> list[str]:
    """The built-in kinds of condition of which some configuration needs nothing that is lacking."""
    found = []
    for name in kinds.names("conditions"):
        kind = kinds.find("conditions", name, Condition)
        if any(not way & lacks.keys() for way in kind.ways or (kind.needs,)):  # type: ignore[attr-defined]
            found.append(name)
    return found
