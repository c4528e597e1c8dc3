"""What a trained folder says of itself: training.json for programs, README.md for people."""

from __future__ import annotations

import json
import platform
from datetime import date
from importlib.metadata import version
from typing import Any

from factory.files import write_json
from factory.train.prepared import Prepared
from factory.train.recipe import Streamed

LIBRARIES = ("torch", "diffusers", "timm", "accelerate")


def write_training(recipe: Streamed, data: Prepared, facts: dict[str, Any], labels_used: bool = False) -> None:
    """training.json: the recipe, what it was trained on (fingerprint, split, rows) and the facts; README.md says the same in words."""
    said = _public(recipe.model_dump(mode="json", exclude={"out"}))
    images = said["source"].get("images", said["source"])  # patches are of images
    what = {
        "recipe": said,
        "trained_on": {
            "dataset": images["dataset"],
            "split": images.get("split"),
            "fingerprint": data.table.fingerprint,
            "images": len(data),
            "undecodable": len(data.table) - len(data),
            "labels_used": labels_used,
        },
        "facts": facts,
        "versions": {name: version(name) for name in LIBRARIES},
    }
    write_json(recipe.out / "training.json", what)
    sample = "\n![Parents, each followed by its variations](samples.png)\n" if (recipe.out / "samples.png").exists() else ""
    text = f"""---
library_name: diffusers
tags: [synthetic-dataset-factory, {recipe.kind}]
---
# {recipe.out.name}

A `{recipe.kind}` model, trained {"with" if labels_used else "without"} labels on {len(data):,} images of `{what["trained_on"]["dataset"]}`, split `{images.get("split")}`,
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
