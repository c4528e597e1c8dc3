"""A recipe: what a person may write, checked whole before anything runs."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, TypeVar

import numpy as np
from pydantic import BaseModel, ConfigDict, Discriminator, Field, NonNegativeInt, Tag, ValidationError

from factory import kinds
from factory.contracts import Condition, Exporter, Filter, Generator, Kind, Prompts, Source
from factory.document import Document, KeyPath, ordered, read, require, unknown, validate
from factory.errors import RecipeError, UserError


class Section(NamedTuple):
    """Where a section's kinds live, which one is meant when the recipe names none, and whether it is a list of kinds or may be one."""

    room: str
    contract: type[Kind]
    default: str | None
    many: Literal["one", "list", "either"] = "one"
    optional: bool = False


SECTIONS: dict[str, Section] = {
    "source": Section("sources", Source, None),
    "generator": Section("generators", Generator, "diffusers", "either"),
    "condition": Section("conditions", Condition, "text"),
    "prompts": Section("prompts", Prompts, "template"),
    "filters": Section("filters", Filter, None, "list"),
    "export": Section("exporters", Exporter, "parquet"),
}


# Tagged, so that a fault is told once and not for each member of the union.
PerClass = Annotated[
    Annotated[NonNegativeInt, Tag("number")] | Annotated[dict[str, NonNegativeInt], Tag("mapping")],
    Discriminator(lambda value: "mapping" if isinstance(value, dict) else "number"),
]


