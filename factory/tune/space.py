"""Which settings of a recipe are searched, and what a recipe is with other ones."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import numpy as np
from pydantic import ValidationError
from ruamel.yaml import YAML

from factory import document
from factory import recipe as recipes
from factory.contracts import Filter
from factory.files import write_atomically
from factory.recipe import Recipe
from factory.select import Rule

AS_WRITTEN = "as written"
GUIDANCE = (1.0, 1.5, 2.0, 3.0, 4.5, 7.0)  # low guidance makes better training data than pretty pictures
STRENGTH = (0.2, 0.35, 0.5, 0.65, 0.8)
DROPOUT = (0.0, 0.2, 0.4)
REFUSED = (AS_WRITTEN, 0.0, 0.1, 0.25, 0.4, 0.6)  # share of the rows that a lower or an upper bound refuses
REFUSED_OF_BAND = (AS_WRITTEN, 0.0, 0.05, 0.15, 0.3)  # the same at each end of a band
BEST = (0.3, 0.45, 0.6, 0.8, 1.0)
SIMILAR = (0.9, 0.95, 0.98, 0.995)
RATIOS = (0.5, 1.0, 2.0, 5.0, 10.0)
Setting = dict[str, Any]  # name of a knob -> its value


@dataclass(frozen=True)
class Knob:
    """One setting. values: what it may be.  ordered: whether neighbours in that list are alike.  makes: whether it changes pixels."""

    name: str
    values: tuple[Any, ...]
    start: Any
    ordered: bool = True
    makes: bool = False


def knobs(recipe: Recipe, ratios: Sequence[float] = ()) -> list[Knob]:
    """The knobs of a recipe, those that change pixels first. ratios: synthetic images for each real one, where that is searched."""
    found = [*_generation(recipe)]
    for i, f in enumerate(recipe.filters):
        found += _selection(f, f"filters[{i}]")
    if len(ratios) > 1:
        found.append(Knob("ratio", tuple(ratios), ratios[-1]))
    return found


def _generation(recipe: Recipe) -> list[Knob]:
    found: list[Knob] = []
    guidance = getattr(recipe.generator[0], "guidance", None)
    if len(recipe.generator) == 1 and guidance is not None and "guidance" not in recipe.sweep:
        found.append(_numbers("generator.guidance", GUIDANCE, float(guidance)))
    condition = recipe.condition
    for name, values in (("strength", STRENGTH), ("dropout", DROPOUT)):
        value = getattr(condition, name, None)
        if value is not None and name not in recipe.sweep:
            able = [v for v in values if _allows(recipe, name, v)]
            found.append(_numbers(f"condition.{name}", able, float(value)))
    if "mix" in type(condition).model_fields:
        options = get_args(type(condition).model_fields["mix"].annotation)
        mixes = tuple(option for option in options if _allows(recipe, "mix", option))
        found.append(Knob("condition.mix", mixes, getattr(condition, "mix"), ordered=False, makes=True))  # noqa: B009
    return [knob for knob in found if len(knob.values) > 1]


def _numbers(name: str, values: Sequence[float], start: float) -> Knob:
    return Knob(name, tuple(sorted({*values, start})), start, makes=True)


def _allows(recipe: Recipe, name: str, value: Any) -> bool:
    """Whether the condition takes this value beside its other settings."""
    given = {key: getattr(recipe.condition, key) for key in recipe.condition.model_fields_set}
    try:
        type(recipe.condition).model_validate({**given, name: value})
    except ValidationError:
        return False
    return True


def _selection(f: Filter, path: str) -> list[Knob]:
    if f.whole:
        floor, high = getattr(f, "floor", 0.0), f.bounds()[1]
        values = tuple(sorted({high, *(v for v in SIMILAR if v > floor)}))
        return [Knob(f"{path}.max", values, high)] if getattr(f, "max", None) is not None else []
    if f.kind == "undecodable":
        return []
    found = []
    if f.keep_top is not None and f.top()[1]:
        share = f.top()[0]
        found.append(Knob(f"{path}.keep_top", tuple(sorted({*BEST, share})), share))
    if f.between is not None:
        ends = [Knob(f"{path}.{end}", REFUSED_OF_BAND, AS_WRITTEN, ordered=False) for end in ("between.low", "between.high")]
        return found + ends
    return found + [Knob(f"{path}.{end}", REFUSED, AS_WRITTEN, ordered=False) for end in ("min", "max") if getattr(f, end) is not None]


def generation(found: Sequence[Knob], setting: Mapping[str, Any]) -> dict[str, Any]:
    """Recipe key -> value of the knobs that change pixels."""
    return {knob.name: setting[knob.name] for knob in found if knob.makes}


def bounds(recipe: Recipe, rules: Sequence[Rule], setting: Mapping[str, Any]) -> dict[str, Any]:
    """Recipe key -> value of the filters' bounds: shares of refused rows become the scores that refuse as many of these rows."""
    keys: dict[str, Any] = {}
    for i, (f, rule) in enumerate(zip(recipe.filters, rules, strict=True)):
        own = {name.removeprefix(f"filters[{i}]."): value for name, value in setting.items() if name.startswith(f"filters[{i}].")}
        if "keep_top" in own:
            keys[f"filters[{i}].keep_top"] = f"{100 * own['keep_top']:g}%"
        if "max" in own and f.whole:
            keys[f"filters[{i}].max"] = own["max"]
            continue
        low, high = f.bounds()
        low = _bound(rule, own.get("min", own.get("between.low", AS_WRITTEN)), low, lower=True)
        high = _bound(rule, own.get("max", own.get("between.high", AS_WRITTEN)), high, lower=False)
        if f.between is not None:
            keys[f"filters[{i}].between"] = [min(low, high), max(low, high)]
        else:
            keys |= {f"filters[{i}].{end}": value for end, value in (("min", low), ("max", high)) if end in own}
    return keys


