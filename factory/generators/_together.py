"""Whether needs that a pipeline honours one by one are honoured at once: asked of a loaded pipeline, or of a class before any weights."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from factory.generators import _controls, _modes, _reference
from factory.generators._arguments import guidance_name, parameters

if TYPE_CHECKING:
    from factory.generators.diffusers import Diffusers

_GIVEN = {  # need -> the arguments of the call that it fills, first the one without which it would be lost
    "text": ("prompt",),
    "class_label": ("class_labels",),
    "image": ("image", "strength"),
    "mask": ("mask_image", "image", "strength"),
}
_EMBEDDED = ("image_embeds", "image_embeddings", "negative_image_embeds", "ip_adapter_image_embeds")


def why_not(mode: Any, target: Any, needs: frozenset[str], kind: Diffusers, embeds: bool) -> str:
    """One sentence on why this very set of needs cannot be honoured; empty where it can.

    mode: the pipeline, or its class, that the needs ask for.  target: what is called, which for combined pipelines is their decoder.
    embeds: the target takes image embeddings.
    """
    return _missing(mode, needs, kind) or _lost(mode, target, needs, embeds) or _unset(target, needs, kind, embeds)


def name_of(pipe: Any) -> str:
    """The class name of a pipeline or of a class."""
    return (pipe if isinstance(pipe, type) else type(pipe)).__name__


def _missing(mode: Any, needs: frozenset[str], kind: Diffusers) -> str:
    """What the condition leaves out and the pipeline cannot do without."""
    known, name = parameters(mode), name_of(mode)
    if "class_labels" in known and known["class_labels"].default is known["class_labels"].empty and "class_label" not in needs:
        return f"{name} makes images of a class, and the condition gives no class_label; choose one that does"
    if "mask_image" in known and "mask" not in needs and not _modes.is_own(mode):
        return f"{name} repaints a part of an image, and the condition gives no mask; use condition: inpaint"
    if "control" not in needs and _controls.argument(mode) is not None:
        return f"{name} follows a control image, and the condition gives none; use condition: control"
    steered = {"image", "image_embeds"} <= known.keys() and "strength" not in known
    if "image_embedding" not in needs and (steered or kind.ip_adapter):
        what = "an ip_adapter is loaded" if kind.ip_adapter else f"{name} is steered by image embeddings"
        return f"{what}, and the condition gives no image_embedding; choose one that does"
    if not needs & {"reference", "image_embedding"} and _reference.needed(mode):
        return f"{name} varies or edits a real image, and the condition gives none; use condition: image"
    return ""


def _lost(mode: Any, target: Any, needs: frozenset[str], embeds: bool) -> str:
    """What would be dropped without a word."""
    known = parameters(target)
    lost = [need for need, names in _GIVEN.items() if need in needs and names[0] not in known]
    lost += ["control"] if "control" in needs and _controls.argument(target) is None else []
    lost += ["reference"] if "reference" in needs and _reference.argument(target) is None else []
    lost += ["image_embedding"] if "image_embedding" in needs and not embeds else []
    if not lost:
        return ""
    return f"{name_of(mode)} cannot take {' and '.join(sorted(needs))} at once ({lost[0]} would be lost); choose a condition with fewer"


def _unset(target: Any, needs: frozenset[str], kind: Diffusers, embeds: bool) -> str:
    """What the call must be given and neither the condition nor the recipe gives."""
    known = parameters(target)
    given = {"self", "prompt", "generator", "batch_size", *kind.call}  # an empty prompt is given where there is none
    given |= {name for need in needs for name in _GIVEN.get(need, ())}
    given |= {str(_controls.argument(target))} if "control" in needs else set()
    given |= {str(_reference.argument(target))} if "reference" in needs else set()
    given |= set(_EMBEDDED) if embeds and "image_embedding" in needs else set()
    settings: dict[str, float | None] = {
        "num_inference_steps": kind.steps,
        "height": kind.height,
        "width": kind.width,
        "noise_level": kind.noise_level,
    }
    settings |= {str(guidance_name(target)): kind.guidance}
    given |= {name for name, value in settings.items() if value is not None}
    unset = [name for name, one in known.items() if one.default is one.empty and name not in given]
    if not unset:
        return ""
    return f"{name_of(target)} cannot be called without {', '.join(unset)}; set it in generator.call, or choose another pipeline"
