"""What travels with a published dataset: its card. No token and no local path reaches it."""

from __future__ import annotations

import io
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
from ruamel.yaml import YAML

from factory import __version__
from factory.recipe import Recipe
from factory.select import Selection


def public_name(model: str) -> str:
    """A model's name for strangers: a Hub id (one slash at most, and no such folder here) as it is, a folder by its last part only."""
    is_folder = model.count("/") > 1 or model.startswith((".", "~", "/")) or "\\" in model or Path(model).exists()
    return Path(model.replace("\\", "/")).name if is_folder else model


def generator_names(recipe: Recipe) -> list[str]:
    """Each generator's model, or its kind where it has none, for strangers."""
    return [public_name(str(getattr(generator, "model", generator.kind))) for generator in recipe.generator]


def card(recipe: Recipe, run: dict[str, Any], labels: np.ndarray, selection: Selection, folder: Path) -> str:
    """README.md of a dataset folder: a YAML header that `load_dataset` and the Hub viewer read, then the facts."""
    class_names = run["identity"]["source"]["class_names"]
    kept = Counter(labels[selection.keep].tolist())
    rows = [f"| {name} | {kept[c]} |" for c, name in enumerate(class_names)] or [f"| (unlabelled) | {kept[-1]} |"]
    lines = [
        "---",
        _header(recipe, folder, int(selection.keep.sum())).strip(),
        "---",
        "",
        f"# {recipe.name}",
        "",
        f"{int(selection.keep.sum())} synthetic images, made by the recipe below with the synthetic-dataset factory {__version__}. "
        "Every image was generated; none is a photograph.",
        "",
        "| class | images |",
        "|---|---|",
        *rows,
        "",
        "| refused by | images |",
        "|---|---|",
        *(f"| {slug} | {n} |" for slug, n in selection.refused().items()),
        "",
        f"Generator: {', '.join(f'`{name}`' for name in generator_names(recipe))}. Condition: `{recipe.condition.kind}`. Plan: `{run['plan']}`.",
        "",
        "Columns: `id` names an image for life; `seed`, `prompt`, `parents` (content hashes of the real images it was conditioned on) and",
        "`conditioning` (what was drawn) are enough to make it again; each filter's score is kept under the filter's name.",
        "",
        "This is a **stress test** of generated images: it shows how a model takes such images, and says nothing about real ones. "
        "Do not mix it with a real validation or test set."
        if recipe.split == "stress_test"
        else "Do not put these images into a validation or test set.",
        "",
    ]
    return "\n".join(lines)


def _header(recipe: Recipe, folder: Path, rows: int) -> str:
    header: dict[str, object] = {
        "pretty_name": recipe.name,
        "tags": ["synthetic", *(["stress-test"] if recipe.split == "stress_test" else [])],
    }
    path = recipe.export.data_files(recipe.split)
    header["configs"] = [{"config_name": "default", "data_files": [{"split": recipe.split, "path": path}]}]
    # The sizes matter: `datasets` names its cache of a local folder by this header, and would else serve one dataset for another.
    size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
    splits = [{"name": recipe.split, "num_bytes": size, "num_examples": rows}]
    header["dataset_info"] = [{"config_name": "default", "splits": splits, "download_size": size, "dataset_size": size}]
    out = io.StringIO()
    YAML().dump(header, out)
    return out.getvalue()
