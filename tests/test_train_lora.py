"""LoRA training on real pipeline classes at tiny size: the weights learn, load, scale, and do not depend on an interruption."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from factory import kinds, train
from factory.contracts import Source
from factory.errors import RecipeError, UserError
from factory.evaluate.cards import trained_on_test
from factory.records import Inputs
from factory.train import loop
from tests.test_generators import few_threads, folder, opened  # noqa: F401  fixtures

FAMILIES = ["stable_diffusion", "sdxl", "embedding_diffusion"]


def recipe(path: Path, model: Path, images: Path, steps: int = 3, **more: str) -> Path:
    lines = {
        "kind": "lora",
        "source": f"{{dataset: {images}, shots: 3}}",
        "model": str(model),
        "out": str(path / "lora"),
        "rank": "2",
        "steps": str(steps),
        "batch": "2",
        "lr": "0.05",
        "checkpoint_every": "1",
        **more,
    }
    (path / "lora.yaml").write_text("".join(f"{key}: {value}\n" for key, value in lines.items()))
    return path / "lora.yaml"


@pytest.mark.parametrize("family", FAMILIES)
def test_a_lora_is_trained_loaded_and_scaled(family: str, folder: Callable[[str], Path], image_folder: Path, tmp_path: Path) -> None:  # noqa: F811
    train.run(recipe(tmp_path, folder(family), image_folder), [])
    weights = load_file(tmp_path / "lora/pytorch_lora_weights.safetensors")
    assert weights and all(torch.isfinite(tensor).all() for tensor in weights.values())
    assert any(float(tensor.abs().max()) > 0 for name, tensor in weights.items() if "lora_B" in name or "up" in name)
    plain, off, on = (
        opened(folder(family), {"text"}, loras=loras).generate([7], [Inputs(prompt="a photo of a finch")])[0]
        for loras in ([], [{"model": str(tmp_path / "lora"), "scale": 0.0}], [{"model": str(tmp_path / "lora"), "scale": 4.0}])
    )
    assert np.abs(plain.astype(int) - off).max() <= 1 and not np.array_equal(plain, on)


@pytest.mark.parametrize("family", ["stable_diffusion", "embedding_diffusion"])
def test_an_interrupted_training_ends_with_the_same_weights(
    family: str,
    folder: Callable[[str], Path],  # noqa: F811
    image_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = Path(shutil.copytree(folder(family), tmp_path / "model"))
    for name in ("whole", "torn"):
        (tmp_path / name).mkdir()
    train.run(recipe(tmp_path / "whole", model, image_folder, 4), [])
    path = recipe(tmp_path / "torn", model, image_folder, 4)
    save = loop._save

    def torn(*arguments: object) -> None:
        save(*arguments)  # type: ignore[arg-type]
        if arguments[2] == 2:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(loop, "_save", torn)
        with pytest.raises(KeyboardInterrupt):
            train.run(path, [])
    (weights,) = (p for part in ("unet", "transformer") for p in (model / part).glob("diffusion_pytorch_model.safetensors"))
    before = weights.read_bytes()
    save_file({name: tensor + 1 for name, tensor in load_file(weights).items()}, weights, {"format": "pt"})
    with pytest.raises(UserError, match="was trained on other images or models"):
        train.run(path, [])
    weights.write_bytes(before)
    train.run(path, [])
    whole, resumed = (load_file(tmp_path / name / "lora/pytorch_lora_weights.safetensors") for name in ("whole", "torn"))
    assert whole.keys() == resumed.keys() and all(torch.equal(whole[name], resumed[name]) for name in whole)


def test_a_lora_says_what_it_has_seen(folder: Callable[[str], Path], image_folder: Path, tmp_path: Path) -> None:  # noqa: F811
    train.run(recipe(tmp_path, folder("embedding_diffusion"), image_folder, 1), [])
    seen, other = (kinds.nested("sources", Source, {"dataset": str(image_folder), "shots": 3, "seed": seed}).open() for seed in (0, 1))  # type: ignore[attr-defined]
    generator = {"model": "base", "loras": [{"model": str(tmp_path / "lora"), "scale": 1.0}]}
    assert (
        trained_on_test([generator], seen, {"dataset": "elsewhere"}).ids
        and not trained_on_test([generator], other, {"dataset": "elsewhere"}).ids
    )


def test_what_cannot_be_trained_is_named(folder: Callable[[str], Path], image_folder: Path, tmp_path: Path) -> None:  # noqa: F811
    with pytest.raises(UserError, match="pipelines with a UNet and on the factory's own"):
        train.run(recipe(tmp_path, folder("dit"), image_folder, targets="[to_q]"), [])
    with pytest.raises(UserError, match="has no module called like nothing"):
        train.run(recipe(tmp_path, folder("stable_diffusion"), image_folder, targets="[nothing]"), [])
    with pytest.raises(UserError, match="resolution: 30 is no multiple of 4"):
        train.run(recipe(tmp_path, folder("embedding_diffusion"), image_folder, resolution="30"), [])
    with pytest.raises(RecipeError, match="shoots"):
        train.run(recipe(tmp_path, folder("stable_diffusion"), image_folder, source=f"{{dataset: {image_folder}, shoots: 3}}"), [])