class Amount(BaseModel):
    """How many images to keep, per class, after filtering."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    per_class: PerClass = Field(100, description="Images to keep for each class (a number, or class: number).")
    fill_to: int | None = Field(None, ge=1, description="Instead of per_class: fill each class up to this many, real images counted in.")
    rounds: int = Field(3, ge=1, description="Rounds of requests at most: after filtering, a class that is short asks again.")


class Plain(BaseModel):
    """The keys of a recipe that are no kinds."""

    model_config = ConfigDict(frozen=True, extra="forbid", arbitrary_types_allowed=True)

    name: str = Field(description="What the dataset is called.", pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    seed: int = Field(0, ge=0, lt=2**63, description="Every draw of the run follows from it.")
    amount: Amount = Field(default_factory=Amount, description="How many images to keep.")
    sweep: dict[str, list[float]] = Field(
        default_factory=dict,
        description="Settings that fan out over the images, recorded for each: guidance, or any number of the condition. "
        "For example {guidance: [1.5, 2, 4], strength: [0.4, 0.6]}; every combination gets an equal share.",
    )
    split: Literal["train", "stress_test"] = Field(
        "train",
        description="stress_test: a generated test set, marked as such in name, schema and card, which no source will read as real.",
    )
    shard: int = Field(256, ge=1, le=100_000, description="Requests per shard, the unit of work and of resuming.")
    threads: int = Field(2, ge=1, description="CPU threads per worker; float sums depend on it, so it is fixed, not guessed.")


class Scored(BaseModel):
    """What every recipe with filters can say of them."""

    filters: tuple[Filter, ...] = Field((), description="Scores and the rules that decide from them, in order.")

    def named_filters(self) -> list[tuple[str, Filter]]:
        """Each filter with the name of its score column: its kind, numbered when a kind is used twice."""
        seen: dict[str, int] = {}
        named = []
        for f in self.filters:
            slug = f.kind.rsplit(".", 1)[-1]
            seen[slug] = seen.get(slug, 0) + 1
            named.append((slug if seen[slug] == 1 else f"{slug}_{seen[slug]}", f))
        return named

    def cascade(self) -> list[int | None]:
        """For each filter the place of the one that it comes after, or None. Raises LookupError(place, what is wrong)."""
        names = [name for name, _ in self.named_filters()]
        return [None if f.after is None else self._place(i, f.after, names) for i, f in enumerate(self.filters)]

    def _place(self, own: int, after: str | int, names: list[str]) -> int:
        found = after if isinstance(after, int) else names.index(after) if after in names else -1
        if not 0 <= found < own:
            earlier = ", ".join(names[:own]) or "none"
            raise LookupError(own, f"there is no earlier filter {after!r}; the filters before this one are: {earlier}")
        if self.filters[found].whole or self.filters[found].bounds() == (-np.inf, np.inf):
            raise LookupError(
                own, f"{names[found]} settles no row by itself, for it has no min, max or between; set one, or leave `after` out"
            )
        return found


class Recipe(Scored, Plain):
    """One dataset to build. Sections that have kinds hold the opened kind itself."""

    source: Source = Field(description="Real images to condition on and to compare with.")
    generator: tuple[Generator, ...] = Field(description="What makes pixels: one, or a list of several that share the images by weight.")
    condition: Condition = Field(description="How real images, labels and text steer the generator.")
    prompts: Prompts = Field(description="Text for requests.")
    export: Exporter = Field(description="The dataset's format on disk.")

    def settings(self) -> dict[str, Any]:
        """The recipe as JSON values: what is stored with the data and compared on resume."""
        plain = self.model_dump(mode="json", include=set(Plain.model_fields))
        single = {key: getattr(self, key).settings() for key in ("source", "condition", "prompts", "export")}
        generators = [generator.settings() for generator in self.generator]
        return {**plain, **single, "generator": generators, "filters": [f.settings() for f in self.filters]}

    def written(self) -> dict[str, Any]:
        """The recipe as JSON values that `load` reads back to this very recipe; of a kind, only the keys that were set."""
        plain = self.model_dump(mode="json", include=set(Plain.model_fields))
        single = {key: getattr(self, key).written() for key in ("source", "condition", "prompts", "export")}
        many = {key: [kind.written() for kind in getattr(self, key)] for key in ("generator", "filters")}
        return {key: {**plain, **single, **many}[key] for key in type(self).model_fields}

    def needs(self) -> frozenset[str]:
        """What every generator must take: what the condition needs, and what the sweep changes."""
        return self.condition.required() | ({"guidance"} & self.sweep.keys())

    def sweep_cells(self) -> list[tuple[tuple[str, float], ...]]:
        """Every combination of the swept settings; one empty one without a sweep."""
        return [tuple(zip(self.sweep, values, strict=True)) for values in itertools.product(*self.sweep.values())]

    def swept(self, cell: Sequence[tuple[str, float]]) -> Condition:
        """The condition with a cell's settings; guidance is the generator's. Raises ValidationError for a value that it refuses."""
        changes = {name: value for name, value in cell if name != "guidance"}
        given = {name: getattr(self.condition, name) for name in self.condition.model_fields_set}
        return type(self.condition).model_validate({**given, **changes}) if changes else self.condition


Model = TypeVar("Model", bound=Scored)


def load(path: str | Path, sets: Sequence[str] = (), environ: Mapping[str, str] | None = None) -> Recipe:
    """Read, override and check a recipe file. Raises RecipeError with every fault, each with file, line, key and what to do."""
    recipe, document = load_as(Recipe, Plain, SECTIONS, path, sets, environ)
    faults = [f"{document.where(('sweep', name))}: {why}" for name, why in _sweep_faults(recipe)]
    if faults:
        raise RecipeError(ordered(faults))
    return recipe


def load_as(
    model: type[Model],
    plain: type[BaseModel],
    sections: Mapping[str, Section],
    path: str | Path,
    sets: Sequence[str] = (),
    environ: Mapping[str, str] | None = None,
) -> tuple[Model, Document]:
    """A recipe of any sort, checked whole. model: plain keys and sections together. Raises RecipeError with every fault."""
    document = read(path, sets, environ)
    require(document, "build" if "generator" in sections else "filter")
    faults: list[str] = []
    data = {str(key): value for key, value in document.data.items() if value is not None}  # a bare `amount:` is its default
    faults += [f"{document.where((key,))}: {unknown(key, model.model_fields)}" for key in data if key not in model.model_fields]
    keys = validate(plain, {key: value for key, value in data.items() if key in plain.model_fields}, document, (), faults)
    opened = {key: _section(document, key, section, faults) for key, section in sections.items()}
    if faults:
        raise RecipeError(ordered(faults))
    recipe = model(**{key: getattr(keys, key) for key in plain.model_fields}, **opened)
    try:
        recipe.cascade()
    except LookupError as error:
        place, why = error.args
        raise RecipeError([f"{document.where(('filters', place, 'after'))}: {why}"]) from None
    return recipe, document


def _sweep_faults(recipe: Recipe) -> list[tuple[str, str]]:
    """(axis, why it cannot be swept)."""
    faults = []
    for name, values in recipe.sweep.items():
        if not values or len(set(values)) < len(values):
            faults.append((name, "give at least one value, each once"))
        elif name == "guidance":
            faults += [(name, f"guidance is 0 or more, not {value:g}") for value in values if value < 0]
        elif name not in type(recipe.condition).model_fields:
            known = ", ".join(["guidance", *type(recipe.condition).model_fields])
            faults.append((name, f"condition {recipe.condition.kind} has no such setting; a sweep takes {known}"))
        else:
            faults += [(name, why) for value in values if (why := _sweep_fault(recipe, name, value))]
    return faults


def _sweep_fault(recipe: Recipe, name: str, value: float) -> str:
    try:
        swept = recipe.swept([(name, value)])
    except ValidationError as error:
        return f"{value:g} is refused: {error.errors()[0]['msg'].removeprefix('Value error, ')}"
    same = swept.required() == recipe.condition.required() and swept.parent_count() == recipe.condition.parent_count()
    return "" if same else f"{value:g} makes another kind of request; set condition.{name} in the recipe first, or build two datasets"


def _section(document: Document, key: str, section: Section, faults: list[str]) -> Any:
    """The opened kind(s) of one section, or None when it has faults (which are appended) or is optional and left out."""
    default, many = section.default, section.many
    raw = document.data.get(key)
    if many == "list" and raw is not None and not isinstance(raw, list):
        faults.append(f"{document.where((key,))}: expected a list; write each filter as `- {{kind: …}}`")
        return None
    if many == "list" or (many == "either" and isinstance(raw, list) and raw):
        items = [_kind(document, key, section, item, (key, i), faults) for i, item in enumerate(raw or [])]
        return None if any(item is None for item in items) else tuple(items)
    if raw is None:
        if section.optional:
            return None
        if default is None or key == "generator":
            faults.append(f"{document.where((key,))}: required section is missing; add `{key}: {{…}}`")
            return None
        raw = {}
    one = _kind(document, key, section, raw, (key,), faults)
    return (one,) if many == "either" and one is not None else one


def _kind(document: Document, key: str, section: Section, raw: Any, path: KeyPath, faults: list[str]) -> Kind | None:
    room, contract, default = section.room, section.contract, section.default
    if isinstance(raw, str):
        raw = {"kind": raw}
    if not isinstance(raw, dict):
        faults.append(f"{document.where(path)}: expected a mapping such as {{kind: …}}, got {raw!r}")
        return None
    kind = raw.get("kind", default)
    try:
        if room in ("sources", "corpora") and kind is None:
            if not isinstance(raw.get("dataset"), str):
                faults.append(
                    f"{document.where((*path, 'dataset'))}: required key is missing; name a folder, a Parquet file, tars or a Hub id"
                )
                return None
            kind = import_module(f"factory.{room}").infer(raw["dataset"])
        if not isinstance(kind, str):
            faults.append(f"{document.where(path)}: required key `kind` is missing; there are: {', '.join(kinds.names(room))}")
            return None
        model = kinds.find(room, kind, contract)
    except UserError as error:
        at = (*path, "kind") if "kind" in raw else (*path, "dataset") if "dataset" in raw else path
        faults.append(f"{document.where(at)}: {str(error).removeprefix(f'{key}.dataset: ')}")
        return None
    return validate(model, {k: v for k, v in raw.items() if k != "kind"}, document, path, faults)
