"""What each training may see: drawn real images, their synthetic children, and validation images that neither of them touches."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from factory import seeds
from factory.errors import UserError
from factory.evaluate import guards, protocols
from factory.evaluate.evidence import Evidence
from factory.evaluate.guards import Check

log = logging.getLogger("factory")
LEAST_SHARE = 0.9  # of the images that a ratio asks for; below, the ratio is left out
CUT = 0.2  # of a class's images, where validation images have to come from the run's own


@dataclass(frozen=True)
class Draw:
    """labels: real images a class, None where the classes differ.  real: rows of Evidence.real.  children: rows of Evidence.made."""

    seed: int
    labels: int | None
    real: np.ndarray
    children: np.ndarray


@dataclass(frozen=True)
class Draws:
    """validation: rows of Evidence.real.  draws: every point of the protocol, for every seed.  checks: their guards."""

    validation: np.ndarray
    draws: list[Draw]
    checks: list[Check]


def make(evidence: Evidence) -> Draws:
    """Every draw of the protocol. Raises UserError where there are too few real images."""
    if not evidence.class_names:
        raise UserError("--real has no labels, and utility is measured by classifying; say --only fidelity --only memorisation")
    if not len(evidence.tested):
        raise UserError(
            f"--test: no image has a class that --real knows (it has {_names(evidence.test_table.class_names)}, and --real "
            f"{_names(evidence.class_names)}), and utility is measured by classifying; bring the names together, "
            "or say --only fidelity --only memorisation"
        )
    validation = _validation(evidence)
    held = _twins(evidence, validation)
    own = np.setdiff1d(evidence.own[evidence.real.labels[evidence.own] >= 0], held)
    others = np.setdiff1d(_unseen(evidence), np.concatenate([own, held]))
    had = _had_part(evidence, held)
    draws: list[Draw] = []
    checks: list[Check] = []
    for seed in range(evidence.settings.seeds):
        for rows in _drawn(evidence, own, others, seed):
            _require_two_classes(evidence, rows)
            inside, check = _children(evidence, rows, had, seed)
            checks.append(check)
            counts = np.unique(evidence.real.labels[rows], return_counts=True)[1]  # a class that has no image at all does not count
            draws.append(Draw(seed, int(counts[0]) if (counts == counts[0]).all() else None, rows, inside))
    _require_children(draws, had, evidence)
    return Draws(validation, draws, [*_merged(checks), evidence.labels_beyond()])


def _require_two_classes(evidence: Evidence, rows: np.ndarray) -> None:
    held = [evidence.class_names[c] for c in np.unique(evidence.real.labels[rows])]
    if len(held) < 2:
        raise UserError(
            f"utility is measured by telling two classes or more apart, and the real images to train on are of {_names(held)}; "
            "say --only fidelity --only memorisation"
        )


def _had_part(evidence: Evidence, withheld: np.ndarray) -> list[bool]:
    """For each synthetic image whether a withheld (validation) image is a parent, or was looked up for it."""
    held = frozenset(withheld.tolist())
    touched = {rows for rows in {*evidence.parents, *evidence.looked_up} if rows & held}
    return [own in touched or seen in touched for own, seen in zip(evidence.parents, evidence.looked_up, strict=True)]


def _require_children(draws: Sequence[Draw], had: Sequence[bool], evidence: Evidence) -> None:
    """Say how many synthetic images validation images `had` a part in. Raises UserError where none may be trained on at any point."""
    if any(had):
        log.info("%d of %d synthetic images are never trained on: images that choose the ratio had a part in them", sum(had), len(had))
    if any(len(draw.children) for draw in draws):
        return
    if evidence.settings.outside == "leave_out" and not any(evidence.common <= set(draw.real.tolist()) for draw in draws):
        raise UserError(
            f"every synthetic image has learnt the labels of {len(evidence.common)} real images, by the condition or a model, and no draw holds them "
            "all, so that none is left to train with; say --set protocol=run, or train and build from fewer images, once for each number of labels"
        )
    if all(had):
        raise UserError(
            "--real: the real images that have to choose the ratio had a part in every synthetic image, by their pixels or their labels, so that "
            "none is left to train with; name images beside them whose labels neither the run nor its models were made with"
        )


def _names(names: Sequence[str]) -> str:
    return ", ".join(names[: guards.NAMED]) + ("…" if len(names) > guards.NAMED else "") if names else "no classes"


def _twins(evidence: Evidence, validation: np.ndarray) -> np.ndarray:
    """Rows of Evidence.real with the pixels of a validation image, these included: a set may hold an image twice."""
    held = {evidence.real.pixels[row] for row in validation.tolist()}
    return np.array([row for row, pixels in enumerate(evidence.real.pixels) if pixels in held], np.int64)


def _merged(checks: Sequence[Check]) -> list[Check]:
    """One check for all draws: the first that fails, or a passed one."""
    return [next((check for check in checks if not check.passed), checks[0])]


def _unseen(evidence: Evidence) -> np.ndarray:
    """Labelled real images that are no test images."""
    test = set(evidence.test.pixels)
    clean = [row for row, pixels in enumerate(evidence.real.pixels) if evidence.real.labels[row] >= 0 and pixels not in test]
    dropped = int((evidence.real.labels >= 0).sum()) - len(clean)
    if dropped:
        log.info("%d real training images are test images too and are never drawn", dropped)
    return np.array(clean, np.int64)


def _validation(evidence: Evidence) -> np.ndarray:
    """Real training images, class by class, that the run was not made from; a part of its own where there are no others.

    The only image of a class (twins are one), and images that have a part in all synthetic ones, are kept to train on: their class has no
    part in the choice.  Raises UserError where no class has.
    """
    labels, wanted = evidence.real.labels, evidence.settings.validation
    mine = {evidence.real.pixels[row] for row in evidence.own}
    outside = np.array([row for row in _unseen(evidence) if evidence.real.pixels[row] not in mine], np.int64)
    chosen, alone = [], []
    for label in range(len(evidence.class_names)):
        rng = seeds.rng("evaluate", "validation", label)
        free = outside[labels[outside] == label]
        own = list({evidence.real.pixels[row]: row for row in evidence.own[labels[evidence.own] == label].tolist()}.values())  # no twins
        if len(free):
            chosen.append(rng.permutation(free)[:wanted])
        elif len(own) >= 2 and not evidence.common:
            chosen.append(rng.permutation(own)[: min(wanted, max(1, int(CUT * len(own))))])
        elif len(own):
            alone.append(evidence.class_names[label])
    if not chosen and evidence.common:
        raise UserError(
            "--real: the labels of all of its images have a part in every synthetic image, so that none is left to choose the ratio; name "
            "images beside them, or say --only fidelity --only memorisation"
        )
    if not chosen:
        raise UserError("--real: no class has a second image, so that none is left to validate on; name the whole training set")
    if alone:
        log.warning("--real has no image of %s to spare, so that these have no part in choosing the ratio", _names(alone))
    return np.sort(np.concatenate(chosen))


def _drawn(evidence: Evidence, own: np.ndarray, others: np.ndarray, seed: int) -> list[np.ndarray]:
    """The rows of each point of the protocol: the run's own images come first, so that their children may be used."""
    settings, labels = evidence.settings, evidence.real.labels
    if settings.protocol == "run":
        return [own]
    classes = [c for c in range(len(evidence.class_names)) if (labels[own] == c).any() or (labels[others] == c).any()]
    order = [
        np.concatenate([seeds.rng(seed, "draw", part, c).permutation(rows[labels[rows] == c]) for part, rows in enumerate((own, others))])
        for c in classes
    ]
    sizes = [len(rows) for rows in order]
    if settings.protocol == "few_shot":
        if max(settings.shots) > min(sizes):
            name = evidence.class_names[classes[int(np.argmin(sizes))]]
            raise UserError(f"shots: class {name!r} has {min(sizes)} images to draw from, fewer than {max(settings.shots)}")
        return [np.sort(np.concatenate([rows[:k] for rows in order])) for k in sorted(settings.shots)]
    falls = protocols.long_tail_counts(len(classes), 10**6, settings.tail) / 10**6
    most = settings.most or int(min(size / fall for size, fall in zip(sizes, falls, strict=True)))
    counts = protocols.long_tail_counts(len(classes), most, settings.tail)
    if (counts > sizes).any():
        raise UserError(
            f"most: a long tail from {most} images needs up to {counts.max()} of a class, and there are {min(sizes)}; ask for fewer"
        )
    return [np.sort(np.concatenate([rows[:n] for rows, n in zip(order, counts, strict=True)]))]


