"""What a setting is worth: its images made once, selected by its bounds, and judged on real validation images."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np

from factory import assemble, build, honour, images, kinds, seeds, select
from factory import plan as planning
from factory import recipe as recipes
from factory.contracts import Source, Table
from factory.errors import UserError
from factory.evaluate import backbones, fidelity, guards, sets
from factory.evaluate.made import looked_up_by
from factory.evaluate.utility import Arm, Part, Split, part
from factory.recipe import Recipe
from factory.sources import readable
from factory.store import Store
from factory.tune import space
from factory.tune.space import Knob, Setting

log = logging.getLogger("factory")
Objective = Literal["accuracy", "frechet", "coverage", "agreement"]
OBJECTIVES: tuple[Objective, ...] = get_args(Objective)
LOWER = ("frechet",)  # the objectives of which less is better
UNLABELLED = ("frechet", "coverage")  # those that ask for no classes
LEAST = 20  # images that a distance is measured on


@dataclass(frozen=True)
class Worth:
    """value: of the objective, None where too few images are left to tell.  kept: images selected.  keys: recipe keys, made absolute."""

    value: float | None
    kept: int
    keys: dict[str, Any]


@dataclass(frozen=True)
class Judge:
    """Judges settings of one recipe.

    path, overrides: the recipe file and its --set.  table: its real images.  validation: real images that it does not use.
    folder: keeps what was generated, one run for each setting of the generation.  networks: classifiers trained for one accuracy.
    """

    path: Path
    overrides: tuple[str, ...]
    recipe: Recipe
    table: Table
    validation: Part
    folder: Path
    objective: Objective
    backbone: str = backbones.OFFLINE
    networks: int = 3
    steps: int = 400
    device: str = "auto"

    @cached_property
    def pool(self) -> int:
        """Images that are generated for a setting."""
        return int(planning.make(self.recipe, self.table).wanted.sum())

    @cached_property
    def knobs(self) -> list[Knob]:
        """What is searched; the ratio only where accuracy is measured, as far as the recipe's amount goes."""
        most = self.pool / len(self.table)
        ratios = sorted({*(r for r in space.RATIOS if r < most), round(most, 3)}) if self.objective == "accuracy" else []
        return space.knobs(self.recipe, ratios)

    @cached_property
    def size(self) -> tuple[int, ...]:
        """Height and width, in pixels, that every image is brought to."""
        return tuple(self.validation.images.shape[1:3])

    def worth(self, setting: Setting) -> Worth:
        """Generate what is not there yet, select, and measure. Raises UserError."""
        made = space.generation(self.knobs, setting)
        recipe, store = self._made(made)
        shards, rows = store.read_rows()
        keys = space.bounds(recipe, assemble.rules(recipe, store, shards), setting)
        decided = recipes.load(self.path, [*self.overrides, *space.sets({**made, **keys})])
        quota = None
        if "ratio" in setting:
            real = np.bincount(self.table.labels[self.table.labels >= 0], minlength=len(self.table.class_names))
            wanted = np.ceil(setting["ratio"] * real).astype(int)
            quota = dict(enumerate(wanted.tolist()))
            keys["amount.per_class"] = space.amount(self.table.class_names, wanted)
            if self.recipe.amount.fill_to is not None:
                keys["amount.fill_to"] = None  # which would have the last word
        keep = select.decide(rows["label"], assemble.rules(decided, store, shards), quota, rows["ordinal"]).keep
        value = self._measure(store, list(shards.names), keep) if keep.any() else None
        return Worth(value, int(keep.sum()), {**made, **keys})

    def _made(self, keys: Mapping[str, Any]) -> tuple[Recipe, Store]:
        """The finished run of these generation settings."""
        recipe = recipes.load(self.path, [*self.overrides, *space.sets(keys), "amount.rounds=1"])
        name = hashlib.sha256(json.dumps(keys, sort_keys=True).encode()).hexdigest()[:12]
        out = self.folder / name
        if not (out / "report.json").exists():
            honour.check(recipe)
            build.run(recipe, planning.make(recipe, self.table), self.table, out, self.device)
        return recipe, Store.existing(out)

    def _measure(self, store: Store, shards: Sequence[str], keep: np.ndarray) -> float | None:
        made = self._synthetic(store, shards, keep)
        if made is None:
            return None
        if self.objective == "accuracy":
            return self.accuracy("real_synthetic", made)
        if self.objective == "agreement":
            return self._agreement(made)
        count = min(len(self.validation.labels), max(LEAST, self.pool // 3))  # the same for all settings: distances shrink with it
        if len(made.images) < count:
            return None
        chosen = seeds.rng("tune", len(made.images)).permutation(len(made.images))[:count]
        real = seeds.rng("tune", "real").permutation(len(self.validation.labels))[:count]
        ours, theirs = self._eyes.features(made.images[chosen]), self._eyes.features(self.validation.images)[real]
        if self.objective == "frechet":
            return fidelity.frechet_distance(theirs, ours)
        return fidelity.manifold(theirs, ours)["coverage"]

    def accuracy(self, arm: Arm, made: Part | None) -> float:
        """Of a small network on the validation images, mean over `networks` trainings."""
        from factory.evaluate.classifiers import Training

        truth = self.validation.labels
        split = Split(self._own, self.validation, made)  # parents of synthetic images are the recipe's own images, all of them
        training, classes = Training(steps=self.steps), len(self.table.class_names)
        found = [split.network(arm, classes, training, seed).argmax(1) for seed in range(self.networks)]
        return float(np.mean([(predicted == truth).mean() for predicted in found]))

    def _agreement(self, made: Part) -> float:
        """Share of the images that a linear probe, trained on the recipe's own real images, gives their class."""
        from factory.evaluate.classifiers import linear_probe

        logits = linear_probe(
            self._eyes.features(self._own.images), self._own.labels, self._eyes.features(made.images), len(self.table.class_names)
        )
        return float((logits.argmax(1) == made.labels).mean())

    @cached_property
    def _eyes(self) -> backbones.Backbone:
        return backbones.open(self.backbone)

    @cached_property
    def _own(self) -> Part:
        rows = np.flatnonzero(self.table.labels >= 0).tolist()
        own = readable(self.table, rows, "the recipe's source")
        return fitted(((int(self.table.labels[row]), example.image) for row, example in own), self.size)

    @cached_property
    def _held(self) -> frozenset[str]:
        """Content keys of the validation images among those that the condition looks up."""
        condition, known = self.recipe.condition, set(self.validation.pixels)
        every = sets.libraries(condition) if condition.looked_up else ()
        return frozenset(example.key for _, example in every if guards.digest(images.fit(example.image, *self.size)) in known)

    def _synthetic(self, store: Store, shards: Sequence[str], keep: np.ndarray) -> Part | None:
        """What is kept, but for images made from those that validate; None where nothing is left."""
        found, labels, entry = [], [], self.recipe.condition.looked_up
        for shard, span in store.spans(shards):
            own = np.flatnonzero(keep[span])
            for row in store.read_shard(shard, ["image", "label", "conditioning"]).take(own).to_pylist():
                if not self._held.isdisjoint(looked_up_by(row["conditioning"], entry)):
                    continue
                found.append(images.fit(images.decode(row["image"]), *self.size))
                labels.append(row["label"])
        if len(found) < keep.sum():
            log.info("%d of %d images are judged by; validation images had a part in the others", len(found), int(keep.sum()))
        return part(np.stack(found), np.array(labels)) if found else None


def fitted(found: Iterable[tuple[int, np.ndarray]], size: tuple[int, ...] | None = None) -> Part:
    """(label, image) in one size, that of the first by default. Raises UserError for none."""
    pictures, labels = [], []
    for label, image in found:
        size = size or image.shape[:2]
        pictures.append(images.fit(image, size[0], size[1]))
        labels.append(label)
    if not pictures:
        raise UserError("none of the real images can be decoded")
    return part(np.stack(pictures), np.array(labels))


def validation(recipe: Recipe, table: Table, dataset: str, split: str, most: int, test: str | None = None) -> Part:
    """At most `most` real images a class, or in all where there are none, that the recipe does not use, none of them a test image.

    test: the held-out images as `factory evaluate` takes them; None for the test split of `dataset`, where this is a folder that has one.
    Raises UserError, also where the recipe itself uses a test image.
    """
    if guards.says_test(split) or guards.says_test(Path(dataset).stem):
        raise _looks_at_test(dataset, split)
    found = _opened(recipe, table, dataset, split)
    known = _test_images(recipe, dataset, test)
    own = list(sets.digests(table, "the recipe's source"))
    guards.require([guards.test_images_in("training_in_test", "images of the recipe's source", own, known)])
    used, tested = {digest for _, digest in own}, 0
    chosen: list[tuple[int, np.ndarray]] = []
    for label in range(len(table.class_names)) if table.class_names else (-1,):
        order = seeds.rng(recipe.seed, "validation", label).permutation(np.flatnonzero(found.labels == label))
        wanted = len(chosen) + most
        for _, example in readable(found, order, "--real"):
            digest = guards.digest(example.image)
            tested += digest in known
            if digest not in used and digest not in known:
                chosen.append((label, example.image))
            if len(chosen) == wanted:
                break
    if tested and not chosen:
        raise _looks_at_test(dataset, split)
    if not chosen:
        raise UserError(f"--real {dataset}, split {split}: the recipe uses all of its images; name other ones, or set source.shots")
    if tested:
        log.warning("%d images of --real are test images and are left out", tested)
    return fitted(chosen)


def _looks_at_test(dataset: str, split: str) -> UserError:
    return UserError(
        f"--real {dataset}, split {split}: a search never looks at test images, or their accuracy means nothing afterwards; "
        "name training or validation images"
    )


def _opened(recipe: Recipe, table: Table, dataset: str, split: str) -> Table:
    """The images of --real, whose classes are those of the recipe's source."""
    shared = {key: getattr(recipe.source, key) for key in ("image", "label", "class_names", "classes") if hasattr(recipe.source, key)}
    try:
        source: Any = kinds.nested("sources", Source, {**shared, "dataset": dataset, "split": split})
    except ValueError as error:
        raise UserError(f"--real {dataset}: {error}") from error
    try:
        found: Table = source.open()
    except UserError as error:
        raise UserError(f"--real: {str(error).removeprefix('source.dataset: ')}") from error
    if found.class_names != table.class_names:
        raise UserError(
            f"--real {dataset} has the classes {found.class_names}, and the recipe's source has {table.class_names}; they must agree"
        )
    return found


def _test_images(recipe: Recipe, dataset: str, test: str | None) -> dict[bytes, str]:
    """Pixel digest -> row of every test image that is known of."""
    table = _test_split(recipe, dataset) if test is None else sets.opened("--test", test, "test", alone=True)[1]
    if table is None:
        log.info("no test images are known, so none is looked for among those of --real; name them with --test")
        return {}
    return {digest: row for row, digest in sets.digests(table, "the test images")}


def _test_split(recipe: Recipe, dataset: str) -> Table | None:
    """The split `test` of a local folder, None where it has none; a single file is taken whole, whatever its split."""
    if not Path(dataset).expanduser().is_dir():
        return None
    found = {"dataset": dataset, "split": "test", "image": getattr(recipe.source, "image", "image"), "label": None}
    source: Any = kinds.nested("sources", Source, found)
    try:
        return source.open()  # type: ignore[no-any-return]
    except UserError as error:
        log.info("%s: no test split: %s", dataset, error)
        return None
