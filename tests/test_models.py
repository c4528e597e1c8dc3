"""The embedded pipeline: it loads, every way of conditioning gives images, and seeds belong to images."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from factory.models import pixels
from factory.models.pipeline import EmbeddingDiffusionPipeline
from factory.models.transformer import PatchTransformer

FOLDER = Path("data/models/fashion-mnist")
FEW = {"num_inference_steps": 2, "output_type": "pt"}


@pytest.fixture(scope="module")
def pipeline() -> EmbeddingDiffusionPipeline:
    loaded = EmbeddingDiffusionPipeline.from_pretrained(FOLDER, torch_dtype=torch.float32, use_safetensors=True)
    loaded.set_progress_bar_config(disable=True)
    return loaded


@pytest.fixture(scope="module")
def photos() -> list[Image.Image]:
    from datasets import load_dataset

    rows = load_dataset("parquet", data_files=str(next(Path("data/fashion-mnist").glob("test-*.parquet"))), split="train[:4]")
    return [picture.convert("RGB") for picture in rows["image"]]


def seeds(*values: int) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(value) for value in values]


def test_pixels_in_the_ranges_of_networks():
    bytes_ = torch.tensor([0, 51, 255], dtype=torch.uint8).view(1, 3, 1, 1)
    assert pixels.unit(bytes_).flatten().tolist() == pytest.approx([0, 0.2, 1])
    assert torch.equal(pixels.unit(pixels.unit(bytes_)), pixels.unit(bytes_))  # floats are in [0, 1] already
    assert pixels.signed(bytes_).flatten().tolist() == pytest.approx([-1, -0.6, 1])
    assert pixels.grey(bytes_.float()).flatten().tolist() == pytest.approx([0.587 * 51 + 0.114 * 255])


def test_images_of_one_size_are_encoded_at_once(monkeypatch):
    sizes = [(8, 6), (8, 6), (4, 4), (8, 6), (8, 6), (8, 6)]
    images = [np.full((*size, 3), value, np.uint8) for value, size in enumerate(sizes)]
    monkeypatch.setattr(pixels, "AT_ONCE", 100)  # two of 48
    found = list(pixels.batches(images))
    assert [tuple(batch.shape) for batch in found] == [(2, 3, 8, 6), (1, 3, 4, 4), (2, 3, 8, 6), (1, 3, 8, 6)]
    assert [int(value) for batch in found for value in batch[:, 0, 0, 0]] == [0, 1, 2, 3, 4, 5]


def test_text_variation_and_image_to_image(pipeline, photos):
    two = photos[:2]
    for call in ({"prompt": ["a dark bag", "a coat"]}, {"image": two}, {"image": two, "strength": 0.5}, {"image": two, "prompt": "a bag"}):
        images = pipeline(**call, **FEW, generator=seeds(0, 1)).images
        assert images.shape == (2, 3, 28, 28) and images.min() >= 0 and images.max() <= 1
        assert torch.equal(images[:, 0], images[:, 1])
    assert pipeline(**FEW).images.shape == (1, 3, 28, 28)


def test_output_types_and_sizes(pipeline):
    call = {"prompt": "a bag", "num_inference_steps": 2}
    assert pipeline(**call).images[0].size == (28, 28) and pipeline(**call).images[0].mode == "RGB"
    assert pipeline(**call, output_type="np", height=32, width=24).images.shape == (1, 32, 24, 3)
    assert len(pipeline(**call, generator=seeds(1, 2, 3)).images) == 3
    assert len(pipeline(**call, num_images_per_prompt=2, return_dict=False)[0]) == 2


def test_image_forms_agree(pipeline, photos):
    array = np.stack([np.asarray(photo) for photo in photos])
    tensor = torch.from_numpy(array).permute(0, 3, 1, 2)
    reference = pipeline.encode_image(photos)
    assert reference.shape == (4, 128) and torch.allclose(reference.norm(dim=1), torch.ones(4), atol=1e-3)
    for form in (array, array.astype(np.float32) / 255, tensor, tensor.float() / 255):
        assert torch.allclose(pipeline.encode_image(form), reference, atol=1e-3)


def test_mixes_are_conditions_of_their_own(pipeline, photos):
    embeds = pipeline.encode_image(photos[:2])
    mix = embeds.mean(0, keepdim=True)
    one, other, mixed = (pipeline(image_embeds=rows, **FEW, generator=seeds(5)).images for rows in (embeds[:1], embeds[1:], mix))
    assert not torch.allclose(mixed, one, atol=1e-2) and not torch.allclose(mixed, other, atol=1e-2)
    assert torch.allclose(one, pipeline(image=photos[0], **FEW, generator=seeds(5)).images, atol=1e-5)


def test_an_image_depends_on_its_own_seed(pipeline, photos):
    first = pipeline(image=photos[:3], **FEW, generator=seeds(1, 2, 3)).images
    second = pipeline(image=photos[:3], **FEW, generator=seeds(7, 2, 9)).images
    assert torch.equal(first[1], second[1])
    assert not torch.allclose(first[0], second[0], atol=1e-2)


def test_every_condition_changes_the_image(pipeline, photos):
    def make(**call):
        return pipeline(**call, **FEW, generator=seeds(4)).images

    made = [make(), make(prompt="a bag"), make(image=photos[0]), make(image=photos[0], prompt="a bag"), make(image=photos[0], strength=0.7)]
    made += [make(prompt="a bag", guidance_scale=1.0), make(prompt="a bag", negative_prompt="a dark bag")]
    for i, one in enumerate(made):
        assert not any(torch.allclose(one, other, atol=1e-3) for other in made[:i])
    assert torch.allclose(make(prompt="a bag"), make(prompt_embeds=pipeline.encode_prompt("a bag")), atol=1e-5)


def test_strength_is_how_far_the_image_moves(pipeline, photos):
    start = torch.tensor(np.asarray(photos[0])).permute(2, 0, 1)[None] / 255
    call = {"image": photos[0], "num_inference_steps": 10, "output_type": "pt"}
    moved = [(pipeline(**call, strength=strength, generator=seeds(0)).images - start).abs().mean() for strength in (0.1, 0.5, 1.0)]
    assert moved[0] < moved[1] < moved[2]


def test_contradictions_are_refused(pipeline, photos):
    photo, embeds = photos[0], pipeline.encode_image(photos[:1])
    calls = [
        {"strength": 0.5},
        {"image": photo, "strength": 1.5},
        {"image": photo, "image_embeds": embeds},
        {"height": 30},
        {"output_type": "gif"},
    ]
    for call in calls:
        with pytest.raises(ValueError):
            pipeline(**call)
    with pytest.raises(ValueError, match="lengths"):
        pipeline(prompt=["a", "b", "c"], image=photos[:2])


def test_callback_sees_every_step(pipeline):
    seen = []

    def watch(pipe, step, timestep, values):
        seen.append((step, tuple(values["latents"].shape)))
        return values

    pipeline("a bag", num_inference_steps=4, callback_on_step_end=watch)
    assert seen == [(step, (1, 1, 28, 28)) for step in range(4)]


def test_save_and_load_is_the_same_pipeline(pipeline, tmp_path):
    pipeline.save_pretrained(tmp_path)
    again = EmbeddingDiffusionPipeline.from_pretrained(tmp_path, use_safetensors=True)
    again.set_progress_bar_config(disable=True)
    call = {"prompt": "a sandal", **FEW}
    assert torch.allclose(again(**call, generator=seeds(0)).images, pipeline(**call, generator=seeds(0)).images, atol=1e-3)
    half = EmbeddingDiffusionPipeline.from_pretrained(FOLDER, torch_dtype=torch.bfloat16, use_safetensors=True)
    half.set_progress_bar_config(disable=True)
    assert half.transformer.dtype == half.clip.dtype == torch.bfloat16
    assert half(**call).images.isfinite().all()


def test_transformer_starts_at_zero_and_keeps_shapes():
    model = PatchTransformer(in_channels=3, sample_size=16, patch=4, width=32, depth=1, heads=2, embed_dim=8)
    x = torch.randn(2, 3, 24, 16)
    assert torch.equal(model(x, torch.tensor(500.0)), torch.zeros_like(x))


def test_weights_fit_in_25_megabytes():
    weights = list(Path("data/models").rglob("*.safetensors"))
    assert weights and sum(path.stat().st_size for path in weights) <= 25e6
