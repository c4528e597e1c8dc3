"""A diffusers pipeline guided by self-supervised embeddings of images, in pixels or latents, for images of any size.

Learned representation-guided diffusion (Graikos et al. 2024, arXiv 2312.07330); tokens of neighbours: RDM (Blattmann et al. 2022).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import torch
from diffusers.pipelines.pipeline_utils import DiffusionPipeline, ImagePipelineOutput
from diffusers.utils.torch_utils import randn_tensor

from factory import images as pictures
from factory.models.representation import RepresentationEncoder
from factory.models.scheduler import GaussianPathScheduler
from factory.models.transformer import PatchTransformer

Generators = torch.Generator | list[torch.Generator] | None
Rows = torch.Tensor | None


class RepresentationDiffusionPipeline(DiffusionPipeline):
    """Variations of images by their embeddings. vae: any autoencoder of diffusers, or None for pixels.

    scales: an image becomes the embeddings of its s×s crops, for each s.  neighbours: the model was trained on this many neighbours of an
    image as its tokens; 0 on the image's own embeddings.
    """

    transformer: PatchTransformer
    scheduler: GaussianPathScheduler
    encoder: RepresentationEncoder
    vae: Any
    model_cpu_offload_seq: Any = "encoder->transformer->vae"
    _optional_components: Any = ["vae"]  # noqa: RUF012, an instance variable in the base class
    config: Any
    _callback_tensor_inputs: ClassVar[list[str]] = ["latents"]

    def __init__(
        self,
        transformer: PatchTransformer,
        scheduler: GaussianPathScheduler,
        encoder: RepresentationEncoder,
        vae: Any = None,
        scales: list[int] | None = None,
        neighbours: int = 0,
    ):
        super().__init__()
        self.register_modules(transformer=transformer, scheduler=scheduler, encoder=encoder, vae=vae)
        self.register_to_config(scales=list(scales or [1]), neighbours=neighbours)

    @property
    def takes_tokens(self) -> bool:
        """Whether one image may be conditioned on several embeddings, each of another image."""
        return bool(self.config.neighbours)

    @property
    def factor(self) -> int:
        """Pixels per latent, along a side."""
        return 1 if self.vae is None else 2 ** (len(self.vae.config.block_out_channels) - 1)

    @property
    def sample_size(self) -> tuple[int, int]:
        """Trained height and width, in pixels."""
        height, width = self.transformer.size
        return height * self.factor, width * self.factor

    @torch.no_grad()
    def __call__(
        self,
        image: Any = None,
        image_embeds: torch.Tensor | None = None,
        strength: float | None = None,
        height: int | None = None,
        width: int | None = None,
        num_inference_steps: int = 25,
        guidance_scale: float = 2.0,
        eta: float | None = None,
        num_images_per_prompt: int = 1,
        generator: Generators = None,
        latents: torch.Tensor | None = None,
        output_type: str = "pil",
        return_dict: bool = True,
        callback_on_step_end: Callable[..., dict[str, torch.Tensor]] | None = None,
        callback_on_step_end_tensor_inputs: list[str] | None = None,
    ) -> ImagePipelineOutput | tuple[Any]:
        """Make images; without image and image_embeds, unconditional ones.

        image without strength: variations, conditioned on the images' embeddings alone; no pixel is used.
        image with strength in (0, 1]: image to image (SDEdit, Meng et al. 2021), conditioned on image_embeds where given, else on the
        image's own.
        image_embeds: [N, D], or [N, K, D] for several tokens, used as given; zeros are no condition.
        height, width: pixels, multiples of `factor` times the patch; the trained size where not given.
        guidance_scale: classifier-free guidance (Ho and Salimans 2022); at most 1 turns it off; the paper uses 2.
        eta: see the scheduler; None for its own.
        generator: one, or one per image; with one per image, each image depends on its own alone.
        latents: starting noise.  output_type: "pil", "np" ([N, H, W, 3] in [0, 1]) or "pt" ([N, 3, H, W] in [0, 1]), always RGB; or "latent".
        Raises ValueError for inputs that contradict each other.
        """
        height, width = height or self.sample_size[0], width or self.sample_size[1]
        self._check(image, strength, height, width, output_type)
        if image is not None and image_embeds is None:
            image_embeds = self.encode_image(image)
        start = None if strength is None else self.encode_latents(image, height, width)
        counts = {len(one) for one in (image_embeds, start) if one is not None and len(one) > 1}
        if len(counts) > 1:
            raise ValueError(f"image and image_embeds have different lengths: {sorted(counts)}")
        count = counts.pop() if counts else 1
        if count == 1 and num_images_per_prompt == 1:
            count = len(latents) if latents is not None else len(generator) if isinstance(generator, list) else 1
        count *= num_images_per_prompt
        if image_embeds is not None:
            image_embeds = _repeat(image_embeds.to(self._execution_device), count)
        self.scheduler.set_timesteps(num_inference_steps, self._execution_device, 1.0 if strength is None else float(strength))
        noise = self.prepare_latents(count, height, width, generator, latents)
        timesteps = self.scheduler.timesteps
        x = noise if start is None else self.scheduler.scale_noise(_repeat(start, count), timesteps[0], noise)
        with self.progress_bar(total=len(timesteps)) as bar:
            for index, timestep in enumerate(timesteps):
                output = self.predict(x, timestep, image_embeds, guidance_scale)
                x = self.scheduler.step(output, timestep, x, generator, eta).prev_sample
                if callback_on_step_end is not None:
                    x = (callback_on_step_end(self, index, timestep, {"latents": x}) or {}).get("latents", x)
                bar.update()
        self.maybe_free_model_hooks()
        images: Any = x if output_type == "latent" else self.to_output(self.decode(x), output_type)
        return ImagePipelineOutput(images=images) if return_dict else (images,)

    def predict(self, x: torch.Tensor, timestep: torch.Tensor, embeds: Rows, guidance: float) -> torch.Tensor:
        """The model's (guided) output, float32; guidance denoises every row twice in one batch, without and with its condition."""
        ready = x.to(self.transformer.dtype)
        if embeds is None or guidance <= 1:
            return self.transformer(ready, timestep, embeds).float()
        both = self.transformer(torch.cat([ready, ready]), timestep, torch.cat([torch.zeros_like(embeds), embeds]))
        without, given = both.float().chunk(2)
        return without + guidance * (given - without)

    def encode_image(self, image: Any, device: torch.device | str | None = None, num_images_per_prompt: int = 1) -> torch.Tensor:
        """PIL images, arrays or tensors (floats in [0, 1]) -> [N, D], or [N, K, D] for a model of several scales."""
        ready = []
        for one in pictures.from_output(image):
            pixels = torch.tensor(one).permute(2, 0, 1)[None]
            tokens = self.encoder.encode_scales(pixels, self.config.scales)
            ready.append(tokens if len(self.config.scales) > 1 or self.config.scales[0] > 1 else tokens[:, 0])
        return torch.cat(ready).to(device or self._execution_device).repeat_interleave(num_images_per_prompt, dim=0)

    def encode_latents(self, image: Any, height: int, width: int) -> torch.Tensor:
        """PIL images, arrays or tensors (floats in [0, 1]) -> float32 [N, C, h, w], what the model denoises."""
        ready = [torch.tensor(pictures.fit(one, height, width)).permute(2, 0, 1) for one in pictures.from_output(image)]
        return to_latents(self.vae, torch.stack(ready).to(self._execution_device), self.transformer.config.in_channels)

    def prepare_latents(self, count: int, height: int, width: int, generator: Generators, latents: Rows = None) -> torch.Tensor:
        """Noise, float32 [count, C, h, w]."""
        shape = (count, self.transformer.config.in_channels, height // self.factor, width // self.factor)
        if latents is None:
            return randn_tensor(shape, generator=generator, device=self._execution_device, dtype=torch.float32)
        if tuple(latents.shape) != shape:
            raise ValueError(f"latents must have shape {shape}, not {tuple(latents.shape)}")
        return latents.to(self._execution_device, torch.float32)

    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        """Latents (or pixels) -> float32 [N, 3, H, W] in [0, 1]."""
        if self.vae is not None:
            shift, scale = latent_scale(self.vae)
            latents = self.vae.decode((latents / scale + shift).to(self.vae.dtype), return_dict=False)[0]
        return (latents.float() / 2 + 0.5).clamp(0, 1).expand(-1, 3, -1, -1)

    def to_output(self, x: torch.Tensor, output_type: str) -> Any:
        """[N, 3, H, W] in [0, 1] -> images of the output type."""
        if output_type == "pt":
            return x
        array = x.permute(0, 2, 3, 1).cpu().numpy()
        return array if output_type == "np" else [pictures.to_pil(one) for one in pictures.from_output(array)]

    def _check(self, image: Any, strength: float | None, height: int, width: int, output_type: str) -> None:
        step = self.transformer.config.patch * self.factor
        if height % step or width % step:
            raise ValueError(f"height and width must be multiples of {step}, not {height}×{width}")
        if strength is not None and (image is None or not 0 < strength <= 1):
            raise ValueError(f"strength needs an image and lies in (0, 1], not {strength}")
        if output_type not in ("pil", "np", "pt", "latent"):
            raise ValueError(f"output_type is 'pil', 'np', 'pt' or 'latent', not {output_type!r}")


def latent_scale(vae: Any) -> tuple[float, float]:
    """(shift, scale) of an autoencoder: a latent is (encoded − shift)·scale."""
    return float(getattr(vae.config, "shift_factor", None) or 0.0), float(getattr(vae.config, "scaling_factor", None) or 1.0)


@torch.no_grad()
def to_latents(vae: Any, pixels: torch.Tensor, channels: int) -> torch.Tensor:
    """uint8 [N, 1 or 3, H, W] -> float32 [N, C, h, w]: latents, or without a vae pixels in [-1, 1] with so many channels."""
    x = pixels.float() / 127.5 - 1
    if vae is None:
        if channels == 1 and x.shape[1] == 3:
            x = (x * torch.tensor([0.299, 0.587, 0.114], device=x.device).view(3, 1, 1)).sum(1, keepdim=True)
        return x.expand(-1, channels, -1, -1)
    encoded = vae.encode(x.expand(-1, 3, -1, -1).to(vae.dtype))
    found = encoded.latent_dist.mode() if hasattr(encoded, "latent_dist") else encoded.latents
    shift, scale = latent_scale(vae)
    return (found.float() - shift) * scale


def _repeat(rows: torch.Tensor, count: int) -> torch.Tensor:
    return rows.repeat_interleave(count // len(rows), dim=0)
