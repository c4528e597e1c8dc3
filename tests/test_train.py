"""The trainings at a tiny size: they write folders that load, and an interrupted one ends with the same weights."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from safetensors.torch import load_file, save_file

from factory.errors import RecipeError, UserError
from factory.train import recipe as recipes
from factory.train import run

TINY_CLIP = {
    "kind": "clip",
    "steps": 3,
    "batch": 8,
    "lr": 1e-3,
    "image_size": 32,
    "image_width": 4,
    "embed_dim": 16,
    "text_width": 16,
    "text_layers": 1,
    "vocabulary": 256,
}
TINY_CLASSIFIER = {"kind": "classifier", "steps": 3, "batch": 8, "lr": 1e-3, "width": 4}
TINY_DIFFUSION = {"kind": "diffusion", "steps": 3, "batch": 8, "lr": 1e-3, "width": 32, "depth": 1, "heads": 2, "captions": 2}


@pytest.fixture(scope="module")
def corpus(tmp_path_factory) -> Path:
    """24 grey pictures in two classes, as a Parquet file."""
    from datasets import ClassLabel, Dataset, Features
    from datasets import Image as ImageFeature

    rng = np.random.default_rng(0)
    pixels = np.zeros((24, 28, 28), np.uint8)
    for index in range(24):
        width = 8 if index % 2 else 20
        pixels[index, 4:24, 14 - width // 2 : 14 + width // 2] = rng.integers(60, 255)
    rows = {"image": [Image.fromarray(one) for one in pixels], "label": [index % 2 for index in range(24)]}
    path = tmp_path_factory.mktemp("corpus") / "train.parquet"
    Dataset.from_dict(rows, features=Features({"image": ImageFeature(), "label": ClassLabel(names=["Bag/box", "Pole"])})).to_parquet(path)
    return path


@pytest.fixture(scope="module")
def clip_folder(corpus, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("clip")
    train(TINY_CLIP, corpus, folder, folder / "clip")
    return folder / "clip"


def train(tiny: dict, corpus: Path, folder: Path, out: Path, **more: object) -> Path:
    path = folder / "recipe.yaml"
    settings = {**tiny, **more, "out": str(out), "source": {"dataset": str(corpus)}, "checkpoint_every": 1, "bf16": False}
    path.write_text(json.dumps(settings))
    run(path, [], None)
    return out


def weights(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*.safetensors"))}


def test_clip_folder_is_open_clips_own(clip_folder):
    import open_clip
    import torch

    from factory.models.clip import ClipEncoder

    model, _, preprocess = open_clip.create_model_and_transforms(f"local-dir:{clip_folder}")
    tokens = open_clip.get_tokenizer(f"local-dir:{clip_folder}")(["a photo of a pole", "an astronaut riding"])
    ours = ClipEncoder.from_pretrained(clip_folder)
    picture = np.random.default_rng(1).integers(0, 255, (28, 28, 3), np.uint8)
    with torch.no_grad():
        theirs_image = torch.nn.functional.normalize(model.eval().encode_image(preprocess(Image.fromarray(picture))[None]), dim=-1)
        theirs_text = torch.nn.functional.normalize(model.encode_text(tokens), dim=-1)
    assert torch.allclose(ours.encode_image(torch.from_numpy(picture).permute(2, 0, 1)[None]), theirs_image, atol=2e-2)
    assert torch.allclose(ours.encode_text(["a photo of a pole", "an astronaut riding"]), theirs_text, atol=1e-4)


@pytest.mark.parametrize("kind", ["clip", "classifier", "diffusion"])
def test_resume_ends_with_the_same_weights(kind, corpus, clip_folder, tmp_path, monkeypatch):
    tiny = {"clip": TINY_CLIP, "classifier": TINY_CLASSIFIER, "diffusion": {**TINY_DIFFUSION, "clip": str(clip_folder)}}[kind]
    whole = weights(train(tiny, corpus, tmp_path, tmp_path / "whole"))
    from factory.train import loop

    real = loop.set_rate

    def interrupted(optimizer, recipe, step):
        if step == 2:
            raise KeyboardInterrupt
        real(optimizer, recipe, step)

    monkeypatch.setattr(loop, "set_rate", interrupted)
    with pytest.raises(KeyboardInterrupt):
        train(tiny, corpus, tmp_path, tmp_path / "resumed")
    monkeypatch.setattr(loop, "set_rate", real)
    if kind == "diffusion":
        weights_of_clip = clip_folder / "open_clip_model.safetensors"
        before = weights_of_clip.read_bytes()
        save_file({name: tensor + 1 for name, tensor in load_file(weights_of_clip).items()}, weights_of_clip)
        with pytest.raises(UserError, match="was trained on other images or models"):
            train(tiny, corpus, tmp_path, tmp_path / "resumed")
        weights_of_clip.write_bytes(before)
    steps = []
    monkeypatch.setattr(loop, "draws", lambda recipe, step, draws=loop.draws: (steps.append(step), draws(recipe, step))[1])
    assert weights(train(tiny, corpus, tmp_path, tmp_path / "resumed")) == whole
    assert steps == [2]
    assert not (tmp_path / "resumed.ckpt").exists()


def test_diffusion_folder_is_a_pipeline(corpus, clip_folder, tmp_path):
    from factory.models.pipeline import EmbeddingDiffusionPipeline

    folder = train({**TINY_DIFFUSION, "clip": str(clip_folder)}, corpus, tmp_path, tmp_path / "made")
    assert json.loads((folder / "model_index.json").read_text())["_class_name"] == "EmbeddingDiffusionPipeline"
    pipeline = EmbeddingDiffusionPipeline.from_pretrained(folder, use_safetensors=True)
    pipeline.set_progress_bar_config(disable=True)
    assert pipeline("a pole", num_inference_steps=2).images[0].size == (28, 28)


def test_captions_are_true():
    from factory.train import captions

    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 255, (30, 28, 28), np.uint8)
    facts = captions.measure(pixels[:, None], np.arange(30) % 3, ["T-shirt/top", "Bag", "Coat"])
    for index in range(30):
        text, claim = captions.draw(facts, index, rng)
        assert captions.match(facts.values, claim[None])[index, 0]
        if claim[0] >= 0:
            assert any(part in text for part in facts.class_names[claim[0]].split("/"))


def test_multi_positive_prefers_the_truth():
    import torch

    from factory.train.clip import multi_positive, nt_xent

    truth = torch.tensor([[True, True, False], [False, False, True]])
    assert multi_positive(truth * 10.0, truth) < multi_positive(~truth * 10.0, truth)
    views = torch.eye(4)
    assert nt_xent(views.repeat(2, 1)) < nt_xent(torch.cat([views, views.roll(1, 0)]))


def test_recipes_report_every_fault(tmp_path):
    path = tmp_path / "bad.yaml"
    path.write_text("{kind: clip, stepz: 3, out: x, source: {dataset: x, colour: 1}, batch: 8, lr: 0.001}")
    with pytest.raises(RecipeError) as caught:
        recipes.load(path, [], None)
    text = str(caught.value)
    assert "stepz" in text and "source.colour" in text and "steps: " in text


def test_overrides_and_missing_data(corpus, tmp_path):
    path = tmp_path / "recipe.yaml"
    path.write_text(json.dumps({**TINY_CLASSIFIER, "out": "x", "source": {"dataset": "x"}}))
    checked = recipes.load(path, [f"source.dataset={corpus}", "lr=0.5", "source.label=no_such"], tmp_path / "out")
    assert (checked.lr, checked.out) == (0.5, tmp_path / "out")
    with pytest.raises(UserError, match="no_such"):
        run(path, [f"source.dataset={corpus}", "source.label=no_such"], tmp_path / "out")


@pytest.mark.parametrize("path", sorted(Path("recipes/train").glob("*.yaml")), ids=lambda path: path.stem)
def test_shipped_recipes_are_valid(path):
    assert recipes.load(path, [], None).kind == path.stem.split("_")[0]
