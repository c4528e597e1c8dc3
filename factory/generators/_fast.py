"""Few-step sampling: what each distilled model or adapter must be run with, filled in where the recipe is silent.

LCM-LoRA (Luo et al. 2023, arXiv 2311.05556), Turbo (Sauer et al. 2023, arXiv 2311.17042), Hyper-SD (Ren et al. 2024, arXiv 2404.13686),
TCD (Zheng et al. 2024, arXiv 2402.19159). Each costs diversity: measure it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from factory.errors import UserError


@dataclass(frozen=True)
class Preset:
    """steps, guidance: (default, least, most).  loras: model family -> (repository, file), where the speed comes from an adapter."""

    steps: tuple[int, int, int]
    guidance: tuple[float, float, float]
    scheduler: str | None = None
    options: dict[str, Any] = field(default_factory=dict)
    call: dict[str, Any] = field(default_factory=dict)
    loras: dict[str, tuple[str, str | None]] = field(default_factory=dict)


PRESETS = {
    "lcm_lora": Preset(
        (4, 2, 8),
        (1.5, 0, 2),
        "LCMScheduler",
        loras={"sd15": ("latent-consistency/lcm-lora-sdv1-5", None), "sdxl": ("latent-consistency/lcm-lora-sdxl", None)},
    ),
    "turbo": Preset((2, 1, 4), (0, 0, 1)),
    "hyper_sd": Preset(
        (8, 8, 12),
        (5, 1, 8),
        "DDIMScheduler",
        {"timestep_spacing": "trailing"},
        loras={
            "sd15": ("ByteDance/Hyper-SD", "Hyper-SD15-{steps}steps-CFG-lora.safetensors"),
            "sdxl": ("ByteDance/Hyper-SD", "Hyper-SDXL-{steps}steps-CFG-lora.safetensors"),
        },
    ),
    "tcd": Preset(
        (4, 2, 50),
        (0, 0, 1),
        "TCDScheduler",
        call={"eta": 0.3},
        loras={"sd15": ("h1t/TCD-SD15-LoRA", None), "sdxl": ("h1t/TCD-SDXL-LoRA", None)},
    ),
}


def filled(values: dict[str, Any]) -> dict[str, Any]:
    """A recipe's generator with the preset's defaults where it has none of its own. Unknown presets are left to validation."""
    preset = PRESETS.get(str(values.get("fast")))
    if preset is None:
        return values
    defaults: dict[str, Any] = {"steps": preset.steps[0], "guidance": preset.guidance[0], "call": preset.call}
    if preset.scheduler and "scheduler" not in values:
        defaults |= {"scheduler": preset.scheduler, "scheduler_options": preset.options}
    return {**{key: value for key, value in defaults.items() if value not in ({}, None)}, **values}


def fault(fast: str | None, steps: int | None, guidance: float | None, scheduler: str | None, negative_prompt: str | None) -> str:
    """What does not go together, and what to write; empty where all does."""
    if negative_prompt is not None and guidance is not None and guidance <= 1:
        return f"negative_prompt works through guidance, and guidance {guidance:g} is none; remove negative_prompt, or set guidance above 1"
    if fast is None:
        return ""
    preset = PRESETS[fast]
    if preset.scheduler and scheduler != preset.scheduler:
        return f"fast: {fast} needs scheduler {preset.scheduler}, not {scheduler}; remove the key scheduler"
    for name, value, (default, least, most) in (("steps", steps, preset.steps), ("guidance", guidance, preset.guidance)):
        if value is not None and not least <= value <= most:
            return f"fast: {fast} wants {name} from {least:g} to {most:g} (default {default:g}), not {value:g}"
    if fast == "hyper_sd" and steps not in (8, 12):
        return f"fast: hyper_sd has adapters for 8 and 12 steps, not {steps}"
    return ""


def lora(fast: str, pipeline: str, steps: int | None) -> tuple[str, str | None] | None:
    """(repository, file) of the adapter for a pipeline class's family; None for a preset without one. Raises UserError for other families."""
    loras = PRESETS[fast].loras
    if not loras:
        return None
    family = "sdxl" if pipeline.startswith("StableDiffusionXL") else "sd15" if pipeline.startswith("StableDiffusion") else ""
    if pipeline.startswith("StableDiffusion3") or family not in loras:
        raise UserError(f"generator.fast: {fast} has no published adapter for {pipeline}; name one in generator.loras")
    repository, name = loras[family]
    return repository, name.format(steps=steps) if name else None
