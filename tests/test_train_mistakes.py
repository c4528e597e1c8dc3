"""Mistakes in training: each ends in one sentence that says what to do, before hours are spent, and nothing that was finished is lost."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from factory.errors import RecipeError, UserError
from factory.train import loop, prepared, run

BASE: dict[str, Any] = {"steps": 3, "batch": 2, "lr": 1e-3, "bf16": False, "checkpoint_every": 1, "size": 16}
TINY: dict[str, dict[str, Any]] = {
    "autoencoder": {"widths": [8, 8]},
    "representation": {"backbone": "resnet10t", "arguments": {"channels": [8, 8, 16, 16], "stem_width": 8}, "projector": 16},
    "representation_diffusion": {"encoder": "efficientnet_lite0@32", "width": 32, "depth": 1, "heads": 2},
    "embedding_prior": {"pipeline": "/nowhere"},
    "diffusion": {"clip": "/nowhere", "size": None},
    "clip": {"size": None},
    "classifier": {"size": None},
}


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FACTORY_CACHE", str(tmp_path / "cache"))


def train(kind: str, photos: Path, out: Path, **more: Any) -> Path:
    path = out.parent / "recipe.yaml"
    said = {"kind": kind, "source": {"dataset": str(photos)}, "out": str(out), **BASE, **TINY[kind], **more}
    path.write_text(json.dumps({key: value for key, value in said.items() if value is not None}))
    run(path, [], None)
    return out


def stopped(photos: Path, out: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A training that was interrupted after one step; its checkpoint."""
    rate = loop.set_rate

    def interrupted(optimizer: Any, recipe: Any, step: int) -> None:
        if step == 1:
            raise KeyboardInterrupt
        rate(optimizer, recipe, step)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(loop, "set_rate", interrupted)
        train("autoencoder", photos, out)
    return Path(f"{out}.ckpt/state.pt")


@pytest.mark.parametrize(
    ("kind", "more", "word"),
    [
        ("representation_diffusion", {"size": 0}, "greater than or equal to 1"),
        ("representation_diffusion", {"size": 18, "patch": 4}, "no multiple of the patch"),
        ("representation_diffusion", {"heads": 3}, "equal parts"),
        ("representation_diffusion", {"width": 34}, "multiple of 4"),
        ("representation_diffusion", {"scales": [1, 40]}, "cannot be cut"),
        ("representation_diffusion", {"encoder": []}, "encoder"),
        ("autoencoder", {"size": 17, "widths": [8, 8, 8]}, "multiple of 4"),
        ("autoencoder", {"widths": [12, 20]}, "groups"),
        ("autoencoder", {"accumulate": 2}, "accumulate"),
        ("clip", {"text_width": 18}, "equal parts"),
        ("representation", {"crop": [1.0, 0.3]}, "comes first"),
        ("representation", {"crop": [0.3, 2.0]}, "less than or equal to 1"),
    ],
)
def test_a_setting_that_no_model_has_is_refused_at_once(
    kind: str, more: dict[str, Any], word: str, image_folder: Path, tmp_path: Path
) -> None:
    with pytest.raises(RecipeError, match=word):
        train(kind, image_folder, tmp_path / "out", **more)


