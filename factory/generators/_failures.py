"""What a pipeline's call failed over, as a sentence for people who did not write the pipeline."""

from __future__ import annotations

import traceback
from pathlib import Path
from typing import Any

from factory.errors import UserError
from factory.generators import _reference
from factory.generators._load import out_of_memory

# What a pipeline raises over its arguments, or over a batch that its code does not expect.
OF_THE_CALL = (ValueError, TypeError, RuntimeError, AttributeError, LookupError, AssertionError, NotImplementedError)


def explained(error: Exception, pipe: Any, needs: frozenset[str], size: int, device: str) -> UserError | None:
    """A UserError for what a user can mend: memory, and what the pipeline's own code says or fails over; else None."""
    if out_of_memory(error):
        return UserError(
            f"generator.batch: {size} images do not fit into the memory of {device}; lower batch, or set vae_slicing: true or offload: model"
        )
    name, place = type(pipe).__name__, _place(error)
    if isinstance(error, ValueError) and (place is not None or is_check(error)):
        return UserError(f"generator: {name} refuses its arguments: {error}")
    if place is None or not isinstance(error, OF_THE_CALL):
        return None
    if _reference.argument(pipe) is not None and "reference" not in needs:
        hint = "it may want the real image that it edits: try condition: image, or another pipeline"
    else:
        hint = "try other values of height, width and batch, or another pipeline"
    return UserError(f"generator: {name} failed over {type(error).__name__}: {' '.join(str(error).split())} ({place}); {hint}")


def _place(error: Exception) -> str | None:
    """File and line of diffusers' or transformers' code in which an error arose; None for one of this project's own pipelines, or before the call."""
    places = [
        f"{'/'.join(Path(frame.filename).parts[-3:])}:{frame.lineno}"
        for frame in traceback.extract_tb(error.__traceback__)
        if {"diffusers", "transformers"} & set(Path(frame.filename).parts)
    ]
    return places[-1] if places else None


def is_check(error: BaseException) -> bool:
    """Whether an error arose where a pipeline judges its arguments."""
    place = traceback.extract_tb(error.__traceback__)[-1].name
    return place == "__call__" or place.lstrip("_").startswith("check")
