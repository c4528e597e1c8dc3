"""A diffusers pipeline as a generator: driven by the pipeline's own signature and components, so that no family is listed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from factory.contracts import Generator

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
    noise_level: int | None = Field(
        None, ge=0, description="Noise on the image embedding, for pipelines that take it (unCLIP: 0 is closest to the image)."
    )
    loras: list[Lora] = Field(default_factory=list, description="Low-rank adapters to load.")
    ip_adapter: IpAdapter | None = Field(None, description="Image-prompt adapter to load.")
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

    def open(self, device: str) -> OpenDiffusers:
        """Load the pipeline. Raises UserError for a missing, unsafe or unknown model."""
        from factory.generators._load import load
        from factory.generators._pipeline import OpenDiffusers

        return OpenDiffusers(self, load(self, device), device)
