"""Stored scores as the page carries them: compact arrays, so that a browser decides like `factory select` does."""

from __future__ import annotations

import base64
from typing import Any

import numpy as np

from factory import seeds
from factory.contracts import Filter
from factory.finished import Run
from factory.neighbours import earlier_neighbours
from factory.select import KEPT, OVER_QUOTA, Rule

MOST_ROWS = 50_000
MOST_BYTES = 800_000  # of score columns, before base64 adds a third
MOST_PAIRS = 30_000  # near-duplicate pairs, eight bytes each
BINS = 48
SMALL, LONG = 5_000, 256  # rows of a run whose lists of neighbours are made longer, and how long


def sample(run: Run) -> np.ndarray:
    """The rows that the page carries, int64 [n], in order: all of a small run, an even draw of a large one."""
    most = min(MOST_ROWS, MOST_BYTES // (4 * len(run.rules) + 7))
    if len(run.labels) <= most:
        return np.arange(len(run.labels))
    return np.sort(seeds.rng("page", len(run.labels)).choice(len(run.labels), most, replace=False))


def payload(run: Run, rows: np.ndarray, command: str) -> dict[str, Any]:
    """What the page's script decides from, as JSON values.

    rows: from `sample`.  command: what decides again, before its --set.  Where these are not all rows, near-duplicates keep the decision
    that was made over all of them, and the script scales counts by class.
    """
    whole = len(rows) == len(run.labels)
    labels, classes, slugs = run.labels[rows], run.classes, reasons(run)
    kept = run.labels[run.selection.keep]
    sizes = {c: tuple(int((own == c).sum()) for own in (run.labels, labels, kept)) for c in classes}
    told = {KEPT: int(run.selection.keep.sum()), **run.selection.refused()}
    found: dict[str, Any] = {
        "command": command,
        "rows": len(rows),
        "total": len(run.labels),
        "labels": _packed((labels - min(classes)).astype(np.uint16)),
        "classes": [
            {"name": run.class_name(c), "quota": (run.quota or {}).get(c), "all": sizes[c][0], "here": sizes[c][1], "kept": sizes[c][2]}
            for c in classes
        ],
        "slugs": slugs,
        "reasons": [told.get(slug, 0) for slug in slugs],
        "rules": [rule_data(rule, f, i, run, rows, whole) for i, (rule, (_, f)) in enumerate(zip(run.rules, run.filters, strict=True))],
    }
    if run.quota is not None:
        found["ordinals"] = _packed(run.ordinals[rows].astype(np.uint32))
    if run.faults is not None:
        codes = np.array([0, *(slugs.index(slug) for slug in run.faults[1])], np.uint8)
        found["faults"] = _packed(codes[run.faults[0][rows]])
    return found


def reasons(run: Run) -> list[str]:
    """Slugs by the script's codes: 0 kept, 1 to R the rules in order, R + 1 over quota, then whatever else can refuse a row."""
    known = [KEPT, *(rule.reason for rule in run.rules), OVER_QUOTA, *(run.faults[1] if run.faults else ())]
    for rule in run.rules:
        known += [f"unscored_{rule.reason}"] if rule.scored is not None else []
        known += [rule.unanswered] if rule.unanswered is not None else []
    return list(dict.fromkeys(known))


def rule_data(rule: Rule, f: Filter, index: int, run: Run, rows: np.ndarray, whole: bool) -> dict[str, Any]:
    """One rule: its columns, its bounds (null where there is none), which keys of the recipe set them, and the range of its slider."""
    kept = run.selection.keep[rows]
    data: dict[str, Any] = {"name": rule.reason, "index": index, "low": _finite(rule.low), "high": _finite(rule.high), "keys": _keys(f)}
    if rule.scored is not None:
        data |= {"seen": _packed(rule.scored[rows].astype(np.uint8)), "unseen": reasons(run).index(f"unscored_{rule.reason}")}
    if rule.unanswered is not None:
        data["unanswered"] = reasons(run).index(rule.unanswered)
    if rule.score is None:
        return {**data, **_pairs(rule, f, run, rows, whole)}
    score = rule.score[rows]
    data |= {"kind": "scored", "score": _packed(score if score.dtype == np.float64 else score.astype(np.float32))}
    if rule.top is not None:
        data |= {"top": rule.top[0], "share": rule.top[1], "per_class": rule.per_class, "top_text": str(f.keep_top)}
    span = _range(score, rule)
    data |= {**span, "ends": _ends(f, span["from"], span["to"])}
    return {**data, "histogram": histogram(score, kept, span["from"], span["to"])}


def _pairs(rule: Rule, f: Filter, run: Run, rows: np.ndarray, whole: bool) -> dict[str, Any]:
    """Pairs of near-duplicates above the lowest similarity for which all of them fit; the slider ends there."""
    floor = float(getattr(f, "floor", rule.high))
    index, similarity = _neighbours(rule, floor)
    nearest = similarity.max(axis=1, initial=-1) if similarity.size else np.full(len(run.labels), -1, np.float32)
    shown = np.where(nearest > 0, nearest, np.nan)[rows]
    found = np.sort(similarity[similarity > floor])[::-1]
    if len(found) > MOST_PAIRS:  # the first value that does not fit: no pair of just this value is carried
        floor = float(found[MOST_PAIRS])
    span = (min(floor, rule.high), 1.0)
    data = {
        "from": span[0],
        "to": 1.0,
        "step": 0.001,
        "constant": False,
        "missing": 0,
        "ends": _ends(f, *span) if getattr(f, "max", None) is not None else [],
    }
    data["histogram"] = histogram(shown, run.selection.keep[rows], *span)
    data["nearest"] = _packed(shown.astype(np.float32))
    if not whole or floor > rule.high:
        refused = np.asarray(run.selection.reason[rows] == run.selection.reasons.index(rule.reason))
        return {**data, "kind": "fixed", "refused": _packed(refused.astype(np.uint8))}
    near = similarity > floor
    return {
        **data,
        "kind": "pairs",
        "most": similarity.shape[1],
        "counts": _packed(near.sum(axis=1).astype(np.uint16)),
        "others": _packed(index[near].astype(np.uint32)),
        "similarity": _packed(similarity[near].astype(np.float32)),
    }


def _neighbours(rule: Rule, floor: float) -> tuple[np.ndarray, np.ndarray]:
    """The stored neighbours; in a small run with crowds of near-copies longer lists, so that the script meets no row that they do not settle."""
    assert rule.neighbours is not None
    index, similarity = rule.neighbours
    if rule.embeddings is None or len(index) > SMALL or not (similarity > floor).all(axis=1).any():
        return index, similarity
    return earlier_neighbours(rule.embeddings(), floor, k=LONG)


def histogram(score: np.ndarray, kept: np.ndarray, low: float, high: float) -> list[list[int]]:
    """[kept, refused] in each of BINS equal bins of [low, high]; values beyond count in the first and the last, NaN nowhere."""
    finite = np.isfinite(score)
    place = np.clip(((score[finite] - low) / (high - low) * BINS).astype(int), 0, BINS - 1)
    both = [np.bincount(place[kept[finite] == side], minlength=BINS) for side in (True, False)]
    return np.stack(both, axis=1).tolist()


def _span(score: np.ndarray, rule: Rule) -> tuple[float, float]:
    """From the lowest to the highest score, far outliers left out, and wide enough to hold the bounds."""
    finite = score[np.isfinite(score)].astype(np.float64)
    ends = [b for b in (rule.low, rule.high) if np.isfinite(b)]
    ends += np.quantile(finite, [0.0005, 0.9995]).tolist() if len(finite) > 4000 else [finite.min(), finite.max()] if len(finite) else []
    low, high = (min(ends), max(ends)) if ends else (0.0, 1.0)
    return (float(low), float(high)) if high > low else (float(low) - 0.5, float(high) + 0.5)


def _range(score: np.ndarray, rule: Rule) -> dict[str, Any]:
    low, high = _span(score, rule)
    exponent = np.floor(np.log10((high - low) / 200))
    digits = -int(exponent)
    step = round(10.0**-digits, max(digits, 0))
    finite = score[np.isfinite(score)]
    return {
        "from": round(float(np.floor(low / step) * step), digits),
        "to": round(float(np.ceil(high / step) * step), digits),
        "step": step,
        "constant": bool(len(finite) == 0 or finite.min() == finite.max()),
        "missing": int((~np.isfinite(score)).sum()),
    }


def _keys(f: Filter) -> list[str]:
    """The keys of the recipe that the slider's ends set: one of [between], [min], [max], [min, max] or [keep_top]."""
    if f.between is not None:
        return ["between"]
    bounds = [key for key in ("min", "max") if getattr(f, key) is not None]
    return bounds or ([] if f.keep_top is not None else ["min"])


def _ends(f: Filter, low: float, high: float) -> list[dict[str, Any]]:
    """What can be moved: an end of the band that is kept, or the best share or number; `set` where the recipe gives it a value."""
    ends: list[dict[str, Any]] = []
    for setter, name, bound, edge in zip(("min", "max"), ("low", "high"), f.bounds(), (low, high), strict=True):
        if {"between", setter} & set(_keys(f)):
            words = "keep from" if name == "low" else "to" if ends else "keep up to"
            known = bool(np.isfinite(bound))
            ends.append({"key": name, "words": words, "value": bound if known else edge, "set": known})
    if f.keep_top is not None:
        amount, share = f.top()
        ends.append(
            {
                "key": "top",
                "words": "keep the best %" if share else "keep the best",
                "value": round(amount * 100, 6) if share else int(amount),
                "set": True,
            }
        )
    return ends


def _finite(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None


def _packed(values: np.ndarray) -> dict[str, str]:
    """A typed array for the script: its type and its little-endian bytes in base64."""
    little = np.ascontiguousarray(values, values.dtype.newbyteorder("<"))
    return {"type": f"{values.dtype.kind}{values.dtype.itemsize}", "bytes": base64.b64encode(little.tobytes()).decode()}
