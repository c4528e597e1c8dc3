"""Whether a recipe's generators can honour its condition, told before any weights are loaded."""

from __future__ import annotations

from factory import kinds
from factory.contracts import NEEDS, Condition, Generator
from factory.errors import UserError
from factory.recipe import Recipe


def check(recipe: Recipe) -> None:
    """Raise UserError for the first generator that cannot give what the recipe needs, with the kinds of condition that it can honour."""
    for number, generator in enumerate(recipe.generator):
        why = _why_not(recipe, generator)
        if why:
            where = "generator" if len(recipe.generator) == 1 else f"generator[{number}]"
            raise UserError(f"{where}: {why}; conditions that it can honour: {', '.join(honoured(generator)) or 'none'}")


def present(recipe: Recipe) -> None:
    """Raise UserError for the first generator that names a folder which is not here. The Hub is not asked."""
    for generator in recipe.generator:
        generator.check()


def honoured(generator: Generator) -> list[str]:
    """The built-in kinds of condition of which some configuration, with the prompt or without it, is wholly honoured."""
    lacks = generator.lacks()
    found = []
    for name in kinds.names("conditions"):
        kind = kinds.find("conditions", name, Condition)
        ways = kind.ways or (kind.needs,)  # type: ignore[attr-defined]
        possible = [needs for way in ways for needs in (way, way | {"text"}) if not needs & lacks.keys()]
        if any(not generator.refuses(needs) for needs in possible):
            found.append(name)
    return found


def _why_not(recipe: Recipe, generator: Generator) -> str:
    lacks = generator.lacks()
    missing = sorted(recipe.needs() & lacks.keys())
    if not missing:
        return generator.refuses(recipe.needs())
    asks = f"condition {recipe.condition.kind}" if missing[0] in recipe.condition.required() else f"sweep.{missing[0]}"
    return f"{asks} needs {NEEDS[missing[0]]} ({missing[0]}), but {lacks[missing[0]]}"
