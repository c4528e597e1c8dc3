"""What a push puts into the repository: the data files, the card, and under provenance/ the recipe, the plan and the facts."""

from __future__ import annotations

import fnmatch
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from factory import publish
from factory.errors import UserError
from factory.publish import names
from factory.publish.facts import PROVENANCE
from factory.push.remote import State
from factory.store import Store

CARD, CROISSANT, SHEET = "README.md", "croissant.json", "contact_sheet.png"
PICTURES = {".png", ".jpg", ".jpeg", ".webp"}
PAIRS = 20  # of the nearest ones, that travel with the facts


@dataclass(frozen=True)
class Contents:
    """files: path in the repository -> a local file, or the bytes themselves.  data: which of them hold images.

    gone: paths that an earlier push of these plans wrote and this one does not.
    """

    files: dict[str, Path | bytes]
    data: list[str]
    gone: list[str] = field(default_factory=list)


def facts_of(store: Store) -> dict[str, Any]:
    """The facts that were written with a run's dataset. Raises UserError for a run without a finished one."""
    dataset = store.folder / "dataset"
    if not (dataset / CARD).exists() and store.is_filtered():
        raise UserError(
            "the run has no new shards, an index alone is no dataset; write them without a model: `factory select RUN --export` "
            "(or set `keep: dataset` in the recipe and run `factory filter` again), then push"
        )
    if not (dataset / CARD).exists():
        raise UserError("the run has no dataset yet; finish it with `factory build`, or upload while it is built with --follow")
    found = sorted(dataset.glob(f"{PROVENANCE}/*/facts.json"))
    if not found:
        raise UserError("the run's dataset was exported by an older version; write it again with `factory select RUN --export`")
    facts: dict[str, Any] = json.loads(found[-1].read_text(encoding="utf-8"))
    return facts


def refuse_small_files(dataset: Path, facts: dict[str, Any]) -> None:
    """Raise UserError for a dataset of one file an image, which the Hub serves badly and its clients read slowly."""
    loose = sum(path.suffix.lower() in PICTURES for path in dataset.rglob("*") if PROVENANCE not in path.relative_to(dataset).parts)
    if loose:
        raise UserError(
            f"not pushed: the export `{facts['export']}` is {loose} image files, and the Hub wants few large ones. Write shards from the same "
            "run, without a model: `factory select RUN --set export.kind=parquet --export` (or webdataset), then push again"
        )


def told(facts: dict[str, Any], evaluation: dict[str, Any] | None, accepted: str, licence: str | None, sheet: bool) -> dict[str, Any]:
    """The facts with what is known when they are pushed."""
    more: dict[str, Any] = {"accepted": accepted, "licence": licence, "pictures": sheet}
    if evaluation is not None:
        public, _ = names.public(evaluation)
        memorisation = public.get("memorisation")
        if memorisation and memorisation.get("pairs"):
            public["memorisation"] = {**memorisation, "pairs": memorisation["pairs"][:PAIRS]}
        more["evaluation"] = public
    return {**facts, **more}


def gather(
    run: Path, facts: dict[str, Any], others: list[dict[str, Any]], before: list[dict[str, Any]], state: State, place: str, croissant: Any
) -> Contents:
    """Everything that the repository holds of this plan after the push.

    facts: of this plan, as `told`.  others: of the plans that stay beside it.  before: of the plans that this push replaces.
    croissant: the repository's croissant.json where others stay.
    """
    dataset = run / "dataset"
    own = f"{PROVENANCE}/{facts['plan']}"
    renamed = _names(dataset, facts, others, before)
    files: dict[str, Path | bytes] = {renamed[name]: dataset / name for name in renamed}
    data = [path for path in files if fnmatch.fnmatchcase(path, facts["data_files"])]
    for name in ("recipe.yaml", "plan.json"):
        files[f"{own}/{name}"] = dataset / own / name
    if facts["pictures"]:
        files[f"{own}/{SHEET}"] = run / SHEET
    described = [CROISSANT] if (dataset / CROISSANT).exists() else []
    facts = {**facts, "files": sorted([*files, f"{own}/facts.json", *described])}
    files[f"{own}/facts.json"] = _json(facts)
    size = sum((dataset / name).stat().st_size for name in renamed if renamed[name] in data)
    size += sum(state.files[path].size for other in others for path in _data(other) if path in state.files)
    files[CARD] = publish.card([*others, facts], size, place).encode()
    if described:
        new = json.loads((dataset / CROISSANT).read_text(encoding="utf-8"))
        kept = {*files, *(path for other in others for path in other["files"])}
        files[CROISSANT] = _json(_joined(croissant, new, renamed, kept, [*others, facts]) if croissant else new)
    gone = {path for other in before for path in other["files"]} & state.files.keys()
    return Contents(files, data, sorted(gone - files.keys()))


