"""From measurements to docs/results: rows, tables by set, and a sentence for every claim of a paper."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from bench._methods import CLAIMS, FILTERED, METHODS, Claim
from bench._trials import summarise
from factory.evaluate.statistics import Interval, interval

Row = dict[str, Any]
BASELINE = "real + RandAugment"


def table(name: str, measured: Sequence[Row]) -> list[Row]:
    """Measurements of one set -> {set, labels, method, filtered, accuracy_mean, ci95, seeds, gain, gain_ci95}, in the order of METHODS.

    Accuracies in [0, 1], class-balanced; the gain is over real + RandAugment with the same seeds; a half-width is None for one seed.
    """
    order = [arm for method in METHODS.values() for arm in method.arms]
    entries = sorted(summarise(measured), key=lambda e: (e["labels_per_class"], order.index(e["arm"])))
    return [
        {"set": name, "labels": entry["labels_per_class"]}
        | {"method": entry["arm"].removesuffix(FILTERED), "filtered": entry["arm"].endswith(FILTERED)}
        | {key: _rounded(entry[key]) for key in ("accuracy_mean", "ci95", "seeds", "gain", "gain_ci95")}
        for entry in entries
    ]


def markdown(rows: Sequence[Row], measured: Mapping[str, Sequence[Row]], about: dict[str, str], left_out: Sequence[str], how: str) -> str:
    """docs/results.md.

    measured: the measurements of each set.  about: a sentence on each set.  left_out: sentences on the sets that are not here.
    how: a paragraph on how it was measured.
    """
    parts = ["# Does it help?\n", how, ""]
    parts += [f"- Left out: {sentence}" for sentence in left_out] + ([""] if left_out else [])
    for name in measured:
        parts += [f"## {name}\n", about[name], ""]
        for labels in sorted({row["labels"] for row in rows if row["set"] == name}):
            parts += [f"### {about_labels(name, labels)}\n", *_tabled([r for r in rows if r["set"] == name and r["labels"] == labels]), ""]
    parts += ["## What the papers claim, and whether it holds here\n", VERDICTS, ""]
    for claim in CLAIMS:
        sentences = [sentence for name in measured for sentence in judged(claim, name, measured[name])]
        parts += [f"- **{claim.says}** {claim.paper}", *(f"  - {s}" for s in sentences or ["Not measured."])]
    return "\n".join(parts).rstrip() + "\n"


def about_labels(name: str, labels: float) -> str:
    """What a number of labels means on a set."""
    return f"{labels:g} images in the largest class" if name.endswith("long-tail") else f"{labels:g} labels a class"


VERDICTS = (
    "Differences are paired by seed: points of class-balanced accuracy, with the 95% interval of their mean. A claim *holds* where the interval "
    "lies above zero, *does not hold* where it lies below, and is *not settled* where it holds zero. Where a claim is on several methods, the number is "
    "their mean, so that no method was chosen by its result. With this many comparisons some intervals miss by chance: one in twenty."
)


def judged(claim: Claim, name: str, measured: Sequence[Row]) -> Iterator[str]:
    """A sentence for each number of labels at which one of the claim's pairs was measured."""
    for labels in sorted({row["labels_per_class"] for row in measured}):
        found = {(row["arm"], row["seed"]): row["accuracy"] for row in measured if row["labels_per_class"] == labels}
        arms = {arm for arm, _ in found}
        pairs = [pair for pair in claim.pairs() if arms.issuperset(pair)]
        seeds = sorted({seed for _, seed in found if all((arm, seed) in found for pair in pairs for arm in pair)})
        if pairs and seeds:
            differences = [float(np.mean([found[a, s] - found[b, s] for a, b in pairs])) for s in seeds]
            yield f"{name}, {about_labels(name, labels)}: {_verdict(interval(differences))} over {_theirs(pairs)}{_of(pairs)}."


def _verdict(gain: Interval) -> str:
    points = f"{100 * gain.mean:+.1f}"
    if gain.half is None:
        return f"*not settled*, {points} points with one seed"
    word = "holds" if gain.mean > gain.half else "does not hold" if gain.mean < -gain.half else "not settled"
    return f"*{word}*, {points} ± {100 * gain.half:.1f} points ({gain.size} seeds)"


def _theirs(pairs: Sequence[tuple[str, str]]) -> str:
    theirs = list(dict.fromkeys(theirs for _, theirs in pairs))
    return (BASELINE if theirs[0] == "real_strong" else f"`{theirs[0]}`") if len(theirs) == 1 else "the same methods unfiltered"


def _of(pairs: Sequence[tuple[str, str]]) -> str:
    return f", the mean of {len(pairs)} methods" if len(pairs) > 1 else ""


def _tabled(rows: Sequence[Row]) -> list[str]:
    """A Markdown table of one set and number of labels: a method a line, as it is and filtered."""
    lines = [
        "| method | accuracy, % | gain, points | filtered: accuracy, % | gain, points | seeds | source |",
        "|---|--:|--:|--:|--:|--:|---|",
    ]
    found = {(row["method"], row["filtered"]): row for row in rows}
    for name, method in METHODS.items():
        plain, kept = found.get((name, False)), found.get((name, True))
        counts = sorted({row["seeds"] for row in (plain, kept) if row})
        if counts:
            cells = [f"{name}{' †' if method.prompted else ''}", *_cells(plain), *_cells(kept), "–".join(map(str, counts)), method.paper]
            lines.append(f"| {' | '.join(cells)} |")
    return lines


def _cells(row: Row | None) -> list[str]:
    return ["", ""] if row is None else [_percent(row["accuracy_mean"], row["ci95"]), _percent(row["gain"], row["gain_ci95"], "+")]


def _percent(value: float | None, half: float | None, sign: str = "") -> str:
    if value is None:
        return ""
    return f"{100 * value:{sign}.1f}" + ("" if half is None else f" ± {100 * half:.1f}")


def _rounded(value: Any) -> Any:
    return round(value, 4) if isinstance(value, float) else value