def _bound(rule: Rule, share: Any, written: float, lower: bool) -> float:
    """The score that refuses this share of the rows, in five digits; the written bound where the share is AS_WRITTEN or nothing has a score."""
    if share == AS_WRITTEN or rule.score is None:
        return float(written)
    finite = rule.score[np.isfinite(rule.score)]
    if not len(finite):
        return float(written)
    value = float(np.quantile(finite, share if lower else 1 - share))
    digits = 5 - math.ceil(math.log10(abs(value))) if value else 5
    step = 10.0**-digits
    return round((math.floor if lower else math.ceil)(value / step) * step, max(digits, 0))  # outwards: what the share keeps stays


def opened(path: Path, overrides: Sequence[str]) -> list[str]:
    """--set by which every key that is searched can be set: kinds named alone become sections, and a list of one generator this one."""
    data = document.read(path, overrides).data
    found: dict[str, Any] = {}
    generator = data.get("generator")
    if isinstance(generator, list) and len(generator) == 1:
        found["generator"] = generator = generator[0]
    named = {"generator": generator, "condition": data.get("condition")}
    filters = data.get("filters")
    named |= {f"filters[{i}]": f for i, f in enumerate(filters)} if isinstance(filters, list) else {}
    found |= {key: {"kind": value} for key, value in named.items() if isinstance(value, str)}
    return [f"{key}={json.dumps(value, ensure_ascii=False, default=str)}" for key, value in found.items()]


def sets(keys: Mapping[str, Any]) -> list[str]:
    """Recipe keys as `--set` takes them."""
    return [f"{key}={value}" for key, value in keys.items()]


def amount(class_names: Sequence[str], wanted: np.ndarray) -> dict[str, int] | int:
    """`amount.per_class` for so many images of each class, int [classes]: one number where all are equal."""
    if len(set(wanted.tolist())) == 1:
        return int(wanted[0])
    return {name: int(n) for name, n in zip(class_names, wanted, strict=True)}


def write(path: Path, overrides: Sequence[str], keys: Mapping[str, Any], out: Path, header: Sequence[str]) -> Recipe:
    """Write the recipe at `path` with other values and its comments kept; returns it as `factory build` will read it.

    header: lines of a comment at the top.
    """
    found = document.read(path, overrides)
    for key, value in keys.items():
        text = (
            json.dumps(value, ensure_ascii=False) if value is None or isinstance(value, dict) else str(value)
        )  # in quotes that YAML knows
        found.override(key, text, "tune")
    out.parent.mkdir(parents=True, exist_ok=True)

    def fill(scratch: Path) -> None:
        with scratch.open("w", encoding="utf-8") as file:
            file.write("".join(f"# {line}\n" if line else "#\n" for line in header))
            YAML(typ="rt").dump(found.data, file)

    write_atomically(out, fill)
    return recipes.load(out, environ={})
