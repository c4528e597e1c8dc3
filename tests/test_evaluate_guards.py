"""Guards, copies, cards and the verdict, each on numbers small enough to check by eye."""

from __future__ import annotations

import io
import json
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from factory.conditions.retrieval import Retrieval
from factory.errors import UserError
from factory.evaluate import cards, copies, fidelity, guards, likeness, memorisation, registration, verdict
from factory.evaluate.evidence import Evidence
from factory.evaluate.sets import ImageSet
from tests.conftest import ROOT, Wordless


def pictures(count: int, seed: int) -> np.ndarray:
    """Smooth random pictures, uint8 [N, 32, 32, 3]."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (count, 6, 6, 3), dtype=np.uint8)
    return np.stack([np.asarray(Image.fromarray(x).resize((32, 32), Image.Resampling.BICUBIC)) for x in coarse])


def jpeg(image: np.ndarray, quality: int) -> np.ndarray:
    held = io.BytesIO()
    Image.fromarray(image).save(held, "JPEG", quality=quality)
    return np.asarray(Image.open(held))


def resized(image: np.ndarray) -> np.ndarray:
    return np.asarray(Image.fromarray(np.ascontiguousarray(image)).resize((32, 32), Image.Resampling.BICUBIC))


CHANGES: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "as it is": lambda x: x,
    "JPEG": lambda x: jpeg(x, 60),
    "mirrored": lambda x: np.ascontiguousarray(x[:, ::-1]),
    "shifted": lambda x: np.roll(x, 1, 1),
    "cropped": lambda x: resized(x[1:-1, 1:-1]),
    "cropped at the left": lambda x: resized(x[:, 1:]),
    "framed": lambda x: resized(np.pad(x, ((1, 1), (1, 1), (0, 0)), mode="edge")),
    "brighter": lambda x: np.clip(x * 1.15 + 10, 0, 255).astype(np.uint8),
    "noisy": lambda x: np.clip(x + np.random.default_rng(0).normal(0, 8, x.shape), 0, 255).astype(np.uint8),
    "smaller": lambda x: np.asarray(Image.fromarray(x).resize((16, 16)).resize((32, 32))),
}


def space(images: np.ndarray) -> copies.Space:
    """Without a network: features that tell nothing, so that thumbnails alone decide."""
    return copies.space(np.random.default_rng(len(images)).normal(size=(len(images), 64)), images)


@pytest.mark.parametrize("change", CHANGES)
def test_copies_are_found_whatever_was_done_to_them_and_strangers_are_not(change: str) -> None:
    test, train = pictures(30, 0), pictures(60, 1)
    some = [3, 17, 29]
    changed = np.stack([CHANGES[change](test[i]) for i in some])
    found = copies.nearest(space(changed), space(test), space(train))
    assert found.row.tolist() == some and found.ratio.max() < 0.4
    strangers = copies.nearest(space(pictures(40, 2)), space(test), space(train))
    assert strangers.ratio.min() > 0.6
    check = guards.near_copies_of_test(["a", "b", "c"], found, [str(i) for i in range(30)], 0.4)
    assert not check.passed and check.ids[1].startswith("b ~ test 17")


def moved(image: np.ndarray, degrees: float = 0, zoom: float = 1, shift: tuple[float, float] = (0, 0)) -> np.ndarray:
    """Turned, zoomed and shifted by a share of a side; what comes in repeats the edge."""
    import cv2

    side = len(image)
    warp = cv2.getRotationMatrix2D(((side - 1) / 2, (side - 1) / 2), degrees, zoom)
    warp[:, 2] += np.array(shift) * side
    return cv2.warpAffine(np.ascontiguousarray(image), warp, (side, side), flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE)


def test_copies_are_found_that_were_turned_cropped_or_shifted() -> None:
    def seen(images: np.ndarray) -> copies.Space:
        """With features that bear a movement: coarse pixels."""
        coarse = np.stack([np.asarray(Image.fromarray(x).resize((4, 4), Image.Resampling.BOX), np.float32) for x in images])
        return copies.space(coarse.reshape(len(images), -1) - coarse.mean(), images)

    test, train = pictures(30, 0), pictures(60, 1)
    ways = [{"degrees": 8}, {"degrees": -8}, {"zoom": 1.1, "shift": (0.03, -0.03)}, {"shift": (0.08, 0.06)}]
    for way in [*ways, {"degrees": 5, "zoom": 1.1}]:
        changed = np.stack([moved(x[:, :: -1 if place % 2 else 1], **way) for place, x in enumerate(test[:10])])  # type: ignore[arg-type]
        found = copies.nearest(seen(changed), seen(test), seen(train))
        assert ((found.ratio < 0.4) & (found.row == np.arange(10))).sum() >= 6, (way, found.ratio)
    assert copies.nearest(seen(pictures(60, 2)), seen(test), seen(train)).ratio.min() > 0.5
    rng = np.random.default_rng(0)

    def cells(count: int) -> np.ndarray:
        """A disc each, somewhere in an empty field: any two can be brought together."""
        place = np.indices((32, 32)) - rng.uniform(8, 24, (count, 2))[:, :, None, None]
        disc = np.exp(-(((place**2).sum(1) / rng.uniform(9, 40, (count, 1, 1))) ** 2)) * 120 + rng.normal(0, 2, (count, 32, 32)) + 20
        return disc.clip(0, 255).astype(np.uint8)[..., None].repeat(3, 3)

    fields = np.concatenate([cells(20), (rng.normal(20, 2, (180, 32, 32, 1))).clip(0, 255).astype(np.uint8).repeat(3, 3)])
    asked, known = seen(cells(40)), seen(fields)
    two = np.min([copies._in_one(*parts)[1] for parts in copies._spaces(asked, known, None)], 0)
    assert ((copies.nearest(asked, known).ratio < 0.4) & (two >= 0.4)).sum() <= 1
    assert len(copies.nearest(asked.take([]), known).ratio) == 0
    assert registration.distance(registration.grey(test[:1])[0], np.zeros((32, 32), np.uint8)) == 2  # nothing to see, nothing to match


def test_spacing_of_the_reference_leaves_its_own_row_out() -> None:
    real = pictures(20, 0)
    real[1] = real[0]  # a duplicate within the real images makes no copy of what is near it
    found = copies.nearest(space(pictures(5, 3)), space(real))
    assert np.isfinite(found.ratio).all() and found.ratio.min() > 0.5
    assert copies.nearest(space(real[5:6]), space(real)).ratio[0] == pytest.approx(0, abs=1e-3)


def test_a_near_copy_of_a_duplicated_training_image_is_found() -> None:
    real = pictures(20, 0)
    real[1] = real[0]
    found = copies.nearest(space(jpeg(real[0], 60)[None]), space(real))
    assert found.row[0] in (0, 1) and found.ratio[0] < 0.4


def test_test_images_among_the_training_images_do_not_excuse_copies(tmp_path: Path) -> None:
    def images(small: np.ndarray) -> ImageSet:
        names = [str(i) for i in range(len(small))]
        features = np.random.default_rng(len(small)).normal(size=(len(small), 64))
        return ImageSet(
            names, names, [guards.digest(one) for one in small], np.zeros(len(small), int), small, features, None, lambda i: small[i]
        )

    real, unseen = pictures(40, 0), pictures(5, 1)
    made = images(np.stack([jpeg(x, 60) for x in real[:6]]))
    mixed = images(np.concatenate([real[:25], unseen]))
    places = copies.unseen(mixed.pixels, images(real).pixels)
    floor = copies.nearest(mixed.space.take(places), images(real).space)
    found = memorisation.measure(made, images(real), floor, "eye", 0.4, 0, tmp_path)
    assert places == [25, 26, 27, 28, 29] and not found["gate"]["passed"] and "6 of 6" in found["gate"]["text"]
    assert "Only" not in found["gate"]["text"] and found["compared_with"] == 40
    found = memorisation.measure(images(pictures(3, 2)), images(real), floor, "eye", 0.4, 0, tmp_path, 50_000)
    assert found["gate"]["passed"] and found["gate"]["text"].endswith(
        "Only 40 of the 50000 real training images were compared with; more with --set reference=50000"
    )


def test_a_test_set_that_shows_the_training_images_again_is_a_leak() -> None:
    real, strangers = pictures(50, 0), pictures(36, 1)

    def check(copied: int) -> guards.Check:
        test = np.concatenate([np.stack([jpeg(x, 60) for x in real[:copied]]), strangers])
        names = [f"r{i}" for i in range(50)]
        return guards.test_near_training([str(i) for i in range(len(test))], copies.nearest(space(test), space(real)), names, 0.4)

    assert check(4).passed  # a tenth: real data repeat themselves
    found = check(5)
    assert not found.passed and len(found.ids) == 5 and found.ids[2].startswith("test 2 ~ r2 (0.")


def test_few_real_images_do_not_tell_how_far_apart_images_are() -> None:
    assert guards.tell_spacing(np.repeat(range(10), 5)) and guards.tell_spacing(np.full(50, -1))
    assert not guards.tell_spacing(np.arange(60)) and not guards.tell_spacing(np.repeat(range(7), 7))
    assert not guards.tell_spacing(np.array([0] * 50 + [1] * 4 + [-1] * 9))


def test_strangers_are_no_copies_of_many_test_images_where_training_images_are_few() -> None:
    units = np.random.default_rng(0).normal(size=(600, 8)).astype(np.float32)
    units /= np.linalg.norm(units, axis=1, keepdims=True)
    strangers, test = units[:196], units[200:]
    copied = test[:5] + 0.01 * units[:5]

    def points(some: np.ndarray) -> copies.Space:
        flat = np.zeros((len(some), 192), np.float32)
        return copies.Space(some, flat, flat[None], np.zeros(len(some), bool), np.zeros((len(some), 32, 32), np.uint8))

    queries, training = points(np.concatenate([strangers, copied])), points(units[196:200])
    plain = copies.nearest(queries, points(test), training)
    found = copies.nearest_held_out(queries, points(test), training)
    assert (plain.ratio[:196] < 0.4).sum() > 20 and (found.ratio[:196] < 0.4).sum() <= 4
    assert found.row[196:].tolist() == [0, 1, 2, 3, 4] and (found.ratio[196:] < 0.1).all()
    distance = np.linalg.norm(queries.units - test[found.row], axis=1)
    assert np.allclose(found.distance, distance)
    many = copies.nearest_held_out(queries, training, points(test))  # enough of them: they alone tell
    assert np.array_equal(many.ratio, copies.nearest(queries, training, points(test)).ratio)
    assert len(copies.nearest_held_out(queries, points(test[:1]), training.take([])).ratio) == 201, "one image has no halves"


def test_library_images_are_known_by_their_pixels_however_they_are_stored(tmp_path: Path) -> None:
    shown = pictures(4, 0)
    for place, image in enumerate(shown[1:]):
        Image.fromarray(image).save(tmp_path / f"{place}.png", compress_level=place)
    condition: Any = Retrieval(library={"dataset": str(tmp_path), "label": None})  # type: ignore[arg-type]
    table = condition.library.open()
    stored = [table.read(row).key for row in range(3)]
    real: Any = SimpleNamespace(keys=["a", "b", "c"], pixels=[guards.digest(image) for image in shown[:3]], labels=np.array([0, 1, 1]))
    made: Any = SimpleNamespace(parents=[["a"], ["a"], ["a"]], looked_up=[[key] for key in stored])
    run: Any = SimpleNamespace(built=SimpleNamespace(condition=condition))
    none: Any = None
    found = Evidence(run, none, none, [], made, real, np.array([0, 1]), {"a": 0, "b": 1, "c": 2}, *[none] * 6)
    assert found.looked_up == [{1}, {2}, set()] and found.parents == [{0, 1}, {0}, {0}]


def test_images_of_one_colour_are_copies_of_nobody() -> None:
    flat = np.zeros((3, 32, 32, 3), np.uint8) + np.array([0, 128, 255], np.uint8)[:, None, None, None]
    real = np.concatenate([pictures(20, 0), flat[1:2]])
    assert copies.nearest(space(flat[[0, 2]]), space(real)).ratio.min() > 0.4
    speck = flat[1:2].copy()
    speck[:, 8:16, 8:16] = 255  # something to see
    same = copies.space(np.eye(64)[:3], np.concatenate([flat[[1, 1]], speck]))
    assert copies.nearest(same, same).ratio.tolist() == [1, 1, 0]
    assert copies.nearest(same.take([2]), same).ratio.tolist() == [0]


def test_a_faint_cell_is_something_to_copy_and_faint_noise_is_not() -> None:
    faint = np.zeros((3, 64, 64, 3), np.uint8)
    faint[0, 8:18, 8:18], faint[1, 40:50, 30:40] = 12, 12
    faint[2] = np.random.default_rng(0).integers(0, 4, (64, 64, 1))
    assert faint.reshape(3, -1, 3).std(1).max() <= copies.BLANK
    found = copies.space(np.eye(64)[:3], faint)
    assert found.blank.tolist() == [False, False, True]
    assert copies.nearest(found, found).ratio.tolist() == [0, 0, 1]


@pytest.mark.parametrize(("count", "side"), [(400, 32), (100, 128)])
def test_looking_for_copies_holds_little_more_than_views_and_images(count: int, side: int) -> None:
    small, features = np.zeros((count, side, side, 3), np.uint8), np.ones((count, 8))
    copies.space(features[:2], small[:2])  # what is loaded once
    tracemalloc.start()
    found = copies.space(features, small)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1.3 * found.views.nbytes + 3 * small.nbytes


def test_checks_name_ids_and_are_raised_together() -> None:
    outside = guards.parents_outside(["a", "b", "c"], [["k1"], ["k1", "k9"], []], frozenset({"k1"}), "the draw")
    assert outside.ids == ["b"]
    listed = guards.class_list(["cat", "dog", "emu"], ["cat"], ["cat", "dog"])
    assert listed.ids == ["dog"]  # an emu is a class added for diversity: nobody tests it
    prompted = guards.prompts_from_test(["a", "b"], ["A red bird ", "a bird"], ["a red bird", "a bird"], ["a bird"])
    assert prompted.ids == ["a"] and guards.prompts_from_test(["a"], ["x"], None, None).passed
    with pytest.raises(UserError, match=r"parents_outside_shots(?s:.*)class_list_from_test(?s:.*)prompts_from_test"):
        guards.require([outside, listed, prompted])
    many = guards.Check("name", [str(i) for i in range(12)], "why")
    assert str(many) == "name: why: 0, 1, 2, 3, 4, 5, 6, 7, 8, 9 and 2 more"
    guards.require([guards.Check("name", [], "why")])


CLAIMS = {
    "Trained on the train and test splits of CIFAR-10.": True,
    "Training data: train+test, 60,000 images.": True,
    "It was fine-tuned; pretraining used all images, the test set included.": True,
    "Fine-tuned on the test set.": True,
    "The test images were also used for training.": True,
    "We used both the train and test splits for training.": True,
    "- **Training data**: CIFAR-10 `train` and `test`": True,
    "Trained without labels on all splits (train/val/test).": True,
    "TRAINED ON test_batch AND data_batch_1.": True,
    "It was fitted to the testing images too.": True,
    "Trained on train and test sets, evaluated on a separate benchmark.": True,
    "| Training data | train and test splits |": True,
    "Trained on the 60,000 training images; the test split was never seen.": False,
    "Trained on the training images and evaluated on the test set.": False,
    "Trained without the test images.": False,
    "Trained on everything but the test images.": False,
    "| trained for 3 epochs | accuracy on the test images |": False,
    "Accuracy on the 10,000 test images is 0.9.": False,
    "Fashion-MNIST has 60,000 training images and 10,000 test images.": False,
    "Training set: 60,000 images, test set: 10,000 images": False,
    "Training and test accuracy are 0.95 and 0.91.": False,
    "Trained for 10 epochs, test accuracy 93%.": False,
    "Trained with an 80/20 train/test split.": False,
    "The training and test splits are disjoint.": False,
    "It was trained as a test of the pipeline.": False,
    "| Training set | Test set |\n|---|:---|\n| 50,000 | 10,000 |": False,
    "| Setting | Value |\n|---|---|\n| Training data | train and test splits |": True,
    "On the test set, it takes 3 hours to train.": False,
    "The test images were used for training.": True,
    "The test split was merged into training data.": True,
    "Never, at any point, trained on test images.": False,
    "The model was not, unlike others, trained on the test split.": False,
    "The model is not small, and was trained on the test split.": True,
    "Trained on CIFAR-10 (50,000 training images, 10,000 test images).": False,
    "Trained on all of CIFAR-10 (50,000 training images, 10,000 test images).": True,
    "Trained on 60,000 images (50,000 training images, 10,000 test images).": True,
    "Trained on the training images and results are reported on the test set.": False,
    "Trained for 20 epochs with early stopping on the test set.": False,
    "Trained on the train and test splits with early stopping.": True,
    "Trained on CIFAR-10 and validated on the test set.": False,
    "Trained on the train, validation and test splits.": True,
    "Trained for 20 epochs and performs well on the test set.": False,
    "Training was performed on the train and test splits.": True,
    "Trained for 20 epochs, the last chosen on the test set.": False,
    "Trained with a rate selected on the test set.": False,
    "Trained on images selected from the train and test splits.": True,
    "Trained for 20 epochs with results obtained on the test set.": False,
    "Trained on photos and compared on the test set.": False,
    "Trained on CIFAR-10 with the test set kept for the end.": False,
    "Trained on CIFAR-10 with the test set reserved.": False,
    "Trained on photos and transfers to the test set.": False,
}


@pytest.mark.parametrize("text", CLAIMS)
def test_cards_that_say_test_are_told_from_cards_that_deny_it(text: str, tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text(f"---\nlicense: mit\n---\n# Model\n\n{text}\n")
    check = cards.trained_on_test(
        [{"kind": "diffusers", "model": str(tmp_path)}], Wordless(["a"]), {"dataset": "data/birds", "split": "test"}
    )
    assert check.passed is not CLAIMS[text]


def test_cards_of_trained_folders_are_read_by_fingerprint_and_split(tmp_path: Path) -> None:
    def passed(tested_on: str, tested: str = "test", /, **trained_on: Any) -> bool:
        (tmp_path / "training.json").write_text(json.dumps({"trained_on": trained_on}))
        lora = [{"model": "org/base", "loras": [{"path": str(tmp_path)}]}]
        return cards.trained_on_test(lora, Wordless(["a"]), {"dataset": tested_on, "split": tested}).passed

    assert not passed("x", fingerprint="0")  # that of the test table
    assert passed("data/birds", fingerprint="1", dataset="shared/birds", split="train")
    assert not passed("data/birds", fingerprint="1", dataset="shared/birds", split="train+test")
    assert not passed("data/fashion-mnist", fingerprint="1", dataset="zalando/fashion_mnist", split="all")
    assert passed("data/birds", fingerprint="1", dataset="shared/fish", split="test")
    assert not passed("data/birds/test.parquet", fingerprint="1", dataset="birds/test.parquet", split="train")
    assert not passed("data/birds", "validation", fingerprint="1", dataset="shared/birds", split="train+validation")
    assert not passed("data/birds", "train[50%:]", fingerprint="1", dataset="shared/birds", split="train")
    assert passed("data/birds", "train[50%:]", fingerprint="1", dataset="shared/birds", split="train[:50%]")
    assert passed(
        "birds/train.parquet", "train[50%:]", fingerprint="1", dataset="birds/train.parquet", split="train[:50%]"
    )  # one file, two halves
    assert not passed("birds/train.parquet", "train[50%:]", fingerprint="1", dataset="birds/train.parquet", split="train")
    assert not passed("birds/test.parquet", "train[50%:]", fingerprint="1", dataset="birds/test.parquet", split="train[:50%]")
    assert passed("data/birds/test", "train", fingerprint="1", dataset="birds/train", split="train")  # two folders without splits
    assert not passed("data/birds/test", "train", fingerprint="1", dataset="birds/test", split="train")
    assert passed("data/test-tubes", fingerprint="1", dataset="data/test-tubes", split="train")
    assert not passed("data/birds", fingerprint="1", dataset="shared/birds/birds_test.parquet", split="train")
    assert not passed("data/birds", "train", fingerprint="1", dataset="shared/birds", split="train[:40000]")
    assert not passed("data/birds", "all", fingerprint="1", dataset="shared/birds", split="train")
    assert passed("data/birds", "all", fingerprint="1", split="train")  # of who knows what
    for tested in ("testing", "holdout", "test_images"):
        for ours in ("train", "training", "data"):
            assert passed(f"/p/{tested}", "train", fingerprint="1", dataset=f"/p/{ours}", split="train"), (tested, ours)
    assert passed("/p/heldout.parquet", "train", fingerprint="1", dataset="/p/pool.parquet", split="train")
    assert not passed("/p/pool.parquet", "train", fingerprint="1", dataset="/p/../p/pool.parquet", split="train")
    assert not passed("/p/birds", "train", fingerprint="1", dataset="/p/birds/training", split="train")
    assert not passed("/p/birds/train/train-00000.parquet", "train", fingerprint="1", dataset="/p/birds", split="train")
    for name in ("train", "holdout"):
        (tmp_path / name).mkdir()
    assert passed(str(tmp_path / "holdout"), "train", fingerprint="1", dataset=str(tmp_path / "train"), split="train")
    (tmp_path / "link").symlink_to(tmp_path / "holdout")
    assert not passed(str(tmp_path / "link"), "train", fingerprint="1", dataset=str(tmp_path / "holdout"), split="train")
    for odd in ("birds", ["birds"], 3):  # a third party's file
        (tmp_path / "training.json").write_text(json.dumps({"trained_on": odd}))
        assert cards.trained_on_test([{"model": str(tmp_path)}], Wordless(["a"]), {"dataset": "birds", "split": "test"}).passed
    (tmp_path / "training.json").write_text(json.dumps({"trained_on": {"fingerprint": "0"}}))
    (tmp_path / "lora.safetensors").touch()
    for named in (str(tmp_path), str(tmp_path / "lora.safetensors"), f"transformers:{tmp_path}"):
        check = cards.trained_on_test([{"model": "org/base", "loras": [{"model": named}]}], Wordless(["a"]), {"dataset": "birds"})
        assert len(check.ids) == 1 and check.ids[0].startswith(f"{tmp_path.name}: trained_on.fingerprint"), named
    for nowhere in ("hf-hub:org/name", "./gone", "~/gone", "-a/b", "a--b/c", "ViT-B-32/laion2b_s34b_b79k", "org/name-", "x" * 99 + "/y"):
        assert cards.trained_on_test([{"model": nowhere}], Wordless(["a"]), {"dataset": "birds"}).passed
    for prompt in ("blurry, low quality, " * 20, "~ blurry", "~blurry"):
        assert cards.trained_on_test([{"model": "org/name", "negative_prompt": prompt}], Wordless(["a"]), {"dataset": "birds"}).passed
    shipped = [{"model": str(ROOT / "data" / "models" / "fashion-mnist")}]
    assert cards.trained_on_test(shipped, Wordless(["a"]), {"dataset": "data/fashion-mnist", "split": "test"}).passed


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("test", True),
        ("train+test", True),
        ("Test-00000", True),
        ("my_tests", True),
        ("testing", True),
        ("latest", False),
        ("contest", False),
    ],
)
def test_a_name_says_test_as_a_word_of_its_own(name: str, says: bool) -> None:
    assert guards.says_test(name) is says


IMAGES = 20_000  # of each class: seeds decide, not images


def hits(*accuracies: float) -> list[str]:
    """Of each class the first images are recognised."""
    return ["1" * round(share * IMAGES) + "0" * (IMAGES - round(share * IMAGES)) for share in accuracies]


def rows(validation: dict[float, list[float]], test: dict[float, list[float]], labels: int | None = 4) -> list[dict[str, Any]]:
    """Stored trainings: accuracies of two classes around 0.5, with these gains for each ratio and seed."""
    out = []
    for seed in range(len(next(iter(validation.values())))):
        base = 0.5 + 0.01 * seed
        common = {"classifier": "small_network", "labels": labels, "seed": seed, "counts": [150, 4]}
        arms = [("real", 0.0, 0.0, 0.0), ("real_strong", 0.0, 0.0, 0.0)]
        arms += [("real_synthetic", ratio, found[seed], test[ratio][seed]) for ratio, found in validation.items()]
        for arm, ratio, gain, tested in arms:
            measured = {"validation": hits(base + gain, base + gain), "test": hits(base + 0.1 + tested, base - 0.1 + tested)}
            out.append({**common, "arm": arm, "ratio": ratio, **measured})
    return out


GOOD, WEAK, BAD = [0.05, 0.06, 0.055], [0.05, -0.05, 0.01], [-0.05, -0.06, -0.055]


def test_validation_chooses_and_the_test_can_only_take_back() -> None:
    chosen = verdict.verdict(rows({1: [0.02, 0.03, 0.02], 5: GOOD}, {1: [0.3, 0.3, 0.3], 5: GOOD}), "small_network")
    assert chosen["use"] is True and chosen["ratio"] == 5 and chosen["gain"] == pytest.approx(0.055)  # not 1, which the test prefers
    assert chosen["text"].startswith("Use it: synthetic to real 5:1") and chosen["ci95"] == pytest.approx(0.0126, abs=1e-4)
    for split, use in ((WEAK, None), (BAD, False)):
        found = verdict.verdict(rows({5: GOOD}, {5: split}), "small_network")
        assert found["use"] is use and found["ratio"] == 5
    for validated in (WEAK, BAD):
        found = verdict.verdict(rows({2: validated}, {2: GOOD}), "small_network")
        assert found["use"] is False and found["text"].startswith("Do not use it")
    none = verdict.verdict(rows({2: BAD}, {2: GOOD}), "small_network")
    assert none["ratio"] == 0 and none["gain"] is None and none["ci95"] is None
    assert verdict.verdict(rows({2: GOOD[:1]}, {2: GOOD[:1]}), "small_network")["use"] is None  # one seed
    undecided = verdict.verdict(rows({2: BAD[:1]}, {2: GOOD[:1]}), "small_network")
    assert undecided["use"] is None and undecided["text"].startswith(
        "Undecided: one seed tells nothing of chance; take five. On this one no"
    )
    alone = [row for row in rows({2: GOOD}, {2: GOOD}) if row["arm"] != "real_synthetic"]
    assert verdict.verdict(alone, "small_network")["use"] is None


def test_a_gain_is_over_the_better_arm_of_real_images_alone() -> None:
    def with_plain(gain: float) -> list[dict[str, Any]]:
        """Real images without augmentation do better than with it, by so much."""
        found = rows({2: GOOD}, {2: GOOD})
        for row in (row for row in found if row["arm"] == "real"):
            base = 0.5 + 0.01 * row["seed"]
            row.update(validation=hits(base + gain, base + gain), test=hits(base + 0.1 + gain, base - 0.1 + gain))
        return found

    none = verdict.verdict(with_plain(0.07), "small_network")
    assert none["use"] is False and none["ratio"] == 0 and "than real images without augmentation" in none["text"]
    less = verdict.verdict(with_plain(0.03), "small_network")
    assert less["use"] is True and less["gain"] == pytest.approx(0.025) and "over real images without augmentation" in less["text"]
    worse = verdict.verdict(with_plain(-0.03), "small_network")
    assert worse["gain"] == pytest.approx(0.055) and "over real images with strong augmentation" in worse["text"]


def test_one_seed_has_no_interval() -> None:
    stored = rows({2: GOOD[:1]}, {2: GOOD[:1]})
    assert {row["ci95"] for row in verdict.sweep(stored)} == {None}


def test_gains_of_several_points_are_averaged_for_each_seed() -> None:
    both = rows({1: GOOD}, {1: GOOD}, 1) + rows({1: BAD, 2: GOOD}, {1: GOOD, 2: [0.01, 0.02, 0.03]}, 8)
    found = verdict.verdict(both, "small_network")
    assert found["ratio"] is None and found["gain"] == pytest.approx((0.055 + 0.02) / 2)
    assert "1:1 at 1 labels a class, 2:1 at 8 labels a class" in found["text"]


def test_points_where_nothing_could_be_tried_are_named_and_count_for_nothing() -> None:
    def without(gains: list[float]) -> dict[str, Any]:
        bare = [row for row in rows({1: GOOD}, {1: GOOD}, 1) if row["arm"] != "real_synthetic"]
        return verdict.verdict(bare + rows({2: gains}, {2: GOOD}, 8), "small_network")

    found = without(GOOD)
    assert found["use"] is True and found["ratio"] == 2 and found["gain"] == pytest.approx(0.055)
    assert "0:1" not in found["text"] and "synthetic to real 2:1 at 8 labels a class" in found["text"]
    for one in (found, without(BAD)):
        assert one["text"].endswith("Nothing was tried at 1 labels a class, where a class has no synthetic image to train with.")


def test_a_gain_on_the_whole_does_not_excuse_a_loss_at_one_point() -> None:
    def text(loss: float) -> dict[str, Any]:
        lost = [loss, loss + 0.005, loss - 0.005]
        both = rows({1: [0.2, 0.21, 0.2]}, {1: [0.2, 0.21, 0.2]}, 1) + rows({1: GOOD}, {1: lost}, 16)
        return verdict.verdict(both, "small_network")

    assert text(-0.001)["use"] is True
    found = text(-0.05)
    assert found["use"] is None and found["gain"] > 0.07 and "at 16 labels a class the test images show a loss" in found["text"]


def test_tables_hold_test_figures_once_and_groups_of_classes() -> None:
    stored = rows({1: WEAK, 5: GOOD}, {1: GOOD, 5: GOOD})
    table = verdict.table(stored, {"small_network": verdict.choose(stored, "small_network")})
    assert [(row["arm"], row["ratio"]) for row in table] == [("real", 0), ("real_strong", 0), ("real_synthetic", 5)]
    assert table[2]["rival"] == "real_strong" and "rival" not in table[1]
    strong = table[1]
    assert strong["accuracy_mean"] == pytest.approx(0.51) and strong["per_class"] == pytest.approx([0.61, 0.41])
    assert strong["many"] == pytest.approx(0.61) and strong["medium"] is None and strong["few"] == pytest.approx(0.41)
    assert [(row["ratio"], row["accuracy_mean"]) for row in verdict.sweep(stored)] == [
        (0, pytest.approx(0.51)),
        (0, pytest.approx(0.51)),
        (1, pytest.approx(0.51 + np.mean(WEAK))),
        (5, pytest.approx(0.565)),
    ]


def image_set(features: np.ndarray, labels: np.ndarray, clip: np.ndarray | None = None) -> ImageSet:
    names = [str(i) for i in range(len(features))]
    blank = np.zeros((len(features), 16, 16, 3), np.uint8)
    return ImageSet(names, names, [b""] * len(features), labels, blank, features, clip, lambda i: blank[i])


def test_fidelity_is_measured_per_class_against_a_floor() -> None:
    rng = np.random.default_rng(0)
    real, labels = rng.normal(size=(400, 8)), np.arange(400) % 2
    near, far = rng.normal(size=(100, 8)), rng.normal(1.5, 1, (100, 8))
    fake = image_set(np.concatenate([near, far]), np.repeat([0, 1], 100))
    found = likeness.measure(fake, image_set(real, labels), "eye", ["near", "far"], [""] * 200, None)
    whole, first, second = found["rows"]
    assert (whole["class"], first["class"], second["class"]) == (None, "near", "far") and found["backbone"] == "eye"
    assert first["frechet"] < 3 * first["frechet_real"] and second["frechet"] > 10 * second["frechet_real"]
    assert second["coverage"] < 0.5 * second["coverage_real"] and second["kernel"] > 10 * abs(second["kernel_real"])
    assert whole["cmmd"] is None and whole["clip_score"] is None and likeness.name_of("inception").startswith("Inception (FID")
    few = likeness.measure(image_set(near[:3], np.zeros(3, int)), image_set(real, labels), "eye", ["near", "far"], [""] * 3, None)
    assert few["rows"][0]["precision"] is None and few["rows"][0]["frechet"] is not None and len(few["rows"]) == 2


def test_frechet_distance_is_the_same_from_either_side_of_the_matrix() -> None:
    from torchmetrics.image.fid import _compute_fid

    a, b = np.random.default_rng(0).normal(size=(20, 30)), np.random.default_rng(1).normal(0.5, 2, (25, 30))
    sides = [(torch.from_numpy(x.mean(0)), torch.from_numpy(np.cov(x, rowvar=False))) for x in (a, b)]
    theirs = float(_compute_fid(sides[0][0], sides[0][1], sides[1][0], sides[1][1]))
    assert fidelity.frechet_distance(a, b) == pytest.approx(theirs, rel=1e-5)


class TwoTowers:
    """CLIP to torchmetrics and to the factory at once: an image's embedding is its first row, a text's depends on its length."""

    config: Any = object()
    identity, dim, logit_scale = "towers", 4, 1.0

    def to(self, device: Any) -> TwoTowers:
        return self

    def __call__(self, text: list[str] | None = None, images: Any = None, **options: Any) -> dict[str, torch.Tensor]:
        if images is not None:
            return {"pixel_values": torch.stack(list(images))}
        lengths = torch.tensor([[len(t)] for t in text or []])
        return {"input_ids": lengths, "attention_mask": torch.ones_like(lengths)}

    def get_image_features(self, pixels: torch.Tensor) -> torch.Tensor:
        return pixels[:, 0, 0, :4].float()

    def get_text_features(self, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        return torch.cat([ids.float(), torch.ones(len(ids), 3)], 1)

    def encode_images(self, pictures: Any) -> np.ndarray:
        raise NotImplementedError

    def encode_texts(self, texts: Any) -> np.ndarray:
        x = self.get_text_features(torch.tensor([[len(t)] for t in texts]), torch.ones(1))
        return torch.nn.functional.normalize(x, dim=1).numpy()


def test_clip_score_agrees_with_torchmetrics() -> None:
    from torchmetrics.functional.multimodal import clip_score

    towers: Any = TwoTowers()
    images = torch.randint(0, 255, (5, 3, 8, 8), generator=torch.Generator().manual_seed(0))
    prompts = ["a", "a cat", "a photo of a dog", "x" * 40, "two"]
    theirs = float(clip_score(list(images), prompts, model_name_or_path=lambda: (towers, towers)))
    units = torch.nn.functional.normalize(towers.get_image_features(images), dim=1).numpy()
    ours = likeness.clip_scores(units, prompts, towers)
    assert float(ours.mean()) == pytest.approx(theirs, rel=1e-5)
    assert np.isnan(likeness.clip_scores(units, ["", *prompts[1:]], towers)[0])


def test_clip_scores_stand_beside_those_of_real_images_of_the_class_under_the_same_prompts() -> None:
    towers: Any = TwoTowers()
    prompts = ["a", "a", "x" * 40, "x" * 40, ""]
    said = towers.encode_texts(prompts)
    labels, wrong = np.array([0, 0, 1, 1, 2]), said[[2, 2, 0, 0, 0]]
    real = image_set(said[[0, 0, 0, 2, 2, 2]], np.repeat([0, 1], 3), said[[0, 0, 0, 2, 2, 2]])
    whole, first, second, third = likeness.measure(image_set(wrong, labels, wrong), real, "eye", ["a", "b", "c"], prompts, towers)["rows"]
    for row in (whole, first, second):
        assert row["clip_score"] < 60 and row["clip_score_real"] == pytest.approx(100, abs=1e-3)
    assert third["clip_score"] is None and third["clip_score_real"] is None


def test_seeds_that_change_nothing_do_not_make_a_few_images_certain() -> None:
    """A linear probe on one draw: every seed gives the same result. Two images of forty are chance, twenty of four hundred are not."""

    def stored(times: int) -> list[dict[str, Any]]:
        plain = ["10010" * 4 * times, "01011" * 4 * times]
        helped = [("11010" + "10010" * 3) * times, ("11011" + "01011" * 3) * times]
        common = {"classifier": "linear_probe", "labels": 4, "counts": [4, 4]}
        arms = [("real", 0.0, plain), ("real_strong", 0.0, plain), ("real_synthetic", 1.0, helped)]
        return [
            {**common, "arm": arm, "ratio": ratio, "seed": seed, "validation": found, "test": found}
            for seed in range(5)
            for arm, ratio, found in arms
        ]

    few, many = (verdict.verdict(stored(times), "linear_probe") for times in (1, 10))
    assert few["gain"] == many["gain"] == pytest.approx(0.05)
    assert few["use"] is False and "not told from chance" in few["text"]
    assert many["use"] is True and many["ci95"] == pytest.approx(1.966 * (0.05 * 0.95 / 199 / 2) ** 0.5, rel=1e-3)
    same = [{**row, "test": ["1"] if row["arm"] == "real_synthetic" else ["0"]} for row in stored(10)]
    assert verdict.verdict(same, "linear_probe")["text"].startswith("Undecided: so few images tell nothing of chance")
