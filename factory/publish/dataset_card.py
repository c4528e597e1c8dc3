"""README.md of a dataset: a YAML header that `load_dataset` and the Hub viewer read, then everything that a careful reader asks."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from factory.publish import evaluated
from factory.publish.facts import PROVENANCE, yaml
from factory.publish.markdown import table

_SIZES = ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_000, "100K<n<1M"), (10_000_000, "1M<n<10M"))


def card(parts: Sequence[dict[str, Any]], size: int, place: str = "DATASET") -> str:
    """The card of one plan's facts, or of several that were pushed into one dataset.

    size: bytes of the data files.  place: what `load_dataset` is given.  A part may hold, beside what `facts.gather` finds: `evaluation`
    (evaluation.json), `accepted` (why the gate on memorisation was overruled), `licence` (of the images), and `pictures`, true where
    contact_sheet.png lies beside its recipe.
    """
    first, several = parts[0], len(parts) > 1
    rows = sum(part["rows"] for part in parts)
    made_by = sorted({part["factory"] for part in parts})
    pictures = [
        f"![Real parents, framed in orange, beside their synthetic children]({PROVENANCE}/{part['plan']}/contact_sheet.png)\n"
        for part in parts
        if part.get("pictures")
    ]
    sections = [
        f"---\n{_header(parts, rows, size).strip()}\n---\n",
        f"# {first['name']}\n",
        f"{rows} synthetic images, made by the recipe below with the synthetic-dataset factory {', '.join(made_by)}. "
        "Every image was generated; none is a photograph.\n",
        _notice(first["split"] == "stress_test"),
        f"```python\nfrom datasets import load_dataset\n\ndata = load_dataset({place!r}, split={first['split']!r})\n```\n",
        *pictures,
        "## Does it help?\n",
        *(_title(part, several) + evaluated.text(part.get("evaluation"), part.get("accepted", "")) for part in parts),
        "## What is in it\n",
        _classes(parts),
        _columns(first, several),
        "## How it was made\n",
        *(_made(part, several) for part in parts),
        "## What was refused\n",
        *(_refused(part, several) for part in parts),
        "## Licences\n",
        _licences(parts),
        "## Known limits\n",
        _limits(parts),
        "## Make it again\n",
        *(_again(part, place, several) for part in parts),
    ]
    return "\n".join(sections)


def _licence(parts: Sequence[dict[str, Any]]) -> str | None:
    """The licence that the parts' owner gave, if it is one."""
    given = {part.get("licence") for part in parts}
    return given.pop() if len(given) == 1 else None


def _header(parts: Sequence[dict[str, Any]], rows: int, size: int) -> str:
    first, licence = parts[0], _licence(parts)
    split = first["split"]
    # The sizes matter: `datasets` names its cache of a local folder by this header, and would else serve one dataset for another.
    splits = [{"name": split, "num_bytes": size, "num_examples": rows}]
    header: dict[str, Any] = {"pretty_name": first["name"]}
    if licence:
        header["license"] = licence
    if first["class_names"]:
        header["task_categories"] = ["image-classification"]
    header |= {
        "size_categories": [next((name for limit, name in _SIZES if rows < limit), "10M<n<100M")],
        "tags": ["synthetic", *(["stress-test"] if split == "stress_test" else [])],
        "configs": [{"config_name": "default", "data_files": [{"split": split, "path": first["data_files"]}]}],
        "dataset_info": [{"config_name": "default", "splits": splits, "download_size": size, "dataset_size": size}],
    }
    return yaml(header)


def _notice(stress: bool) -> str:
    if stress:
        return (
            "This is a **stress test** of generated images: it shows how a model takes such images, and says nothing about real ones. "
            "Do not mix it with a real validation or test set.\n"
        )
    return "Do not put these images into a validation or test set.\n"


def _classes(parts: Sequence[dict[str, Any]]) -> str:
    kept: Counter[str] = Counter()
    made: Counter[str] = Counter()
    for part in parts:
        kept.update({name: counts["kept"] for name, counts in part["classes"].items()})
        made.update({name: counts["generated"] for name, counts in part["classes"].items()})
    total = ("**all**", sum(kept.values()), sum(made.values()))
    return table(("class", "images", "of generated"), [*((name, kept[name], made[name]) for name in made), total])


