"""What an evaluation may be told: a small YAML file, --set, or nothing at all; every key has a default."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator
from ruamel.yaml.comments import CommentedMap

from factory.document import Document, ordered, read, validate
from factory.errors import RecipeError

Section = Literal["utility", "fidelity", "memorisation"]
Classifier = Literal["small_network", "linear_probe"]
SECTIONS: tuple[Section, ...] = ("utility", "fidelity", "memorisation")
LISTS = ("sections", "shots", "ratios", "classifiers")  # of which one alone may be written without brackets


def _one_or_several(schema: dict[str, Any]) -> None:
    """The JSON Schema as `Settings` reads lists."""
    for name in LISTS:
        field = schema["properties"][name]
        several = {key: field.pop(key) for key in ("type", "items", "minItems")}
        field["anyOf"] = [several["items"], several]


class Settings(BaseModel):
    """How a run is evaluated. The guards always run."""

    model_config = ConfigDict(frozen=True, extra="forbid", json_schema_extra=_one_or_several)

    sections: tuple[Section, ...] = Field(SECTIONS, min_length=1, description="What to measure.")
    protocol: Literal["run", "few_shot", "long_tail"] = Field(
        "run", description="Which real images a classifier learns from: those that the run was made from, k a class, or a long tail."
    )
    shots: tuple[int, ...] = Field((1, 2, 4, 8, 16), min_length=1, description="few_shot: labelled images a class.")
    most: int | None = Field(None, ge=1, description="long_tail: images of the largest class; null: as many as there are.")
    tail: float = Field(100.0, ge=1, description="long_tail: the largest class has so many times the images of the smallest.")
    outside: Literal["error", "leave_out"] = Field(
        "error", description="A synthetic image whose parents are not all drawn: an error, or left out of that draw's training images."
    )
    seeds: int = Field(5, ge=1, description="Trainings of each arm; few_shot and long_tail draw other images for each.")
    ratios: tuple[float, ...] = Field((0, 1, 2, 5, 10), min_length=1, description="Synthetic images for each real one, to choose from.")
    classifiers: tuple[Classifier, ...] = Field(
        ("small_network", "linear_probe"), min_length=1, description="The first one decides the verdict, the others are reported beside it."
    )
    validation: int = Field(50, ge=1, description="Real images a class, cut from the real training set, that choose the ratio.")
    test: int | None = Field(None, ge=1, description="Test images a class at most; null takes all.")
    reference: int = Field(10_000, ge=2, description="Real training images at most to compare with; a larger set is sampled.")
    backbone: str | None = Field(
        None,
        description="Eyes of distances and of the linear probe: efficientnet_lite0[@SIZE], inception, timm:…, transformers:…, a folder.",
    )
    clip: str | None = Field(None, description="CLIP of cmmd and clip_score; null: the one that the run's filters name, if any.")
    side: int | None = Field(None, ge=16, le=64, description="Pixels a side that the small network sees; null: the images' own, up to 64.")
    steps: int = Field(400, ge=1, description="Training steps of the small network, in every arm.")
    batch: int = Field(64, ge=2, description="Images in a step: half of them synthetic in an arm that has both.")
    width: int = Field(16, ge=4, description="Channels of the small network's first layer.")
    flips: Literal["none", "horizontal", "dihedral"] = Field("horizontal", description="Mirror images that count as the same thing.")
    balanced: bool | None = Field(None, description="Balanced Softmax; null: where one class has twice the images of another.")
    copy_ratio: float = Field(
        0.4, gt=0, lt=1, description="A synthetic image is a copy below this share of the distance that real images keep from each other."
    )
    pairs: int = Field(24, ge=0, description="Nearest pairs to show as pictures.")
    threads: int = Field(2, ge=1, description="CPU threads; sums of floats depend on it.")

    @field_validator("ratios")
    @classmethod
    def _ratios_count(cls, values: tuple[float, ...]) -> tuple[float, ...]:
        if min(values) < 0:
            raise ValueError("a ratio is 0 or more")
        return tuple(sorted({*values, 0.0}))

    @model_validator(mode="before")
    @classmethod
    def _one_is_a_list(cls, values: Any) -> Any:
        return {k: [v] if k in LISTS and not isinstance(v, list | tuple) else v for k, v in dict(values).items()}


QUICK: dict[str, Any] = {"steps": 150, "test": 100, "validation": 20, "reference": 1000, "ratios": [0, 1, 2, 5]}


def load(path: Path | None, sets: Sequence[str] = (), quick: bool = False) -> Settings:
    """The defaults, over them --quick, the file and --set. Raises RecipeError with every fault."""
    document = Document(CommentedMap(), "evaluation") if path is None else read(path, environ={})
    document.override_all(sets, "seeds=10")
    for key, value in QUICK.items() if quick else ():
        document.data.setdefault(key, value)
    faults: list[str] = []
    settings: Settings | None = validate(Settings, document.data, document, (), faults)
    if settings is None:
        raise RecipeError(ordered(faults))
    return settings
