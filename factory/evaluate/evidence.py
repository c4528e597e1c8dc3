"""Everything that an evaluation works on, read once: the run's images, real training images, test images, and who is whose parent."""

from __future__ import annotations

import logging
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from factory import encoders, seeds
from factory.contracts import Source, Table
from factory.errors import UserError
from factory.evaluate import backbones, cards, copies, guards, made, sets
from factory.evaluate.copies import Nearest
from factory.evaluate.guards import Check
from factory.evaluate.made import Made
from factory.evaluate.sets import Eyes, ImageSet
from factory.evaluate.settings import Settings
from factory.finished import Run
from factory.recipe import Recipe
from factory.sources import readable

log = logging.getLogger("factory")
MOST_SIDE = 64


@dataclass(frozen=True)
class Evidence:
    """real: training images, of which rows `own` are those that the run was made from.  keys: content key -> first row of real.

    class_names: of the labels of real, test and made.images.  real_marked, test_marked: bool [N] or None, rows that say they were generated.
    """

    run: Run
    settings: Settings
    eyes: Eyes
    class_names: list[str]
    made: Made
    real: ImageSet
    own: np.ndarray
    keys: dict[str, int]
    test: ImageSet
    real_marked: np.ndarray | None
    test_marked: np.ndarray | None
    test_table: Table
    real_table: Table
    test_source: Source

    @cached_property
    def tested(self) -> np.ndarray:
        """Rows of test with a class."""
        return np.flatnonzero(self.test.labels >= 0)

    @property
    def untested(self) -> list[str]:
        """Classes of which there is no test image."""
        return [name for c, name in enumerate(self.class_names) if not (self.test.labels == c).any()]

    @cached_property
    def unseen(self) -> list[int]:
        """Rows of test that are no real training images, pixel by pixel."""
        return copies.unseen(self.test.pixels, self.real.pixels)

    @cached_property
    def floor(self) -> Nearest:
        """For each unseen test image its nearest real training image: what is to be expected of an image that no generator has seen."""
        return copies.nearest(self.test.space.take(self.unseen), self.real.space)

    @cached_property
    def parents(self) -> list[frozenset[int]]:
        """For each synthetic image the rows of real whose pixels or labels made it what it is; -1 for one that is not there."""
        rows = {id(own): frozenset(self._rows.get(key, -1) for key in own) for own in self.ancestors}
        return [rows[id(own)] for own in self.ancestors]

    @cached_property
    def ancestors(self) -> list[list[str]]:
        """The same by content keys: parents, and of what was looked up the run's own images, or all where its labels were read."""
        rule, mine = self.run.built.condition.labels_of(), set(self.own.tolist())
        if rule == "source":  # by `common`, whatever was looked up
            return self.made.parents
        found = zip(self.made.parents, self.made.looked_up, strict=True)
        return [[*own, *(key for key in more if rule == "looked_up" or self._rows.get(key) in mine)] for own, more in found]

    @cached_property
    def common(self) -> frozenset[int]:
        """Rows of real whose labels made every synthetic image what it is: the run's own, where its condition or a model of it has learnt them."""
        learnt = [model for model, trained in self._taught if trained.get("fingerprint") == self.run.source["fingerprint"]]
        if not learnt and self.run.built.condition.labels_of() != "source":
            return frozenset()
        log.info("every synthetic image counts as a child of all labelled images of the run, by %s", ", ".join(learnt) or "its condition")
        return frozenset(self.keys[self.real.keys[row]] for row in self.own.tolist() if self.real.labels[row] >= 0)

    def labels_beyond(self) -> Check:
        """Models that have learnt the labels of all of --real, where the run was made from a part; of other labels there is only a warning."""
        ours, whole = self.run.source["fingerprint"], self.real_table.fingerprint
        found = [model for model, trained in self._taught if trained.get("fingerprint") == whole != ours]
        for model, trained in self._taught:
            if trained.get("fingerprint") not in (ours, whole):
                log.warning(
                    "%s was trained with the labels of %s images of %s; where they are more than the run's own, its images bring more labels than "
                    "the arm that they are compared with has",
                    model, trained.get("images"), trained.get("dataset"),
                )  # fmt: skip
        return guards.labels_beyond(found)

    @cached_property
    def _taught(self) -> list[tuple[str, Mapping[str, Any]]]:
        return cards.taught(_kinds(self.run.built))

    @cached_property
    def looked_up(self) -> list[frozenset[int]]:
        """For each synthetic image the rows of real that its condition has looked at beside the parents."""
        return [frozenset(self._rows[key] for key in own if key in self._rows) for own in self.made.looked_up]

    @cached_property
    def _libraries(self) -> list[tuple[str, str, bytes]]:
        """(name, content key, pixel digest) of every image of the sets that the condition searches beside its source (retrieval, propagation)."""
        return [(name, example.key, guards.digest(example.image)) for name, example in sets.libraries(self.run.built.condition)]

    @cached_property
    def _rows(self) -> dict[str, int]:
        """`keys`, and those of a library's images with the pixels of a real one, which may be stored there as other bytes."""
        shown = {pixels: row for row, pixels in reversed(list(enumerate(self.real.pixels)))}
        return {key: shown[pixels] for _, key, pixels in self._libraries if pixels in shown} | self.keys

    def checks(self) -> list[Check]:
        """The guards that do not depend on which images are drawn."""
        ours, test = self.made.images, self.test
        known = dict(zip(test.pixels, test.ids, strict=True))
        others = [row for row, pixels in enumerate(self.real.pixels) if pixels not in known]  # a test image is at no distance from itself
        near = copies.nearest_held_out(ours.space, test.space, self.real.space.take(others))
        own = [(self.real.ids[row], self.real.pixels[row]) for row in self.own]
        searched = [(name, pixels) for name, _, pixels in self._libraries]
        unseen = [test.ids[place] for place in self.unseen]
        told = guards.tell_spacing(self.real.labels)
        if not told:
            log.info("whether test images show training images again is not asked: so few of --real do not tell how far apart images are")
        again = guards.test_near_training(unseen, self.floor, self.real.ids, self.settings.copy_ratio) if unseen and told else None
        return [
            guards.synthetic_in("test", test.ids, test.pixels, self.test_marked, self.made.generated),
            guards.synthetic_in("validation", self.real.ids, self.real.pixels, self.real_marked, self.made.generated),
            guards.test_images_in("training_in_test", "real images that the run was made from", own, known),
            guards.test_images_in("library_in_test", "library images that the condition searched", searched, known),
            *([again] if again else []),
            guards.near_copies_of_test(ours.ids, near, test.ids, self.settings.copy_ratio),
            cards.trained_on_test(_kinds(self.run.built), self.test_table, self.test_source.settings()),
            guards.class_list(self.run.class_names, self.class_names, self.test_table.class_names),
            guards.prompts_from_test(ours.ids, self.made.prompts, self.test_table.captions, self.real_table.captions),
        ]


