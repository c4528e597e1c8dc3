"""Augments and conditions: what they draw, what they hand on, and that the same draw gives the same inputs."""

import itertools
import json

import numpy as np
import pytest
from pydantic import ValidationError

from factory import kinds, seeds
from factory.augment.horizontal_flip import HorizontalFlip
from factory.augment.random_resized_crop import RandomResizedCrop
from factory.conditions import _mix
from factory.conditions.augmented_image import AugmentedImage
from factory.conditions.class_label import ClassLabel
from factory.conditions.image import Image
from factory.conditions.text import Text
from factory.contracts import Condition
from factory.errors import UserError
from factory.records import Annotations, Example, Request

MIXES = ("none", "mixup", "cutmix", "embed_mixup", "embed_cutmix")
REQUEST = Request("0-000001", 0, 1, 42, "a photo of a cat", (3, 5))


def example(value: int | None = None, height=20, width=30, **more) -> Example:
    pixels = np.random.default_rng(value or 0).integers(0, 256, (height, width, 3), np.uint8)
    if value is not None:
        pixels = np.full_like(pixels, value)
    return Example(0, "00", pixels, 0, **more)


def prepare(condition, parents, name="draw"):
    return condition.prepare(REQUEST, parents, seeds.rng(name))


# ---- augments


def marked() -> tuple[np.ndarray, Annotations]:
    """An image whose pixels tell their own place, a box round a bright spot, and a mask of it."""
    image = np.zeros((40, 60, 3), np.uint8)
    image[10:20, 30:45] = 200
    mask = (image[..., 0] > 0).astype(np.int32) * 70_000
    return image, Annotations(np.array([[30, 10, 45, 20]], np.float32), np.array([4]), mask)


def spot(image: np.ndarray) -> list[int]:
    ys, xs = np.nonzero(image > 100)
    return [xs.min(), ys.min(), xs.max() + 1, ys.max() + 1]


def test_flip_moves_box_and_mask():
    image, notes = marked()
    out, moved, drawn = HorizontalFlip(p=1).apply(image, notes, seeds.rng(0))
    assert drawn == {"flip": 1}
    assert moved.boxes.tolist() == [[15, 10, 30, 20]] and spot(out[..., 0]) == [15, 10, 30, 20]
    assert np.array_equal(moved.mask > 0, out[..., 0] > 0) and moved.mask.max() == 70_000
    assert HorizontalFlip(p=0).apply(image, notes, seeds.rng(0))[2] == {"flip": 0}


@pytest.mark.parametrize("size", [None, 64])
def test_crop_moves_box_and_mask_with_the_pixels(size):
    image, notes = marked()
    crop = RandomResizedCrop(scale=(0.3, 1), size=size)
    seen = 0
    for draw in range(40):
        out, moved, drawn = crop.apply(image, notes, seeds.rng(draw))
        assert out.shape == ((40, 60, 3) if size is None else (64, 64, 3)) and out.dtype == np.uint8
        assert moved.mask.shape == out.shape[:2] and set(np.unique(moved.mask)) <= {0, 70_000}
        share = (drawn["crop_x1"] - drawn["crop_x0"]) * (drawn["crop_y1"] - drawn["crop_y0"]) / (40 * 60)
        assert 0.25 < share <= 1
        if len(moved.boxes):
            seen += 1
            assert np.abs(moved.boxes[0] - spot(out[..., 0])).max() <= 3  # bicubic edges blur by about a source pixel
            assert np.abs(moved.boxes[0] - spot(moved.mask)).max() <= 2
            assert moved.box_labels.tolist() == [4]
        else:
            assert len(moved.box_labels) == 0
    assert seen > 20


def test_crop_repeats_and_survives_odd_shapes():
    image = np.zeros((1, 200, 3), np.uint8)
    a = RandomResizedCrop().apply(image, None, seeds.rng(1))
    b = RandomResizedCrop().apply(image, None, seeds.rng(1))
    assert a[2] == b[2] and np.array_equal(a[0], b[0]) and a[1] is None
    with pytest.raises(ValidationError, match="scale must be"):
        RandomResizedCrop(scale=(0.9, 0.1))


# ---- the plain conditions


