"""What the factory's own pipelines share: how many images a call makes, its starting noise, the loop over timesteps, and what comes out."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import torch
from diffusers.pipelines.pipeline_utils import DiffusionPipeline, ImagePipelineOutput
from diffusers.utils.torch_utils import randn_tensor

from factory import images as pictures

Generators = torch.Generator | list[torch.Generator] | None
Rows = torch.Tensor | None
Callback = Callable[..., dict[str, torch.Tensor]] | None
OUTPUTS = ("pil", "np", "pt", "latent")


class SamplingPipeline(DiffusionPipeline):
    """A denoiser of images or latents by embeddings of the images. What the calls of all such pipelines take:

    height, width: pixels, multiples of `factor` times the patch; the trained size where not given.
    guidance_scale: classifier-free guidance (Ho and Salimans 2022); at most 1 turns it off.
    generator: one, or one per image; with one per image, each image depends on its own alone.
    latents: starting noise [N, C, h, w], in place of the generator's.
    output_type: "pil", "np" ([N, H, W, 3] in [0, 1]) or "pt" ([N, 3, H, W] in [0, 1]), always RGB; or "latent", what is denoised.
    callback_on_step_end: called as (pipeline, step, timestep, {"latents": …}); may return changed latents.
    """

    transformer: Any
    scheduler: Any
    _callback_tensor_inputs: ClassVar[list[str]] = ["latents"]

    @property
    def factor(self) -> int:
        """Pixels per latent, along a side."""
        return 1

    def prepare_latents(self, count: int, height: int, width: int, generator: Generators, latents: Rows = None) -> torch.Tensor:
        """Noise, float32 [count, C, h, w]; the given latents where there are some. Raises ValueError for those of another shape."""
        shape = (count, self.transformer.config.in_channels, height // self.factor, width // self.factor)
        if latents is None:
            return randn_tensor(shape, generator=generator, device=self._execution_device, dtype=torch.float32)
        if tuple(latents.shape) != shape:
            raise ValueError(f"latents must have shape {shape}, not {tuple(latents.shape)}")
        return latents.to(self._execution_device, torch.float32)

    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        """What the model denoises -> float32 [N, 3, H, W] in [0, 1]."""
        return (latents.float() / 2 + 0.5).clamp(0, 1).expand(-1, 3, -1, -1)

    def _batch(self, copies: int, generator: Generators, latents: Rows, *rows: Rows) -> tuple[int, list[Rows]]:
        """How many images, and every input with so many rows."""
        counts = {len(one) for one in rows if one is not None and len(one) > 1}
        if len(counts) > 1:
            raise ValueError(f"prompt, image and embeddings have different lengths: {sorted(counts)}")
        count = counts.pop() if counts else 1
        if count == 1 and copies == 1:
            count = len(latents) if latents is not None else len(generator) if isinstance(generator, list) else 1
        count *= copies
        return count, [None if one is None else repeat(one.to(self._execution_device), count) for one in rows]

    def _denoised(
        self, x: torch.Tensor, timesteps: torch.Tensor, step: Callable[[int, torch.Tensor, torch.Tensor], torch.Tensor], callback: Callback
    ) -> torch.Tensor:
        """step(number, timestep, x) at each timestep in turn."""
        with self.progress_bar(total=len(timesteps)) as bar:
            for number, timestep in enumerate(timesteps):
                x = step(number, timestep, x)
                if callback is not None:
                    x = (callback(self, number, timestep, {"latents": x}) or {}).get("latents", x)
                bar.update()
        self.maybe_free_model_hooks()
        return x

    def _output(self, latents: torch.Tensor, output_type: str, return_dict: bool) -> ImagePipelineOutput | tuple[Any]:
        """The latents themselves, or RGB images: "np" [N, H, W, 3] and "pt" [N, 3, H, W] in [0, 1], or "pil"."""
        images: Any = latents
        if output_type != "latent":
            images = self.decode(latents)
        if output_type in ("np", "pil"):
            images = images.permute(0, 2, 3, 1).cpu().numpy()
        if output_type == "pil":
            images = [pictures.to_pil(one) for one in pictures.from_output(images)]
        return ImagePipelineOutput(images=images) if return_dict else (images,)

    def _check(self, image: Any, strength: float | None, height: int, width: int, output_type: str) -> None:
        """Raises ValueError for inputs that contradict each other."""
        step = self.transformer.config.patch * self.factor
        if height % step or width % step:
            raise ValueError(f"height and width must be multiples of {step}, not {height}×{width}")
        if strength is not None and (image is None or not 0 < strength <= 1):
            raise ValueError(f"strength needs an image and lies in (0, 1], not {strength}")
        if output_type not in OUTPUTS:
            raise ValueError(f"output_type is 'pil', 'np', 'pt' or 'latent', not {output_type!r}")


def repeat(rows: torch.Tensor, count: int) -> torch.Tensor:
    """[N, …] -> [count, …], each row as often as its neighbours; count is a multiple of N."""
    return rows.repeat_interleave(count // len(rows), dim=0)