def _children(evidence: Evidence, rows: np.ndarray, had: Sequence[bool], seed: int) -> tuple[np.ndarray, Check]:
    """(synthetic images whose parents are all drawn, the guard). What validation images `had` a part in is always left out."""
    drawn, labelled = frozenset(rows.tolist()), evidence.made.images.labels >= 0
    learnt = not evidence.common <= drawn  # labels beyond the draw, by all images
    whole = {own for own in set(evidence.parents) if own <= drawn and not learnt}  # all images may have the same parents, and many
    free = [place for place, touched in enumerate(had) if not touched]
    inside = np.array([place for place in free if labelled[place] and evidence.parents[place] in whole], np.int64)
    strays = [place for place in free if evidence.parents[place] not in whole]
    if evidence.settings.outside == "leave_out":
        strays = []
    keys = frozenset(key for key, row in evidence.keys.items() if row in drawn)
    ids = [evidence.made.images.ids[place] for place in strays]
    name = f"the draw of {len(rows)} images (seed {seed})"
    return inside, guards.parents_outside(ids, [evidence.ancestors[place] for place in strays], keys, name, learnt)


def ratios(evidence: Evidence, draws: Sequence[Draw]) -> dict[float, list[np.ndarray]]:
    """Ratio -> for each of a point's draws the rows of Evidence.made that it trains on; they hold those of the smaller ratios.

    A ratio of r asks for r times as many synthetic images as there are real ones, as many for each class. Where a draw has too few of them,
    the ratio is left out, and all there are stand for it. Empty where a drawn class has no synthetic image.
    """
    orders = [_order(evidence, draw) for draw in draws]
    if any(not own or min(map(len, own.values())) == 0 for own in orders):
        return {}
    found: dict[float, list[np.ndarray]] = {}
    for ratio in (r for r in evidence.settings.ratios if r > 0):
        wanted = [max(1, round(ratio * len(draw.real) / len(own))) for draw, own in zip(draws, orders, strict=True)]
        if all(_held(own, n) >= LEAST_SHARE * n * len(own) for own, n in zip(orders, wanted, strict=True)):
            found[ratio] = [_first(own, n) for own, n in zip(orders, wanted, strict=True)]
            continue
        every = [_first(own, None) for own in orders]
        least = min(len(rows) / len(draw.real) for draw, rows in zip(draws, every, strict=True))
        if not found or least > 1.1 * max(found):
            found[round(least, 2)] = every
        log.info("ratio %g asks for more synthetic images than there are; %g is the most", ratio, round(least, 2))
        break
    return found


def lacking(evidence: Evidence, draws: Sequence[Draw]) -> list[str]:
    """Classes of which a draw has no synthetic image: at its point of the protocol none can be trained with."""
    return [evidence.class_names[c] for c in sorted({c for draw in draws for c, own in _order(evidence, draw).items() if not len(own)})]


def _order(evidence: Evidence, draw: Draw) -> dict[int, np.ndarray]:
    """Each drawn class's children, in the order in which ratios take them."""
    labels = evidence.made.images.labels[draw.children]
    classes = np.unique(evidence.real.labels[draw.real]).tolist()
    return {c: seeds.rng(draw.seed, "children", c).permutation(draw.children[labels == c]) for c in classes}


def _held(own: dict[int, np.ndarray], most: int) -> int:
    return sum(min(len(rows), most) for rows in own.values())


def _first(own: dict[int, np.ndarray], most: int | None) -> np.ndarray:
    return np.sort(np.concatenate([rows[:most] for rows in own.values()]))