def test_text_and_class_label():
    assert prepare(Text(), []).prompt == REQUEST.prompt and Text().required() == {"text"} and Text().parent_count() == 0
    inputs = prepare(ClassLabel(), [])
    assert inputs.label == 0 and inputs.prompt is None and ClassLabel().required() == {"class_label"}
    with pytest.raises(UserError, match="labelled"):
        ClassLabel().prepare(Request("u", -1, 0, 0, ""), [], seeds.rng(0))


def test_image():
    notes = Annotations(mask=np.ones((20, 30), np.int32))
    parent = example(7, annotations=notes)
    variation, start = Image(), Image(strength=0.6, text=True)
    assert variation.required() == {"reference"} and start.required() == {"image", "text"}
    assert variation.parent_count() == 1
    inputs = prepare(variation, [parent])
    assert inputs.prompt is None and inputs.annotations is None and np.array_equal(inputs.images[0], parent.image)
    inputs = prepare(start, [parent])
    assert inputs.strength == 0.6 and inputs.annotations is notes and inputs.prompt == REQUEST.prompt
    assert prepare(Image(strength=1), [parent]).annotations is None
    with pytest.raises(ValidationError):
        Image(strength=0)


@pytest.mark.parametrize("kind", ["text", "class_label", "image", "augmented_image"])
def test_found_by_name(kind):
    assert kinds.find("conditions", kind, Condition).__module__.endswith(kind)


# ---- the ten variants


@pytest.mark.parametrize(("mix", "dropout"), itertools.product(MIXES, (0.0, 0.4)))
def test_variant(mix, dropout):
    condition = AugmentedImage(mix=mix, dropout=dropout)
    parents = [example(10), example(240)]
    inputs = prepare(condition, parents[: condition.parent_count()])
    assert condition.parent_count() == (1 if mix == "none" else 2)
    assert condition.required() == {"text", "image_embedding" if dropout or mix.startswith("embed") else "reference"}
    assert inputs.prompt == REQUEST.prompt
    assert len(inputs.images) == (2 if mix.startswith("embed") else 1)
    assert all(image.shape == (20, 30, 3) and image.dtype == np.uint8 for image in inputs.images)
    assert (inputs.combine is None) == (not dropout and not mix.startswith("embed"))
    if inputs.combine is not None:
        embeddings = np.random.default_rng(0).normal(size=(len(inputs.images), 768)).astype(np.float32)
        out = inputs.combine(embeddings)
        assert out.shape == (768,) and out.dtype == np.float32
        assert np.array_equal(out, inputs.combine(embeddings)), "combine must be pure"
    assert inputs.record["mix"] == mix and inputs.record["dropout"] == dropout
    assert ("lambda" in inputs.record) == (mix != "none") and 0 <= inputs.record.get("lambda", 0.5) <= 1
    assert json.loads(json.dumps(inputs.record)) == inputs.record


@pytest.mark.parametrize(("mix", "dropout"), itertools.product(MIXES, (0.0, 0.4)))
def test_same_rng_same_inputs(mix, dropout):
    condition = AugmentedImage(mix=mix, dropout=dropout)
    first, again, other = (prepare(condition, [example(), example(3)], name) for name in ("a", "a", "b"))
    assert first.record == again.record
    assert all(np.array_equal(x, y) for x, y in zip(first.images, again.images, strict=True))
    if first.combine is not None:
        embeddings = np.random.default_rng(0).normal(size=(len(first.images), 64)).astype(np.float32)
        assert np.array_equal(first.combine(embeddings), again.combine(embeddings))
    if mix != "none" or dropout:
        assert first.record != other.record


def test_lambda_is_beta():
    lams = [prepare(AugmentedImage(mix="embed_mixup"), [example(), example()], i).record["lambda"] for i in range(400)]
    assert 0.45 < np.mean(lams) < 0.55 and min(lams) < 0.05 and max(lams) > 0.95
    peaked = [prepare(AugmentedImage(mix="embed_mixup", alpha=50), [example(), example()], i).record["lambda"] for i in range(100)]
    assert min(peaked) > 0.3 and max(peaked) < 0.7


