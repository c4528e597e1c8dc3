"""A diffusers pipeline conditioned on text, on an image's embedding, on any mix of embeddings, and on a starting image."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers.pipelines.pipeline_utils import ImagePipelineOutput
from diffusers.schedulers.scheduling_flow_match_euler_discrete import FlowMatchEulerDiscreteScheduler
from safetensors.torch import save_file
from torch.nn import functional as F

from factory import images as pictures
from factory.models.clip import ClipEncoder
from factory.models.pixels import batches, grey, signed
from factory.models.sampling import Callback, Generators, Rows, SamplingPipeline, repeat
from factory.models.transformer import PatchTransformer


class EmbeddingDiffusionPipeline(SamplingPipeline):
    """A rectified flow in pixel space, guided by CLIP embeddings of images (as in unCLIP, Ramesh et al. 2022) and of text."""

    transformer: PatchTransformer
    scheduler: Any
    clip: ClipEncoder
    model_cpu_offload_seq: Any = "clip->transformer"

    def __init__(self, transformer: PatchTransformer, scheduler: FlowMatchEulerDiscreteScheduler, clip: ClipEncoder):
        super().__init__()
        self.register_modules(transformer=transformer, scheduler=scheduler, clip=clip)

    @torch.no_grad()
    def __call__(
        self, prompt: str | list[str] | None = None, image: Any = None,
        image_embeds: torch.Tensor | None = None, prompt_embeds: torch.Tensor | None = None,
        strength: float | None = None, mask_image: Any = None, height: int | None = None, width: int | None = None,
        num_inference_steps: int = 16, guidance_scale: float = 1.5, negative_prompt: str | list[str] | None = None,
        num_images_per_prompt: int = 1, generator: Generators = None, latents: torch.Tensor | None = None,
        output_type: str = "pil", return_dict: bool = True,
        callback_on_step_end: Callback = None, callback_on_step_end_tensor_inputs: list[str] | None = None,
    ) -> ImagePipelineOutput | tuple[Any]:  # fmt: skip
        """Make images; every condition may be left out, and those given are combined. The class says what the other arguments are.

        prompt, prompt_embeds: text, or its embeddings [N, D].
        image without strength: a variation, conditioned on the image's embedding alone; no pixel of it is used.
        image with strength in (0, 1]: image to image (SDEdit, Meng et al. 2021): starts from the image noised to that
        level; 1 forgets it. Conditions are then what prompt and image_embeds say.
        mask_image: with an image: white where it is repainted, the rest of the image stays as it is. At every step the rest is the
        image noised to that level (RePaint, Lugmayr et al. 2022, without its resampling). strength is then 1 if not given.
        image_embeds: [N, D], used as given; a mean of several images' embeddings is a mix of them.
        Raises ValueError for inputs that contradict each other.
        """
        side = self.transformer.config.sample_size
        height, width = height or side, width or side
        strength = 1.0 if strength is None and mask_image is not None else strength
        self._check(image, strength, height, width, output_type)
        embeds = self._embeds(prompt, image, image_embeds, prompt_embeds, strength)
        start = None if strength is None else self.prepare_image(image, height, width)
        count, (start, *embeds) = self._batch(num_images_per_prompt, generator, latents, start, *embeds)
        guided = guidance_scale > 1 and any(rows is not None for rows in embeds)
        conditions = self._conditions(count, embeds, negative_prompt, guided)
        timesteps = self._schedule(num_inference_steps, strength)
        noise = self.prepare_latents(count, height, width, generator, latents)
        repaint = None if mask_image is None else repeat(self.prepare_mask(mask_image, height, width), count)

        def step(number: int, timestep: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
            velocity = self._velocity(x, timestep, conditions, guidance_scale if guided else None)
            x = self.scheduler.step(velocity.float(), timestep, x, return_dict=False)[0]
            return x if repaint is None else torch.where(repaint, x, self._noised(noise, start, number + 1))

        made = self._denoised(self._noised(noise, start, 0), timesteps, step, callback_on_step_end)
        return self._output(made, output_type, return_dict)

    def encode_prompt(
        self, prompt: str | list[str], device: torch.device | str | None = None, num_images_per_prompt: int = 1
    ) -> torch.Tensor:
        """N texts -> prompt_embeds [N * num_images_per_prompt, D], unit rows."""
        prompt_embeds = self.clip.encode_text([prompt] if isinstance(prompt, str) else list(prompt))
        prompt_embeds = prompt_embeds.to(device or self._execution_device).repeat_interleave(num_images_per_prompt, dim=0)
        return prompt_embeds

    def encode_image(self, image: Any, device: torch.device | str | None = None, num_images_per_prompt: int = 1) -> torch.Tensor:
        """PIL images, arrays or tensors (floats in [0, 1]) -> image_embeds [N * num_images_per_prompt, D], unit rows."""
        ready = [self.clip.encode_image(pixels) for pixels in batches(pictures.from_output(image))]
        image_embeds = torch.cat(ready).to(device or self._execution_device).repeat_interleave(num_images_per_prompt, dim=0)
        return image_embeds

    def prepare_image(self, image: Any, height: int, width: int) -> torch.Tensor:
        """PIL images, arrays or tensors (floats in [0, 1]) -> [N, C, height, width] in [-1, 1], C the transformer's channels."""
        ready = []
        for one in pictures.from_output(image):
            x = signed(torch.tensor(one).permute(2, 0, 1)[None])
            if self.transformer.config.in_channels == 1:
                x = grey(x)
            if x.shape[2:] != (height, width):
                x = F.interpolate(x, (height, width), mode="bilinear", antialias=True, align_corners=False)
            ready.append(x)
        return torch.cat(ready).to(self._execution_device)

    def prepare_mask(self, mask_image: Any, height: int, width: int) -> torch.Tensor:
        """PIL images, arrays or tensors -> bool [N, 1, height, width], true where it is repainted; by nearest neighbour."""
        ready = [torch.tensor(one[None, None, :, :, 0]).float() for one in pictures.from_output(mask_image)]
        return torch.cat([F.interpolate(one, (height, width), mode="nearest") for one in ready]).to(self._execution_device) > 127

    def _noised(self, noise: torch.Tensor, start: Rows, step: int) -> torch.Tensor:
        """The start image at the noise level of a step of the schedule; without one, the noise."""
        level = self.scheduler.sigmas[step].to(noise.device)
        return noise if start is None else level * noise + (1 - level) * start

    def load_lora_weights(self, model: Any, adapter_name: str | None = None, **options: Any) -> None:
        """Low-rank weights from a folder, a .safetensors file or a Hub id, under a name; see `set_adapters` for their scale."""
        self.transformer.load_lora_adapter(model, prefix="transformer", adapter_name=adapter_name, **options)

    def set_adapters(self, adapter_names: list[str], adapter_weights: list[float] | None = None) -> None:
        """Which of the loaded weights are in force, and how strongly."""
        self.transformer.set_adapters(adapter_names, adapter_weights)

    @classmethod
    def save_lora_weights(cls, save_directory: str, transformer_lora_layers: dict[str, torch.Tensor]) -> None:
        """Write pytorch_lora_weights.safetensors, as diffusers' pipelines do."""
        folder = Path(save_directory)
        folder.mkdir(parents=True, exist_ok=True)
        named = {f"transformer.{name}": tensor for name, tensor in transformer_lora_layers.items()}
        save_file(named, folder / "pytorch_lora_weights.safetensors", metadata={"format": "pt"})

    def _velocity(self, latents: torch.Tensor, timestep: torch.Tensor, conditions: dict[str, Rows], guidance: float | None) -> torch.Tensor:
        """The (guided) velocity; guidance denoises every row twice in one batch, without and with its condition."""
        x = latents.to(self.transformer.dtype)
        if guidance is None:
            return self.transformer(x, timestep, **conditions)
        without, given = self.transformer(torch.cat([x, x]), timestep, **conditions).chunk(2)
        return without + guidance * (given - without)

    def _conditions(self, count: int, embeds: list[Rows], negative_prompt: str | list[str] | None, guided: bool) -> dict[str, Rows]:
        """Embeddings for the denoiser; under guidance the unconditional half comes first, zeros or the negative prompt."""
        given = dict(zip(("image_embeds", "prompt_embeds"), embeds, strict=True))
        if not guided:
            return given
        without = {}
        if negative_prompt is not None:
            negative = self.encode_prompt(negative_prompt)
            without["prompt_embeds"] = repeat(negative, count)
            if given["prompt_embeds"] is None:
                given["prompt_embeds"] = negative.new_zeros(count, negative.shape[1])
        pairs = {name: (without.get(name, torch.zeros_like(rows)), rows) for name, rows in given.items() if rows is not None}
        return {name: torch.cat(pair) for name, pair in pairs.items()}

    def _schedule(self, steps: int, strength: float | None) -> torch.Tensor:
        """Timesteps from noise (or from `strength` on the way to it) down to the image, evenly spaced."""
        top = 1.0 if strength is None else float(strength)
        steps = max(1, round(steps * top))
        self.scheduler.set_timesteps(sigmas=np.linspace(top, top / steps, steps).tolist(), device=self._execution_device)
        return self.scheduler.timesteps

    def _embeds(self, prompt: Any, image: Any, image_embeds: Rows, prompt_embeds: Rows, strength: float | None) -> list[Rows]:
        """[image_embeds, prompt_embeds]: those that were given, or of the image and the text that were. Raises ValueError where both were."""
        if prompt is not None and prompt_embeds is not None:
            raise ValueError("prompt and prompt_embeds say the same thing; pass one of them")
        if image is not None and strength is None and image_embeds is not None:
            raise ValueError("image and image_embeds both ask for a variation; pass one of them, or a strength to start from the image")
        return [
            self.encode_image(image) if image is not None and strength is None else image_embeds,
            self.encode_prompt(prompt) if prompt is not None else prompt_embeds,
        ]
