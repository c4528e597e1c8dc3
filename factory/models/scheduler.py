"""One scheduler for the Gaussian paths between image and noise: flow matching, stochastic interpolants, DDPM and v-prediction.

A path is x_t = α(t)·x + σ(t)·ε for t in [0, 1]; what a model predicts (velocity, noise, v or the image) is a linear map of (x, ε), so that
every pairing has the same sampling step: recover x and ε, and put them together again at the next time (Albergo et al. 2023,
arXiv 2303.08797; Ma et al. 2024, SiT, arXiv 2401.08740). On the linear path this step is Euler's; on the variance-preserving one DDIM's.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.schedulers.scheduling_utils import SchedulerMixin
from diffusers.utils.outputs import BaseOutput
from diffusers.utils.torch_utils import randn_tensor

Path = Literal["linear", "trigonometric", "variance_preserving"]
Prediction = Literal["velocity", "v_prediction", "epsilon", "sample"]
BETAS = (0.1, 20.0)  # Ho et al. 2020, in continuous time (Song et al. 2021, eq. 32)
TIMES = 1000
EDGE = 1e-3  # the ends of the path, where one of x and ε cannot be told from x_t, are left out


@dataclass
class PathOutput(BaseOutput):
    """prev_sample: x at the next time.  pred_original_sample: the image as the model sees it now."""

    prev_sample: torch.Tensor
    pred_original_sample: torch.Tensor


class GaussianPathScheduler(SchedulerMixin, ConfigMixin):  # type: ignore[misc]
    """path: linear (rectified flow), trigonometric (a stochastic interpolant; DDPM's cosine schedule) or variance_preserving (DDPM).

    prediction: what the model's output is.  eta: fresh noise per step, 0 deterministic, 1 ancestral (DDIM, Song et al. 2021).
    """

    order = 1
    config: Any

    @register_to_config
    def __init__(self, path: Path = "linear", prediction: Prediction = "velocity", eta: float = 0.0):
        if prediction == "epsilon" and path != "variance_preserving":
            raise ValueError(f"epsilon says nothing at the noisy end of the {path} path; use velocity or v_prediction")
        self.timesteps = torch.linspace(TIMES, TIMES / 50, 50)
        self.init_noise_sigma = 1.0

    def levels(self, time: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """t in [0, 1] -> (α, σ)."""
        if self.config.path == "linear":
            return 1 - time, time
        if self.config.path == "trigonometric":
            return (time * (math.pi / 2)).cos(), (time * (math.pi / 2)).sin()
        low, high = BETAS
        log_alpha = -0.25 * time**2 * (high - low) - 0.5 * time * low
        return log_alpha.exp(), (-torch.expm1(2 * log_alpha)).clamp_min(0).sqrt()

    def slopes(self, time: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """t in (0, 1] -> (dα/dt, dσ/dt); below EDGE those at EDGE, since dσ/dt of variance_preserving has no bound at 0."""
        time = time.clamp_min(EDGE)
        alpha, sigma = self.levels(time)
        if self.config.path == "linear":
            return -torch.ones_like(time), torch.ones_like(time)
        if self.config.path == "trigonometric":
            return -sigma * (math.pi / 2), alpha * (math.pi / 2)
        low, high = BETAS
        slope = alpha * (-0.5 * time * (high - low) - 0.5 * low)
        return slope, -alpha * slope / sigma

    def scale_noise(self, sample: torch.Tensor, timestep: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
        """The image at a noise level. timestep: scalar or [N], in [0, 1000]."""
        alpha, sigma = self._at(timestep, sample, self.levels)
        return alpha * sample + sigma * noise

    def target(self, sample: torch.Tensor, timestep: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
        """What the model should answer for `scale_noise` of the same arguments."""
        x_share, noise_share = self._shares(timestep, sample)
        return x_share * sample + noise_share * noise

    def split(self, output: torch.Tensor, timestep: torch.Tensor, sample: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The model's output at a noisy sample -> (predicted image, predicted noise)."""
        alpha, sigma = self._at(timestep, sample, self.levels)
        x_share, noise_share = self._shares(timestep, sample)
        determinant = alpha * noise_share - sigma * x_share
        return (noise_share * sample - sigma * output) / determinant, (alpha * output - x_share * sample) / determinant

    def set_timesteps(self, num_inference_steps: int, device: Any = None, strength: float = 1.0) -> None:
        """Evenly spaced from noise (or from `strength` on the way to it) to the last step before the image; float [steps]."""
        top = min(strength, 1 - EDGE)
        steps = max(1, round(num_inference_steps * strength))
        self.timesteps = torch.linspace(top, 0, steps + 1, device=device)[:-1] * TIMES

    def following(self, timestep: torch.Tensor) -> torch.Tensor:
        """The time after this one in the schedule; 0 after the last."""
        place = int((self.timesteps - timestep).abs().argmin())
        return self.timesteps[place + 1] if place + 1 < len(self.timesteps) else torch.zeros_like(timestep)

    def step(
        self,
        model_output: torch.Tensor,
        timestep: torch.Tensor,
        sample: torch.Tensor,
        generator: Any = None,
        eta: float | None = None,
    ) -> PathOutput:
        """One step along the schedule; see `recombine`."""
        original, noise = self.split(model_output, timestep, sample)
        moved = self.recombine(original, noise, timestep, generator, eta)
        return PathOutput(prev_sample=moved, pred_original_sample=original)

    def recombine(
        self, original: torch.Tensor, noise: torch.Tensor, timestep: torch.Tensor, generator: Any = None, eta: float | None = None
    ) -> torch.Tensor:
        """The predicted image and noise at the time after this one; with eta, a part of the noise is drawn afresh (DDIM, eq. 16)."""
        eta = self.config.eta if eta is None else eta
        alpha, sigma = self._at(timestep, original, self.levels)
        next_alpha, next_sigma = self._at(self.following(timestep), original, self.levels)
        fresh = eta * next_sigma * (1 - (alpha * next_sigma / (next_alpha * sigma)) ** 2).clamp_min(0).sqrt()
        moved = next_alpha * original + (next_sigma**2 - fresh**2).clamp_min(0).sqrt() * noise
        if eta > 0:
            moved = moved + fresh * randn_tensor(original.shape, generator=generator, device=original.device, dtype=original.dtype)
        return moved

    def _shares(self, timestep: torch.Tensor, sample: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """What the prediction is made of: so much of the image, so much of the noise."""
        prediction = self.config.prediction
        if prediction == "velocity":
            return self._at(timestep, sample, self.slopes)
        alpha, sigma = self._at(timestep, sample, self.levels)
        if prediction == "v_prediction":  # Salimans and Ho 2022
            return -sigma, alpha
        one, zero = torch.ones_like(alpha), torch.zeros_like(alpha)
        return (zero, one) if prediction == "epsilon" else (one, zero)

    def _at(self, timestep: torch.Tensor, sample: torch.Tensor, of: Any) -> tuple[torch.Tensor, torch.Tensor]:
        """Two coefficients at a timestep, shaped to multiply the sample."""
        time = (timestep.to(sample.device, torch.float32) / TIMES).clamp(0, 1)
        first, second = of(time)
        shape = (-1, *[1] * (sample.ndim - 1)) if time.ndim else ()
        return first.reshape(shape), second.reshape(shape)
