"""From trained arms to a recommendation: the ratio is chosen on validation images, and its test figure is looked at once."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import groupby
from typing import Any, NamedTuple

import numpy as np

from factory.evaluate import protocols
from factory.evaluate.statistics import Interval, interval, paired

BASELINE = "real_strong"
Row = dict[str, Any]


class Choice(NamedTuple):
    """What validation says at one point of the protocol. ratio: 0 for "none".  gain: over real + strong augmentation, on validation images."""

    labels: int | None
    ratio: float
    gain: Interval | None


def balanced_accuracy(per_class: Iterable[float | None]) -> float:
    """The mean accuracy over the classes that are tested."""
    return float(np.mean([value for value in per_class if value is not None]))


def choose(rows: Sequence[Row], classifier: str) -> list[Choice]:
    """For each number of labels the ratio whose mean validation accuracy over the seeds is highest; of equals the smaller."""
    choices = []
    for labels, own in _points(rows, classifier):
        base = _scores(own, BASELINE, 0.0, "validation")
        best = Choice(labels, 0.0, None)
        for ratio in sorted({row["ratio"] for row in own if row["arm"] == "real_synthetic"}):
            found = _scores(own, "real_synthetic", ratio, "validation")
            gain = paired(found, base)
            if gain.mean > (best.gain.mean if best.gain else 0.0):
                best = Choice(labels, ratio, gain)
        choices.append(best)
    return choices


def table(rows: Sequence[Row], choices: dict[str, list[Choice]]) -> list[Row]:
    """Test figures, one row an arm, classifier and number of labels; of the ratios only the chosen one, or the smallest where none was."""
    out = []
    for classifier, chosen in choices.items():
        for (labels, own), choice in zip(_points(rows, classifier), chosen, strict=True):
            offered = sorted({row["ratio"] for row in own if row["arm"] == "real_synthetic"})
            ratio = choice.ratio or (offered[0] if offered else 0.0)
            for arm in ("real", BASELINE, "real_synthetic", "synthetic"):
                some = [row for row in own if row["arm"] == arm and (arm != "real_synthetic" or row["ratio"] == ratio)]
                if some:
                    out.append(_summary(some, "test", labels, classifier))
    return out


def sweep(rows: Sequence[Row]) -> list[Row]:
    """Validation figures, one row a classifier, number of labels and ratio; ratio 0 is real + strong augmentation."""
    wanted = [row for row in rows if row["arm"] in (BASELINE, "real_synthetic")]

    def key(row: Row) -> tuple[str, int, float]:
        return row["classifier"], row["labels"] or 0, row["ratio"]

    groups = [list(own) for _, own in groupby(sorted(wanted, key=key), key=key)]
    return [_summary(own, "validation", own[0]["labels"], own[0]["classifier"]) for own in groups]


def _summary(rows: Sequence[Row], split: str, labels: int | None, classifier: str) -> Row:
    found = interval([balanced_accuracy(row[split]) for row in rows])
    per_class = np.array([[np.nan if v is None else v for v in row[split]] for row in rows], float)
    means = [None if np.isnan(column).all() else float(np.nanmean(column)) for column in per_class.T]
    first = rows[0]
    entry = {"arm": first["arm"], "classifier": classifier, "ratio": first["ratio"], "labels": labels, "seeds": found.size}
    entry |= {"accuracy_mean": found.mean, "ci95": found.half, "per_class": means}
    for name, classes in protocols.shot_groups(np.array(first["counts"])).items():
        members = [means[c] for c in classes if means[c] is not None and first["counts"][c] > 0]
        entry[name] = float(np.mean([value for value in members if value is not None])) if members else None
    return entry


def verdict(rows: Sequence[Row], classifier: str) -> Row:
    """{use, ratio, gain, ci95, text}: gain and ci95 are of balanced accuracy on the test images over real + strong augmentation, None for unknown.

    use: True where both the validation images, which chose, and the test images, which are looked at once, show a gain that is told from
    chance; None where only the former do, or where one seed tells nothing of chance; False otherwise. So the test can only take back.
    Never True where real images without augmentation do as well on validation images: few steps may make strong augmentation a weak rival.
    """
    choices = choose(rows, classifier)
    if not any(row["arm"] == "real_synthetic" and row["classifier"] == classifier for row in rows):
        text = "Undecided: there are not enough synthetic images of every class to train with."
        return {"use": None, "ratio": None, "gain": None, "ci95": None, "text": text}
    points = [(choice, own) for choice, (_, own) in zip(choices, _points(rows, classifier), strict=True) if choice.ratio > 0]
    if not points:
        text = "Do not use it: no share of synthetic images does better on validation images than real images with strong augmentation."
        return {"use": False, "ratio": 0.0, "gain": 0.0, "ci95": 0.0, "text": text}
    tested = _gain(points, "test", len(choices))
    validated = _gain(points, "validation", len(choices))
    ratios = {choice.ratio for choice, _ in points}
    plain = _gain(points, "validation", len(choices), "real")
    use = _decide(validated, tested)
    if use and plain.mean <= 0:
        text = f"Do not use it: on validation images, real images without augmentation do as well as with synthetic ones ({_points_of(plain)})."
        return {"use": False, "ratio": 0.0, "gain": tested.mean, "ci95": tested.half, "text": f"{text} {_figure(tested)}."}
    return {
        "use": use,
        "ratio": ratios.pop() if len(ratios) == 1 else None,
        "gain": tested.mean,
        "ci95": tested.half,
        "text": _text(use, choices, validated, tested),
    }


def _decide(validated: Interval, tested: Interval) -> bool | None:
    if validated.half is None or tested.half is None:
        return None
    if validated.mean - validated.half <= 0 or tested.mean + tested.half < 0:
        return False
    if not validated.half or not tested.half:  # seeds that change nothing, as of a linear probe on one draw, tell nothing of chance
        return None
    return True if tested.mean - tested.half > 0 else None


def _gain(points: Sequence[tuple[Choice, Sequence[Row]]], split: str, of: int, over: str = BASELINE) -> Interval:
    """The gain averaged over all points for each seed, and its interval over the seeds; a point where none was chosen gains nothing."""
    gains = [np.subtract(_scores(own, "real_synthetic", choice.ratio, split), _scores(own, over, 0.0, split)) for choice, own in points]
    return interval((np.sum(gains, 0) / of).tolist())


def _text(use: bool | None, choices: Sequence[Choice], validated: Interval, tested: Interval) -> str:
    ratio = ", ".join(f"{choice.ratio:g}:1" + (f" at {choice.labels} labels a class" if choice.labels else "") for choice in choices)
    figure = _figure(tested)
    if use:
        return f"Use it: synthetic to real {ratio}. {figure}."
    if use is None and tested.half == 0:
        return f"Undecided: every seed gives the same result here, which tells nothing of chance. Synthetic to real {ratio}: {figure}."
    if use is None and tested.half is None:
        return f"Undecided: one seed tells nothing of chance; take five. Synthetic to real {ratio}: {figure}."
    if use is None:
        return f"Undecided: validation images chose {ratio}, but the test images do not confirm it. {figure}."
    if validated.half is not None and validated.mean - validated.half <= 0:
        return f"Do not use it: on validation images the best ratio ({ratio}) gains {_points_of(validated)}, which is not told from chance. {figure}."
    return f"Do not use it: validation images chose {ratio}, and the test images contradict it. {figure}."


def _figure(tested: Interval) -> str:
    return f"{_points_of(tested)} of balanced accuracy on real test images, over real images with strong augmentation"


def _points_of(gain: Interval) -> str:
    return f"{100 * gain.mean:+.1f}" + (f" ± {100 * gain.half:.1f}" if gain.half is not None else "") + " points"


def _points(rows: Sequence[Row], classifier: str) -> list[tuple[int | None, list[Row]]]:
    """The rows of one classifier by their number of labels, fewest first."""
    own = sorted((row for row in rows if row["classifier"] == classifier), key=lambda row: (row["labels"] or 0, row["seed"]))
    return [(labels, list(group)) for labels, group in groupby(own, key=lambda row: row["labels"])]


def _scores(rows: Sequence[Row], arm: str, ratio: float, split: str) -> list[float]:
    """Balanced accuracies, one a seed, in the order of the seeds."""
    some = sorted((row for row in rows if row["arm"] == arm and row["ratio"] == ratio), key=lambda row: row["seed"])
    return [balanced_accuracy(row[split]) for row in some]
