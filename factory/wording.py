"""The prompts of a recipe: made by its kind, then made different from each other; and how different they are."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from factory import diversity, seeds, sentences
from factory.contracts import Context, Prompts
from factory.errors import UserError
from factory.files import write_json

MEASURED = 512  # texts at most: the Vendi score takes the eigenvalues of a square matrix


@dataclass(frozen=True)
class Worded:
    """texts: per class its prompts, in the order of use.  facts: how many were made and how many were dropped, as JSON values."""

    texts: list[list[str]]
    facts: dict[str, Any]


def texts(prompts: Prompts, context: Context) -> Worded:
    """The prompts of every class, without near-duplicates and cut down to the most different ones where the recipe asks for it.

    Chosen prompts are cached by content, so that planning again loads no model. Raises UserError.
    """
    made = [list(dict.fromkeys(group)) for group in prompts.texts(context)]
    for name, group in zip(context.class_names or ["(all)"], made, strict=True):
        if not group:
            raise UserError(f"prompts: {prompts.kind} made no prompt for class {name!r}")
    chosen = made if prompts.max_similarity is None and not _to_cut(prompts, made) else _chosen(prompts, context, made)
    count = sum(map(len, made))
    return Worded(chosen, {"made": count, "dropped": count - sum(map(len, chosen))})


def _to_cut(prompts: Prompts, made: list[list[str]]) -> bool:
    return prompts.keep is not None and any(len(group) > prompts.keep for group in made)


def _chosen(prompts: Prompts, context: Context, made: list[list[str]]) -> list[list[str]]:
    key = json.dumps([made, prompts.sentences, prompts.max_similarity, prompts.keep])
    path = context.cache / "wording" / f"{hashlib.sha256(key.encode()).hexdigest()[:32]}.json"
    if path.exists():
        cached: list[list[str]] = json.loads(path.read_text(encoding="utf-8"))
        return cached
    encoder = sentences.open(prompts.sentences)
    chosen = []
    for group in made:
        rows = encoder.encode(group)
        places = distinct(rows, prompts.max_similarity)
        if prompts.keep is not None:
            places = places[spread(rows[places], prompts.keep)]
        chosen.append([group[place] for place in places.tolist()])
    write_json(path, chosen)
    return chosen


def distinct(rows: np.ndarray, max_similarity: float | None) -> np.ndarray:
    """Places of unit rows [N, D] that no earlier one of these is more similar to than the bound; int64, rising."""
    if max_similarity is None:
        return np.arange(len(rows))
    stays: list[int] = []
    for place, row in enumerate(rows):
        if not stays or float((rows[stays] @ row).max()) <= max_similarity:
            stays.append(place)
    return np.array(stays)


def spread(rows: np.ndarray, count: int) -> np.ndarray:
    """Places of `count` unit rows, each the furthest from all before it, from the first on (max-min selection; Gonzalez 1985)."""
    chosen = [0]
    nearest = rows @ rows[0]
    while len(chosen) < min(count, len(rows)):
        nearest[chosen] = np.inf
        chosen.append(int(nearest.argmin()))
        nearest = np.maximum(nearest, rows @ rows[chosen[-1]])
    return np.array(chosen)


def measure(used: Sequence[str], encoder: str) -> dict[str, Any]:
    """How different texts are: their mean cosine distance, and their Vendi score.

    Of more than 512 texts a seeded sample is measured. Without the encoder at hand, `why` says so and nothing is downloaded.
    """
    if not sentences.available(encoder):
        return {"why": f"the sentence encoder {encoder} is not on this machine"}
    some = list(used)
    if len(some) > MEASURED:
        some = [some[i] for i in np.sort(seeds.rng("wording", len(some)).permutation(len(some))[:MEASURED])]
    rows = sentences.open(encoder).encode(some)
    return {
        "texts": len(some),
        "mean_cosine_distance": round(diversity.mean_cosine_distance(rows), 4),
        "vendi": round(diversity.vendi_score(rows), 2),
    }
