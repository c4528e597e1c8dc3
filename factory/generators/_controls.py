"""ControlNets (Zhang et al. 2023, arXiv 2302.05543) beside a pipeline, and the argument that takes their images."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from factory.errors import UserError
from factory.generators._arguments import parameters
from factory.generators._source import last_line, refuse_pickled_folder

if TYPE_CHECKING:
    from factory.generators.diffusers import ControlNet, Diffusers

SCALES = ("controlnet_conditioning_scale", "adapter_conditioning_scale")


def argument(pipe: Any) -> str | None:
    """The parameter of a pipeline's (or a class's) call that takes control images, or None: `image` may be an initial image too."""
    known = parameters(pipe)
    if "control_image" in known:
        return "control_image"
    return "image" if "image" in known and "strength" not in known and any(name in known for name in SCALES) else None


def attach(pipe: Any, kind: Diffusers, dtype: Any) -> Any:
    """The family's ControlNet pipeline on the same weights, with the recipe's nets. Raises UserError where there is none."""
    import diffusers

    nets = [_load(net, number, kind, dtype) for number, net in enumerate(kind.controlnets)]
    given = nets[0] if len(nets) == 1 else nets
    try:
        return diffusers.AutoPipelineForText2Image.from_pipe(pipe, controlnet=given)
    except (ValueError, AttributeError):  # how diffusers says that its table of families lacks this one
        name = type(pipe).__name__.replace("Pipeline", "ControlNetPipeline")
    if name not in dir(diffusers):
        raise UserError(f"generator.controlnets: diffusers has no ControlNet pipeline for {type(pipe).__name__}; remove the key")
    try:
        return getattr(diffusers, name)(**pipe.components, controlnet=given)
    except TypeError as error:
        raise UserError(f"generator.controlnets: {name} cannot be made from {type(pipe).__name__}: {last_line(error)}") from error


def attached_class(found: type) -> type:
    """The class that `attach` would make of a pipeline class; the same one where diffusers has none, as loading will say."""
    import diffusers

    ending = "PAGPipeline" if "PAG" in found.__name__ else "Pipeline"
    name = found.__name__ if "ControlNet" in found.__name__ else found.__name__.replace(ending, f"ControlNet{ending}")
    return getattr(diffusers, name) if name in dir(diffusers) else found


def modes(pipe: Any, kind: Diffusers) -> int:
    """How many kinds of control a net that knows several is told to follow by `call: {control_mode: …}`; 0 for other nets.

    Raises UserError where it is told none.
    """
    net = getattr(pipe, "controlnet", None)
    if "num_control_type" not in getattr(net, "config", {}):
        return 0
    given = kind.call.get("control_mode")
    if given is None:
        raise UserError(
            f"generator.call: the ControlNet of {type(pipe).__name__} follows {net.config['num_control_type']} kinds of control; "  # type: ignore[union-attr]
            "say which the images are, for example call: {control_mode: 0}"
        )
    return len(given) if isinstance(given, list) else 1


def for_each(pictures: list[Any], nets: int) -> list[Any]:
    """One batch of control images for each of several nets (or modes), as tensors [B, 3, H, W] in [0, 1].

    Lists of lists would be read as the nets' images for each prompt, and exchanged.
    """
    import numpy as np
    import torch

    batch = torch.stack([torch.from_numpy(np.array(picture)).permute(2, 0, 1).float() / 255 for picture in pictures])
    return [batch] * nets


def settings(pipe: Any, kind: Diffusers) -> dict[str, Any]:
    """Scale, start and end of each net, by the names in the call's signature; a pipeline that was saved with its nets keeps its own."""
    known = parameters(pipe)
    wanted = {"controlnet_conditioning_scale": "scale", "control_guidance_start": "start", "control_guidance_end": "end"}
    values = {
        name: [getattr(net, field) for net in kind.controlnets] for name, field in wanted.items() if kind.controlnets and name in known
    }
    return {name: value[0] if len(value) == 1 else value for name, value in values.items()}


def _load(net: ControlNet, number: int, kind: Diffusers, dtype: Any) -> Any:
    import diffusers
    from huggingface_hub import hf_hub_download

    what = f"controlnets[{number}]"
    local = Path(net.model).expanduser() / net.subfolder
    if not kind.allow_pickle:
        refuse_pickled_folder(local, net.model, what)
    try:
        config = local / "config.json"
        if not config.is_file():
            config = Path(hf_hub_download(net.model, "config.json", subfolder=net.subfolder or None, revision=net.revision))
        name = json.loads(config.read_text(encoding="utf-8")).get("_class_name", "ControlNetModel")
        options = {"subfolder": net.subfolder or None, "revision": net.revision, "torch_dtype": dtype}
        options["use_safetensors"] = None if kind.allow_pickle else True
        return getattr(diffusers, name).from_pretrained(net.model, **{k: v for k, v in options.items() if v is not None})
    except (OSError, ValueError, AttributeError, ImportError) as error:
        raise UserError(f"generator.{what}: cannot load {net.model}: {last_line(error)}") from error
