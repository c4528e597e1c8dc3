"""How a dataset was made, as JSON values: what its card is written from, and what a later push adds to."""

from __future__ import annotations

import hashlib
import io
import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from ruamel.yaml import YAML

from factory import __version__, select
from factory.publish import names
from factory.recipe import Recipe, Scored
from factory.store import Store

PROVENANCE = "provenance"  # the folder of a dataset that holds recipe.yaml, plan.json and facts.json of each plan in it
MODEL_KEYS = {"model", "encoder", "sentences", "vae", "lora", "controlnet", "control", "ip_adapter", "textual_inversion", "scorer"}


def gather(recipe: Recipe, store: Store, labels: np.ndarray, selection: select.Selection, columns: list[str]) -> dict[str, Any]:
    """The facts of one plan's selection. labels: int [N] of every generated row, kept or refused."""
    run = store.run()
    class_names = run["identity"]["source"]["class_names"]
    kept, made = Counter(labels[selection.keep].tolist()), Counter(labels.tolist())
    numbered = list(enumerate(class_names)) or [(-1, "(unlabelled)")]
    settings, local = names.public(recipe.settings())
    return {
        "command": "build",
        "name": recipe.name,
        "plan": run["plan"],
        "factory": __version__,
        "split": recipe.split,
        "export": recipe.export.kind,
        "data_files": recipe.export.data_files(recipe.split),
        "class_names": class_names,
        "columns": columns,
        "selection": select.digest(selection.keep),
        "rows": int(selection.keep.sum()),
        "generated": len(labels),
        "rounds": len(store.rounds()),
        "classes": {name: {"kept": kept[c], "generated": made[c]} for c, name in numbered},
        "rules": list(_rules(recipe, selection, len(labels))),
        "models": list(_models(recipe, store)),
        "source": {**settings["source"], "fingerprint": run["identity"]["source"].get("fingerprint"), "real": _real(run)},
        "condition": settings["condition"],
        "seed": recipe.seed,
        "local": local,
        "settings": digest(recipe.settings()),
    }


def digest(settings: dict[str, Any]) -> str:
    """Names a recipe's settings, so that a dataset can be told from what another recipe would select."""
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:16]


def is_filtered(facts: dict[str, Any]) -> bool:
    """Whether these are the facts of a corpus that `factory filter` chose from, and not of images that were made."""
    return facts.get("command") == "filter"


def images(facts: dict[str, Any]) -> str:
    """What the images are called in one line."""
    return "images out of a corpus" if is_filtered(facts) else "synthetic images"


def write(folder: Path, facts: dict[str, Any], recipe: dict[str, Any], plan: dict[str, Any]) -> None:
    """recipe.yaml, plan.json and facts.json under provenance/<plan>/ of a dataset's folder. recipe, plan: JSON values, not yet for strangers."""
    own = folder / PROVENANCE / facts["plan"]
    own.mkdir(parents=True)
    settings, _ = names.public(recipe)
    head = f"# The recipe of plan {facts['plan']}, by the synthetic-dataset factory {facts['factory']}: factory {facts['command']} recipe.yaml\n"
    if facts["local"]:
        head += f"# These named folders of the machine that it was built on; put yours: {', '.join(facts['local'])}\n"
    (own / "recipe.yaml").write_text(head + yaml(settings), encoding="utf-8")
    public, _ = names.public(plan)
    for name, value in (("plan", public), ("facts", facts)):
        (own / f"{name}.json").write_text(json.dumps(value, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def yaml(value: Any) -> str:
    """JSON values as YAML, in their order."""
    out = io.StringIO()
    writer = YAML()
    writer.width = 10_000
    writer.dump(value, out)
    return out.getvalue()


def _real(run: dict[str, Any]) -> int:
    return int(sum(run["identity"]["source"].get("real", [])))


def _rules(recipe: Recipe, selection: select.Selection, rows: int) -> Iterator[dict[str, Any]]:
    """Each rule in its order: what it asks, how many it was the first to refuse, how many were left."""
    refused = selection.refused()
    for name, f in recipe.named_filters():
        rows -= refused.get(name, 0)
        yield {"name": name, "asks": f.asks(), "refused": refused.get(name, 0), "left": rows}
    for name in (name for name in refused if name not in dict(recipe.named_filters())):
        rows -= refused[name]
        yield {"name": name, "asks": "no more than the class's amount", "refused": refused[name], "left": rows}


def _models(recipe: Recipe, store: Store) -> Iterator[dict[str, Any]]:
    """Every model that the recipe names: its role, name, revision and licence; weights and commit of those that made the images."""
    settings = recipe.settings()
    described = store.generators()
    for i, generator in enumerate(settings["generator"]):
        found = described[i] if i < len(described) else {}
        own, _ = names.public({key: found.get(key) for key in ("pipeline", "scheduler", "dtype", "commit", "weights")})
        yield {"role": "generator", **_model(generator.get("model") or generator["kind"], generator.get("revision")), **own}
        yield from _named("generator", {key: value for key, value in generator.items() if key != "model"})
    for section in ("condition", "prompts"):
        yield from _named(section, settings[section])
    yield from filter_models(recipe)


def filter_models(recipe: Scored) -> Iterator[dict[str, Any]]:
    """The models of a recipe's filters."""
    for name, f in recipe.named_filters():
        yield from _named(f"filter {name}", f.settings())


def _named(role: str, value: Any) -> Iterator[dict[str, Any]]:
    """The models in a kind's settings, at any depth."""
    if isinstance(value, list):
        for item in value:
            yield from _named(role, item)
    elif isinstance(value, dict):
        for key, own in value.items():
            if key in MODEL_KEYS and isinstance(own, str) and own:
                yield {"role": role if key == "model" else f"{role}: {key}", **_model(own, value.get("revision"))}
            elif key in MODEL_KEYS and isinstance(own, list) and all(isinstance(item, str) for item in own):
                yield from ({"role": f"{role}: {key}", **_model(item, None)} for item in own)
            else:
                yield from _named(role, own)


def _model(name: str, revision: str | None) -> dict[str, Any]:
    return {"name": names.public_name(name), "revision": revision, "licence": _licence(name)}


def _licence(name: str) -> str | None:
    """What the card of a local folder, or of a Hub model that was downloaded before, says; None where there is none."""
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    path: Any = Path(name) / "README.md"
    if not path.is_file():
        try:
            path = try_to_load_from_cache(name, "README.md")
        except HFValidationError:  # neither a folder nor a Hub id: the name of an architecture, say
            return None
    return licence_in(Path(path).read_text(encoding="utf-8")) if isinstance(path, str | Path) else None


def licence_in(text: str) -> str | None:
    """The licence in the YAML header of a card."""
    from huggingface_hub import RepoCard
    from ruamel.yaml.error import YAMLError as RuamelError
    from yaml import YAMLError

    try:
        found = RepoCard(text, ignore_metadata_errors=True).data.get("license")
    except (YAMLError, RuamelError, ValueError):  # a stranger's card may have any header
        return None
    return ", ".join(map(str, found)) if isinstance(found, list) else None if found is None else str(found)
