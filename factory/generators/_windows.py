"""Images beyond a pipeline's trained size, denoised in overlapping windows; see `factory.models.large`."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from factory.errors import UserError
from factory.records import Inputs

if TYPE_CHECKING:
    from factory.generators.diffusers import Diffusers


def over(pipe: Any, kind: Diffusers) -> contextlib.AbstractContextManager[None]:
    """A context in which the pipeline denoises in windows, where the recipe asks for it."""
    if kind.windows is None:
        return contextlib.nullcontext()
    from factory.models import large

    own = _is_own(pipe)
    denoiser = pipe.transformer if getattr(pipe, "unet", None) is None else pipe.unet
    return large.windowed(denoiser, large.trained(denoiser), kind.windows, grid=own)


def grids(pipe: Any, kind: Diffusers, inputs: Sequence[Inputs]) -> dict[str, Any]:
    """For a representation-guided pipeline with windows: the grids of embeddings of the parents. Raises UserError for a parent too small."""
    if kind.windows is None or not _is_own(pipe):
        return {}
    import torch

    from factory.models import large

    made = []
    for one in inputs:
        if len(one.images) != 1 or one.combine is not None:
            raise UserError(
                "generator.windows: a large image follows one parent as it is; use condition: embedding without mix, jitter or dropout"
            )
        try:
            made.append(large.reference_grid(pipe, one.images[0]))
        except ValueError as error:
            raise UserError(f"generator.windows: {error}") from error
    if len({grid.shape for grid in made}) > 1:
        raise UserError("generator.windows: parents of one batch differ in size; set generator.batch: 1")
    return {"image_embeds": torch.stack(made)}


def _is_own(pipe: Any) -> bool:
    return type(pipe).__name__ == "RepresentationDiffusionPipeline"
