"""The call's arguments, by the names in the pipeline's own signature."""

from __future__ import annotations

import difflib
import inspect
from typing import TYPE_CHECKING, Any

from factory.errors import UserError

if TYPE_CHECKING:
    from factory.generators.diffusers import Diffusers

GUIDANCE = ("guidance_scale", "true_cfg_scale", "prior_guidance_scale", "decoder_guidance_scale", "distilled_guidance_scale")
OURS = {  # argument -> what sets it instead
    "prompt": "the prompts",
    "image": "the condition",
    "image_embeds": "the condition",
    "ip_adapter_image": "the condition",
    "ip_adapter_image_embeds": "the condition",
    "class_labels": "the condition",
    "strength": "the condition",
    "mask_image": "the condition",
    "control_image": "the condition",
    "controlnet_conditioning_scale": "generator.controlnets",
    "control_guidance_start": "generator.controlnets",
    "control_guidance_end": "generator.controlnets",
    "generator": "the plan's seeds",
    "latents": "the plan's seeds",
    "batch_size": "generator.batch",
    "num_images_per_prompt": "generator.batch",
    "negative_prompt": "generator.negative_prompt",
    "num_inference_steps": "generator.steps",
    "height": "generator.height",
    "width": "generator.width",
    "noise_level": "generator.noise_level",
    "output_type": "the factory",
    "return_dict": "the factory",
}


def parameters(pipe: Any) -> dict[str, inspect.Parameter]:
    """The named parameters of the call of a pipeline or of a pipeline class."""
    found = inspect.signature(pipe.__call__).parameters
    return {name: one for name, one in found.items() if one.kind not in (one.VAR_KEYWORD, one.VAR_POSITIONAL)}


def guidance_name(pipe: Any) -> str | None:
    """The argument that scales guidance: the first whose default is a number that guides (QwenImage names two and uses the second)."""
    present = [(name, one) for name, one in parameters(pipe).items() if name in GUIDANCE]
    present.sort(key=lambda pair: (*_idle(pair[1].default), GUIDANCE.index(pair[0])))
    return present[0][0] if present else None


def _idle(default: object) -> tuple[bool, bool]:
    """Whether a default scale is none at all, and whether it guides nothing: what sorts last."""
    scale = isinstance(default, int | float)
    return not scale, not (isinstance(default, int | float) and default > 1)


def settled(pipe: Any, kind: Diffusers, resizes: bool) -> dict[str, Any]:
    """The arguments that are the same for every batch. resizes: height and width are honoured by resizing the initial image.

    Raises UserError for a setting that this pipeline cannot honour: it would be recorded and change nothing.
    """
    known = parameters(pipe)
    wanted: dict[str, tuple[str, Any]] = {
        "steps": ("num_inference_steps", kind.steps),
        "height": ("height", kind.height),
        "width": ("width", kind.width),
        "noise_level": ("noise_level", kind.noise_level),
        "negative_prompt": ("negative_prompt", kind.negative_prompt),
    }
    name = guidance_name(pipe)
    if name is not None or "guidance" in kind.model_fields_set:
        wanted["guidance"] = (name or GUIDANCE[0], kind.guidance)
    chosen = {}
    for key, (argument, value) in wanted.items():
        if value is None or (resizes and argument in ("height", "width") and argument not in known):
            continue
        if argument not in known:
            raise UserError(f"generator.{key}: {type(pipe).__name__} takes no {argument}; remove the key. It takes: {', '.join(known)}")
        chosen[argument] = value
    chosen.pop("negative_prompt", None)  # its length is the batch's
    true = known.get("true_cfg_scale")
    if kind.negative_prompt and true is not None and name != "true_cfg_scale" and kind.call.get("true_cfg_scale", true.default) <= 1:
        raise UserError(
            f"generator.negative_prompt: {type(pipe).__name__} heeds it only with a true_cfg_scale above 1; set call: {{true_cfg_scale: 2}}"
        )
    output = {"output_type": _output_type(pipe)} if "output_type" in known else {}
    return {**chosen, **_extra(known, kind, type(pipe).__name__, chosen), **output}


def negative_prompt(pipe: Any, kind: Diffusers) -> str | None:
    """What to guide away from. Pipelines with a true_cfg_scale guide only when told so, be it by an empty text."""
    if kind.negative_prompt is None and guidance_name(pipe) == "true_cfg_scale" and (kind.guidance or 0) > 1:
        return ""
    return kind.negative_prompt


def needs_prompt(pipe: Any) -> bool:
    """Whether a prompt must be given even where a condition has no text. diffusers' own default of None is refused by their checks."""
    prompt = parameters(pipe).get("prompt")
    return prompt is not None and (prompt.default is prompt.empty or type(pipe).__module__.startswith("diffusers."))


def guided(pipe: Any, settings: dict[str, Any]) -> bool:
    """Whether the pipeline will do classifier-free guidance; it is asked itself, where it can answer."""
    name = guidance_name(pipe)
    scale = settings.get(name, parameters(pipe)[name].default) if name else None
    if isinstance(getattr(type(pipe), "do_classifier_free_guidance", None), property):
        pipe._guidance_scale = scale
        return bool(pipe.do_classifier_free_guidance)
    return scale is not None and scale > 1


def _extra(known: dict[str, inspect.Parameter], kind: Diffusers, model: str, chosen: dict[str, Any]) -> dict[str, Any]:
    for name in kind.call:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            raise UserError(
                f"generator.call.{name}: {model} takes no such argument; "
                + (f"did you mean {near[0]}?" if near else f"it takes: {', '.join(known)}")
            )
        if name in OURS:
            raise UserError(f"generator.call.{name}: this argument is set by {OURS[name]}; remove it")
        if name in chosen and "guidance" in kind.model_fields_set:
            raise UserError(f"generator.call.{name}: generator.guidance sets it already; keep one of them")
    return dict(kind.call)


def _output_type(pipe: Any) -> str:
    """`pt`, which becomes uint8 on the device, where the pipeline's image processor maps it to [0, 1]; else `np`.

    Pipelines without one leave `pt` in another range: Kandinsky 2.2 returns [-1, 1].
    """
    if type(pipe).__module__.startswith("factory."):
        return "pt"
    try:
        source = inspect.getsource(inspect.unwrap(type(pipe).__call__))
    except (OSError, TypeError):
        return "np"
    return "pt" if ".postprocess(" in source else "np"
