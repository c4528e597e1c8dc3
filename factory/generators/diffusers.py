"""A diffusers pipeline as a generator: driven by the pipeline's own signature and components, so that no family is listed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from factory.contracts import Generator
from factory.generators import _fast

if TYPE_CHECKING:
    from factory.generators._pipeline import OpenDiffusers


class Lora(BaseModel):
    """Low-rank weights laid over the pipeline; several are mixed by their scales."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: str = Field(description="Local folder, .safetensors file or Hub id.")
    weight_name: str | None = Field(None, description="File inside the folder or repository.")
    scale: float = Field(1.0, description="Weight of this adapter.")
    revision: str | None = Field(None, description="Hub branch, tag or commit.")


class IpAdapter(BaseModel):
    """An image-prompt adapter, which makes a text pipeline take image embeddings (Ye et al. 2023, arXiv 2308.06721)."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: str = Field(description="Local folder or Hub id, for example h94/IP-Adapter.")
    subfolder: str = Field("", description="Folder of the weights inside the model, for example models.")
    weight_name: str = Field(description="Weights file, for example ip-adapter_sd15.safetensors.")
    scale: float = Field(1.0, ge=0, description="How strongly the image steers; 0 ignores it.")
    revision: str | None = Field(None, description="Hub branch, tag or commit.")
    image_encoder: str | None = Field(
        "image_encoder",
        description="Folder of the image encoder, used where the pipeline has none: beside the weights, or from the model's root if it holds a '/'.",
    )


class ControlNet(BaseModel):
    """A network that makes the pipeline follow a control image (Zhang et al. 2023, arXiv 2302.05543)."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: str = Field(description="Local folder or Hub id, for example lllyasviel/control_v11p_sd15_canny.")
    scale: float = Field(1.0, ge=0, description="How strongly the control image steers.")
    start: float = Field(0.0, ge=0, le=1, description="Share of the steps after which it begins to steer.")
    end: float = Field(1.0, ge=0, le=1, description="Share of the steps after which it stops.")
    subfolder: str = Field("", description="Folder inside the model.")
    revision: str | None = Field(None, description="Hub branch, tag or commit.")


class Embedding(BaseModel):
    """Learned words: textual inversion (Gal et al. 2022, arXiv 2208.01618). Prompts use them by their token."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: str = Field(description="Local folder, .safetensors file or Hub id.")
    token: str | None = Field(None, description="The word that prompts use, for example <my-bird>; null: the one in the file.")
    weight_name: str | None = Field(None, description="File inside the folder or repository.")
    scale: float = Field(1.0, description="Multiplies the learned vectors.")
    revision: str | None = Field(None, description="Hub branch, tag or commit.")


class Diffusers(Generator):
    """Any text-, class-, image- or embedding-conditioned image pipeline in the diffusers folder layout."""

    model: str = Field(description="Local folder with a model_index.json, or a Hub id.")
    revision: str | None = Field(None, description="Hub branch, tag or commit; a commit makes the recipe exact.")
    variant: str | None = Field(None, description="Weight files to load, for example fp16.")
    dtype: Literal["auto", "float32", "float16", "bfloat16"] = Field(
        "auto", description="Number type of the weights; auto is float32 on a CPU, else bfloat16 where the device has it, else float16."
    )
    scheduler: str | None = Field(None, description="A diffusers scheduler class in place of the model's own, for example DDIMScheduler.")
    scheduler_options: dict[str, Any] = Field(default_factory=dict, description="Changes to the scheduler's configuration.")
    fast: Literal["lcm_lora", "turbo", "hyper_sd", "tcd"] | None = Field(
        None, description="Few-step sampling: fills in steps, guidance, scheduler and adapter that it needs, where the recipe is silent."
    )
    steps: int | None = Field(None, ge=1, description="Denoising steps; null is the pipeline's own default.")
    guidance: float | None = Field(
        2.0,
        ge=0,
        description="Guidance scale; low values make better training data. null is the pipeline's own default, "
        "0 is for turbo and other distilled models. Ignored at its default where the pipeline has no guidance.",
    )
    negative_prompt: str | None = Field(None, description="What the images should not show.")
    height: int | None = Field(None, ge=8, description="Pixels; null is the pipeline's own size.")
    width: int | None = Field(None, ge=8, description="Pixels; null is the pipeline's own size.")
    windows: float | None = Field(
        None,
        ge=0,
        lt=1,
        description="For height and width beyond the trained size: denoise in windows that overlap by this share (the paper uses 0.75). "
        "A representation-guided pipeline then follows the grid of embeddings of the whole parent image.",
    )
    noise_level: int | None = Field(
        None, ge=0, description="Noise on the image embedding, for pipelines that take it (unCLIP: 0 is closest to the image)."
    )
    loras: list[Lora] = Field(default_factory=list, description="Low-rank adapters to load.")
    embeddings: list[Embedding] = Field(default_factory=list, description="Textual-inversion weights to load.")
    ip_adapter: IpAdapter | None = Field(None, description="Image-prompt adapter to load.")
    controlnets: list[ControlNet] = Field(
        default_factory=list, description="ControlNets to load; all are given the condition's control image."
    )
    offload: Literal["none", "model", "sequential"] = Field(
        "none", description="Keep weights in host memory: per model, or per layer (slow, least memory)."
    )
    compile: bool = Field(False, description="Compile the denoiser: minutes once per worker, then faster.")
    vae_slicing: bool = Field(False, description="Decode one image at a time, for less memory.")
    vae_tiling: bool = Field(False, description="Decode in tiles, for large images.")
    class_ids: dict[str, int] = Field(
        default_factory=dict, description="Class name -> the pipeline's class id, for class-conditional pipelines with other labels."
    )
    allow_pickle: bool = Field(False, description="Load weights that can run code when read (.bin, .ckpt, .pt). Only for files you trust.")
    trust_remote_code: bool = Field(False, description="Run Python code that ships with the model. Only for authors you trust.")
    call: dict[str, Any] = Field(default_factory=dict, description="Further arguments of the pipeline's call, by its own names.")

    @model_validator(mode="before")
    @classmethod
    def _fill_preset(cls, values: Any) -> Any:
        return _fast.filled(values) if isinstance(values, dict) else values

    @model_validator(mode="after")
    def _settings_agree(self) -> Diffusers:
        guidance = self.guidance if "guidance" in self.model_fields_set else None
        why = _fast.fault(self.fast, self.steps, guidance, self.scheduler, self.negative_prompt)
        if why:
            raise ValueError(why)
        return self

    def lacks(self) -> Mapping[str, str]:
        """From model_index.json, where it is on this machine, and the pipeline class's signature; loads no weights."""
        from factory.generators import _abilities

        return _abilities.lacks(self)

    def refuses(self, needs: frozenset[str]) -> str:
        """As `lacks`, for needs together: what the call cannot do without, and what it would drop."""
        from factory.generators import _abilities

        return _abilities.refuses(self, needs)

    def check(self) -> None:
        from factory.generators import _source

        _source.refuse_missing(self)

    def open(self, device: str) -> OpenDiffusers:
        """Load the pipeline. Raises UserError for a missing, unsafe or unknown model."""
        from factory.generators._load import load
        from factory.generators._pipeline import OpenDiffusers

        return OpenDiffusers(self, load(self, device), device)
