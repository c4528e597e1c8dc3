"""One family's pipelines on the same weights: text to image, and image to image."""

from __future__ import annotations

import inspect
from typing import Any

from factory.generators._arguments import parameters
from factory.generators._load import quiet


class Modes:
    """The loaded pipeline and its siblings, made when they are first asked for; they share its modules."""

    def __init__(self, base: Any):
        self.base = base
        self._siblings: dict[str, Any] = {}

    def image_to_image(self) -> Any:
        """The pipeline that starts from an image at a strength: this one, or its sibling, or None."""
        if _starts_from_image(self.base):
            return self.base
        found = self._sibling("AutoPipelineForImage2Image")
        return found if found is not None and _starts_from_image(found) else None

    def without_image(self) -> Any:
        """The pipeline for a condition without an initial image; a folder may have been saved as image to image."""
        return (self._sibling("AutoPipelineForText2Image") if _starts_from_image(self.base) else None) or self.base

    def _sibling(self, task: str) -> Any:
        import diffusers

        if task not in self._siblings:
            try:
                with quiet():
                    self._siblings[task] = getattr(diffusers, task).from_pipe(self.base)
            except ValueError:  # how diffusers says that its table of families lacks this one
                self._siblings[task] = _namesake(self.base) if task == "AutoPipelineForImage2Image" else None
        return self._siblings[task]


def _starts_from_image(pipe: Any) -> bool:
    return {"image", "strength"} <= parameters(pipe).keys()


def _namesake(pipe: Any) -> Any:
    """The image-to-image pipeline that diffusers has by this one's name, on the same weights; None where it lacks some."""
    import diffusers

    name = type(pipe).__name__.replace("Pipeline", "Img2ImgPipeline")
    if name not in dir(diffusers):
        return None
    found = getattr(diffusers, name)
    expected = inspect.signature(found.__init__).parameters
    try:
        with quiet():
            return found(**{part: module for part, module in pipe.components.items() if part in expected})
    except TypeError:
        return None