def test_mixup_is_the_convex_combination():
    inputs = prepare(AugmentedImage(mix="mixup"), [example(10), example(250)])
    lam = inputs.record["lambda"]
    assert np.abs(inputs.images[0].astype(float) - (10 * lam + 250 * (1 - lam))).max() <= 0.5


def test_cutmix_pastes_a_window_of_area_one_minus_lambda():
    for draw in range(50):
        inputs = prepare(AugmentedImage(mix="cutmix"), [example(10, 100, 150), example(250, 100, 150)], draw)
        record, pasted = inputs.record, inputs.images[0][..., 0] == 250
        assert abs(pasted.mean() - (1 - record["lambda"])) < 0.02
        assert pasted[record["cut_y0"] : record["cut_y1"], record["cut_x0"] : record["cut_x1"]].all()
        assert pasted.sum() == (record["cut_y1"] - record["cut_y0"]) * (record["cut_x1"] - record["cut_x0"])


def test_pixel_mixes_crop_first_unless_told_otherwise():
    assert any("crop_x0" in name for name in prepare(AugmentedImage(mix="mixup"), [example(), example()]).record)
    assert not any("crop" in name for name in prepare(AugmentedImage(mix="mixup", augment=[]), [example(), example()]).record)
    assert not any("crop" in name for name in prepare(AugmentedImage(mix="embed_mixup"), [example(), example()]).record)
    inputs = prepare(AugmentedImage(mix="cutmix", augment=[{"kind": "random_resized_crop", "size": 16}]), [example(), example(1, 9, 50)])
    assert inputs.images[0].shape == (16, 16, 3)


def test_parents_of_different_sizes_mix_at_the_size_of_the_first():
    inputs = prepare(AugmentedImage(mix="mixup", augment=[]), [example(1), example(2, 64, 64)])
    assert inputs.images[0].shape == (20, 30, 3) and inputs.record["parent1.resized"] == 1


def test_embed_mixup():
    inputs = prepare(AugmentedImage(mix="embed_mixup"), [example(), example()])
    e = np.stack([np.ones(8), np.zeros(8)]).astype(np.float32)
    assert np.allclose(inputs.combine(e), inputs.record["lambda"])


@pytest.mark.parametrize("size", [64, 768, 1024])
def test_embed_cutmix_swaps_features_of_a_single_request(size):
    e = np.stack([np.zeros(size), np.ones(size)]).astype(np.float32)
    starts = set()
    for draw in range(60):
        inputs = prepare(AugmentedImage(mix="embed_cutmix"), [example(), example()], draw)
        out = inputs.combine(e)
        assert abs(out.mean() - (1 - inputs.record["lambda"])) <= 0.5 / size + 1e-6
        assert np.abs(np.diff(out, append=out[:1])).sum() <= 2, "one run of neighbours, round the end"
        starts.add(round(inputs.record["start"], 3))
    assert len(starts) > 50


def test_embed_cutmix_extremes():
    e = np.random.default_rng(0).normal(size=(2, 10)).astype(np.float32)
    assert np.array_equal(_mix.embed_cutmix(e, 1.0, 0.9), e[0]) and np.array_equal(_mix.embed_cutmix(e, 0.0, 0.9), e[1])


def test_dropout_zeroes_a_share_and_scales_nothing():
    e = np.random.default_rng(0).normal(size=(1, 1024)).astype(np.float32)
    shares = []
    for draw in range(50):
        out = prepare(AugmentedImage(dropout=0.4), [example()], draw).combine(e)
        assert np.array_equal(out[out != 0], e[0][out != 0])
        shares.append((out == 0).mean())
    assert abs(np.mean(shares) - 0.4) < 0.02 and np.std(shares) > 0.005
    assert not prepare(AugmentedImage(dropout=1), [example()]).combine(e).any()


def test_dropout_comes_after_the_mix():
    e = np.random.default_rng(0).normal(size=(2, 512)).astype(np.float32)
    plain = prepare(AugmentedImage(mix="embed_mixup"), [example(), example()]).combine(e)
    dropped = prepare(AugmentedImage(mix="embed_mixup", dropout=0.4), [example(), example()]).combine(e)
    assert np.array_equal(dropped[dropped != 0], plain[dropped != 0]) and 0.3 < (dropped == 0).mean() < 0.5


