"""What a model's card says it was trained on: a generator that has seen the test images proves nothing on them."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from factory.contracts import Table
from factory.evaluate import guards
from factory.evaluate.guards import Check

log = logging.getLogger("factory")
# "trained on the train and test splits", "training data: train+test"; within one clause, and not where the clause denies it.
_CLAIM = re.compile(r"\b(?:pre-?)?train(?:ed|ing)\b[^.;|\n]{0,100}?\b(?:test|train\s*\+\s*test)\b(?:\s+(?:split|set|images|data))?", re.I)
_DENIAL = re.compile(r"\b(?:never|not|no|without|un(?:seen|used)|except|exclud\w+|held[- ]out|evaluat\w+|measured|separate)\b", re.I)


def trained_on_test(generators: list[dict[str, Any]], test: Table, dataset: str) -> Check:
    """Models of these generators (their settings in a recipe) whose cards say that they were trained on the test images.

    dataset: what the test images were named by. A card says so by the fingerprint of the very rows, by a split of the same dataset that is
    called test, or in words. A card that cannot be had says nothing.
    """
    named: list[str] = []
    for model in dict.fromkeys(name for generator in generators for name in _models(generator)):
        folder = Path(model).expanduser()
        facts, text = _facts(folder, model), _text(folder, model)
        named += [f"{folder.name if folder.is_dir() else model}: {why}" for why in _reasons(facts, text, test, dataset)][:1]
    why = f"{len(named)} models that made these images were trained on the test split by their own cards; use others, or other test images"
    return Check("generator_trained_on_test", named, why)


def _models(value: Any) -> Iterator[str]:
    """Every name in a generator's settings that may be a model: folders here, and ids on the Hub."""
    if isinstance(value, Mapping):
        for key, inner in value.items():
            if isinstance(inner, str) and (key in ("model", "path", "id", "weights") or Path(inner).expanduser().is_dir()):
                yield inner
            else:
                yield from _models(inner)
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from _models({"model": inner} if isinstance(inner, str) else inner)


def _reasons(facts: Mapping[str, Any], text: str, test: Table, dataset: str) -> Iterator[str]:
    trained = facts.get("trained_on", {})
    if trained.get("fingerprint") and trained["fingerprint"] == test.fingerprint:
        yield "trained_on.fingerprint is that of the test images"
    split, source = str(trained.get("split") or ""), str(trained.get("dataset") or "")
    stem = Path(source).stem if source.endswith((".parquet", ".tar")) else ""
    if guards.says_test(split) and (not source or _same(source, dataset)):
        yield f"trained_on.split is {split!r}"
    elif guards.says_test(stem) and _same(source, dataset):
        yield f"trained_on.dataset is {source!r}"
    for line in _prose(text):
        claim = _CLAIM.search(line)
        if claim and not _DENIAL.search(line):
            yield f"its card says “{line.strip()[:120]}”"


def _same(ours: str, theirs: str) -> bool:
    """Whether two names may mean the same dataset: a part in common that is no file name and no split."""

    def parts(name: str) -> set[str]:
        found = {part.lower() for part in re.split(r"[/\\]", name) if part}
        return {part for part in found if "." not in part and part not in ("data", "train", "test", "")}

    return bool(parts(ours) & parts(theirs)) or Path(ours).name == Path(theirs).name


def _prose(text: str) -> Iterator[str]:
    """Sentences of a card, its code and its tables left out."""
    body = re.sub(r"```.*?```", " ", text, flags=re.S)
    lines = (line for line in body.splitlines() if not line.lstrip().startswith("|"))
    joined = re.sub(r"\n(?=[a-z(])", " ", "\n".join(lines))  # a wrapped line goes on
    yield from re.split(r"(?<=[.;!?])\s+|\n", joined)


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

        path = try_to_load_from_cache(model, name)
    return Path(path).read_text(encoding="utf-8", errors="replace") if isinstance(path, str | Path) and Path(path).is_file() else ""
