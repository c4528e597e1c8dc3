"""Which images a training may see, and when a stored training may stand for another."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from factory.errors import UserError
from factory.evaluate import draws, guards, trials, utility, verdict
from factory.evaluate.draws import Draw, Draws
from factory.evaluate.settings import Settings


def images(labels: list[int], pixels: str | None = None) -> Any:
    names = [str(i) for i in range(len(labels))]
    shown = [name.encode() for name in (pixels or "abcdefghijklmnopqrst"[: len(labels)])]
    small, features = np.zeros((len(labels), 20, 20, 3), np.uint8), np.zeros((len(labels), 3), np.float32)
    return SimpleNamespace(ids=names, pixels=shown, labels=np.array(labels), small=small, features=features)


def evidence(
    real: Any, own: list[int], parents: list[set[int]], test: Any = None, seen: list[set[int]] | None = None, **settings: Any
) -> Any:
    """What draws and keys look at of an Evidence; each synthetic image has the class of its parents. seen: what was looked up for each."""
    tested = test or images([0, 1], "YZ")
    made = images([int(real.labels[min(rows)]) for rows in parents])
    return SimpleNamespace(
        class_names=["finch", "heron", "crane"][: int(real.labels.max()) + 1], real=real, own=np.array(own), test=tested,
        tested=np.flatnonzero(tested.labels >= 0), test_table=SimpleNamespace(class_names=["wren"]), keys={},
        made=SimpleNamespace(images=made, soft=None), ancestors=[[str(row) for row in rows] for rows in parents], common=frozenset(), labels_beyond=lambda: guards.labels_beyond([]),
        parents=[frozenset(rows) for rows in parents], looked_up=[frozenset(rows) for rows in seen or [set()] * len(parents)], settings=Settings(seeds=3, **settings),
        eyes=SimpleNamespace(side=20, backbone=SimpleNamespace(identity="eye")),
    )  # fmt: skip


def test_an_image_that_is_there_twice_is_not_trained_on_where_it_validates() -> None:
    real = images([0] * 5 + [1] * 5 + [2] * 5, "aabba" + "cdefghijkl")  # the first class is two images, of which there are five
    found = draws.make(evidence(real, list(range(15)), [{row} for row in range(15)], validation=1))
    held = {real.pixels[row] for row in found.validation}
    for draw in found.draws:
        assert len(draw.real) and not held & {real.pixels[row] for row in draw.real}
        assert len(draw.children) in (10, 11)  # those of validation images and of their twins are left out
    assert all(check.passed for check in found.checks)


def test_what_a_validation_image_was_looked_up_for_is_left_out(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "factory")
    real = images([0] * 4 + [1] * 4)
    found = draws.make(evidence(real, [0, 1, 4, 5], [{0}, {0}, {4}, {5}], seen=[{2, 3}, set(), {6, 7}, {0}], validation=2))
    assert found.validation.tolist() == [2, 3, 6, 7] and [draw.children.tolist() for draw in found.draws] == [[1, 3]] * 3
    assert "2 of 4 synthetic images are never trained on" in caplog.text
    with pytest.raises(UserError, match=r"had a part in every synthetic image.*name images beside them"):
        draws.make(evidence(images([0] * 4 + [1] * 4), list(range(8)), [set(range(8))] * 4, validation=1))


def test_parents_that_all_images_share_are_compared_once() -> None:
    class Counted(frozenset[int]):
        compared = 0

        def __le__(self, other: Any) -> bool:
            Counted.compared += 1
            return frozenset.__le__(self, other)

        def __and__(self, other: Any) -> frozenset[int]:
            Counted.compared += 1
            return frozenset.__and__(self, other)

    own = evidence(images([0] * 4 + [1] * 4), [0, 1, 4, 5], [{0}] * 300 + [{4}] * 300, validation=2)
    own.parents = [Counted({0, 1, 4, 5})] * 600
    assert [len(draw.children) for draw in draws.make(own).draws] == [600] * 3 and Counted.compared < 9


def test_the_only_image_of_a_class_is_trained_on(caplog: pytest.LogCaptureFixture) -> None:
    real = images([0] * 4 + [1] * 4 + [2])
    found = draws.make(evidence(real, list(range(9)), [{row} for row in range(9)], validation=1))
    assert len(found.validation) == 2 and all(8 in draw.real and 8 in draw.children for draw in found.draws)
    assert "no image of crane to spare" in caplog.text
    twice = images([0] * 4 + [1] * 4 + [2] * 2, "abcdefghii")
    found = draws.make(evidence(twice, list(range(10)), [{row} for row in range(10)], validation=1))
    assert len(found.validation) == 2 and all({8, 9} <= set(draw.real.tolist()) for draw in found.draws)
    taught = evidence(images([0] * 4 + [1] * 4), [0, 1, 4, 5, 6, 7], [{0}, {4}], validation=1)
    taught.common = frozenset([0, 1, 4, 5, 6, 7])  # whose labels a model has learnt, so that no herons are left to validate on
    found = draws.make(taught)
    assert len(found.validation) == 1 and found.validation[0] in (2, 3) and all(draw.children.tolist() == [0, 1] for draw in found.draws)
    with pytest.raises(UserError, match="no class has a second image"):
        draws.make(evidence(images([0, 1]), [0, 1], [{0}, {1}], validation=1))


def test_classes_without_a_synthetic_image_are_named() -> None:
    own = evidence(images([0] * 4 + [1] * 4 + [2] * 4), [0, 1, 4, 5, 8, 9], [{0}, {1}, {8}], validation=2)
    found = draws.make(own)
    assert draws.lacking(own, found.draws) == ["heron"] and not draws.ratios(own, found.draws)
    rows = [{"arm": arm, "classifier": "eye", "ratio": 0.0, "labels": 2, "seed": 0, "validation": ["1"]} for arm in ("real", "real_strong")]
    said = verdict.verdict(rows, "eye", ["heron"])
    assert said["use"] is None and "no synthetic image of heron may be trained with" in said["text"]


def test_shots_stay_apart_where_a_class_has_images_for_validation_alone() -> None:
    real = images([0] * 6 + [1] * 6 + [2])
    own = [0, 1, 2, 6, 7, 8]
    found = draws.make(evidence(real, own, [{row} for row in own], protocol="few_shot", shots=[1, 3], validation=1, outside="leave_out"))
    assert [draw.labels for draw in found.draws] == [1, 3] * 3


def test_test_images_without_a_known_class_are_refused_before_any_training() -> None:
    with pytest.raises(UserError, match=r"no image has a class that --real knows \(it has wren, and --real finch, heron"):
        draws.make(evidence(images([0] * 4 + [1] * 4), [0, 1, 4, 5], [{0}, {4}], images([-1, -1], "YZ"), validation=1))


def trial(arm: utility.Arm, classifier: str = "linear_probe", ratio: float = 0.0) -> trials.Trial:
    rows = np.array([0, 1] if arm in ("real_synthetic", "synthetic") else [], np.int64)
    return trials.Trial(arm, classifier, ratio, Draw(0, 2, np.array([0, 1, 4, 5]), np.array([0, 1])), rows)


def test_keys_of_stored_trainings_tell_sizes_and_soft_labels_apart() -> None:
    own = evidence(images([0] * 4 + [1] * 4), [0, 1, 4, 5], [{0}, {4}])

    def key(arm: utility.Arm) -> str:
        return trials._Judges(own, np.array([2, 6])).key(trial(arm))

    before = {arm: key(arm) for arm in utility.ARMS}
    own.eyes.side = 32
    assert [arm for arm in utility.ARMS if key(arm) != before[arm]] == ["real_strong"]  # its views are cut from the small images
    seen = set()
    for share in (0.6, 0.7):
        own.made.soft = np.array([[share, 1 - share], [1 - share, share]], np.float32)
        seen.add(key("synthetic"))
    assert len(seen) == 2 and before["synthetic"] not in seen


@pytest.mark.parametrize("classifier", ["small_network", "linear_probe"])
def test_no_training_sees_what_it_is_asked_about_whoever_drew_it(classifier: str) -> None:
    own = evidence(images([0] * 4 + [1] * 4), [0, 1, 4, 5], [{0}, {6}])
    with pytest.raises(UserError, match=r"1 drawn real images are also test images \(1 = test 0\)"):  # row 1 validates as well
        trials._Judges(own, np.array([1, 6])).judge(trial("real", classifier))
    with pytest.raises(UserError, match=r"outside the draw of 4 \(1 from real \[6\]\)"):
        trials._Judges(own, np.array([2, 7])).judge(trial("real_synthetic", classifier))
    own.made.images.pixels[0] = own.test.pixels[1]
    with pytest.raises(UserError, match=r"1 synthetic images are also test images \(0 = test 3\)"):
        trials._Judges(own, np.array([2, 7])).judge(trial("synthetic", classifier))


def test_a_linear_probe_looks_at_features_alone() -> None:
    own = evidence(images([0] * 4 + [1] * 4), [0, 1, 4, 5], [{0}, {4}])
    for one in (own.real, own.test, own.made.images):
        one.small, one.features = None, np.where(one.labels[:, None] == 0, -1, [1.0, 2.0, 0.5]).astype(np.float32)
    found = trials._Judges(own, np.array([2, 6])).judge(trial("real_synthetic"))
    assert found == {"validation": ["1", "1"], "test": ["1", "1"]}


def test_a_stored_training_answers_under_the_ratio_that_is_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own = evidence(images([0] * 4 + [1] * 4), [0, 1, 4, 5], [{0}, {4}])
    made = []
    monkeypatch.setattr(trials._Judges, "judge", lambda self, one: made.append(one) or {"validation": ["1", "1"], "test": ["1", "1"]})
    for ratio in (0.48, 0.5):
        found = trials.run(own, Draws(np.array([2, 6]), [], []), [trial("real_synthetic", ratio=ratio)], tmp_path / "trials.jsonl")
        assert found[0]["ratio"] == ratio
    assert len(made) == 1
