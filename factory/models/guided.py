"""A diffusers pipeline guided by self-supervised embeddings of images, in pixels or latents, for images of any size.

Learned representation-guided diffusion (Graikos et al. 2024, arXiv 2312.07330); tokens of neighbours: RDM (Blattmann et al. 2022).
"""

from __future__ import annotations

from typing import Any

import torch
from diffusers.pipelines.pipeline_utils import ImagePipelineOutput

from factory import images as pictures
from factory.models.pixels import batches, grey, signed
from factory.models.representation import RepresentationEncoder
from factory.models.sampling import Callback, Generators, Rows, SamplingPipeline
from factory.models.scheduler import GaussianPathScheduler
from factory.models.transformer import PatchTransformer


class RepresentationDiffusionPipeline(SamplingPipeline):
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
        return 1 if self.vae is None else latent_factor(self.vae)

    @property
    def sample_size(self) -> tuple[int, int]:
        """Trained height and width, in pixels."""
        height, width = self.transformer.size
        return height * self.factor, width * self.factor

    @torch.no_grad()
    def __call__(
        self, image: Any = None, image_embeds: torch.Tensor | None = None, strength: float | None = None,
        height: int | None = None, width: int | None = None,
        num_inference_steps: int = 25, guidance_scale: float = 2.0, eta: float | None = None,
        num_images_per_prompt: int = 1, generator: Generators = None, latents: torch.Tensor | None = None,
        output_type: str = "pil", return_dict: bool = True,
        callback_on_step_end: Callback = None, callback_on_step_end_tensor_inputs: list[str] | None = None,
    ) -> ImagePipelineOutput | tuple[Any]:  # fmt: skip
        """Make images; without image and image_embeds, unconditional ones. The class says what the other arguments are.

        image without strength: variations, conditioned on the images' embeddings alone; no pixel is used.
        image with strength in (0, 1]: image to image (SDEdit, Meng et al. 2021), conditioned on image_embeds where given, else on the
        image's own.
        image_embeds: [N, D], or [N, K, D] for several tokens, used as given; zeros are no condition.
        guidance_scale: the paper uses 2.  eta: see the scheduler; None for its own.
        Raises ValueError for inputs that contradict each other.
        """
        height, width = height or self.sample_size[0], width or self.sample_size[1]
        self._check(image, strength, height, width, output_type)
        if image is not None and image_embeds is None:
            image_embeds = self.encode_image(image)
        start = None if strength is None else self.encode_latents(image, height, width)
        count, (image_embeds, start) = self._batch(num_images_per_prompt, generator, latents, image_embeds, start)
        self.scheduler.set_timesteps(num_inference_steps, self._execution_device, 1.0 if strength is None else float(strength))
        timesteps = self.scheduler.timesteps
        noise = self.prepare_latents(count, height, width, generator, latents)
        x = noise if start is None else self.scheduler.scale_noise(start, timesteps[0], noise)

        def step(_: int, timestep: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
            output = self.predict(x, timestep, image_embeds, guidance_scale)
            return self.scheduler.step(output, timestep, x, generator, eta).prev_sample

        return self._output(self._denoised(x, timesteps, step, callback_on_step_end), output_type, return_dict)

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
        for pixels in batches(pictures.from_output(image)):
            tokens = self.encoder.encode_scales(pixels, self.config.scales)
            ready.append(tokens if len(self.config.scales) > 1 or self.config.scales[0] > 1 else tokens[:, 0])
        return torch.cat(ready).to(device or self._execution_device).repeat_interleave(num_images_per_prompt, dim=0)

    def encode_latents(self, image: Any, height: int, width: int) -> torch.Tensor:
        """PIL images, arrays or tensors (floats in [0, 1]) -> float32 [N, C, h, w], what the model denoises."""
        ready = [torch.tensor(pictures.fit(one, height, width)).permute(2, 0, 1) for one in pictures.from_output(image)]
        return to_latents(self.vae, torch.stack(ready).to(self._execution_device), self.transformer.config.in_channels)

    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        """Latents (or pixels) -> float32 [N, 3, H, W] in [0, 1]."""
        return super().decode(latents if self.vae is None else from_latents(self.vae, latents))


def latent_factor(vae: Any) -> int:
    """Pixels per latent of an autoencoder, along a side."""
    return int(2 ** (len(vae.config.block_out_channels) - 1))


def latent_scale(vae: Any) -> tuple[float, float]:
    """(shift, scale) of an autoencoder: a latent is (encoded − shift)·scale."""
    return float(getattr(vae.config, "shift_factor", None) or 0.0), float(getattr(vae.config, "scaling_factor", None) or 1.0)


@torch.no_grad()
def to_latents(vae: Any, pixels: torch.Tensor, channels: int) -> torch.Tensor:
    """uint8 [N, 1 or 3, H, W] -> float32 [N, C, h, w]: latents, or without a vae pixels in [-1, 1] with so many channels."""
    x = signed(pixels)
    if vae is None:
        x = grey(x) if channels == 1 and x.shape[1] == 3 else x
        return x.expand(-1, channels, -1, -1)
    encoded = vae.encode(x.expand(-1, 3, -1, -1).to(vae.dtype))
    found = encoded.latent_dist.mode() if hasattr(encoded, "latent_dist") else encoded.latents
    shift, scale = latent_scale(vae)
    return (found.float() - shift) * scale


def from_latents(vae: Any, latents: torch.Tensor) -> torch.Tensor:
    """[N, C, h, w] -> [N, 3, H, W] in about [-1, 1], in the autoencoder's number type."""
    shift, scale = latent_scale(vae)
    decoded: torch.Tensor = vae.decode((latents / scale + shift).to(vae.dtype), return_dict=False)[0]
    return decoded
