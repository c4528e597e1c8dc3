"""One family's pipelines on the same weights: text to image, image to image, inpainting."""

from __future__ import annotations

import inspect
import re
from typing import Any

from factory.generators._arguments import parameters
from factory.generators._load import quiet

FROM_IMAGE, INPAINT = frozenset({"image", "strength"}), frozenset({"image", "mask_image"})
_TASKS = {FROM_IMAGE: ("AutoPipelineForImage2Image", "Img2Img"), INPAINT: ("AutoPipelineForInpainting", "Inpaint")}


class Modes:
    """The loaded pipeline and its siblings, made when they are first asked for; they share its modules."""

    def __init__(self, base: Any):
        self.base = base
        self._siblings: dict[str, Any] = {}

    def image_to_image(self) -> Any:
        """The pipeline that starts from an image at a strength: this one, or its sibling, or None."""
        return self._taking(FROM_IMAGE)

    def inpaint(self) -> Any:
        """The pipeline that repaints a masked part of an image: this one, or its sibling, or None."""
        return self._taking(INPAINT)

    def without_image(self) -> Any:
        """The pipeline for a condition without an initial image; a folder may have been saved as image to image."""
        if is_own(self.base) or not _takes(self.base, FROM_IMAGE):
            return self.base
        return self._sibling("AutoPipelineForText2Image", "") or self.base

    def _taking(self, names: frozenset[str]) -> Any:
        if _takes(self.base, names):
            return self.base
        found = self._sibling(*_TASKS[names])
        return found if found is not None and _takes(found, names) else None

    def _sibling(self, task: str, infix: str) -> Any:
        import diffusers

        if task not in self._siblings:
            try:
                with quiet():
                    self._siblings[task] = getattr(diffusers, task).from_pipe(self.base)
            except ValueError:  # how diffusers says that its table of families lacks this one
                self._siblings[task] = _namesake(self.base, infix)
        return self._siblings[task]


def sibling_class(found: type, names: frozenset[str]) -> type | None:
    """The class that takes these arguments: this one, the one in diffusers' tables, or its namesake, or None."""
    if _takes(found, names):
        return found
    from diffusers.pipelines import auto_pipeline  # which imports every family: seconds

    _, infix = _TASKS[names]
    table = {"Img2Img": auto_pipeline.AUTO_IMAGE2IMAGE_PIPELINES_MAPPING, "Inpaint": auto_pipeline.AUTO_INPAINT_PIPELINES_MAPPING}[infix]
    listed = auto_pipeline._get_task_class(table, found.__name__, throw_error_if_not_exist=False)
    near = listed if listed is not None and _lends_all(found, listed) else _namesake_class(found, infix)
    return near if near is not None and _takes(near, names) else None


def _lends_all(found: type, near: type) -> bool:
    """Whether one class's components are all that the other is made of: a combined pipeline cannot be made from its decoder."""
    optional = set(getattr(near, "_optional_components", []))
    wanted = {name for name, one in inspect.signature(near).parameters.items() if one.default is one.empty} - optional
    return wanted <= inspect.signature(found).parameters.keys()


def class_for(found: type, needs: frozenset[str]) -> type:
    """The class that would be called for these needs, as `Modes` would choose it."""
    if needs & {"mask", "image"}:
        return sibling_class(found, INPAINT if "mask" in needs else FROM_IMAGE) or found
    if is_own(found) or not _takes(found, FROM_IMAGE):
        return found
    from diffusers.pipelines import auto_pipeline

    table = auto_pipeline.AUTO_TEXT2IMAGE_PIPELINES_MAPPING
    return auto_pipeline._get_task_class(table, found.__name__, throw_error_if_not_exist=False) or _namesake_class(found, "") or found


def _takes(pipe: Any, names: frozenset[str]) -> bool:
    known = parameters(pipe).keys()
    return names <= known and (names != FROM_IMAGE or "mask_image" not in known or not _needs_mask(pipe))


def _needs_mask(pipe: Any) -> bool:
    """Whether a pipeline with a mask_image cannot do without one: the project's own can, diffusers' inpainting cannot."""
    return not is_own(pipe)


def is_own(pipe: Any) -> bool:
    """Whether a pipeline, or a class, is the project's: it is its own sibling in every mode, and diffusers' tables do not know it."""
    return (pipe if isinstance(pipe, type) else type(pipe)).__module__.startswith("factory.")


def _namesake_class(found: type, infix: str) -> type | None:
    """The class that diffusers has by this one's name with another infix, or with none."""
    import diffusers

    name = re.sub(r"(Img2Img|Inpaint)?Pipeline$", f"{infix}Pipeline", found.__name__)
    return getattr(diffusers, name) if name != found.__name__ and name in dir(diffusers) else None


def _namesake(pipe: Any, infix: str) -> Any:
    """The namesake on the same weights; None where it lacks some."""
    found = _namesake_class(type(pipe), infix)
    if found is None:
        return None
    expected = inspect.signature(found).parameters
    try:
        with quiet():
            return found(**{part: module for part, module in pipe.components.items() if part in expected})
    except TypeError:
        return None
