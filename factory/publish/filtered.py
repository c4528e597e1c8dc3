"""The card of a dataset that was filtered out of a corpus. No token and no local path reaches it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from factory.publish import evaluated, sections
from factory.publish.facts import PROVENANCE


def card(parts: Sequence[dict[str, Any]], size: int, place: str) -> str:
    """The card of one such dataset, or of several in one repository; arguments are those of `dataset_card.card`."""
    first, several = parts[0], len(parts) > 1
    rows, read = sum(part["rows"] for part in parts), sum(part["read"] for part in parts)
    pictures = [
        f"![Some of the images that were kept]({PROVENANCE}/{part['plan']}/contact_sheet.png)\n" for part in parts if part.get("pictures")
    ]
    measured = [
        sections.title(part, several) + evaluated.text(part.get("evaluation"), part.get("accepted", ""))
        for part in parts
        if part.get("evaluation") or part.get("accepted")
    ]
    text = [
        sections.header(parts, size, []),
        f"# {first['name']}\n",
        f"{rows} of the {read} rows of {_corpora(parts)}, chosen by the filters below with the synthetic-dataset factory "
        f"{', '.join(sorted({part['factory'] for part in parts}))}. {_images(first)}\n",
        f"```python\nfrom datasets import load_dataset\n\ndata = load_dataset({place!r}, split={first['split']!r})\n```\n",
        *pictures,
        *(["## Does it help?\n", *measured] if measured else []),
        "## What is in it\n",
        sections.classes(parts, "read"),
        _columns(first, several),
        "## How it was chosen\n",
        *(_chosen(part, several) for part in parts),
        "## What was refused\n",
        *(sections.refused(part, several, "(read)", part["read"]) + _sum(part) for part in parts),
        "## Licences\n",
        sections.licences(parts) + f"- The images are those of {_corpora(parts)}: their owners' licences hold for them unchanged.\n",
        "## Known limits\n",
        _limits(parts, bool(measured)),
        "## Make it again\n",
        *(_again(part, several) for part in parts),
    ]
    return "\n".join(text)


def _corpora(parts: Sequence[dict[str, Any]]) -> str:
    found = dict.fromkeys(str(part["corpus"].get("dataset", part["corpus"]["kind"])) for part in parts)
    return ", ".join(f"`{name}`" for name in found)


def _images(part: dict[str, Any]) -> str:
    files = "Image files are those of the corpus, byte for byte where a reader can show them as they are."
    if part["image"] != "original":
        files = f"Images were encoded again as {part['image'] or part['export']}."
    marked = " The column `synthetic`, passed on from the corpus, says which of them were." if "synthetic" in part["columns"] else ""
    return f"{files} Nothing is said here of whether they are photographs or were generated.{marked}"


def _columns(part: dict[str, Any], several: bool) -> str:
    scores = [f"`{rule['name']}`" for rule in part["rules"] if rule["name"] in part["columns"]]
    return (
        f"Columns: `id` names a row of the corpus{', and is unique within its plan' if several else ''}; "
        + (f"the scores of the filters are {', '.join(scores)}; " if scores else "")
        + "all others are the corpus's own, one that would hide ours under `corpus_<name>`.\n"
    )


def _chosen(part: dict[str, Any], several: bool) -> str:
    own, corpus, source = f"{PROVENANCE}/{part['plan']}", part["corpus"], part["source"]
    compared = (
        f" Filters compared with the real images of `{source.get('dataset', source['kind'])}`, content `{source['fingerprint']}`."
        if source
        else ""
    )
    return (
        sections.title(part, several)
        + (sections.models(part) + "\n" if part["models"] else "No filter has a model.\n\n")
        + f"Corpus: {_corpora([part])}, kind `{corpus['kind']}`, {part['read']} rows, fingerprint `{corpus['fingerprint']}` (of the names and sizes "
        + f"of its files, with their times or checksums).{compared} Plan: `{part['plan']}`.\n\n"
        + f"Recipe: [`{own}/recipe.yaml`]({own}/recipe.yaml); the plan, with all that decides the scores: [`plan.json`]({own}/plan.json).\n"
    )


def _sum(part: dict[str, Any]) -> str:
    gone = part["read"] - part["rows"]
    return f"\nEvery row is accounted for: {part['read']} read = {part['rows']} kept + {gone} refused.\n"


def _limits(parts: Sequence[dict[str, Any]], measured: bool) -> str:
    limits = [
        "The images and their labels and captions are the corpus's own, with its errors and biases; "
        + ("the filters above are all that checked them." if any(part["rules"] for part in parts) else "nothing checked them."),
        "The scores come from models with errors of their own; a threshold on them favours what those models know.",
        "Nobody has looked for persons, private data or works under copyright in them beyond what these filters find.",
    ]
    if not any(part["models"] for part in parts):
        del limits[1]
    if not measured:
        limits.append("Nobody has measured whether training with this selection is better than with the whole corpus.")
    if any(len({counts["kept"] for counts in part["classes"].values()}) > 1 for part in parts):
        limits.append("The classes are not of one size: see the table above.")
    return "\n".join(f"- {limit}" for limit in limits) + "\n"


def _again(part: dict[str, Any], several: bool) -> str:
    return (
        sections.title(part, several) + f"```\npip install synthetic-dataset-factory=={part['factory']}\n"
        f"factory filter {PROVENANCE}/{part['plan']}/recipe.yaml{sections.sets(part['local'])}\n```\n\n"
        f"{sections.places(part)}With the same corpus and weights the same rows stay. The plan is `{part['plan']}` again where its files keep "
        "their times (`cp -p`, `rsync -a`).\n"
    )
