"""What a pipeline can take: one set of answers, asked of a loaded pipeline or of the class that its model_index.json names."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from factory.contracts import NEEDS
from factory.errors import UserError
from factory.generators import _controls, _embed, _labels, _modes, _reference, _together
from factory.generators._arguments import guidance_name, parameters
from factory.generators._outputs import FRAMES, other_than_images
from factory.generators._source import pipeline_class, read_index

if TYPE_CHECKING:
    from factory.generators.diffusers import Diffusers


@dataclass(frozen=True)
class Abilities:
    """What is true of one pipeline.

    known: the names of its call's parameters.  adapted: an image-prompt adapter is loaded.  makes: what it makes in place of images.
    """

    name: str
    known: frozenset[str]
    class_labels: bool
    starts_from_image: bool
    inpaints: bool
    controlled: bool
    embeds: bool
    refers: bool
    repaints_at_strength: bool
    adapted: bool
    adaptable: bool
    guided: bool
    makes: str = ""

    def why_not(self, need: str) -> str:
        """One sentence for an error message: why this pipeline cannot take a need; empty where it can."""
        name = self.name
        if self.makes:
            hint = "; for stills set call: {num_frames: 1}" if FRAMES in self.makes and "num_frames" in self.known else ""
            return f"{name} makes {self.makes}, not images{hint}"
        if need == "text" and not {"prompt", "prompts"} & self.known:
            return f"{name} takes no prompt"
        if need == "class_label" and not self.class_labels:
            return f"{name} has no class labels"
        if need == "image" and not self.starts_from_image:
            other = (
                "its `image` is no initial image, as it takes no strength" if "image" in self.known else "it has no image-to-image sibling"
            )
            return f"{name} cannot start from an image: {other}"
        if need == "mask" and not self.inpaints:
            return f"{name} cannot repaint a part of an image, nor can a sibling of it in diffusers"
        if need == "control" and not self.controlled:
            return f"{name} takes no control image; name a ControlNet for it in generator.controlnets"
        if need == "image_embedding" and not self.embeds:
            return f"{name} has no way in for image embeddings; " + (
                "load an ip_adapter" if self.adaptable else "choose a pipeline with an image encoder, such as unCLIP"
            )
        if need == "reference" and not (self.embeds or self.refers):
            return f"{name} takes no real image to vary or edit; " + (
                "load an ip_adapter, or set condition.strength" if self.adaptable else "choose an image variation or editing pipeline"
            )
        if need == "strength" and not self.repaints_at_strength:
            return f"{name} repaints without a strength; remove condition.strength"
        if need == "adapter_scale" and not self.adapted:
            return f"{name} has no image-prompt adapter loaded; set generator.ip_adapter"
        if need == "guidance" and not self.guided:
            return f"{name} takes no guidance scale"
        return "" if need in NEEDS else f"{name} knows no such input"

    def by_embedding(self, needs: frozenset[str]) -> frozenset[str]:
        """The needs, with a reference image given as its embedding where the pipeline takes these."""
        return needs - {"reference"} | {"image_embedding"} if "reference" in needs and self.embeds else needs


def of_pipeline(pipe: Any, modes: _modes.Modes, kind: Diffusers) -> Abilities:
    """The abilities of a loaded pipeline and its siblings."""
    adapted = kind.ip_adapter is not None
    return Abilities(
        name=type(pipe).__name__,
        known=frozenset(parameters(pipe)),
        class_labels="class_labels" in parameters(pipe) and _labels.count(pipe) is not None,
        starts_from_image=modes.image_to_image() is not None,
        inpaints=modes.inpaint() is not None,
        controlled=_controls.argument(pipe) is not None,
        embeds=_embed.find(pipe, adapted) is not None,
        refers=_reference.argument(pipe) is not None,
        repaints_at_strength=(inpaint := modes.inpaint()) is not None and "strength" in parameters(inpaint),
        adapted=adapted,
        adaptable=hasattr(pipe, "load_ip_adapter"),
        guided=guidance_name(pipe) is not None,
        makes=other_than_images(pipe, is_still(kind)),
    )


def of_class(found: type, index: Mapping[str, Any], kind: Diffusers) -> Abilities:
    """The same from a class and its components' names alone: what only weights or configurations tell is taken to be so."""
    known = parameters(found)
    adapted = kind.ip_adapter is not None
    return Abilities(
        name=found.__name__,
        known=frozenset(known),
        class_labels="class_labels" in known,
        starts_from_image=_modes.sibling_class(found, _modes.FROM_IMAGE) is not None,
        inpaints=_modes.sibling_class(found, _modes.INPAINT) is not None,
        controlled=_controls.argument(found) is not None,
        embeds=_embed.target_class(found, _parts(index), adapted) is not None,
        refers=_reference.argument(found) is not None,
        repaints_at_strength=(inpaint := _modes.sibling_class(found, _modes.INPAINT)) is not None and "strength" in parameters(inpaint),
        adapted=adapted,
        adaptable=hasattr(found, "load_ip_adapter"),
        guided=guidance_name(found) is not None,
        makes=other_than_images(found, is_still(kind)),
    )


def is_still(kind: Diffusers) -> bool:
    """Whether a pipeline of videos is asked for one frame of each."""
    return kind.call.get("num_frames") == 1


def lacks(kind: Diffusers) -> dict[str, str]:
    """Need -> why not, without loading weights or asking the network; {} where the model is not on this machine or cannot be read."""
    index = _index(kind)
    if index is None:
        return {}
    abilities = of_class(_class_of(index, kind), index, kind)
    return {need: why for need in NEEDS if (why := abilities.why_not(need))}


def refuses(kind: Diffusers, needs: frozenset[str]) -> str:
    """Why these needs, each of which the model could take, cannot be taken at once or are not enough; empty where they can."""
    index = _index(kind)
    if index is None:
        return ""
    found = _class_of(index, kind)
    needs = of_class(found, index, kind).by_embedding(needs)
    mode = _modes.class_for(found, needs)
    parts = _parts(index)
    target = _embed.target_class(mode, parts, kind.ip_adapter is not None) if "image_embedding" in needs else None
    return _together.why_not(mode, target or mode, needs, kind, embeds=target is not None)


def _class_of(index: dict[str, Any], kind: Diffusers) -> type:
    """The class that would be loaded: with ControlNets, the family's ControlNet pipeline."""
    found = pipeline_class(index, kind.model)
    return _controls.attached_class(found) if kind.controlnets else found


def _parts(index: Mapping[str, Any]) -> set[str]:
    return {name for name, value in index.items() if isinstance(value, list) and value and value[0]}


def _index(kind: Diffusers) -> dict[str, Any] | None:
    from huggingface_hub import try_to_load_from_cache

    path = Path(kind.model).expanduser() / "model_index.json"
    if not path.is_file():
        if kind.model.count("/") != 1 or kind.model.startswith((".", "/", "~")):
            return None
        cached = try_to_load_from_cache(kind.model, "model_index.json", revision=kind.revision)
        if not isinstance(cached, str):
            return None
        path = Path(cached)
    try:
        index = read_index(path, kind.model)
    except UserError:  # loading will say it with everything else that is wrong
        return None
    return None if isinstance(index["_class_name"], list) else index  # code of its own: only loading can tell