def test_both_parents_may_be_the_same_image():
    only = example(9)
    inputs = prepare(AugmentedImage(mix="mixup", augment=[]), [only, only])
    assert np.array_equal(inputs.images[0], only.image)


def test_pixel_space_is_image_to_image():
    condition = AugmentedImage(space="pixel", mix="cutmix", strength=0.5, text=False)
    assert condition.required() == {"image"}
    inputs = prepare(condition, [example(), example()])
    assert inputs.strength == 0.5 and inputs.prompt is None and inputs.combine is None


def test_soft_labels_follow_the_share():
    parents = [example(soft_label=np.array([1, 0], np.float32)), example(soft_label=np.array([0, 1], np.float32))]
    for mix in MIXES[1:]:
        inputs = prepare(AugmentedImage(mix=mix), parents)
        assert abs(inputs.soft_label[0] - inputs.record["lambda"]) < 0.1 and np.isclose(inputs.soft_label.sum(), 1)
    assert prepare(AugmentedImage(mix="mixup"), [parents[0], example()]).soft_label is None


def test_annotations_only_where_geometry_keeps_them():
    image, notes = marked()
    parents = [Example(0, "a", image, annotations=notes), Example(1, "b", image[:, ::-1], annotations=notes)]
    pixel = {"space": "pixel", "strength": 0.4, "augment": []}
    assert prepare(AugmentedImage(), parents[:1]).annotations is None
    assert prepare(AugmentedImage(**pixel), parents[:1]).annotations is notes
    assert prepare(AugmentedImage(**{**pixel, "strength": 1.0}), parents[:1]).annotations is None
    assert prepare(AugmentedImage(mix="mixup", **pixel), parents).annotations is None
    cut = prepare(AugmentedImage(mix="cutmix", **pixel), parents)
    assert cut.annotations.mask.shape == (40, 60) and len(cut.annotations.boxes) == len(cut.annotations.box_labels)
    assert prepare(AugmentedImage(mix="cutmix", **pixel), [parents[0], example(1, 40, 60)]).annotations is None


def test_cutmix_boxes():
    first = Annotations(np.array([[0, 0, 10, 10], [50, 50, 60, 60]], np.float32))
    second = Annotations(np.array([[52, 52, 58, 58], [0, 0, 5, 5]], np.float32))
    out = _mix.cutmix_notes(first, second, (48, 48, 70, 70))
    assert out.boxes.tolist() == [[0, 0, 10, 10], [52, 52, 58, 58]]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"space": "pixel"}, "needs strength"),
        ({"strength": 0.5}, "space: pixel"),
        ({"space": "pixel", "strength": 0.5, "mix": "embed_mixup"}, "embed_mixup works on embeddings"),
        ({"space": "pixel", "strength": 0.5, "dropout": 0.1}, "dropout works on embeddings"),
        ({"augment": ["mixup"]}, "write `mix: mixup`"),
        ({"augment": ["horizontal_flp"]}, "did you mean horizontal_flip"),
        ({"augment": [{"kind": "horizontal_flip", "q": 1}]}, "horizontal_flip.q: unknown key"),
        ({"augment": [{"kind": "random_resized_crop", "scal": [0.5, 1]}]}, "did you mean scale"),
        ({"augment": [{"kind": "random_resized_crop", "scale": [1, 0.5]}]}, "scale must be"),
        ({"augment": [3]}, "horizontal_flip, rand_augment, random_resized_crop"),
        ({"mix": "mixop"}, "mixup"),
        ({"dropout": 1.5}, "less than or equal"),
        ({"alpha": 0}, "greater than"),
    ],
)
def test_recipe_errors(fields, message):
    with pytest.raises(ValidationError, match=message):
        AugmentedImage(**fields)


def test_settings_name_the_augments_and_reopen():
    condition = AugmentedImage(mix="mixup", augment=["horizontal_flip", {"kind": "random_resized_crop", "size": 32}])
    settings = json.loads(json.dumps(condition.settings()))
    assert [augment["kind"] for augment in settings["augment"]] == ["horizontal_flip", "random_resized_crop"]
    assert AugmentedImage(**{k: v for k, v in settings.items() if k != "kind"}) == condition
    assert AugmentedImage.model_json_schema()["properties"]["augment"]["description"]
