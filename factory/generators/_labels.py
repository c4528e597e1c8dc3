"""Class names of a dataset -> class ids of a class-conditional pipeline."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from factory.errors import UserError


def count(pipe: Any) -> int | None:
    """How many classes the denoiser was trained with, where its configuration says so."""
    for name in ("transformer", "unet"):
        config = getattr(getattr(pipe, name, None), "config", {})
        for key in ("num_class_embeds", "num_embeds_ada_norm", "num_classes"):
            if isinstance(config.get(key), int):
                return int(config[key])
    return None


def known(pipe: Any) -> dict[str, int]:
    """The pipeline's own names, folded -> id. Synonyms divided by commas are names each, as in ImageNet's."""
    config = getattr(pipe, "config", {})
    labels = getattr(pipe, "labels", None) or {name: number for number, name in (config.get("id2label") or {}).items()}
    return {_fold(part): int(number) for name, number in labels.items() for part in [name, *name.split(",")]}


def match(pipe: Any, class_names: Sequence[str], class_ids: Mapping[str, int]) -> list[int]:
    """For each class its id in the pipeline: by the recipe's mapping, else by name, else by position when the counts agree.

    Raises UserError, and never guesses: a wrong id would make every image of a class wrong.
    """
    total, labels, model = count(pipe), known(pipe), type(pipe).__name__
    if class_ids:
        missing = [name for name in class_names if name not in class_ids]
        if missing:
            raise UserError(
                f"generator.class_ids: no id for {_some(missing)}; the source has {len(class_names)} classes and each needs one"
            )
        beyond = [f"{name}: {class_ids[name]}" for name in class_names if total is not None and not 0 <= class_ids[name] < total]
        if beyond:
            raise UserError(f"generator.class_ids: {_some(beyond)} is outside the {total} classes of this {model}")
        return [class_ids[name] for name in class_names]
    if labels:
        missing = [name for name in class_names if _fold(name) not in labels]
        if not missing:
            return [labels[_fold(name)] for name in class_names]
        raise UserError(
            f"generator.class_ids: this {model} has no class called {_some(missing)} among its {total or len(labels)}; map each class name to an id"
        )
    if total == len(class_names):
        return list(range(total))
    raise UserError(
        f"generator.class_ids: this {model} has {'an unknown number of' if total is None else total} classes without names and the source has "
        f"{len(class_names)}; map each class name to an id"
    )


def _fold(name: str) -> str:
    return " ".join(name.replace("_", " ").split()).casefold()


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
