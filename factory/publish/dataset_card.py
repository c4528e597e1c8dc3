"""README.md of a dataset that was made: a YAML header that `load_dataset` and the Hub viewer read, then what a careful reader asks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from factory.publish import evaluated, filtered, sections
from factory.publish.facts import PROVENANCE, is_filtered


def card(parts: Sequence[dict[str, Any]], size: int, place: str = "DATASET") -> str:
    """The card of one plan's facts, or of several of one kind that were pushed into one dataset.

    size: bytes of the data files.  place: what `load_dataset` is given.  A part may hold, beside what `facts.gather` finds: `evaluation`
    (evaluation.json), `accepted` (why the gate on memorisation was overruled), `licence` (of the images), and `pictures`, true where
    contact_sheet.png lies beside its recipe.
    """
    if is_filtered(parts[0]):
        return filtered.card(parts, size, place)
    first, several = parts[0], len(parts) > 1
    rows = sum(part["rows"] for part in parts)
    made_by = sorted({part["factory"] for part in parts})
    pictures = [
        f"![Real parents, framed in orange, beside their synthetic children]({PROVENANCE}/{part['plan']}/contact_sheet.png)\n"
        for part in parts
        if part.get("pictures")
    ]
    text = [
        sections.header(parts, size, ["synthetic", *(["stress-test"] if first["split"] == "stress_test" else [])]),
        f"# {first['name']}\n",
        f"{rows} synthetic images, made by the recipe below with the synthetic-dataset factory {', '.join(made_by)}. "
        "Every image was generated; none is a photograph.\n",
        _notice(first["split"] == "stress_test"),
        f"```python\nfrom datasets import load_dataset\n\ndata = load_dataset({place!r}, split={first['split']!r})\n```\n",
        *pictures,
        "## Does it help?\n",
        *(sections.title(part, several) + evaluated.text(part.get("evaluation"), part.get("accepted", "")) for part in parts),
        "## What is in it\n",
        sections.classes(parts, "generated"),
        _columns(first, several),
        "## How it was made\n",
        *(_made(part, several) for part in parts),
        "## What was refused\n",
        *(sections.refused(part, several, "(generated)", part["generated"]) for part in parts),
        "## Licences\n",
        sections.licences(parts) + _parents(parts),
        "## Known limits\n",
        _limits(parts),
        "## Make it again\n",
        *(_again(part, place, several) for part in parts),
    ]
    return "\n".join(text)


def _notice(stress: bool) -> str:
    if stress:
        return (
            "This is a **stress test** of generated images: it shows how a model takes such images, and says nothing about real ones. "
            "Do not mix it with a real validation or test set.\n"
        )
    return "Do not put these images into a validation or test set.\n"


def _columns(part: dict[str, Any], several: bool) -> str:
    scores = [f"`{rule['name']}`" for rule in part["rules"] if rule["name"] in part["columns"]]
    return (
        f"Columns: `id` names an image for life{', and is unique within its plan' if several else ''}; `seed`, `prompt`, `parents` (content hashes of the real images it was conditioned on) and "
        "`conditioning` (what was drawn) are enough to make it again"
        + (f"; the scores of the filters are {', '.join(scores)}" if scores else "")
        + ".\n"
    )


def _made(part: dict[str, Any], several: bool) -> str:
    source, condition = part["source"], part["condition"]
    shots = f", {source['shots']} a class" if source.get("shots") else ""
    return (
        sections.title(part, several)
        + sections.models(part)
        + f"\nReal images: {part['source']['real']} from `{source.get('dataset', source['kind'])}`"
        + f" (split `{source.get('split', 'train')}`{shots}), content `{source['fingerprint']}`.\n"
        + f"Condition: `{condition['kind']}`. Plan: `{part['plan']}`. Seed: {part['seed']}. Rounds: {part['rounds']}.\n\n"
        + f"Recipe: [`{PROVENANCE}/{part['plan']}/recipe.yaml`]({PROVENANCE}/{part['plan']}/recipe.yaml); the plan, with all that decides pixels: "
        + f"[`plan.json`]({PROVENANCE}/{part['plan']}/plan.json).\n"
    )


def _parents(parts: Sequence[dict[str, Any]]) -> str:
    sources = dict.fromkeys(str(part["source"].get("dataset", part["source"]["kind"])) for part in parts)
    return "".join(
        f"- Real images, `{name}`: their owner's licence holds for what was made from them as far as the law says so.\n" for name in sources
    )


def _limits(parts: Sequence[dict[str, Any]]) -> str:
    measured = [part.get("evaluation") or {} for part in parts]
    limits = [
        "The images show what the generator has learnt, with its biases and gaps; a rare case that it does not know is not in them.",
        "A label is what was asked for. "
        + ("The filters above are all that checked it." if any(part["rules"] for part in parts) else "No filter checked it."),
        "The scores come from models with errors of their own; a threshold on them favours what those models know.",
    ]
    if any(part["source"]["real"] and part["condition"]["kind"] not in ("text", "class_label") for part in parts):
        limits.append("The images descend from few real ones, whose content hashes are in `parents`: they are as narrow as those.")
    if not all("memorisation" in evaluation for evaluation in measured):
        limits.append("Nobody has measured whether images repeat training images of the generator.")
    else:
        limits.append(
            "Copies were looked for among the real images that the evaluation was given, not among all that the generator may have seen."
        )
    if not all("utility" in evaluation for evaluation in measured):
        limits.append("Nobody has measured whether training with these images helps.")
    uneven = [part["classes"] for part in parts if len({counts["kept"] for counts in part["classes"].values()}) > 1]
    if uneven:
        limits.append("The classes are not of one size: see the table above.")
    return "\n".join(f"- {limit}" for limit in limits) + "\n"


def _again(part: dict[str, Any], place: str, several: bool) -> str:
    pixels = [key for key in part["local"] if not key.startswith(("filters", "export"))]
    plan = f" --plan {part['plan']}" if several else ""
    return (
        f"```\npip install synthetic-dataset-factory=={part['factory']}\n"
        f"factory build {PROVENANCE}/{part['plan']}/recipe.yaml{sections.sets(part['local'])}\n"
        f"factory replay {place} ID{plan}{sections.sets(pixels)}\n```\n\n"
        f"{sections.places(part)}With the same real images and weights the plan is `{part['plan']}` again; on the same hardware and versions the images are the same bytes. "
        "`factory replay` makes one image alone, by its `id`, and says how it differs from the one that is stored.\n"
    )
