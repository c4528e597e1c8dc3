"""Training of the small models that the default runs use: `run` reads a training recipe and makes what it names."""

from __future__ import annotations

import contextlib
from pathlib import Path


def run(recipe_path: Path, sets: list[str], out: Path | None = None) -> None:
    """Train what a YAML recipe describes, resuming from its checkpoint where there is one. Raises UserError.

    sets: overrides `key.path=value`.  out: replaces the recipe's output folder.
    """
    import importlib

    from factory import runtime
    from factory.train import loop, recipe

    runtime.keep_freed_memory()
    checked = recipe.load(recipe_path, sets, out)
    with loop.claimed(checked.out) if runtime.worker().is_first else contextlib.nullcontext():
        importlib.import_module(f"factory.train.{checked.kind}").train(checked)
