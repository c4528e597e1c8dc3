"""Representation-guided diffusion: the noise paths, encoders, patches, trainings at tiny size, what they write, and embeddings as conditions."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional as F

from factory import encoders, kinds, seeds
from factory.conditions.embedding import Embedding
from factory.conditions.embedding_prior import EmbeddingPrior
from factory.conditions.retrieval import Retrieval
from factory.contracts import Context, Source
from factory.errors import RecipeError, UserError
from factory.generators.diffusers import Diffusers
from factory.models.guided import RepresentationDiffusionPipeline
from factory.models.representation import RepresentationEncoder, prepare, timm_tower
from factory.models.scheduler import GaussianPathScheduler
from factory.records import Example, Inputs, Request
from factory.train import loop, prepared, run
from factory.train import recipe as recipes
from factory.train.throughput import training_flops

BACKBONE = {"backbone": "resnet10t", "arguments": {"channels": [8, 8, 16, 16], "stem_width": 8}, "projector": 16}
TINY: dict[str, dict[str, Any]] = {
    "representation": {**BACKBONE, "batch": 8},
    "autoencoder": {"widths": [8, 8], "layers": 1, "batch": 4},
    "representation_diffusion": {"width": 32, "depth": 2, "heads": 2, "patch": 4, "batch": 8, "sample_every": 2},
    "embedding_prior": {"width": 32, "depth": 1, "batch": 8},
}
PAIRS = [("linear", "velocity"), ("trigonometric", "v_prediction"), ("variance_preserving", "epsilon"), ("variance_preserving", "velocity")]


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """One cache for all trainings of this file."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FACTORY_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two classes of twelve 24×20 images, and a broken one."""
    folder = tmp_path_factory.mktemp("photos")
    noise = np.random.default_rng(0)
    for name, tint in (("finch", 60), ("heron", 190)):
        (folder / name).mkdir()
        for i in range(12):
            pixels = np.clip(noise.normal(tint, 30, (24, 20, 3)) + 6 * i, 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{i:02d}.png")
    (folder / "heron" / "broken.png").write_bytes(b"no picture")
    return folder


def train(kind: str, photos: Path, folder: Path, **more: Any) -> Path:
    out = Path(more.pop("out", folder / kind))
    base = {
        "kind": kind,
        "source": {"dataset": str(photos)},
        "out": str(out),
        "size": 16,
        "steps": 3,
        "lr": 1e-3,
        "bf16": False,
        "log_every": 1,
    }
    base |= {"checkpoint_every": 1, **TINY[kind], **more}
    path = folder / f"{kind}.yaml"
    path.write_text(json.dumps(base))
    run(path, [], None)
    return out


@pytest.fixture(scope="module")
def encoder(cache: Any, photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train("representation", photos, tmp_path_factory.mktemp("encoder"))


@pytest.fixture(scope="module")
def pipeline(encoder: Path, photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train("representation_diffusion", photos, tmp_path_factory.mktemp("pipeline"), encoder=str(encoder))


def weights(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*.safetensors"))}


# ---- noise paths


@pytest.mark.parametrize(("path", "prediction"), PAIRS)
def test_split_undoes_the_target(path: Any, prediction: Any) -> None:
    scheduler = GaussianPathScheduler(path, prediction)
    x, noise, time = torch.randn(5, 3, 4, 4), torch.randn(5, 3, 4, 4), torch.tensor([20.0, 300.0, 500.0, 800.0, 980.0])
    noisy = scheduler.scale_noise(x, time, noise)
    found_x, found_noise = scheduler.split(scheduler.target(x, time, noise), time, noisy)
    assert torch.allclose(found_x, x, atol=2e-2) and torch.allclose(found_noise, noise, atol=2e-2)


@pytest.mark.parametrize(("path", "prediction"), PAIRS)
@pytest.mark.parametrize("eta", [0.0, 1.0])
def test_sampling_with_the_truth_ends_at_the_image(path: Any, prediction: Any, eta: float) -> None:
    scheduler = GaussianPathScheduler(path, prediction, eta)
    x, source = torch.full((2, 1, 4, 4), 0.5), torch.Generator().manual_seed(0)
    scheduler.set_timesteps(8)
    at = scheduler.scale_noise(x, scheduler.timesteps[0], torch.randn(x.shape, generator=source))
    for timestep in scheduler.timesteps:
        alpha, sigma = scheduler.levels(timestep / 1000)
        answer = scheduler.target(x, timestep, (at - alpha * x) / sigma)
        at = scheduler.step(answer, timestep, at, source).prev_sample
    assert torch.allclose(at, x, atol=1e-3)


def test_a_step_is_ddims() -> None:
    from diffusers import DDIMScheduler

    theirs = DDIMScheduler(num_train_timesteps=1000, clip_sample=False, set_alpha_to_one=True)
    theirs.set_timesteps(10)
    ours = GaussianPathScheduler("variance_preserving", "epsilon")
    ours.levels = lambda time: _ddpm(theirs, time)  # type: ignore[method-assign]
    ours.timesteps = theirs.timesteps.float()
    x, noise = torch.randn(1, 1, 4, 4), torch.randn(1, 1, 4, 4)
    step = theirs.timesteps[3]
    assert torch.allclose(ours.step(noise, step.float(), x).prev_sample, theirs.step(noise, step, x).prev_sample, atol=1e-4)


def _ddpm(theirs: Any, time: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    square = theirs.alphas_cumprod[(time * 1000).round().long()]
    return square.sqrt(), (1 - square).sqrt()


def test_epsilon_needs_a_path_that_it_can_end() -> None:
    with pytest.raises(ValueError, match="epsilon"):
        GaussianPathScheduler("linear", "epsilon")


# ---- encoders


def test_an_encoder_of_several_libraries_is_one_folder(tmp_path: Path) -> None:
    from transformers import ViTConfig, ViTImageProcessor, ViTModel

    from tests.conftest import ROOT

    vit = ViTModel(ViTConfig(hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16, image_size=16, patch_size=8))
    vit.save_pretrained(tmp_path / "vit")
    ViTImageProcessor(size={"height": 16, "width": 16}).save_pretrained(tmp_path / "vit")
    both = RepresentationEncoder.open([f"transformers:{tmp_path / 'vit'}", f"open_clip:{ROOT / 'data/models/fashion-mnist/clip'}"])
    pictures = torch.randint(0, 256, (3, 3, 20, 24), dtype=torch.uint8)
    units = both.encode_image(pictures)
    assert units.shape == (3, both.embed_dim) and both.embed_dim == 16 + 128
    assert torch.allclose(units.norm(dim=1), torch.ones(3), atol=1e-5)
    both.save_pretrained(tmp_path / "both")
    assert torch.equal(RepresentationEncoder.from_pretrained(tmp_path / "both").encode_image(pictures), units)
    opened = encoders.open(str(tmp_path / "both"), "cpu")
    found = opened.encode_images([picture.permute(1, 2, 0).numpy() for picture in pictures])
    assert np.allclose(found, units.numpy(), atol=1e-5)
    with pytest.raises(UserError, match="images alone"):
        opened.encode_texts(["a cat"])


def test_of_a_model_of_images_and_texts_the_half_that_sees_is_taken(tmp_path: Path) -> None:
    from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel

    small = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    whole = CLIPModel(CLIPConfig(text_config=small, vision_config={**small, "image_size": 16, "patch_size": 8}, projection_dim=8)).eval()
    whole.save_pretrained(tmp_path)
    CLIPImageProcessor(size={"shortest_edge": 16}, crop_size={"height": 16, "width": 16}).save_pretrained(tmp_path)
    encoder = RepresentationEncoder.open([f"transformers:{tmp_path}"])
    pictures = torch.randint(0, 256, (2, 3, 16, 16), dtype=torch.uint8)
    with torch.no_grad():
        seen = whole.vision_model(prepare(pictures / 255, encoder.config.towers[0])).pooler_output
    assert torch.allclose(encoder.encode_image(pictures), F.normalize(seen, dim=-1), atol=1e-4)
    encoder.save_pretrained(tmp_path / "own")
    again = RepresentationEncoder.from_pretrained(tmp_path / "own")
    assert torch.equal(again.encode_image(pictures), encoder.encode_image(pictures))


def test_whitening_gives_uncorrelated_directions() -> None:
    tower, spec = timm_tower("resnet10t", 16, (0.5,) * 3, (0.25,) * 3, channels=[8, 8, 16, 16], stem_width=8)
    encoder = RepresentationEncoder([spec], spec["dim"])
    encoder.networks[0].load_state_dict(tower.state_dict())
    encoder = encoder.eval().requires_grad_(False)
    wide = torch.randn(500, spec["dim"]) @ torch.randn(spec["dim"], spec["dim"])
    white = encoder.fit_whitening(wide, 8)
    seen = (wide - white.centre) @ white.projection
    assert torch.allclose(seen.T @ seen / len(seen), torch.eye(8), atol=1e-2)
    pictures = torch.randint(0, 256, (3, 3, 16, 16), dtype=torch.uint8)
    exact = white.encode_image(pictures)
    halves = white.to(torch.bfloat16).encode_image(pictures)  # what a pipeline in half precision does
    assert (F.cosine_similarity(exact, halves) > 0.9).all()


def test_scales_are_the_crops_embeddings(encoder: Path) -> None:
    network = RepresentationEncoder.from_pretrained(encoder)
    pictures = torch.randint(0, 256, (2, 3, 16, 16), dtype=torch.uint8)
    tokens = network.encode_scales(pictures, (1, 2))
    assert tokens.shape[:2] == (2, 5)
    assert torch.equal(tokens[:, 0], network.encode_image(pictures))
    assert torch.equal(tokens[:, 4], network.encode_image(pictures[:, :, 8:, 8:]))


@pytest.mark.parametrize("name", ["nolibrary:x", "transformers:/does/not/exist", "timm:no_such_net"])
def test_an_unknown_encoder_is_named(name: str, cache: Any, photos: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="encoder: cannot open"):
        train("representation_diffusion", photos, tmp_path, encoder=name)


# ---- patches


def boxed(tmp_path: Path) -> dict[str, Any]:
    from datasets import Dataset, Features, List, Value
    from datasets import Image as ImageFeature

    noise = np.random.default_rng(1)
    rows = {
        "image": [Image.fromarray(noise.integers(0, 255, (40, 60, 3), np.uint8)) for _ in range(3)],
        "boxes": [[[0, 0, 10, 10], [30, 20, 40, 30]], [[50, 30, 60, 40]], []],
        "kinds": [[0, 1], [1], []],
    }
    features = Features({"image": ImageFeature(), "boxes": List(List(Value("float32"))), "kinds": List(Value("int64"))})
    Dataset.from_dict(rows, features=features).to_parquet(tmp_path / "cells.parquet")
    return {"dataset": str(tmp_path / "cells.parquet"), "label": None, "boxes": "boxes", "box_labels": "kinds"}


def opened(**settings: Any) -> Any:
    return kinds.nested("sources", Source, {"kind": "patches", **settings}).open()  # type: ignore[attr-defined]


def test_patches_lie_round_their_boxes(tmp_path: Path) -> None:
    images = boxed(tmp_path)
    table = opened(images=images, side=16, class_names=["red", "white"])
    assert table.labels.tolist() == [0, 1, 1] and table.class_names == ["red", "white"]
    whole = kinds.nested("sources", Source, images).open()  # type: ignore[attr-defined]
    assert np.array_equal(table.read(0).image, whole.read(0).image[:16, :16])  # moved inside the image
    assert np.array_equal(table.read(1).image, whole.read(0).image[17:33, 27:43])
    assert table.read(1).key != table.read(2).key
    assert opened(images=images, side=12, class_names=["red", "white"]).fingerprint != table.fingerprint
    few = opened(images=images, side=16, class_names=["red", "white"], shots=1, classes=["white"])
    assert len(few) == 1 and few.class_names == ["white"] and few.labels.tolist() == [0]


def test_patches_on_a_grid_cover_the_image(tmp_path: Path) -> None:
    images = boxed(tmp_path)
    table = opened(images=images, around="grid", side=16, stride=16)
    assert len(table) == 3 * 3 * 4 and (table.labels == -1).all()
    seen = np.zeros((40, 60), bool)
    for _, x, y, side, _ in table.places[table.places[:, 0] == 0].tolist():
        seen[y : y + side, x : x + side] = True
    assert seen.all()
    with pytest.raises(UserError, match="boxes"):
        opened(images={"dataset": images["dataset"], "label": None}, side=16)


# ---- trainings


def test_what_training_reads_is_on_disk(cache: Any, photos: Path, tmp_path: Path, caplog: Any) -> None:
    spec = {"kind": "representation", "source": {"dataset": str(photos)}, "out": "x", "size": 16, "steps": 1, "lr": 1, "batch": 2}
    recipe: Any = recipes.Representation.model_validate(spec)
    data = prepared.prepare(recipe)
    assert len(data) == 24 and isinstance(data.pixels, np.memmap) and data.pixels.shape == (24, 3, 16, 16)
    assert "1 of 25 images cannot be decoded" in caplog.text
    means = data.derived("means", (1,), lambda x: x.float().mean((1, 2, 3))[:, None], data.symmetries("dihedral"))
    assert means.shape == (8, 24, 1) and isinstance(means, np.memmap)
    assert np.allclose(means[0], means[5])
    few = data.symmetries("dihedral", 2)
    assert few.shape == (2, 24) and (few[0] != few[1]).all() and len(np.unique(few)) == 8
    corner = data.derived("corner", (1,), lambda x: x[:, 0, 0, :1].float(), few)
    turned = prepared.transformed(torch.from_numpy(np.array(data.pixels)), torch.from_numpy(few[1].astype(np.int64)))
    assert np.array_equal(corner[1, :, 0], turned[:, 0, 0, 0].numpy())
    assert np.array_equal(prepared.prepare(recipe).labels, [0] * 12 + [1] * 12)


def test_a_models_digest_is_the_same_in_every_process(tmp_path: Path) -> None:
    code = """
from diffusers import AutoencoderKL
from factory.train.encoded import digest
import torch
torch.manual_seed(0)
print(digest(AutoencoderKL(block_out_channels=(8,), norm_num_groups=8)))
"""
    runs = [
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env={**os.environ, "PYTHONHASHSEED": seed})
        for seed in ("1", "2")
    ]
    assert runs[0].stdout == runs[1].stdout and len(runs[0].stdout.strip()) == 32


def test_symmetries_are_eight_different_ones() -> None:
    picture = torch.arange(9).view(1, 1, 3, 3)
    seen = {tuple(prepared.transformed(picture, torch.tensor([n])).flatten().tolist()) for n in range(8)}
    assert len(seen) == 8


def test_a_card_of_patches_names_their_images(cache: Any, tmp_path: Path) -> None:
    source = {"kind": "patches", "around": "grid", "side": 16, "images": {"dataset": boxed(tmp_path)["dataset"], "label": None}}
    out = train("representation", tmp_path, tmp_path, source=source)
    assert json.loads((out / "training.json").read_text())["trained_on"]["dataset"] == f"{tmp_path.name}/cells.parquet"
    assert str(tmp_path) not in (out / "README.md").read_text()


@pytest.mark.parametrize("method", ["vicreg", "simclr", "dino"])
def test_an_encoder_learns_without_labels(method: str, cache: Any, photos: Path, tmp_path: Path) -> None:
    out = train("representation", photos, tmp_path, method=method, whiten=4)
    network = RepresentationEncoder.from_pretrained(out)
    assert network.embed_dim <= 4
    said = json.loads((out / "training.json").read_text())
    assert said["trained_on"]["images"] == 24 and said["trained_on"]["labels_used"] is False
    assert str(photos) not in (out / "README.md").read_text()  # no path of a machine in a card


@pytest.mark.parametrize("kind", sorted(TINY))
def test_a_killed_training_ends_with_the_same_weights(
    kind: str, cache: Any, photos: Path, encoder: Path, pipeline: Path, tmp_path: Path, monkeypatch: Any
) -> None:
    more: dict[str, Any] = {"representation_diffusion": {"encoder": str(encoder)}, "embedding_prior": {"pipeline": str(pipeline)}}.get(
        kind, {}
    )
    whole = weights(train(kind, photos, tmp_path, out=tmp_path / "whole", **more))
    real = loop.set_rate

    def killed(optimizer: Any, recipe: Any, step: int) -> None:
        if step == 2:
            raise KeyboardInterrupt
        real(optimizer, recipe, step)

    monkeypatch.setattr(loop, "set_rate", killed)
    with pytest.raises(KeyboardInterrupt):
        train(kind, photos, tmp_path, out=tmp_path / "resumed", **more)
    monkeypatch.setattr(loop, "set_rate", real)
    assert (tmp_path / "resumed.ckpt" / "state.pt").exists()
    assert weights(train(kind, photos, tmp_path, out=tmp_path / "resumed", **more)) == whole


@pytest.mark.parametrize(
    "more",
    [
        {"path": "variance_preserving", "prediction": "epsilon", "times": "uniform"},
        {"path": "trigonometric", "scales": [1, 2]},
        {"cross_attention": True, "scales": [1, 2]},
        {"cross_attention": True, "neighbours": 3},
        {"size": [16, 24], "flips": "none", "whiten": 4},
        {"size": 16, "channels": 1, "flips": "dihedral"},
    ],
    ids=str,
)
def test_every_option_makes_a_pipeline(more: dict[str, Any], encoder: Path, photos: Path, tmp_path: Path) -> None:
    out = train("representation_diffusion", photos, tmp_path, encoder=str(encoder), **more)
    pipe = RepresentationDiffusionPipeline.from_pretrained(out, use_safetensors=True)
    pipe.set_progress_bar_config(disable=True)
    height, width = (16, 24) if more.get("size") == [16, 24] else (16, 16)
    picture = Image.fromarray(np.full((height, width, 3), 90, np.uint8))
    assert pipe(picture, num_inference_steps=2).images[0].size == (width, height)
    assert pipe(picture, strength=0.5, num_inference_steps=2, eta=1.0, height=24, width=32).images[0].size == (32, 24)
    assert len(pipe(num_inference_steps=1, num_images_per_prompt=3).images) == 3
    assert (out / "samples.png").exists() and (Path(f"{out}.samples") / "0000002.png").exists()


def test_latents_and_several_encoders(encoder: Path, photos: Path, tmp_path: Path) -> None:
    vae = train("autoencoder", photos, tmp_path)
    out = train("representation_diffusion", photos, tmp_path, encoder=[str(encoder), str(encoder)], vae=str(vae), patch=2)
    pipe = RepresentationDiffusionPipeline.from_pretrained(out, use_safetensors=True)
    assert pipe.transformer.config.in_channels == 4 and pipe.sample_size == (16, 16)
    assert pipe.encoder.embed_dim == 2 * RepresentationEncoder.from_pretrained(encoder).embed_dim
    with pytest.raises(UserError, match="multiple"):
        train("representation_diffusion", photos, tmp_path, out=tmp_path / "odd", encoder=str(encoder), vae=str(vae), patch=3)


def test_two_processes_train_the_same_model(encoder: Path, photos: Path, tmp_path: Path) -> None:
    alone = train("representation_diffusion", photos, tmp_path, out=tmp_path / "alone", encoder=str(encoder))
    settings = json.loads((tmp_path / "representation_diffusion.yaml").read_text()) | {"out": str(tmp_path / "shared")}
    (tmp_path / "shared.yaml").write_text(json.dumps(settings))
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", "-m", "factory", "train"]
    done = subprocess.run(
        [*launch, str(tmp_path / "shared.yaml")], capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"}
    )
    assert done.returncode == 0, done.stderr[-3000:]
    first, second = (
        RepresentationDiffusionPipeline.from_pretrained(folder, use_safetensors=True) for folder in (alone, tmp_path / "shared")
    )
    for name, value in first.transformer.state_dict().items():
        assert torch.allclose(value, second.transformer.state_dict()[name], atol=5e-3), name


def test_a_training_says_how_fast_it_was(pipeline: Path, photos: Path, encoder: Path, tmp_path: Path) -> None:
    out = train("representation_diffusion", photos, tmp_path, encoder=str(encoder), steps=6)
    facts = json.loads((out / "training.json").read_text())["facts"]
    assert facts["model_flops_per_s"] > 0 and facts["seconds_per_step"] > 0 and 0 <= facts["loader_wait_share"] < 1


def test_training_flops_are_those_of_three_forward_passes() -> None:
    layer = torch.nn.Linear(10, 20, bias=False)
    assert training_flops(layer, torch.zeros(4, 10)) == 3 * 2 * 4 * 10 * 20


def test_accumulation_changes_sums_alone(encoder: Path, photos: Path, tmp_path: Path) -> None:
    whole = train("representation_diffusion", photos, tmp_path, out=tmp_path / "a", encoder=str(encoder), tracker="tensorboard")
    parts = train("representation_diffusion", photos, tmp_path, out=tmp_path / "b", encoder=str(encoder), accumulate=4)
    first, second = (RepresentationDiffusionPipeline.from_pretrained(folder, use_safetensors=True).transformer for folder in (whole, parts))
    for name, value in first.state_dict().items():
        assert torch.allclose(value, second.state_dict()[name], atol=5e-3), name


@pytest.mark.parametrize(
    ("more", "word"),
    [
        ({"prediction": "epsilon"}, "noisy end"),
        ({"neighbours": 2}, "cross_attention"),
        ({"accumulate": 3}, "equal parts"),
        ({"size": [16, 24], "flips": "dihedral"}, "square"),
    ],
)
def test_settings_that_contradict_each_other(more: dict[str, Any], word: str, photos: Path, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=word):
        train("representation_diffusion", photos, tmp_path, encoder="x", **more)


# ---- generating


def example(value: int, key: str = "a") -> Example:
    return Example(0, key, np.random.default_rng(value).integers(0, 256, (16, 16, 3), np.uint8), 0)


def test_the_generator_loads_it_like_any_other(pipeline: Path) -> None:
    kind = Diffusers(model=str(pipeline), steps=2, batch=4)
    assert set(kind.lacks()) >= {"text", "class_label", "control"} and "image_embedding" not in kind.lacks()
    generator = kind.open("cpu")
    generator.check(frozenset({"image_embedding"}), [])
    parents = [example(1), example(2)]
    inputs = [Embedding(mix="slerp", jitter=0.2).prepare(Request(f"r{i}", 0, i, i, ""), parents, seeds.rng(i)) for i in range(3)]
    made = generator.generate([5, 6, 7], inputs)
    alone = generator.generate([6], inputs[1:2])
    assert made[0].shape == (16, 16, 3) and np.abs(made[1].astype(int) - alone[0].astype(int)).max() <= 1
    assert not np.array_equal(made[0], made[1])


def test_embedding_mixes() -> None:
    first, second = np.eye(2, 8, dtype=np.float32) * 3
    request, parents = Request("r", 0, 0, 1, "a finch"), [example(1), example(2)]

    def mixed(**settings: Any) -> tuple[np.ndarray, dict[str, Any]]:
        given = Embedding(**settings).prepare(request, parents, seeds.rng(4))
        assert given.combine is not None
        return given.combine(np.stack([first, second])), given.record

    arc, record = mixed(mix="slerp")
    assert np.isclose(np.linalg.norm(arc), 3, atol=1e-4)
    assert np.isclose(np.arccos(arc[0] / 3), (1 - record["lambda"]) * np.pi / 2, atol=1e-3)
    moved, _ = mixed(jitter=0.5)
    assert np.isclose(np.linalg.norm(moved), 3, atol=1e-4) and 0.1 < np.linalg.norm(moved - first) / 3 < 1.2
    assert (mixed(dropout=0.9)[0] == 0).sum() >= 7
    plain = Embedding().prepare(request, parents, seeds.rng(4))
    assert plain.combine is None and len(plain.images) == 1 and plain.prompt is None


def test_neighbours_become_tokens_or_a_random_mix(encoder: Path, photos: Path, tmp_path: Path) -> None:
    table = kinds.nested("sources", Source, {"dataset": str(photos)}).open()  # type: ignore[attr-defined]
    context = Context(table, table.class_names, 0, "cpu", tmp_path)
    parent = table.read(2)
    ready = Retrieval(model=str(encoder), k=3, within="class", mix="random").open(context)
    given = ready.prepare(Request("r", 0, 0, 1, ""), [parent], seeds.rng(1))
    assert given.combine is not None and given.combine(np.ones((3, 4), np.float32)).shape == (4,)
    assert np.isclose(sum(map(float, given.record["weights"].split())), 1, atol=1e-4)  # type: ignore[union-attr]
    out = train("representation_diffusion", photos, tmp_path, encoder=str(encoder), cross_attention=True, neighbours=3)
    generator = Diffusers(model=str(out), steps=1, batch=2).open("cpu")
    generator.check(frozenset({"image_embedding"}), [])
    tokens = Inputs(images=tuple(example(i).image for i in range(3)), tokens=True)
    one = generator.generate([1], [tokens])[0]
    other = generator.generate([1], [Inputs(images=tokens.images[:1])])[0]
    assert one.shape == other.shape


@pytest.mark.parametrize("of", ["class", "text", "nothing"])
def test_embeddings_are_drawn_from_a_prior(of: str, pipeline: Path, photos: Path, tmp_path: Path) -> None:
    source: dict[str, Any] = {"dataset": str(photos)}
    if of == "text":
        rows = {"image": [str(path) for path in sorted((photos / "finch").glob("*.png"))], "text": [f"finch {i}" for i in range(12)]}
        from datasets import Dataset
        from datasets import Image as ImageFeature

        Dataset.from_dict(rows).cast_column("image", ImageFeature()).to_parquet(tmp_path / "t.parquet")
        source = {"dataset": str(tmp_path / "t.parquet"), "label": None, "caption": "text"}
    out = train("embedding_prior", photos, tmp_path, pipeline=str(pipeline), of=of, source=source)
    table = kinds.nested("sources", Source, {"dataset": str(photos)}).open()  # type: ignore[attr-defined]
    ready = EmbeddingPrior(model=str(out), steps=2).open(Context(table, table.class_names, 0, "cpu", tmp_path))
    given = ready.prepare(Request("r", 1, 0, 1, "a finch"), [], seeds.rng(1))
    assert given.embedding is not None and np.isclose(np.linalg.norm(given.embedding), 1, atol=1e-4)
    again = ready.prepare(Request("r", 1, 0, 1, "a finch"), [], seeds.rng(1))
    assert np.array_equal(given.embedding, again.embedding)  # type: ignore[arg-type]
    generator = Diffusers(model=str(pipeline), steps=1, batch=2).open("cpu")
    generator.check(frozenset({"image_embedding"}), [])
    assert generator.generate([1, 2], [given, again])[0].shape == (16, 16, 3)
    if of == "class":
        with pytest.raises(UserError, match="trained for this pipeline"):
            generator.generate([1], [Inputs(embedding=np.ones((1, 7), np.float32))])
        with pytest.raises(UserError, match="no folder that kind: embedding_prior wrote"):
            EmbeddingPrior(model=str(pipeline / "transformer")).open(Context(table, table.class_names, 0, "cpu", tmp_path))
        with pytest.raises(UserError, match="no class"):
            EmbeddingPrior(model=str(out)).open(Context(table, ["swan"], 0, "cpu", tmp_path))
