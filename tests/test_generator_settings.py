"""Settings of single images, control and masks, few-step presets, learned words: against real pipeline classes."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from factory.contracts import NEEDS
from factory.errors import UserError
from factory.generators._fast import PRESETS, lora
from factory.generators.diffusers import Diffusers
from factory.records import Inputs
from tests import tiny_pipelines as tiny
from tests.conftest import ROOT
from tests.test_generators import CLASSES, few_threads, folder, inputs, opened, picture  # noqa: F401  fixtures

EMBEDDED = ROOT / "data/models/fashion-mnist"


def given(prompt: str = "a cat", **more: Any) -> Inputs:
    return Inputs(prompt=prompt, **more)


def same(first: np.ndarray, second: np.ndarray, bound: int = 2) -> bool:
    """Equal up to how floats round in batches of another shape."""
    return bool(np.abs(first.astype(int) - second.astype(int)).max() <= bound)


# ---- guidance and adapter scale of single images


@pytest.mark.parametrize("family", ["stable_diffusion", "embedding_diffusion"])
def test_guidance_belongs_to_the_image(family: str, folder: Callable[[str], Path]) -> None:  # noqa: F811
    pipe = opened(folder(family), {"text", "guidance"}, guidance=3.0)
    low, own, high = pipe.generate([7, 7, 7], [given(guidance=1.0), given(), given(guidance=9.0)])
    alone = [pipe.generate([7], [given(guidance=g)])[0] for g in (1.0, 3.0, 9.0)]
    assert all(same(a, b) for a, b in zip((low, own, high), alone, strict=True))
    assert not same(low, high) and not same(own, high)


@pytest.fixture(scope="module")
def adapted(folder: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> Any:  # noqa: F811
    import diffusers

    path = folder("stable_diffusion_with_encoder")
    weights = tiny.ip_adapter(tmp_path_factory.mktemp("ip"), diffusers.StableDiffusionPipeline.from_pretrained(path))
    adapter = {"model": str(weights), "weight_name": "ip-adapter.safetensors", "scale": 0.7}
    return opened(path, {"text", "image_embedding", "adapter_scale"}, ip_adapter=adapter)


def test_the_adapters_scale_belongs_to_the_image(adapted: Any) -> None:
    images = (picture(1),)
    none, own, high = adapted.generate([7] * 3, [given(images=images, adapter_scale=s) for s in (0.0, None, 1.5)])
    assert same(own, adapted.generate([7], [given(images=images, adapter_scale=0.7)])[0])
    assert same(none, adapted.generate([7], [given(images=(picture(2),), adapter_scale=0.0)])[0]), "at scale 0 the image does not matter"
    assert not same(own, high)


@pytest.mark.parametrize("guidance", [0.0, 2.0])
def test_several_neighbours_are_tokens_of_the_adapter(adapted: Any, guidance: float) -> None:
    pictures = tuple(picture(i) for i in range(3))
    one, three, again = adapted.generate(
        [7] * 3, [given(images=p, tokens=True, guidance=guidance) for p in (pictures[:1], pictures, pictures)]
    )
    assert same(three, again) and not same(one, three)
    swapped = adapted.generate([7], [given(images=pictures[::-1], tokens=True, guidance=guidance)])[0]
    assert same(three, swapped, 3), "attention takes tokens in any order"
    other = adapted.generate([7], [given(images=(*pictures[:2], picture(9)), tokens=True, guidance=guidance)])[0]
    assert not same(three, other)


def test_where_one_embedding_is_taken_neighbours_are_averaged(folder: Callable[[str], Path]) -> None:  # noqa: F811
    pipe = opened(folder("embedding_diffusion"), {"image_embedding"})
    pictures = tuple(picture(i) for i in range(3))
    tokens = pipe.generate([7], [Inputs(images=pictures, tokens=True)])[0]
    mean = pipe.generate([7], [Inputs(images=pictures, combine=lambda rows: rows.mean(0))])[0]
    assert same(tokens, mean) and not same(tokens, pipe.generate([7], [Inputs(images=pictures[:1])])[0])


# ---- control


@pytest.fixture(scope="module")
def nets(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    root = tmp_path_factory.mktemp("nets")
    return [{"model": str(tiny.controlnet(root / str(seed), seed)), "scale": 1.0} for seed in (3, 4)]


@pytest.mark.parametrize("count", [1, 2])
def test_the_control_image_steers(count: int, nets: list[dict[str, Any]], folder: Callable[[str], Path]) -> None:  # noqa: F811
    pipe = opened(folder("stable_diffusion"), {"text", "control"}, controlnets=nets[:count])
    wanted = [given(control=picture(i, 16)) for i in (1, 2)]
    first, second = pipe.generate([7, 7], wanted)
    assert first.shape == (16, 16, 3) and not same(first, second)
    assert same(first, pipe.generate([7], wanted[:1])[0]) and same(second, pipe.generate([7], wanted[1:])[0])
    off = opened(folder("stable_diffusion"), {"text", "control"}, controlnets=[{**net, "scale": 0.0} for net in nets[:count]])
    assert same(off.generate([7], wanted[:1])[0], off.generate([7], wanted[1:])[0])


def test_control_from_a_starting_image(nets: list[dict[str, Any]], folder: Callable[[str], Path]) -> None:  # noqa: F811
    pipe = opened(folder("stable_diffusion"), {"text", "control", "image"}, controlnets=nets[:1], steps=4)
    base = given(control=picture(1, 16), images=(picture(3, 16),), strength=0.5)
    made = pipe.generate([7], [base])[0]
    assert type(pipe._pipe).__name__ == "StableDiffusionControlNetImg2ImgPipeline"
    for change in ({"control": picture(2, 16)}, {"images": (picture(4, 16),)}):
        assert not same(made, pipe.generate([7], [Inputs(**{**_fields(base), **change})])[0])


def _fields(one: Inputs) -> dict[str, Any]:
    return {"prompt": one.prompt, "control": one.control, "images": one.images, "strength": one.strength, "mask": one.mask}


def test_a_loaded_controlnet_must_be_used_and_a_missing_one_is_named(
    nets: list[dict[str, Any]],
    folder: Callable[[str], Path],  # noqa: F811
    tmp_path: Path,
) -> None:
    with pytest.raises(UserError, match="use condition: control"):
        opened(folder("stable_diffusion"), {"text"}, controlnets=nets[:1])
    with pytest.raises(UserError, match=r"name a ControlNet for it in generator\.controlnets"):
        opened(folder("stable_diffusion"), {"text", "control"})
    with pytest.raises(UserError, match=r"generator\.controlnets\[0\]: cannot load"):
        opened(folder("stable_diffusion"), {"text", "control"}, controlnets=[{"model": str(tmp_path / "none")}])
    with pytest.raises(UserError, match="no ControlNet pipeline for DiTPipeline"):
        opened(folder("dit"), {"class_label"}, controlnets=nets[:1])


# ---- masks


def half(side: int) -> np.ndarray:
    mask = np.zeros((side, side), np.uint8)
    mask[:, side // 2 :] = 255
    return mask


@pytest.mark.parametrize("family", ["stable_diffusion", "stable_diffusion_inpaint", "sdxl"])
def test_the_family_repaints_what_the_mask_covers(family: str, folder: Callable[[str], Path]) -> None:  # noqa: F811
    pipe = opened(folder(family), {"text", "mask"}, steps=4)
    first, second = (pipe.generate([7], [given(images=(picture(3, 32),), mask=mask)])[0] for mask in (half(32), 255 - half(32)))
    assert not same(first, second)
    both = pipe.generate([7, 8], [given(images=(picture(3, 32),), mask=m, strength=0.9) for m in (half(32), 255 - half(32))])
    assert same(both[0], pipe.generate([7], [given(images=(picture(3, 32),), mask=half(32), strength=0.9)])[0])


def test_the_embedded_model_keeps_every_pixel_outside_the_mask() -> None:
    pipe = opened(EMBEDDED, {"text", "mask"}, steps=6)
    parent = np.repeat(np.random.default_rng(0).integers(0, 256, (28, 28, 1), np.uint8), 3, axis=2)
    made = pipe.generate([7], [given("a photo of a Sneaker", images=(parent,), mask=half(28))])[0]
    assert np.abs(made[:, :14].astype(int) - parent[:, :14]).max() <= 1
    assert np.abs(made[:, 14:].astype(int) - parent[:, 14:]).mean() > 20
    whole = pipe.generate([7], [given("a photo of a Sneaker", images=(parent,), mask=np.full((28, 28), 255, np.uint8))])[0]
    plain = opened(EMBEDDED, {"text"}, steps=6).generate([7], [given("a photo of a Sneaker")])[0]
    assert same(whole, plain), "all repainted is an image from the prompt alone"


# ---- what can be told before weights are loaded


@pytest.mark.parametrize(
    "family", ["stable_diffusion", "sdxl", "dit", "unclip", "ddpm", "kandinsky22", "embedding_diffusion", "lumina2", "flux"]
)
def test_the_class_and_the_loaded_pipeline_give_one_answer(family: str, folder: Callable[[str], Path]) -> None:  # noqa: F811
    kind = Diffusers(model=str(folder(family)), batch=1)  # in larger batches every check makes some images
    opened_kind = kind.open("cpu")
    assert NEEDS.keys() - kind.lacks().keys() == opened_kind.accepts
    for needs in map(frozenset, itertools.combinations(sorted(opened_kind.accepts), 2)):
        try:
            opened_kind.check(needs, [])
            why = ""
        except UserError as error:
            why = str(error).removeprefix("generator: ")
        assert why.startswith("generator.class_ids") or kind.refuses(needs) == why


def test_nothing_is_claimed_about_a_model_that_is_not_here() -> None:
    assert Diffusers(model="nobody/nothing").lacks() == {} and Diffusers(model="./nowhere").lacks() == {}


# ---- few steps


@pytest.mark.parametrize("fast", PRESETS)
def test_a_preset_fills_in_what_the_recipe_leaves_out(fast: str) -> None:
    made = Diffusers(model="m", fast=fast)
    preset = PRESETS[fast]
    assert (made.steps, made.guidance, made.scheduler) == (preset.steps[0], preset.guidance[0], preset.scheduler)
    assert Diffusers(model="m", fast=fast, steps=preset.steps[2]).steps == preset.steps[2]
    assert made.settings()["steps"] == preset.steps[0], "the plan's identity holds what is in force"


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"guidance": 0, "negative_prompt": "blurry"}, "negative_prompt works through guidance"),
        ({"fast": "turbo", "negative_prompt": "blurry"}, "negative_prompt works through guidance"),
        ({"fast": "turbo", "guidance": 7.5}, "wants guidance from 0 to 1"),
        ({"fast": "lcm_lora", "steps": 30}, "wants steps from 2 to 8"),
        ({"fast": "lcm_lora", "scheduler": "DDIMScheduler"}, "needs scheduler LCMScheduler, not DDIMScheduler"),
        ({"fast": "hyper_sd", "steps": 10}, "adapters for 8 and 12 steps"),
    ],
)
def test_a_wrong_pairing_is_named(settings: dict[str, Any], says: str) -> None:
    with pytest.raises(ValidationError, match=says):
        Diffusers(model="m", **settings)


def test_the_adapter_follows_from_the_family() -> None:
    assert lora("hyper_sd", "StableDiffusionXLPipeline", 12) == ("ByteDance/Hyper-SD", "Hyper-SDXL-12steps-CFG-lora.safetensors")
    assert lora("lcm_lora", "StableDiffusionImg2ImgPipeline", 4) == ("latent-consistency/lcm-lora-sdv1-5", None)
    assert lora("turbo", "StableDiffusionXLPipeline", 2) is None
    for family in ("FluxPipeline", "StableDiffusion3Pipeline"):
        with pytest.raises(UserError, match="no published adapter"):
            lora("tcd", family, 4)


@pytest.mark.parametrize("fast", ["lcm_lora", "tcd"])
def test_a_preset_with_an_adapter_of_ones_own(fast: str, folder: Callable[[str], Path], tmp_path: Path) -> None:  # noqa: F811
    import diffusers

    base = diffusers.StableDiffusionPipeline.from_pretrained(folder("stable_diffusion"))
    own = tiny.lora(tmp_path / f"{fast.split('_')[0]}-lora", base)
    pipe = Diffusers(model=str(folder("stable_diffusion")), fast=fast, loras=[{"model": str(own)}]).open("cpu")
    pipe.check(frozenset({"text"}), CLASSES)
    assert type(pipe.base.scheduler).__name__ == PRESETS[fast].scheduler
    first, second = pipe.generate([1, 2], [given(), given()])
    assert not same(first, second)


# ---- learned words


def test_textual_inversion_with_a_scale(folder: Callable[[str], Path], tmp_path: Path) -> None:  # noqa: F811
    learned = str(tiny.textual_inversion(tmp_path))
    images = []
    for scale in (0.5, 1.0):
        pipe = opened(folder("stable_diffusion"), {"text"}, embeddings=[{"model": learned, "token": "<bird>", "scale": scale}])
        rows = pipe.base.text_encoder.get_input_embeddings().weight[-2:]
        torch.manual_seed(4)
        assert torch.allclose(rows, scale * 3 * torch.randn(2, 32), atol=1e-5)
        images.append(pipe.generate([7], [given("a <bird>")])[0])
        assert same(
            pipe.generate([7], [given("a cat")])[0], opened(folder("stable_diffusion"), {"text"}).generate([7], [given("a cat")])[0]
        )
    assert not np.array_equal(*images)
    (tmp_path / "learned.bin").write_bytes(b"")
    with pytest.raises(UserError, match="is pickled and can run code"):
        opened(folder("stable_diffusion"), {"text"}, embeddings=[{"model": learned, "weight_name": "learned.bin"}])
