"""What a trained folder says of itself: training.json for programs, README.md for people."""

from __future__ import annotations

import json
import platform
from datetime import date
from importlib.metadata import version
from typing import Any

from factory.files import write_json
from factory.train.prepared import Prepared
from factory.train.recipe import Streamed, Training

LIBRARIES = ("torch", "diffusers", "timm", "accelerate")


def write_facts(
    recipe: Training, images: int, facts: dict[str, Any], labels_used: bool, fingerprint: str | None = None, undecodable: int = 0
) -> dict[str, Any]:
    """training.json: the recipe, what it was trained on (fingerprint where it is known, split, images) and the facts; returns what it says.

    An evaluation reads it, to refuse a model that has seen the test images.
    """
    said = _public(recipe.model_dump(mode="json", exclude={"out"}))
    source = said["source"].get("images", said["source"])  # patches are of images
    trained_on = {"dataset": source.get("dataset"), "split": source.get("split"), "fingerprint": fingerprint, "images": images}
    what = {
        "recipe": said,
        "trained_on": {**trained_on, "undecodable": undecodable, "labels_used": labels_used},
        "facts": facts,
        "versions": {name: version(name) for name in LIBRARIES},
    }
    write_json(recipe.out / "training.json", what)
    return what


def write_training(recipe: Streamed, data: Prepared, facts: dict[str, Any], labels_used: bool = False) -> None:
    """training.json, and README.md that says the same in words."""
    missing = len(data.table) - len(data)
    what = write_facts(recipe, len(data), facts, labels_used, data.table.fingerprint, missing)
    sample = "\n![Parents, each followed by its variations](samples.png)\n" if (recipe.out / "samples.png").exists() else ""
    text = f"""---
library_name: diffusers
tags: [synthetic-dataset-factory, {recipe.kind}]
---
# {recipe.out.name}

A `{recipe.kind}` model, trained {"with" if labels_used else "without"} labels on {len(data):,} images of `{what["trained_on"]["dataset"]}`, split `{what["trained_on"]["split"]}`,
at {recipe.size[1]}×{recipe.size[0]} pixels, in {recipe.steps:,} steps of {recipe.batch}. {date.today().isoformat()}, {platform.machine()}.
{sample}
```json
{json.dumps(what, indent=1)}
```

It knows what these images show and nothing else. Images that it makes are synthetic; never let them into a validation or test set, and
do not evaluate on images that it was trained on.
"""
    (recipe.out / "README.md").write_text(text, encoding="utf-8")


def _public(value: Any) -> Any:
    """Settings without the folders of this machine: a local path keeps its last two parts."""
    if isinstance(value, dict):
        return {key: _public(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_public(inner) for inner in value]
    local = isinstance(value, str) and value.startswith(("/", "./", "../", "~"))
    return "/".join(value.rstrip("/").split("/")[-2:]) if local else value
