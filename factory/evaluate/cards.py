"""What a model's card says it was trained on: a generator that has seen the test images proves nothing on them."""

from __future__ import annotations

import json
import logging
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from factory.contracts import Table
from factory.evaluate import claims, guards
from factory.evaluate.guards import Check

log = logging.getLogger("factory")
_LIBRARY = re.compile(r"^(?:hf-hub|transformers|open_clip|timm):")  # by which a model is opened: hf-hub:org/name
_SPLITS = ("train", "training", "test", "testing", "val", "valid", "validation", "dev", "eval")


def trained_on_test(kinds: list[dict[str, Any]], test: Table, source: Mapping[str, Any]) -> Check:
    """Models of these kinds (their settings in a recipe) whose cards say that they were trained on the test images.

    source: the settings of where the test images are from. A card says so by the fingerprint of the very rows, by a split of the same
    dataset that holds them or is called test, or in words. A card that cannot be had says nothing.
    """
    named: list[str] = []
    for folder, model in _places(kinds):
        facts, text = _facts(folder, model), _text(folder, model)
        named += [f"{_shown(folder, model)}: {why}" for why in _reasons(facts, text, test, source)][:1]
    why = f"{len(named)} models that made these images were trained on the test split by their own cards; use others, or other test images"
    return Check("generator_trained_on_test", named, why)


def taught(kinds: list[dict[str, Any]]) -> list[tuple[str, Mapping[str, Any]]]:
    """Models of these kinds whose cards say that they were trained with labels, and what on (fingerprint, dataset, split, images)."""
    cards = [(_shown(folder, model), _facts(folder, model).get("trained_on")) for folder, model in _places(kinds)]
    return [(model, trained) for model, trained in cards if isinstance(trained, dict) and trained.get("labels_used")]


def _places(kinds: list[dict[str, Any]]) -> Iterator[tuple[Path, str]]:
    """(where a model's card is if it is here, what a recipe calls it) of every model, once."""
    for model in dict.fromkeys(_LIBRARY.sub("", name) for kind in kinds for name in _models(kind) if name):  # "" is no folder
        folder = Path(model).expanduser()
        yield (folder.parent if folder.is_file() else folder), model  # weights of a folder that has the card


def _shown(folder: Path, model: str) -> str:
    return folder.name if folder.is_dir() else model


def _models(value: Any) -> Iterator[str]:
    """Every name in a kind's settings that may be a model: folders here, and ids on the Hub."""
    if isinstance(value, Mapping):
        for key, inner in value.items():
            if key == "dataset":
                continue  # images to look things up in
            if isinstance(inner, str) and (
                key in ("model", "path", "id", "weights") or os.path.isdir(os.path.expanduser(_LIBRARY.sub("", inner)))
            ):  # of os.path, since a Path raises for text that is too long for a name
                yield inner
            else:
                yield from _models(inner)
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from _models({"model": inner} if isinstance(inner, str) else inner)


def _reasons(facts: Mapping[str, Any], text: str, test: Table, source: Mapping[str, Any]) -> Iterator[str]:
    given = facts.get("trained_on")
    trained = given if isinstance(given, dict) else {}
    if trained.get("fingerprint") and trained["fingerprint"] == test.fingerprint:
        yield "trained_on.fingerprint is that of the test images"
    (ours, split), (theirs, tested) = _named(trained), _named(source)
    says = guards.says_test(split) and (not ours or _same(ours, theirs))
    if says or (ours and _holds(split, tested) and _is(ours, theirs)):
        yield f"trained_on.split is {split!r}" if split == trained.get("split") else f"trained_on.dataset is {ours!r}"
    yield from (f"its card says “{line}”" for line in claims.found(text))


def _named(source: Mapping[str, Any]) -> tuple[str, str]:
    """(dataset, split); a folder or file that is called train or test is that split, whatever the split is said to be; slices of it stay slices."""
    inner = source.get("images")
    source = inner if isinstance(inner, Mapping) else source  # patches are of images
    dataset, split = str(source.get("dataset") or ""), str(source.get("split") or "")
    path = Path(dataset.lower())
    name = path.name
    if path.suffix in (".parquet", ".tar"):
        name = "test" if guards.says_test(path.stem) else _first(name)
    if name not in _SPLITS:
        return dataset, split
    name = name.removesuffix("ing")  # training is train, testing is test
    return dataset, "+".join(name + "".join(part.partition("[")[1:]) for part in split.split("+"))


def _holds(trained: str, tested: str) -> bool:
    """Whether two splits of a dataset (`train`, `train+validation[:50%]`, `all`) share rows; two slices of one split may hold other rows."""
    ours, theirs = ([part.strip() for part in split.lower().split("+") if part.strip()] for split in (trained, tested))

    def covers(some: list[str], others: list[str]) -> bool:
        """Whether a whole part of one is a part of the other, whole or sliced."""
        return "all" in some or any(part.partition("[")[0].strip() in some for part in others)

    return covers(ours, theirs) or covers(theirs, ours)


def _is(ours: str, theirs: str) -> bool:
    """Whether two names are the same dataset: folders and files here by their place, names by `_same`."""
    one, other = (os.path.expanduser(name) for name in (ours, theirs))
    if not all(os.path.isabs(path) or os.path.exists(path) for path in (one, other)):
        return _same(ours, theirs)
    inner, outer = sorted((Path(os.path.realpath(path)) for path in (one, other)), key=lambda path: -len(path.parts))
    return inner.is_relative_to(outer) and all(_first(part) in ("data", *_SPLITS) for part in inner.relative_to(outer).parts)


def _first(name: str) -> str:
    """The first word of a name: train of train-00000-of-00001.parquet."""
    return re.split(r"[-_.]", name.lower())[0]


def _same(ours: str, theirs: str) -> bool:
    """Whether two names may mean the same dataset: the last part of one, splits and files aside, is a part of the other."""

    def parts(name: str) -> list[str]:
        found = [re.sub(r"[-_]", "", part.lower()) for part in re.split(r"[/\\]", name) if part]
        return [part for part in found if "." not in part and part not in ("data", *_SPLITS)]

    one, other = parts(ours), parts(theirs)
    return one[-1] in other or other[-1] in one if one and other else Path(ours).name == Path(theirs).name


def _facts(folder: Path, model: str) -> dict[str, Any]:
    text = _file(folder, model, "training.json")
    try:
        found = json.loads(text) if text else {}
    except json.JSONDecodeError as error:
        log.warning("%s: training.json cannot be read: %s", model, error)
        return {}
    return found if isinstance(found, dict) else {}


def _text(folder: Path, model: str) -> str:
    return _file(folder, model, "README.md")


def _file(folder: Path, model: str, name: str) -> str:
    """A card's text from the model's folder, or from the Hub's cache on this disk; "" where there is none."""
    path: Any = folder / name if folder.is_dir() else None
    if path is None and model.count("/") == 1:
        from huggingface_hub import try_to_load_from_cache
        from huggingface_hub.errors import HFValidationError

        try:
            path = try_to_load_from_cache(model, name)
        except HFValidationError:  # no id, but a folder that is no longer there
            return ""
    return Path(path).read_text(encoding="utf-8", errors="replace") if isinstance(path, str | Path) and Path(path).is_file() else ""
