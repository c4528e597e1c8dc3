"""What a training recipe may say: one pydantic model per kind, unknown keys refused, every fault reported at once."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PlainSerializer

from factory import kinds
from factory.contracts import Source
from factory.document import ordered, read, validate
from factory.errors import RecipeError


class Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=(), arbitrary_types_allowed=True)


class SourceSpec(Strict):
    """The real images to learn from. dataset: a Parquet file, a folder, or a Hugging Face Hub id."""

    dataset: str
    split: str = "train"
    image: str = "image"
    label: str = "label"
    limit: int | None = Field(None, ge=1, description="Use so many rows only, from `skip` on.")
    skip: int = Field(0, ge=0, description="With limit: the first row.")


class Training(Strict):
    """What every kind of training shares. lr: the peak of one cycle (5% linear warm-up, cosine to zero)."""

    kind: str
    source: SourceSpec
    out: Path
    seed: int = 0
    steps: int = Field(ge=1)
    batch: int = Field(ge=2)
    lr: float = Field(gt=0)
    weight_decay: float = Field(0.05, ge=0)
    checkpoint_every: int = Field(200, ge=1)
    log_every: int = Field(20, ge=1)
    bf16: bool = Field(True, description="Matrix products in bfloat16; weights and sums stay float32.")


class Clip(Training):
    """A small image-text encoder, written as an open_clip folder."""

    kind: Literal["clip"]
    image_size: int = Field(64, ge=32, multiple_of=32)
    image_layers: tuple[int, int, int, int] = (1, 1, 1, 1)
    image_width: int = Field(20, ge=4)
    embed_dim: int = Field(128, ge=8)
    text_width: int = Field(128, ge=8)
    text_layers: int = Field(2, ge=1)
    text_heads: int = Field(4, ge=1)
    context_length: int = Field(24, ge=4)
    vocabulary: int = Field(1000, ge=64)
    words: Literal["fashion", "plain"] = Field("fashion", description="What captions say beside the class; plain fits any set.")
    self_supervised: float = Field(0.5, ge=0, description="Weight of the NT-Xent loss between two views.")


class Classifier(Training):
    """A small convolutional classifier, independent of everything that generates: a judge for benches."""

    kind: Literal["classifier"]
    width: int = Field(48, ge=4)


class Diffusion(Training):
    """A rectified-flow transformer conditioned on image and text embeddings, written as a diffusers pipeline folder."""

    kind: Literal["diffusion"]
    clip: Path = Field(description="The open_clip folder that conditions it; copied into the pipeline.")
    width: int = Field(256, ge=16)
    depth: int = Field(6, ge=1)
    heads: int = Field(4, ge=1)
    patch: int = Field(4, ge=1)
    ema: float = Field(0.998, ge=0, lt=1)
    words: Literal["fashion", "plain"] = Field("fashion", description="What captions say beside the class; as for the clip.")
    captions: int = Field(6, ge=1, description="Captions rendered and encoded per image.")
    jitter: float = Field(0.1, ge=0, description="Norm of the Gaussian noise added to unit image embeddings.")
    drop_both: float = Field(0.1, ge=0, le=1)
    text_only: float = Field(0.3, ge=0, le=1)
    image_only: float = Field(0.3, ge=0, le=1)


RealImages = Annotated[
    Source,
    BeforeValidator(lambda value: kinds.nested("sources", Source, value)),
    PlainSerializer(lambda source: source.settings()),
]


class Lora(Training):
    """Low-rank weights for a pipeline, from a few real images of a class or of a set."""

    kind: Literal["lora"]
    source: RealImages = Field(description="Real images, as in a recipe: dataset, shots, classes, …")  # type: ignore[assignment]
    model: str = Field(description="The pipeline to adapt: a local folder or a Hub id.")
    revision: str | None = Field(None, description="Hub branch, tag or commit.")
    rank: int = Field(16, ge=1, description="Rank of the weights; DataDream uses 16.")
    targets: list[str] | None = Field(None, description="Names of the layers to adapt; null: the attention's projections.")
    prompt: str = Field("a photo of a {label}", description="What an image is called in training; use the same words to generate.")
    resolution: int | None = Field(None, ge=8, description="Side in pixels; null is the pipeline's own.")
    lr: float = Field(1e-4, gt=0)
    weight_decay: float = Field(0.01, ge=0)


KINDS: dict[str, type[Training]] = {"clip": Clip, "classifier": Classifier, "diffusion": Diffusion, "lora": Lora}


def load(path: Path, sets: Sequence[str] = (), out: Path | None = None) -> Training:
    """Read a YAML recipe, lay overrides and the output folder over it. Raises RecipeError with every fault."""
    document = read(path, [*sets, *([f"out={json.dumps(str(out))}"] if out is not None else [])])
    kind = document.data.get("kind")
    if kind not in KINDS:
        raise RecipeError([f"{document.where(('kind',))}: expected one of {', '.join(KINDS)}, got {kind!r}"])
    faults: list[str] = []
    recipe: Training | None = validate(KINDS[kind], document.data, document, (), faults)
    if recipe is None:
        raise RecipeError(ordered(faults))
    return recipe