def test_an_output_that_cannot_be_written_is_told_before_training(image_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(UserError, match="is a file"):
        train("autoencoder", image_folder, tmp_path / "file")
    with pytest.raises(UserError, match="cannot be written"):
        recipe = tmp_path / "recipe.yaml"
        run(recipe, [], tmp_path / "file" / "model")
    assert (tmp_path / "file").read_text() == "mine" and not (tmp_path / "file.ckpt").exists()


def test_two_trainings_do_not_share_a_folder(image_folder: Path, tmp_path: Path) -> None:
    with loop.claimed(tmp_path / "out"), pytest.raises(UserError, match="another process is training"):
        train("autoencoder", image_folder, tmp_path / "out")
    assert not (tmp_path / "out.ckpt").exists()


def test_a_damaged_checkpoint_is_named(image_folder: Path, tmp_path: Path) -> None:
    state = tmp_path / "out.ckpt" / "state.pt"
    state.parent.mkdir()
    for content in (b"", b"PK\x03\x04 torn"):
        state.write_bytes(content)
        with pytest.raises(UserError, match=r"state\.pt cannot be read"):
            train("autoencoder", image_folder, tmp_path / "out")
    torch.save({"step": 1}, state)
    with pytest.raises(UserError, match=r"state\.pt cannot be read"):
        train("autoencoder", image_folder, tmp_path / "out")


def test_a_checkpoint_outlives_an_edited_recipe_and_other_images(image_folder: Path, tmp_path: Path, monkeypatch: Any) -> None:
    state = stopped(image_folder, tmp_path / "out", monkeypatch)
    before = state.read_bytes()
    with pytest.raises(UserError, match=r"lr: 0\.002 was 0\.001"):
        train("autoencoder", image_folder, tmp_path / "out", lr=2e-3)
    picture = next(image_folder.rglob("*.png"))
    kept = picture.read_bytes()
    Image.new("RGB", (20, 24)).save(picture)
    with pytest.raises(UserError, match="other images"):
        train("autoencoder", image_folder, tmp_path / "out")
    assert state.read_bytes() == before
    picture.write_bytes(kept)
    train("autoencoder", image_folder, tmp_path / "out")


def test_a_training_that_diverges_stops_and_writes_nothing(image_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no number; .*start again with a rate below"):
        train("autoencoder", image_folder, tmp_path / "out", lr=1e12, steps=40)
    assert not (tmp_path / "out").exists()


def test_a_set_that_has_no_room_is_told_before_a_page_is_written(image_folder: Path, tmp_path: Path, monkeypatch: Any) -> None:
    with pytest.raises(UserError, match="GB are needed"):
        train("autoencoder", image_folder, tmp_path / "out", size=2**16, widths=[8])
    monkeypatch.setenv("FACTORY_CACHE", str(next(image_folder.rglob("*.png"))))
    with pytest.raises(UserError, match="set FACTORY_CACHE"):
        train("autoencoder", image_folder, tmp_path / "out")
    sizes = []
    monkeypatch.setattr(prepared.os, "posix_fallocate", lambda file, start, length: sizes.append(length), raising=False)
    out = prepared._mapped(tmp_path / "array.npy", np.uint8, (4, 1000))
    assert sizes == [(tmp_path / "array.npy").stat().st_size] and out.nbytes < sizes[0]


def test_what_is_no_encoder_is_named(image_folder: Path, tmp_path: Path) -> None:
    vae = train("autoencoder", image_folder, tmp_path / "vae")
    with pytest.raises(UserError, match="encoder: cannot open"):
        train("representation_diffusion", image_folder, tmp_path / "out", encoder=str(vae))
    with pytest.raises(UserError, match="is no pipeline"):
        train("embedding_prior", image_folder, tmp_path / "out", pipeline=str(vae))
    with pytest.raises(UserError, match="images are 24×20"):
        train("diffusion", image_folder, tmp_path / "out")
    for number, picture in enumerate(sorted(image_folder.rglob("*.png"))):
        Image.new("RGB", (8, 8), (20 * number, 0, 0)).save(picture)
    with pytest.raises(UserError, match="patch: 3 divides"):
        train("diffusion", image_folder, tmp_path / "out", patch=3)
    with pytest.raises(UserError, match="/nowhere is no folder that kind: clip wrote"):
        train("diffusion", image_folder, tmp_path / "out")
    with pytest.raises(UserError, match="skip: 99 leaves none of 12"):
        train("classifier", image_folder, tmp_path / "out", source={"dataset": str(image_folder), "skip": 99, "limit": 3})
    with pytest.raises(UserError, match="for 16 pixels"):
        train("representation", image_folder, tmp_path / "out", backbone="vit_tiny_patch16_224", arguments={"depth": 1})


def test_images_that_are_all_alike_cannot_be_whitened(tmp_path: Path) -> None:
    (tmp_path / "photos" / "grey").mkdir(parents=True)
    for number in range(3):
        Image.new("L", (16, 16), 90).save(tmp_path / "photos" / "grey" / f"{number}.png")
    with pytest.raises(UserError, match="whiten: all images have the same embedding"):
        train("representation", tmp_path / "photos", tmp_path / "out", whiten=4)


def test_an_embedding_is_as_long_as_it_comes_out() -> None:
    """Some timm networks have a wider head than their features."""
    from factory.models.representation import RepresentationEncoder, timm_tower

    _, spec = timm_tower("mobilenetv3_small_050", 32, (0.5,) * 3, (0.25,) * 3)
    encoder = RepresentationEncoder([spec], spec["dim"]).eval()
    assert encoder.encode_image(torch.zeros(1, 3, 32, 32)).shape == (1, encoder.embed_dim)


def test_a_missing_tracker_is_told(image_folder: Path, tmp_path: Path, monkeypatch: Any) -> None:
    import importlib.util

    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match="pip install wandb"):
        train("representation_diffusion", image_folder, tmp_path / "out", tracker="wandb")


def test_pictures_of_every_kind_are_read_and_broken_ones_left_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    from factory.train import data
    from factory.train.recipe import SourceSpec

    folder, noise = tmp_path / "set" / "one", np.random.default_rng(0)
    for name in ("one/a", "two/e"):
        (tmp_path / "set" / name).parent.mkdir(parents=True)
        Image.fromarray(noise.integers(0, 256, (8, 6), np.uint8)).save(tmp_path / "set" / f"{name}.png")
    grey = data.load(SourceSpec(dataset=str(tmp_path / "set")))
    assert grey.pixels.shape == (2, 1, 8, 6)
    Image.fromarray(np.full((8, 6), 40_000, np.uint16)).save(folder / "b.png")
    Image.fromarray(np.zeros((8, 6, 4), np.uint8), "RGBA").save(folder / "c.png")
    (folder / "d.png").write_bytes(b"no picture")
    mixed = data.load(SourceSpec(dataset=str(tmp_path / "set")))
    assert mixed.pixels.shape == (4, 3, 8, 6) and "image 3 cannot be decoded" in caplog.text
    assert abs(int(mixed.pixels[1].max()) - 155) <= 1 and (mixed.pixels[2] == 255).all()
    assert mixed.labels.tolist() == [0, 0, 0, 1] and mixed.class_names == ["one", "two"]


@pytest.mark.parametrize(
    ("labels", "word"), [(["cat", "dog"], None), ([7, 9], None), ([0, None], "1 of 2 images have no label"), ([0.5, 1.5], "whole numbers")]
)
def test_labels_are_read_as_sources_read_them(labels: list[Any], word: str | None, tmp_path: Path) -> None:
    from datasets import Dataset

    from factory.train import data
    from factory.train.recipe import SourceSpec

    pictures = [Image.new("L", (4, 4), value) for value in (10, 20)]
    Dataset.from_dict({"image": pictures, "label": labels}).to_parquet(tmp_path / "set.parquet")
    spec = SourceSpec(dataset=str(tmp_path / "set.parquet"))
    if word is None:
        assert data.load(spec).labels.tolist() == [0, 1] and data.load(spec).class_names == [str(label) for label in labels]
        stretch = data.load(SourceSpec(dataset=spec.dataset, skip=1, limit=1))
        assert stretch.labels.tolist() == [1] and len(stretch.class_names) == 2, "the classes are those of the whole split"
        return
    with pytest.raises(UserError, match=word):
        data.load(spec)


def test_a_disk_that_is_full_at_a_checkpoint_is_told(image_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import errno
    import io

    class Full(io.BytesIO):
        def write(self, data: Any) -> int:
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(loop, "open", lambda path, mode: Full(), raising=False)
    with pytest.raises(UserError, match="the disk is full"):
        train("autoencoder", image_folder, tmp_path / "out")


def test_a_checkpoint_of_an_earlier_version_that_had_more_keys_goes_on(
    image_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    state = stopped(image_folder, tmp_path / "out", monkeypatch)
    saved = torch.load(state, weights_only=True)
    torch.save({**saved, "recipe": json.dumps({**json.loads(saved["recipe"]), "accumulate": 1})}, state)
    assert train("autoencoder", image_folder, tmp_path / "out").is_dir() and not state.parent.exists()


def test_whitening_fitted_to_other_last_bits_is_no_other_encoder() -> None:
    from factory.models.representation import RepresentationEncoder
    from factory.train import encoded

    encoder = RepresentationEncoder.open(["efficientnet_lite0@32"])
    wide = torch.randn(40, encoder.embed_dim, generator=torch.Generator().manual_seed(0))
    one, other = encoder.fit_whitening(wide, 8), encoder.fit_whitening(wide * (1 + 1e-6), 8)
    other.projection.mul_(1 + 1e-6)
    assert encoded.digest(one) != encoded.digest(other)
    assert encoded.digest(one, encoded.WHITENING) == encoded.digest(other, encoded.WHITENING)