def _names(dataset: Path, facts: dict[str, Any], others: list[dict[str, Any]], before: list[dict[str, Any]]) -> dict[str, str]:
    """File of the dataset -> path in the repository: the same, or marked by the plan where other plans' files are beside it."""
    files = [path.relative_to(dataset).as_posix() for path in sorted(dataset.rglob("*")) if path.is_file()]
    files = [name for name in files if name not in (CARD, CROISSANT) and not name.startswith(f"{PROVENANCE}/")]
    taken = {path for other in others for path in other["files"]}
    plain = not others or any(other["plan"] == facts["plan"] and not _is_marked(other) for other in before)
    renamed = {name: name if plain else _marked(name, facts) for name in files}
    for path in renamed.values():
        if path in taken or (fnmatch.fnmatchcase(path, "data/*") and not fnmatch.fnmatchcase(path, facts["data_files"])):
            raise UserError(f"{path} cannot be added beside the shards that are there; push to a name of its own")
    return renamed


def _marked(name: str, facts: dict[str, Any]) -> str:
    """data/train-00000.tar -> data/train-0123abcd-00000.tar, which readers of data/train-* find too."""
    folder, _, file = name.rpartition("/")
    start = f"{facts['split']}-"
    marked = f"{start}{facts['plan'][:8]}-{file.removeprefix(start)}"
    return f"{folder}/{marked}" if folder else marked


def _is_marked(facts: dict[str, Any]) -> bool:
    return any(f"/{facts['split']}-{facts['plan'][:8]}-" in path for path in facts["files"])


def _data(facts: dict[str, Any]) -> list[str]:
    return [path for path in facts["files"] if fnmatch.fnmatchcase(path, facts["data_files"])]


def check_beside(facts: dict[str, Any], others: list[dict[str, Any]]) -> None:
    """Raise UserError where rows of two plans cannot be read as one dataset."""
    facts = {"command": "build", **facts}  # which facts of older versions do not say
    for other in ({"command": "build", **other} for other in others):
        for key, what in (
            ("command", "origin of the images (made, or filtered out of a corpus)"),
            ("data_files", "kind of files or split"),
            ("class_names", "classes"),
            ("columns", "columns (filters, annotations)"),
        ):
            if facts[key] != other[key]:
                raise UserError(
                    f"cannot append: the {what} differ from those of plan {other['plan']} there ({_short(facts[key])}, not {_short(other[key])}); "
                    "build with the same classes, filters and export, or push to a name of its own"
                )


def _short(value: Any) -> str:
    text = value if isinstance(value, str) else ", ".join(map(str, value))
    return text if len(text) < 80 else text[:77] + "…"


def _joined(old: Any, new: Any, renamed: dict[str, str], kept: set[str], parts: list[dict[str, Any]]) -> Any:
    """The Croissant metadata of both: files that are listed one by one are listed together; sets of files are found by their pattern."""
    fresh = []
    for entry in new["distribution"]:
        if entry["@type"] == "cr:FileObject":
            path = renamed.get(entry["contentUrl"], entry["contentUrl"])
            fresh.append({**entry, "@id": path, "name": path, "contentUrl": path})
    names_of_fresh = {entry["@id"] for entry in fresh}
    stay = [
        entry
        for entry in old["distribution"]
        if entry["@type"] != "cr:FileObject" or (entry["contentUrl"] in kept and entry["@id"] not in names_of_fresh)
    ]
    objects = [entry for entry in stay if entry["@type"] == "cr:FileObject"] + fresh
    sets = [entry for entry in stay if entry["@type"] != "cr:FileObject"]
    inside = [{"@id": entry["@id"]} for entry in objects]
    sets = [{**entry, "containedIn": inside} if "containedIn" in entry else entry for entry in sets]
    rows = sum(part["rows"] for part in parts)
    said = new["description"]  # of the new rows alone: their number, then what all of them are
    return {**old, "description": f"{rows}{said[len(said) - len(said.lstrip('0123456789')) :]}", "distribution": [*objects, *sets]}


def _json(value: Any) -> bytes:
    return (json.dumps(value, indent=1, ensure_ascii=False) + "\n").encode()