def _columns(part: dict[str, Any], several: bool) -> str:
    scores = [f"`{rule['name']}`" for rule in part["rules"] if rule["name"] in part["columns"]]
    return (
        f"Columns: `id` names an image for life{', and is unique within its plan' if several else ''}; `seed`, `prompt`, `parents` (content hashes of the real images it was conditioned on) and "
        "`conditioning` (what was drawn) are enough to make it again"
        + (f"; the scores of the filters are {', '.join(scores)}" if scores else "")
        + ".\n"
    )


def _title(part: dict[str, Any], several: bool) -> str:
    return f"### {part['name']}, plan `{part['plan']}`\n\n" if several else ""


def _made(part: dict[str, Any], several: bool) -> str:
    source, condition = part["source"], part["condition"]
    models = [
        (
            model["role"],
            f"`{model['name']}`",
            f"`{model.get('commit') or model.get('revision') or 'not pinned'}`",
            model["licence"] or "not stated",
        )
        for model in part["models"]
    ]
    shots = f", {source['shots']} a class" if source.get("shots") else ""
    return (
        _title(part, several)
        + table(("role", "model", "revision", "licence"), models)
        + f"\nReal images: {part['source']['real']} from `{source.get('dataset', source['kind'])}`"
        + f" (split `{source.get('split', 'train')}`{shots}), content `{source['fingerprint']}`.\n"
        + f"Condition: `{condition['kind']}`. Plan: `{part['plan']}`. Seed: {part['seed']}. Rounds: {part['rounds']}.\n\n"
        + f"Recipe: [`{PROVENANCE}/{part['plan']}/recipe.yaml`]({PROVENANCE}/{part['plan']}/recipe.yaml); the plan, with all that decides pixels: "
        + f"[`plan.json`]({PROVENANCE}/{part['plan']}/plan.json).\n"
    )


def _refused(part: dict[str, Any], several: bool) -> str:
    rows = [("(generated)", "", "", part["generated"])]
    rows += [(f"`{rule['name']}`", rule["asks"], rule["refused"], rule["left"]) for rule in part["rules"]]
    return _title(part, several) + table(("rule", "asks for", "refused", "kept"), rows)


def _licences(parts: Sequence[dict[str, Any]]) -> str:
    given = dict.fromkeys(part.get("licence") or "not stated by its owner" for part in parts)
    lines = [f"- This dataset: {', '.join(given)}."]
    seen = dict.fromkeys((model["name"], model["licence"] or "not stated; see its page") for part in parts for model in part["models"])
    lines += [f"- `{name}`: {what}." for name, what in seen]
    sources = dict.fromkeys(str(part["source"].get("dataset", part["source"]["kind"])) for part in parts)
    lines += [
        f"- Real images, `{name}`: their owner's licence holds for what was made from them as far as the law says so." for name in sources
    ]
    return "\n".join(lines) + "\n"


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
    if not all("utility" in evaluation for evaluation in measured):
        limits.append("Nobody has measured whether training with these images helps.")
    uneven = [part["classes"] for part in parts if len({counts["kept"] for counts in part["classes"].values()}) > 1]
    if uneven:
        limits.append("The classes are not of one size: see the table above.")
    return "\n".join(f"- {limit}" for limit in limits) + "\n"


def _again(part: dict[str, Any], place: str, several: bool) -> str:
    def sets(keys: Sequence[str]) -> str:
        return "".join(f" --set '{key}=…'" for key in keys)

    needs = (
        f"These keys named folders of the machine that it was built on; give your own: {', '.join(f'`{key}`' for key in part['local'])}. "
        if part["local"]
        else ""
    )
    pixels = [key for key in part["local"] if not key.startswith(("filters", "export"))]
    plan = f" --plan {part['plan']}" if several else ""
    return (
        f"```\npip install synthetic-dataset-factory=={part['factory']}\n"
        f"factory build {PROVENANCE}/{part['plan']}/recipe.yaml{sets(part['local'])}\n"
        f"factory replay {place} ID{plan}{sets(pixels)}\n```\n\n"
        f"{needs}With the same real images and weights the plan is `{part['plan']}` again; on the same hardware and versions the images are the same bytes. "
        "`factory replay` makes one image alone, by its `id`, and says how it differs from the one that is stored.\n"
    )
