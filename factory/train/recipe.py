"""What a training recipe may say: one pydantic model per kind, unknown keys refused, every fault reported at once."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from factory import blanks
from factory.document import ordered, read, require, validate
from factory.errors import RecipeError
from factory.kinds import RealImages

Share = Annotated[float, Field(gt=0, le=1)]
Side = Annotated[int, Field(ge=1, le=2**16)]


class Strict(BaseModel):
    """Unknown keys are faults."""

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

    @model_validator(mode="after")
    def _heads_share_width(self) -> Clip:
        if self.text_width % self.text_heads:
            raise ValueError(f"text_heads: a width of {self.text_width} cannot be cut into {self.text_heads} equal parts")
        return self


class Classifier(Training):
    """A small convolutional classifier, independent of everything that generates: a judge for benches."""

    kind: Literal["classifier"]
    width: int = Field(48, ge=4)


class Attending(Training):
    """What the transformers share. width: of a token, which positions and heads cut into equal parts."""

    width: int = Field(256, ge=16, multiple_of=4)
    depth: int = Field(6, ge=1)
    heads: int = Field(4, ge=1)

    @model_validator(mode="after")
    def _heads_share_width(self) -> Attending:
        if self.width % self.heads:
            raise ValueError(f"heads: a width of {self.width} cannot be cut into {self.heads} equal parts")
        return self


class Diffusion(Attending):
    """A rectified-flow transformer conditioned on image and text embeddings, written as a diffusers pipeline folder."""

    kind: Literal["diffusion"]
    clip: Path = Field(description="The open_clip folder that conditions it; copied into the pipeline.")
    patch: int = Field(4, ge=1)
    ema: float = Field(0.998, ge=0, lt=1)
    words: Literal["fashion", "plain"] = Field("fashion", description="What captions say beside the class; as for the clip.")
    captions: int = Field(6, ge=1, description="Captions rendered and encoded per image.")
    jitter: float = Field(0.1, ge=0, description="Norm of the Gaussian noise added to unit image embeddings.")
    drop_both: float = Field(0.1, ge=0, le=1)
    text_only: float = Field(0.3, ge=0, le=1)
    image_only: float = Field(0.3, ge=0, le=1)


class Lora(Training):
    """Low-rank weights for a pipeline, from a few real images of a class or of a set."""

    kind: Literal["lora"]
    source: RealImages = Field(description="Real images, as in a recipe: dataset, shots, classes, …")  # type: ignore[assignment]
    model: str = Field(description="The pipeline to adapt: a local folder or a Hub id.")
    revision: str | None = Field(None, description="Hub branch, tag or commit.")
    rank: int = Field(16, ge=1, description="Rank of the weights; DataDream uses 16.")
    targets: list[str] | None = Field(None, description="Names of the layers to adapt; null: the attention's projections.")
    prompt: Annotated[str, blanks.of("label")] = Field(
        "a photo of a {label}", description="What an image is called in training; use the same words to generate."
    )
    resolution: int | None = Field(None, ge=8, description="Side in pixels; null is the pipeline's own.")
    lr: float = Field(1e-4, gt=0)
    weight_decay: float = Field(0.01, ge=0)


class Streamed(Training):
    """What the trainings of any size share: images are read once, cut to one size and kept on disk, and steps read from there."""

    source: RealImages = Field(description="Real images, as in a recipe: dataset, split, …; labels are never used.")  # type: ignore[assignment]
    size: tuple[Side, Side] = Field(description="[height, width] in pixels that images are scaled and cut to.")
    channels: Literal[1, 3] = Field(3, description="1 for grey images.")
    flips: Literal["none", "horizontal", "dihedral"] = Field(
        "horizontal", description="Mirror images that count as the same thing; dihedral: also turned by quarters."
    )

    @model_validator(mode="before")
    @classmethod
    def _one_side(cls, values: Any) -> Any:
        if isinstance(values, dict) and isinstance(values.get("size"), int):
            values = {**values, "size": (values["size"], values["size"])}
        return values

    @model_validator(mode="after")
    def _turns(self) -> Streamed:
        if self.flips == "dihedral" and self.size[0] != self.size[1]:
            raise ValueError("flips: dihedral turns images by quarters, so size must be square")
        return self


class Representation(Streamed):
    """A self-supervised image encoder, without labels."""

    kind: Literal["representation"]
    method: Literal["vicreg", "simclr", "dino"] = Field("vicreg", description="Bardes et al. 2022; Chen et al. 2020; Caron et al. 2021.")
    backbone: str = Field("resnet10t", description="Any timm architecture; weights start afresh.")
    arguments: dict[str, Any] = Field(default_factory=dict, description="Of timm.create_model, such as channels or img_size.")
    input_size: int | None = Field(None, ge=8, description="Side in pixels that the network sees; null: that of `size`.")
    projector: int = Field(1024, ge=8, description="Width of the head that the loss sees and that is thrown away.")
    crop: tuple[Share, Share] = Field((0.3, 1.0), description="Share of the area that a view's random crop keeps: from, to.")
    colour: float = Field(0.4, ge=0, description="Strength of the colour jitter; 0 is none.")
    erase: float = Field(0.0, ge=0, le=1, description="Probability of an erased rectangle in a view.")
    momentum: float = Field(0.996, ge=0, lt=1, description="Of DINO's teacher.")
    whiten: int | None = Field(None, ge=2, description="Whiten embeddings by PCA and keep so many directions.")

    @model_validator(mode="after")
    def _from_less_to_more(self) -> Representation:
        if self.crop[0] > self.crop[1]:
            raise ValueError(f"crop: the smaller share comes first: [{self.crop[1]}, {self.crop[0]}]")
        return self


class Autoencoder(Streamed):
    """A small autoencoder (diffusers' AutoencoderKL) for latent diffusion."""

    kind: Literal["autoencoder"]
    latent: int = Field(4, ge=1, description="Channels of a latent.")
    widths: tuple[Annotated[int, Field(ge=1)], ...] = Field(
        (32, 64, 64), min_length=1, description="Channels per level; each level but the last halves the side."
    )
    layers: int = Field(1, ge=1, description="Residual blocks per level.")
    kl: float = Field(1e-6, ge=0, description="Weight of the Kullback-Leibler term (Rombach et al. 2022 use 1e-6).")
    edges: float = Field(1.0, ge=0, description="Weight of the difference of image gradients, beside that of pixels.")

    @model_validator(mode="after")
    def _halves(self) -> Autoencoder:
        step, groups = 2 ** (len(self.widths) - 1), min(8, *self.widths)
        if any(side % step for side in self.size):
            raise ValueError(f"size: {len(self.widths)} widths halve each side {len(self.widths) - 1} times, so it is a multiple of {step}")
        if any(width % groups for width in self.widths):
            raise ValueError(f"widths: channels are normalised in {groups} groups; use multiples of {groups}")
        return self


class RepresentationDiffusion(Streamed, Attending):
    """A diffusion model guided by embeddings, written as a diffusers pipeline folder (Graikos et al. 2024, arXiv 2312.07330)."""

    kind: Literal["representation_diffusion"]
    encoder: tuple[Annotated[str, Field(min_length=1)], ...] = Field(
        min_length=1,
        description="A folder that kind: representation wrote, or timm:NAME, transformers:ID, open_clip:ARCH/TAG, efficientnet_lite0@SIZE; several are put side by side.",
    )
    whiten: int | None = Field(None, ge=2, description="Whiten the embeddings by PCA on this set and keep so many directions.")
    vae: str | None = Field(None, description="An autoencoder's folder or Hub id for latent diffusion; null works on pixels.")
    path: Literal["linear", "trigonometric", "variance_preserving"] = Field(
        "linear", description="Between image and noise; see the scheduler."
    )
    prediction: Literal["velocity", "v_prediction", "epsilon", "sample"] = Field("velocity", description="What the model answers.")
    times: Literal["logit_normal", "uniform"] = Field("logit_normal", description="How noise levels are drawn in training.")
    views: int | None = Field(
        None,
        ge=1,
        description="Mirror images of each image that are encoded beforehand; null: as many as make 200,000 in all, at least one.",
    )
    scales: tuple[Annotated[int, Field(ge=1)], ...] = Field(
        (1,), min_length=1, description="Condition tokens: the embeddings of the image's s×s crops, for each s."
    )
    neighbours: int = Field(0, ge=0, description="RDM: condition on so many nearest neighbours of the image instead of on itself.")
    cross_attention: bool = Field(False, description="Embeddings as tokens to attend to; else they modulate the layers (adaLN).")
    accumulate: int = Field(1, ge=1, description="Parts that a batch is cut into, one after the other, where memory is short.")
    drop: float = Field(0.1, ge=0, le=1, description="Probability that a condition is left out, for classifier-free guidance.")
    patch: int = Field(2, ge=1, description="In pixels, or latents.")
    ema: float = Field(0.999, ge=0, lt=1)
    sample_every: int = Field(500, ge=1, description="Steps between pictures of variations beside their parents, in <out>.samples.")
    tracker: Literal["tensorboard", "trackio", "wandb"] | None = Field(None, description="Where accelerate also logs the loss.")

    @model_validator(mode="before")
    @classmethod
    def _one_encoder(cls, values: Any) -> Any:
        if isinstance(values, dict) and isinstance(values.get("encoder"), str):
            values = {**values, "encoder": (values["encoder"],)}
        return values

    @model_validator(mode="after")
    def _goes_together(self) -> RepresentationDiffusion:
        if self.neighbours and self.scales != (1,):
            raise ValueError("neighbours and scales are two kinds of tokens; use one of them")
        if self.neighbours and not self.cross_attention:
            raise ValueError("neighbours are tokens to attend to; set cross_attention: true")
        if self.prediction == "epsilon" and self.path != "variance_preserving":
            raise ValueError(f"epsilon says nothing at the noisy end of the {self.path} path; use velocity or v_prediction")
        if self.vae is None and any(side % self.patch for side in self.size):
            raise ValueError(f"size: {self.size[0]}×{self.size[1]} is no multiple of the patch, {self.patch}")
        if max(self.scales) > min(self.size):
            raise ValueError(f"scales: {self.size[0]}×{self.size[1]} pixels cannot be cut into {max(self.scales)} rows and columns")
        if self.batch % self.accumulate:
            raise ValueError(f"accumulate: a batch of {self.batch} cannot be cut into {self.accumulate} equal parts")
        return self


class EmbeddingPrior(Streamed):
    """A model of p(embedding | class or text), or of embeddings alone (RCG, Li et al. 2024, arXiv 2312.03701)."""

    kind: Literal["embedding_prior"]
    pipeline: Path = Field(description="The pipeline folder whose embeddings it makes.")
    of: Literal["class", "text", "nothing"] = Field("class", description="What it is given; text: the source's captions.")
    drop: float = Field(0.1, ge=0, le=1, description="Probability that what it is given is left out, for guidance.")
    width: int = Field(512, ge=16, multiple_of=2)
    depth: int = Field(4, ge=1)
    ema: float = Field(0.999, ge=0, lt=1)


KINDS: dict[str, type[Training]] = {
    "autoencoder": Autoencoder,
    "classifier": Classifier,
    "clip": Clip,
    "diffusion": Diffusion,
    "embedding_prior": EmbeddingPrior,
    "lora": Lora,
    "representation": Representation,
    "representation_diffusion": RepresentationDiffusion,
}


def load(path: Path, sets: Sequence[str] = (), out: Path | None = None) -> Training:
    """Read a YAML recipe, lay overrides and the output folder over it. Raises RecipeError with every fault."""
    document = read(path, [*sets, *([f"out={json.dumps(str(out))}"] if out is not None else [])])
    require(document, "train")
    kind = document.data.get("kind")
    if kind not in KINDS:
        raise RecipeError([f"{document.where(('kind',))}: expected one of {', '.join(KINDS)}, got {kind!r}"])
    faults: list[str] = []
    recipe: Training | None = validate(KINDS[kind], document.data, document, (), faults)
    if recipe is None:
        raise RecipeError(ordered(faults))
    return recipe
