"""From trained arms to a recommendation: the ratio is chosen on validation images, and its test figure is looked at once."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from typing import Any, NamedTuple

import numpy as np

from factory.evaluate import hits, protocols
from factory.evaluate.guards import NAMED
from factory.evaluate.statistics import Interval, over_seeds_and_images

STRONG = "real_strong"
ONE_SEED = "one seed tells nothing of chance; take five"
RIVALS = (STRONG, "real")  # arms of real images alone; of equals the first
Row = dict[str, Any]


class Choice(NamedTuple):
    """What validation images say at one point of the protocol.

    rival: the better arm of real images alone, since few steps make strong augmentation a weak one.  ratio: 0 for "none".  gain: over the rival.
    """

    labels: int | None
    rival: str
    ratio: float
    gain: Interval | None


def choose(rows: Sequence[Row], classifier: str) -> list[Choice]:
    """For each number of labels the ratio whose mean validation accuracy over the seeds is highest; of equals the smaller."""
    choices = []
    for labels, own in _points(rows, classifier):
        rival = max(RIVALS, key=lambda arm: _accuracy(_of(own, arm, 0.0)))
        best = Choice(labels, rival, 0.0, None)
        for ratio in sorted({row["ratio"] for row in own if row["arm"] == "real_synthetic"}):
            gain = over_seeds_and_images(_differences(own, ratio, rival, "validation"))
            if gain.mean > (best.gain.mean if best.gain else 0.0):
                best = Choice(labels, rival, ratio, gain)
        choices.append(best)
    return choices


def table(rows: Sequence[Row], choices: dict[str, list[Choice]]) -> list[Row]:
    """Test figures, one row an arm, classifier and number of labels; of the ratios only the chosen one, or the smallest where none was.

    rival, of rows with real and synthetic images: the arm that their gain is over.
    """
    out = []
    for classifier, chosen in choices.items():
        for (labels, own), choice in zip(_points(rows, classifier), chosen, strict=True):
            offered = sorted({row["ratio"] for row in own if row["arm"] == "real_synthetic"})
            ratio = choice.ratio or (offered[0] if offered else 0.0)
            for arm in ("real", STRONG, "real_synthetic", "synthetic"):
                some = [row for row in own if row["arm"] == arm and (arm != "real_synthetic" or row["ratio"] == ratio)]
                if some:
                    over = {"rival": choice.rival} if arm == "real_synthetic" else {}
                    out.append(_summary(some, "test", labels, classifier) | over)
    return out


def sweep(rows: Sequence[Row]) -> list[Row]:
    """Validation figures, one row a classifier, number of labels, ratio and arm; ratio 0 is real images alone."""
    wanted = [row for row in rows if row["arm"] in (*RIVALS, "real_synthetic")]

    def key(row: Row) -> tuple[str, int, float, str]:
        return row["classifier"], row["labels"] or 0, row["ratio"], row["arm"]

    groups = [list(own) for _, own in groupby(sorted(wanted, key=key), key=key)]
    return [_summary(own, "validation", own[0]["labels"], own[0]["classifier"]) for own in groups]


def _summary(rows: Sequence[Row], split: str, labels: int | None, classifier: str) -> Row:
    found = over_seeds_and_images([hits.read(row[split]) for row in rows])
    each = zip(*(hits.per_class(row[split]) for row in rows), strict=True)
    means = [None if None in own else float(np.mean(own)) for own in each]
    first = rows[0]
    entry = {"arm": first["arm"], "classifier": classifier, "ratio": first["ratio"], "labels": labels, "seeds": found.size}
    entry |= {"accuracy_mean": found.mean, "ci95": found.half, "per_class": means}
    for name, classes in protocols.shot_groups(np.array(first["counts"])).items():
        members = [means[c] for c in classes if means[c] is not None and first["counts"][c] > 0]
        entry[name] = float(np.mean([value for value in members if value is not None])) if members else None
    return entry


def verdict(rows: Sequence[Row], classifier: str, lacking: Sequence[str] = ()) -> Row:
    """{use, ratio, gain, ci95, text}: gain and ci95 are of balanced accuracy on the test images, None where unknown and where no ratio was chosen.

    The gain is over the better one, on validation images, of real images as they are and with strong augmentation.
    use: True where both the validation images, which chose, and the test images, which are looked at once, show a gain that is told from
    chance; None where only the former do, where nothing tells of chance (one seed), or where the test shows a loss at one of the points; False
    otherwise. So the test can only take back. Points without a training with synthetic images have no part in it, and the text names them.

    lacking: classes without a synthetic image, to be named where none could be trained with.
    """
    pairs = list(zip(choose(rows, classifier), (own for _, own in _points(rows, classifier)), strict=True))
    tried = [pair for pair in pairs if any(row["arm"] == "real_synthetic" for row in pair[1])]
    choices, untried = [choice for choice, _ in tried], _untried([pair[0] for pair in pairs if pair not in tried])
    if not tried:
        named = ", ".join(lacking[:NAMED]) + ("…" if len(lacking) > NAMED else "") or "some classes"
        return unknown(
            f"Undecided: no synthetic image of {named} may be trained with, and every class needs some; make more, loosen a filter, or build a run from the drawn images alone."
        )
    points = [(choice, own) for choice, own in tried if choice.ratio > 0]
    if not points:
        over = _over({choice.rival for choice in choices})
        text = f"no share of synthetic images does better on validation images than {over}.{untried}"
        if len({row["seed"] for _, own in tried for row in own}) < 2:
            return unknown(f"Undecided: {ONE_SEED}. On this one {text}")
        return {"use": False, "ratio": 0.0, "gain": None, "ci95": None, "text": f"Do not use it: {text}"}
    tested = _gain(points, "test", len(choices))
    validated = _gain(points, "validation", len(choices))
    ratios = {choice.ratio for choice, _ in points}
    use, against = _decide(validated, tested), _contradicted(points)
    use = None if use and against else use
    return {
        "use": use,
        "ratio": ratios.pop() if len(ratios) == 1 else None,
        "gain": tested.mean,
        "ci95": tested.half,
        "text": _text(use, choices, validated, tested, against) + untried,
    }


def unknown(text: str) -> Row:
    """A verdict where nothing was measured. text: why."""
    return {"use": None, "ratio": None, "gain": None, "ci95": None, "text": text}


def _untried(choices: Sequence[Choice]) -> str:
    """A sentence on points of the protocol that the verdict says nothing of, "" where there are none."""
    labels = ", ".join(str(choice.labels) for choice in choices)
    return f" Nothing was tried at {labels} labels a class, where a class has no synthetic image to train with." if labels else ""


def _decide(validated: Interval, tested: Interval) -> bool | None:
    if validated.half is None or tested.half is None:
        return None
    if validated.mean - validated.half <= 0 or tested.mean + tested.half < 0:
        return False
    return True if tested.mean - tested.half > 0 else None


def _contradicted(points: Sequence[tuple[Choice, Sequence[Row]]]) -> list[int | None]:
    """Numbers of labels where test images show a loss that is told from chance."""
    found = [(choice.labels, _gain([(choice, own)], "test", 1)) for choice, own in points]
    return [labels for labels, gain in found if gain.half is not None and gain.mean + gain.half < 0]


def _gain(points: Sequence[tuple[Choice, Sequence[Row]]], split: str, of: int) -> Interval:
    """The gain averaged over all points, image by image, since all are measured on the same; a point where none was chosen gains nothing."""
    found = [_differences(own, choice.ratio, choice.rival, split) for choice, own in points]
    return over_seeds_and_images([[np.sum(parts, axis=0) / of for parts in zip(*one, strict=True)] for one in zip(*found, strict=True)])


def _text(
    use: bool | None, choices: Sequence[Choice], validated: Interval, tested: Interval, against: Sequence[int | None]
) -> str:  # fmt: skip
    ratio = ", ".join(f"{choice.ratio:g}:1" + (f" at {choice.labels} labels a class" if choice.labels else "") for choice in choices)
    over = _over({choice.rival for choice in choices if choice.ratio > 0})
    figure = f"{_points_of(tested)} of balanced accuracy on real test images, over {over}"
    if use:
        return f"Use it: synthetic to real {ratio}. {figure}."
    if use is None and (validated.half is None or tested.half is None):
        few = ONE_SEED if tested.size < 2 else "so few images tell nothing of chance; take more"
        return f"Undecided: {few}. Synthetic to real {ratio}: {figure}."
    if use is None and against and tested.half is not None and tested.mean - tested.half > 0:
        where = ", ".join(str(labels) for labels in against)
        return f"Undecided: it helps on the whole, but at {where} labels a class the test images show a loss. {figure}. Ratios: {ratio}."
    if use is None:
        return f"Undecided: validation images chose {ratio}, but the test images do not confirm it. {figure}."
    if validated.half is not None and validated.mean - validated.half <= 0:
        return f"Do not use it: on validation images the best ratio ({ratio}) gains {_points_of(validated)}, which is not told from chance. {figure}."
    return f"Do not use it: validation images chose {ratio}, and the test images contradict it. {figure}."


def _over(rivals: set[str]) -> str:
    """The arm of real images alone that was beaten or not, in words."""
    if len(rivals) > 1:
        return "the better of real images with and without strong augmentation"
    return "real images with strong augmentation" if rivals == {STRONG} else "real images without augmentation"


def _points_of(gain: Interval) -> str:
    return f"{100 * gain.mean:+.1f}" + (f" ± {100 * gain.half:.1f}" if gain.half is not None else "") + " points"


def _points(rows: Sequence[Row], classifier: str) -> list[tuple[int | None, list[Row]]]:
    """The rows of one classifier by their number of labels, fewest first."""
    own = sorted((row for row in rows if row["classifier"] == classifier), key=lambda row: (row["labels"] or 0, row["seed"]))
    return [(labels, list(group)) for labels, group in groupby(own, key=lambda row: row["labels"])]


def _of(rows: Sequence[Row], arm: str, ratio: float) -> list[Row]:
    """One row a seed, in the order of the seeds."""
    return sorted((row for row in rows if row["arm"] == arm and row["ratio"] == ratio), key=lambda row: row["seed"])


def _accuracy(rows: Sequence[Row]) -> float:
    """Balanced accuracy on validation images, mean over the seeds."""
    return float(np.mean([hits.balanced_accuracy(row["validation"]) for row in rows]))


def _differences(rows: Sequence[Row], ratio: float, rival: str, split: str) -> list[list[np.ndarray]]:
    """[seeds][classes] float [images]: 1 where only the arm with synthetic images is right, −1 where only its rival is."""
    pairs = zip(_of(rows, "real_synthetic", ratio), _of(rows, rival, 0.0), strict=True)
    return [[x - y for x, y in zip(hits.read(ours[split]), hits.read(theirs[split]), strict=True)] for ours, theirs in pairs]