def gather(folder: Path, real: str, test: str, settings: Settings, device: str) -> Evidence:
    """Open and read everything. Raises UserError for what is missing or does not fit together."""
    run = made.open(folder)
    real_table = sets.opened("--real", real, "train")[1]
    test_source, test_table = sets.opened("--test", test, "test", alone=real != test)
    own_table = _own_table(run)
    names = list(real_table.class_names)
    eyes = _eyes(run, real_table, settings, device)
    rows, own_keys = _chosen(real_table, own_table, settings.reference)
    reals = sets.of_table(real_table, rows, eyes, np.asarray(real_table.labels), "real training images")
    own, keys = _located(reals, own_keys)
    labels = _numbers(test_table.class_names, names)[np.asarray(test_table.labels)]
    _warn_of_classes(test_table, labels, names)
    tested = sets.of_table(test_table, _at_most(labels, settings.test), eyes, labels, "real test images")
    ours = made.look(run, eyes, _numbers(run.class_names, names))
    marks = [_marks(table, found) for table, found in ((real_table, reals), (test_table, tested))]
    return Evidence(run, settings, eyes, names, ours, reals, own, keys, tested, marks[0], marks[1], test_table, real_table, test_source)


def _warn_of_classes(test: Table, labels: np.ndarray, names: Sequence[str]) -> None:
    """Say which test images are left out, and which classes nobody tests. labels: of the test images, as numbers of `names`."""
    strange = np.unique(np.asarray(test.labels)[(labels < 0) & (np.asarray(test.labels) >= 0)]).tolist()
    if not strange or not (labels >= 0).any():
        return
    log.warning(
        "--test: %d of %d images are of classes that --real does not have (%s) and are left out; are these spelled otherwise there (%s)?",
        int(np.isin(test.labels, strange).sum()),
        len(labels),
        ", ".join(test.class_names[c] for c in strange[: guards.NAMED]),
        ", ".join([name for c, name in enumerate(names) if not (labels == c).any()][: guards.NAMED]) or "each of its classes is tested",
    )


def _kinds(recipe: Recipe) -> list[dict[str, Any]]:
    """The settings of all that has models and made or chose the images."""
    return [kind.settings() for kind in (*recipe.generator, recipe.condition, *recipe.filters)]


