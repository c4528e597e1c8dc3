"""A recipe: what a person may write, checked whole before anything runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import BaseModel, ConfigDict, Field, NonNegativeInt, create_model

from factory import kinds
from factory.contracts import Condition, Exporter, Filter, Generator, Kind, Prompts, Source
from factory.document import Document, KeyPath, ordered, read, unknown, validate
from factory.errors import RecipeError, UserError


class Section(NamedTuple):
    """Where a section's kinds live, and which one is meant when the recipe names none."""

    room: str
    contract: type[Kind]
    default: str | None


SECTIONS: dict[str, Section] = {
    "source": Section("sources", Source, None),
    "generator": Section("generators", Generator, "diffusers"),
    "condition": Section("conditions", Condition, "text"),
    "prompts": Section("prompts", Prompts, "template"),
    "filters": Section("filters", Filter, None),
    "export": Section("exporters", Exporter, "parquet"),
}


class Amount(BaseModel):
    """How many images to keep, per class, after filtering."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    per_class: NonNegativeInt | dict[str, NonNegativeInt] = Field(
        100, description="Images to keep for each class (a number, or class: number)."
    )
    fill_to: int | None = Field(None, ge=1, description="Instead of per_class: fill each class up to this many, real images counted in.")
    rounds: int = Field(3, ge=1, description="Rounds of requests at most: after filtering, a class that is short asks again.")


class Recipe(BaseModel):
    """One dataset to build. Sections that have kinds hold the opened kind itself."""

    model_config = ConfigDict(frozen=True, extra="forbid", arbitrary_types_allowed=True)

    name: str = Field(description="What the dataset is called.", pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    seed: int = Field(0, ge=0, lt=2**63, description="Every draw of the run follows from it.")
    source: Source = Field(description="Real images to condition on and to compare with.")
    generator: Generator = Field(description="What makes pixels.")
    condition: Condition = Field(description="How real images, labels and text steer the generator.")
    prompts: Prompts = Field(description="Text for requests.")
    amount: Amount = Field(default_factory=Amount, description="How many images to keep.")
    filters: tuple[Filter, ...] = Field((), description="Scores and the rules that decide from them, in order.")
    export: Exporter = Field(description="The dataset's format on disk.")
    shard: int = Field(256, ge=1, le=100_000, description="Requests per shard, the unit of work and of resuming.")
    threads: int = Field(2, ge=1, description="CPU threads per worker; float sums depend on it, so it is fixed, not guessed.")

    def settings(self) -> dict[str, Any]:
        """The recipe as JSON values: what is stored with the data and compared on resume."""
        plain = self.model_dump(mode="json", include={"name", "seed", "amount", "shard", "threads"})
        single = {key: getattr(self, key).settings() for key in ("source", "generator", "condition", "prompts", "export")}
        return {**plain, **single, "filters": [f.settings() for f in self.filters]}

    def columns(self) -> list[str]:
        """One score-column name per filter: its kind, numbered when a kind is used twice."""
        seen: dict[str, int] = {}
        names = []
        for f in self.filters:
            slug = f.kind.rsplit(".", 1)[-1]
            seen[slug] = seen.get(slug, 0) + 1
            names.append(slug if seen[slug] == 1 else f"{slug}_{seen[slug]}")
        return names


def load(path: str | Path, sets: Sequence[str] = (), environ: Mapping[str, str] | None = None) -> Recipe:
    """Read, override and check a recipe file. Raises RecipeError with every fault, each with file, line, key and what to do."""
    document = read(path, sets, environ)
    faults: list[str] = []
    known = Recipe.model_fields
    values: dict[str, Any] = {}
    for key in document.data:
        if key not in known:
            faults.append(f"{document.where((key,))}: {unknown(str(key), known)}")
    for key, field in known.items():
        if key in SECTIONS:
            values[key] = _section(document, key, faults)
        elif key == "amount":
            raw = document.data.get(key) or {}
            values[key] = validate(Amount, raw, document, (key,), faults) if isinstance(raw, dict) else raw
        elif key in document.data:
            values[key] = document.data[key]
        elif field.is_required():
            faults.append(f"{document.where((key,))}: required key is missing; add `{key}: …` ({field.description})")
            values[key] = "x"  # a stand-in, so that the remaining faults are found in the same pass
    holes = any(value is None for key, value in values.items() if key in SECTIONS)
    if not holes:
        recipe = validate(Recipe, values, document, (), faults)
        if recipe is not None and not faults:
            return recipe
    else:
        plain = {key: value for key, value in values.items() if key not in SECTIONS}
        faults += _plain_faults(plain, document)
    raise RecipeError(ordered(faults))


def _section(document: Document, key: str, faults: list[str]) -> Any:
    """The opened kind(s) of one section, or None when it has faults (which are appended)."""
    default = SECTIONS[key].default
    raw = document.data.get(key)
    if key == "filters":
        if raw is not None and not isinstance(raw, list):
            faults.append(f"{document.where((key,))}: expected a list; write each filter as `- {{kind: …}}`")
            return None
        items = [_kind(document, key, item, (key, i), faults) for i, item in enumerate(raw or [])]
        return None if any(item is None for item in items) else tuple(items)
    if raw is None:
        if default is None or key == "generator":
            faults.append(f"{document.where((key,))}: required section is missing; add `{key}: {{…}}`")
            return None
        raw = {}
    return _kind(document, key, raw, (key,), faults)


def _kind(document: Document, key: str, raw: Any, path: KeyPath, faults: list[str]) -> Kind | None:
    room, contract, default = SECTIONS[key]
    if isinstance(raw, str):
        raw = {"kind": raw}
    if not isinstance(raw, dict):
        faults.append(f"{document.where(path)}: expected a mapping such as {{kind: …}}, got {raw!r}")
        return None
    kind = raw.get("kind", default)
    try:
        if key == "source" and kind is None:
            from factory import sources

            if not isinstance(raw.get("dataset"), str):
                faults.append(
                    f"{document.where((*path, 'dataset'))}: required key is missing; name a folder, a Parquet file, tars or a Hub id"
                )
                return None
            kind = sources.infer(raw["dataset"])
        if not isinstance(kind, str):
            faults.append(f"{document.where(path)}: required key `kind` is missing; there are: {', '.join(kinds.names(room))}")
            return None
        model = kinds.find(room, kind, contract)
    except UserError as error:
        at = (*path, "kind") if "kind" in raw else (*path, "dataset") if "dataset" in raw else path
        faults.append(f"{document.where(at)}: {error}")
        return None
    return validate(model, {k: v for k, v in raw.items() if k != "kind"}, document, path, faults)


def _plain_faults(values: dict[str, Any], document: Document) -> list[str]:
    """Faults of the scalar keys alone, for when a section is already known to be broken."""
    faults: list[str] = []
    fields: dict[str, Any] = {k: (Recipe.model_fields[k].annotation, Recipe.model_fields[k]) for k in values if values[k] is not None}
    validate(create_model("Plain", **fields), {k: values[k] for k in fields}, document, (), faults)
    return faults
