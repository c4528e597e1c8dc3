"""A recipe of `factory filter`: a corpus that exists, the filters, and what to leave behind."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from factory.contracts import Corpus, Exporter, Filter, Source
from factory.recipe import Scored, Section, load_as

SECTIONS: dict[str, Section] = {
    "corpus": Section("corpora", Corpus, None),
    "source": Section("sources", Source, None, optional=True),
    "filters": Section("filters", Filter, None, "list"),
    "export": Section("exporters", Exporter, "parquet"),
}
_AS_THEY_ARE = {"image": "original", "digital_source_type": None}


class Plain(BaseModel):
    """The keys that are no kinds."""

    model_config = ConfigDict(frozen=True, extra="forbid", arbitrary_types_allowed=True)

    name: str = Field(description="What the result is called.", pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    keep: Literal["index", "dataset", "both"] = Field(
        "index", description="index: kept.parquet with the ids of what stays, nothing is copied; dataset: what stays, in new shards; both."
    )
    carry: tuple[str, ...] = Field((), description="Columns of the corpus that kept.parquet repeats beside the ids, such as uid or url.")
    shard: int = Field(1024, ge=1, le=100_000, description="Rows per shard, the unit of work and of resuming; a tar is one shard.")
    batch: int = Field(64, ge=1, le=4096, description="Images scored together; float sums depend on it.")
    threads: int = Field(2, ge=1, description="CPU threads of a worker's model; float sums depend on it, so it is fixed, not guessed.")
    readers: int = Field(8, ge=1, le=256, description="Threads of a worker that read and decode images beside the model.")


class FilterRecipe(Scored, Plain):
    """One corpus to filter."""

    corpus: Corpus = Field(description="The images that exist: a folder, Parquet, WebDataset tars or a Hub dataset, here or at any URL.")
    source: Source | None = Field(None, description="Real images that some filters compare with; optional.")
    export: Exporter = Field(description="The format of the new shards, for keep: dataset or both. Files are passed on as they are.")

    def settings(self) -> dict[str, Any]:
        """The recipe as JSON values: what is stored with the run and compared on resume."""
        plain = self.model_dump(mode="json", include=set(Plain.model_fields))
        source = {} if self.source is None else {"source": self.source.settings()}
        filters = [f.settings() for f in self.filters]
        return {**plain, "corpus": self.corpus.settings(), **source, "filters": filters, "export": self.export.settings()}


def load(path: str | Path, sets: Sequence[str] = (), environ: Mapping[str, str] | None = None) -> FilterRecipe:
    """Read, override and check a filter recipe. Raises RecipeError with every fault, each with file, line, key and what to do."""
    recipe = load_as(FilterRecipe, Plain, SECTIONS, path, sets, environ)[0]
    return recipe.model_copy(update={"export": _passing_on(recipe.export)})


def _passing_on(export: Exporter) -> Exporter:
    """The exporter, writing files as they are where it can and the recipe does not say otherwise, and not calling them generated."""
    given = {name: getattr(export, name) for name in export.model_fields_set}
    own = {name: value for name, value in _AS_THEY_ARE.items() if name in type(export).model_fields and name not in given}
    try:
        return type(export).model_validate({**given, **own})
    except ValidationError:  # a format that has to encode
        own.pop("image", None)
        return type(export).model_validate({**given, **own})