def _own_table(run: Run) -> Table:
    try:
        table = run.built.source.open()
    except UserError as error:
        raise UserError(f"{run.store.folder}: the real images that it was made from cannot be opened: {error}") from error
    if table.fingerprint != run.source["fingerprint"]:
        raise UserError(
            f"{run.store.folder}: the real images that it was made from have changed since; bring the old ones back, or build again"
        )
    return table


def _chosen(real: Table, own: Table, most: int) -> tuple[np.ndarray, dict[str, str]]:
    """(rows of real to read, content key -> name of the run's own images): all of them, or a sample that holds the run's own."""
    keys = {example.key: f"row {row} of the run's source" for row, example in readable(own, range(len(own)))}
    if len(real) <= most:
        return np.arange(len(real)), keys
    mine = np.array([row for row, example in readable(real, range(len(real))) if example.key in keys], np.int64)
    others = np.setdiff1d(np.arange(len(real)), mine)
    some = seeds.rng("evaluate", "reference").permutation(others)[: max(0, most - len(mine))]
    log.info("%d of %d real training images are compared with (reference)", len(mine) + len(some), len(real))
    return np.sort(np.concatenate([mine, some])), keys


def _located(real: ImageSet, own_keys: dict[str, str]) -> tuple[np.ndarray, dict[str, int]]:
    """(rows of real that are the run's own, content key -> first row of real). Raises UserError for own images that are not among the real ones."""
    first: dict[str, int] = {}
    for row, key in enumerate(real.keys):
        first.setdefault(key, row)
    missing = [name for key, name in own_keys.items() if key not in first]
    if missing:
        raise UserError(
            f"--real does not hold {len(missing)} of the {len(own_keys)} real images that the run was made from "
            f"({', '.join(missing[: guards.NAMED])}); name the set that they were drawn from"
        )
    return np.array([row for row, key in enumerate(real.keys) if key in own_keys], np.int64), first


def _numbers(names: Sequence[str], known: Sequence[str]) -> np.ndarray:
    """int [len(names) + 1]: each class as a number of `known`, -1 where it has none; the last entry is where label -1 points."""
    places = {
        unicodedata.normalize("NFC", name): place for place, name in reversed(list(enumerate(known)))
    }  # file systems decompose accents
    return np.array([*(places.get(unicodedata.normalize("NFC", name), -1) for name in names), -1], np.int64)


def _at_most(labels: np.ndarray, most: int | None) -> np.ndarray:
    """Rows with a known class, at most so many a class; of unlabelled rows likewise where there are no others."""
    labels = labels if (labels >= 0).any() else np.zeros(len(labels), np.int64)
    parts = [seeds.rng("evaluate", "test", int(c)).permutation(np.flatnonzero(labels == c))[:most] for c in np.unique(labels[labels >= 0])]
    return np.sort(np.concatenate(parts))


def _marks(table: Table, found: ImageSet) -> np.ndarray | None:
    marks: np.ndarray | None = getattr(table, "synthetic", None)
    return None if marks is None else marks[np.array(found.ids, np.int64)]


def _eyes(run: Run, real: Table, settings: Settings, device: str) -> Eyes:
    shape = _first(real).shape
    side = settings.side or max(16, min(MOST_SIDE, max(shape[:2])))
    name = settings.backbone or (backbones.OFFLINE + ("@64" if max(shape[:2]) <= 64 else "@128" if max(shape[:2]) <= 128 else ""))
    return Eyes(side, backbones.open(name, device), _clip(run, settings, device))


def _first(table: Table) -> np.ndarray:
    for _, example in readable(table, range(len(table))):
        return example.image
    raise UserError("--real: none of its images can be decoded")


def _clip(run: Run, settings: Settings, device: str) -> Any:
    """The CLIP that was asked for, or the first one that a filter of the run names; None for neither."""
    if settings.clip is not None:
        found = encoders.open(settings.clip, device)
        if not isinstance(found, encoders.OpenClip):
            raise UserError(f"clip: {settings.clip!r} has no text side; name an open_clip model or folder")
        return found
    for f in run.built.filters:
        if not hasattr(f, "encoder"):
            continue  # a classifier or the like, if it has a model
        try:
            encoder = encoders.open(getattr(f, "model"), device)  # noqa: B009
        except UserError as error:
            log.info("cmmd and clip_score are left out, as the encoder of filter %s cannot be opened: %s", f.kind, error)
            continue
        if isinstance(encoder, encoders.OpenClip):
            return encoder
    return None
