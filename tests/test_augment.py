"""The library of condition augmentations: seeded, recorded, gentle to the pipelines' randomness, and true to masks and boxes."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from factory import kinds, seeds
from factory.augment.adv_style import AdvStyle
from factory.augment.gaussian_random_field import GaussianRandomField, gaussian_field
from factory.augment.torchvision import Torchvision
from factory.conditions.augmented_image import AugmentedImage
from factory.contracts import Augment
from factory.errors import UserError
from factory.records import Annotations, Example, Request

TRANSFORMS = {
    "ColorJitter": {"brightness": 0.4, "contrast": 0.4, "saturation": 0.4, "hue": 0.1},
    "RandomAffine": {"degrees": 20, "translate": [0.1, 0.1], "scale": [0.9, 1.1], "shear": 5},
    "RandomPerspective": {"p": 1.0, "distortion_scale": 0.3},
    "ElasticTransform": {"alpha": 40.0},
    "RandomRotation": {"degrees": 30},
    "RandomHorizontalFlip": {},
    "RandomVerticalFlip": {},
    "RandomResizedCrop": {"size": 32},
    "RandomCrop": {"size": 24},
    "RandomErasing": {"p": 1.0},
    "RandomInvert": {},
    "RandomPosterize": {"bits": 2},
    "RandomSolarize": {"threshold": 120},
    "RandomAdjustSharpness": {"sharpness_factor": 3},
    "RandomAutocontrast": {},
    "RandomEqualize": {},
    "RandomGrayscale": {"p": 0.5},
    "RandomPhotometricDistort": {"p": 1.0},
    "RandomChannelPermutation": {},
    "RandomZoomOut": {"p": 1.0},
    "RandomIoUCrop": {},
    "GaussianBlur": {"kernel_size": 5},
    "AutoAugment": {},
    "TrivialAugmentWide": {},
    "RandAugment": {},
    "AugMix": {},
    "JPEG": {"quality": [10, 60]},
}


def marked() -> tuple[np.ndarray, Annotations]:
    """A dim textured image with a bright rectangle, its box and its mask."""
    image = np.random.default_rng(0).integers(0, 60, (40, 60, 3), np.uint8)
    image[10:20, 30:45] = 220
    mask = (image[..., 0] > 200).astype(np.int32) * 70_000
    return image, Annotations(np.array([[30, 10, 45, 20]], np.float32), np.array([4]), mask)


def extent(mask: np.ndarray) -> list[int]:
    ys, xs = np.nonzero(mask)
    return [xs.min(), ys.min(), xs.max() + 1, ys.max() + 1]


@pytest.mark.parametrize("name", TRANSFORMS)
def test_any_torchvision_transform_has_its_own_randomness(name: str) -> None:
    image, notes = marked()
    kind = Torchvision(transform=name, options=TRANSFORMS[name])
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first, moved, record = kind.apply(image, notes, seeds.rng("a"))
    torch.rand(3)
    again, moved_again, _ = kind.apply(image, notes, seeds.rng("a"))
    others = [kind.apply(image, notes, seeds.rng("b", i))[0] for i in range(8)]
    torch.manual_seed(1)
    assert torch.equal(torch.get_rng_state(), before)
    np.testing.assert_array_equal(first, again)
    assert first.dtype == np.uint8 and first.shape[2] == 3
    assert json.loads(json.dumps(record)) == record and record.keys() == {"seed"}
    assert any(other.shape != first.shape or not np.array_equal(other, first) for other in others)
    if name in ("AutoAugment", "TrivialAugmentWide", "RandAugment", "AugMix"):
        assert moved is None, "they say nothing about places"
        return
    assert moved is not None and moved_again is not None and moved.mask is not None and moved.boxes is not None
    np.testing.assert_array_equal(moved.boxes, moved_again.boxes)
    assert moved.mask.shape == first.shape[:2] and set(np.unique(moved.mask)) <= {0, 70_000}


@pytest.mark.parametrize("name", TRANSFORMS)
def test_the_global_generator_is_never_drawn_from(name: str) -> None:
    image, notes = marked()
    before = torch.get_rng_state()
    Torchvision(transform=name, options=TRANSFORMS[name]).apply(image, notes, seeds.rng(0))
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(
    "kind",
    [
        Torchvision(transform="RandomAffine", options={"degrees": 0, "translate": [0.2, 0.2]}),
        GaussianRandomField(alpha=6, shift=0.08),
        GaussianRandomField(alpha=3.5, scale=0.15),
    ],
)
def test_boxes_and_masks_move_with_the_pixels(kind: Augment) -> None:
    image, notes = marked()
    seen = 0
    for draw in range(20):
        out, moved, _ = kind.apply(image, notes, seeds.rng(draw))
        assert moved is not None and moved.mask is not None and moved.boxes is not None
        if len(moved.boxes):
            seen += 1
            assert np.abs(moved.boxes[0] - extent(moved.mask)).max() <= 2
            bright = out.min(axis=2) > 110
            assert (bright & (moved.mask > 0)).sum() > 0.7 * bright.sum()
            assert moved.box_labels is not None and moved.box_labels.tolist() == [4]
    assert seen >= 15


def test_a_field_has_unit_variance_and_its_spectrum_falls_as_asked() -> None:
    parts = [gaussian_field((64, 96), 4, seeds.rng(i)) for i in range(60)]
    assert abs(np.mean([np.square(part).mean() for part in parts]) - 1) < 0.25 and abs(np.mean(parts)) < 0.2

    def roughness(alpha: float) -> float:
        return float(np.mean([np.abs(np.diff(gaussian_field((64, 64), alpha, seeds.rng(i)), axis=1)).mean() for i in range(10)]))

    assert roughness(0) > 3 * roughness(3) > 3 * roughness(6)


def test_without_deviations_nothing_changes() -> None:
    image, notes = marked()
    none = dict.fromkeys(("rotation", "scale", "shear", "shift", "hue", "saturation", "brightness"), 0.0)
    out, moved, record = GaussianRandomField(**none).apply(image, notes, seeds.rng(0))
    assert np.abs(out.astype(int) - image).max() <= 1 and record["moved"] == 0
    assert moved is not None and moved.boxes is not None and moved.boxes.tolist() == [[30, 10, 45, 20]]


@pytest.mark.parametrize("shape", [(1, 1, 3), (1, 50, 3), (7, 3, 3)])
def test_odd_shapes(shape: tuple[int, int, int]) -> None:
    out, _, _ = GaussianRandomField().apply(np.full(shape, 90, np.uint8), None, seeds.rng(0))
    assert out.shape == shape


def test_adv_style_pushes_statistics_away_from_typical_ones() -> None:
    bright = np.random.default_rng(0).integers(150, 200, (20, 20, 3), np.uint8)
    out, _, record = AdvStyle(step=0.5).apply(bright, None, seeds.rng(0))
    assert (out.mean((0, 1)) > bright.mean((0, 1))).all() and (out.std((0, 1)) < bright.std((0, 1)) + 1).all()
    assert len(record) == 6
    assert np.abs(AdvStyle(step=0).apply(bright, None, seeds.rng(0))[0].astype(int) - bright).max() <= 1


def test_wrong_transforms_are_named() -> None:
    with pytest.raises(ValidationError, match="did you mean ColorJitter"):
        Torchvision(transform="ColourJitter")
    with pytest.raises(ValidationError, match="ColorJitter refuses them"):
        Torchvision(transform="ColorJitter", options={"brightnes": 0.1})
    with pytest.raises(UserError, match="no RGB image"):
        Torchvision(transform="FiveCrop", options={"size": 8}).apply(marked()[0], None, seeds.rng(0))


@pytest.mark.parametrize("name", ["rand_augment", "augmix", "gaussian_random_field", "adv_style", "horizontal_flip", "random_resized_crop"])
def test_each_kind_augments_a_condition_and_replays(name: str) -> None:
    image, _ = marked()
    condition = AugmentedImage(augment=[name], space="pixel", strength=0.5)
    parent = Example(0, "00", image, 0)
    request = Request("0-000000", 0, 0, 1, "a cat", (0,))
    first = condition.prepare(request, [parent], seeds.rng("x"))
    again = condition.prepare(request, [parent], seeds.rng("x"))
    np.testing.assert_array_equal(first.images[0], again.images[0])
    assert first.record == again.record and any(key.startswith("parent0.0.") for key in first.record)
    assert kinds.find("augment", name, Augment)().kind == name
