"""The diffusers generator on the real pipeline classes at tiny size: loading, needs, seeds, encodings, refusals."""

from __future__ import annotations

import os

os.environ["HF_HUB_OFFLINE"] = "1"

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from factory.errors import UserError
from factory.generators._encode import PromptMemo, Split
from factory.generators.diffusers import Diffusers
from factory.records import Inputs
from tests import tiny_pipelines as tiny

SMALL: dict[str, Any] = {"height": 32, "width": 32}
UNBINNED: dict[str, Any] = {"call": {"use_resolution_binning": False}}
SETTINGS: dict[str, dict[str, Any]] = {
    "stable_diffusion": {},
    "latent_consistency": {},
    "sdxl": {},
    "sd3": SMALL,
    "flux": SMALL,
    "chroma": SMALL,
    "pixart_alpha": UNBINNED,
    "pixart_sigma": UNBINNED,
    "sana": {**SMALL, **UNBINNED},
    "lumina2": {},
    "aura_flow": SMALL,
    "cogview4": SMALL,
    "z_image": SMALL,
    "hunyuan_dit": {"height": 64, "width": 64, **UNBINNED},
    "qwen_image": SMALL,
    "kandinsky22": {**SMALL, "call": {"prior_num_inference_steps": 2}},
    "dit": {},
    "consistency": {},
    "ddpm": {},
    "ddim_unconditional": {},
    "unclip": {},
    "embedding_diffusion": {},
}
NEEDS = {
    "dit": {"class_label"},
    "consistency": {"class_label"},
    "ddpm": set(),
    "ddim_unconditional": set(),
    "unclip": {"text", "image_embedding"},
}
CLASSES = ["cat", "goldfish", "tench"]
SEEDS = [11, 2**62 + 3]


@pytest.fixture(scope="session", autouse=True)
def few_threads() -> Any:
    kept = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(kept)


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Family -> its saved folder, built once; tests must not write into it."""
    root, made = tmp_path_factory.mktemp("pipelines"), {}

    def get(name: str) -> Path:
        if name not in made:
            made[name] = tiny.save(name, root)
        return made[name]

    return get


@pytest.fixture(scope="session")
def adapter(folder: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    import diffusers

    pipe = diffusers.StableDiffusionPipeline.from_pretrained(folder("stable_diffusion_with_encoder"))
    weights = tiny.ip_adapter(tmp_path_factory.mktemp("adapter"), pipe)
    return {"model": str(weights), "weight_name": "ip-adapter.safetensors", "scale": 0.7}


def opened(path: Path, needs: set[str], device: str = "cpu", **settings: Any) -> Any:
    made = Diffusers(model=str(path), **{"steps": 2, **settings}).open(device)
    made.check(frozenset(needs), CLASSES)
    return made


def picture(seed: int, side: int = 40) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (side, side, 3), dtype=np.uint8)


def inputs(count: int = 2, images: int = 0, **more: Any) -> list[Inputs]:
    texts = ["a photo of a cat", "a small red dog, by night", "a bird"]
    return [
        Inputs(prompt=texts[k % 3], label=k % 3, images=tuple(picture(10 * k + j) for j in range(images)), **more) for k in range(count)
    ]


@pytest.mark.parametrize("family", SETTINGS)
def test_every_family_makes_images_that_depend_on_their_own_seed(
    family: str, folder: Callable[[str], Path], capfd: pytest.CaptureFixture[str]
) -> None:
    path = folder(family)
    capfd.readouterr()
    pipe = opened(path, NEEDS.get(family, {"text"}), **SETTINGS[family])
    wanted = inputs(images=1)
    first, second = pipe.generate(SEEDS, wanted)
    assert first.dtype == second.dtype == np.uint8
    assert first.shape == second.shape and first.shape[2] == 3
    if "height" in SETTINGS[family]:
        assert first.shape[:2] == (SETTINGS[family]["height"],) * 2
    assert len(np.unique(first)) > 20
    torch.manual_seed(5)
    torch.randn(7)
    before = torch.get_rng_state()
    again, other = pipe.generate([SEEDS[0], 99], wanted)
    assert torch.equal(torch.get_rng_state(), before)
    np.testing.assert_array_equal(again, first)
    assert not np.array_equal(other, second)
    out, err = capfd.readouterr()
    assert not out and not err
    alone = pipe.generate(SEEDS[1:], wanted[1:])[0]
    assert np.abs(alone.astype(int) - second.astype(int)).max() <= 2  # batches of another shape round floats otherwise


@pytest.mark.parametrize("family", ["stable_diffusion", "flux", "chroma", "kandinsky22"])
def test_image_to_image_starts_from_the_image(family: str, folder: Callable[[str], Path]) -> None:
    pipe = opened(folder(family), {"text", "image"}, **{**SETTINGS[family], "steps": 4})
    near, far = pipe.generate([1, 1], [Inputs(prompt="a", images=(picture(1),), strength=strength) for strength in (0.5, 1.0)])
    moved = pipe.generate([1], [Inputs(prompt="a", images=(picture(2),), strength=0.5)])[0]
    assert near.shape == far.shape
    assert not np.array_equal(near, far)
    assert not np.array_equal(near, moved)


def test_size_of_the_initial_image_is_the_pipelines_or_the_recipes(folder: Callable[[str], Path]) -> None:
    wanted = [Inputs(prompt="a", images=(picture(1, side),), strength=0.5) for side in (40, 24)]
    assert [image.shape for image in opened(folder("stable_diffusion"), {"text", "image"}, steps=4).generate([1, 2], wanted)] == [
        (16, 16, 3)
    ] * 2
    sized = opened(folder("stable_diffusion"), {"text", "image"}, steps=4, height=24, width=32)
    assert [image.shape for image in sized.generate([1, 2], wanted)] == [(24, 32, 3)] * 2


def test_strengths_are_separate_calls_in_the_order_of_requests(folder: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch) -> None:
    pipe = opened(folder("stable_diffusion"), {"text", "image"}, steps=4)
    seen = spy(monkeypatch, pipe)
    strengths = [0.5, 1.0, 0.5]
    images = pipe.generate([1, 2, 3], [Inputs(prompt="a", images=(picture(1),), strength=strength) for strength in strengths])
    assert [(call["strength"], len(call["prompt"])) for call in seen] == [(0.5, 2), (1.0, 1)]
    alone = pipe.generate([2], [Inputs(prompt="a", images=(picture(1),), strength=1.0)])
    np.testing.assert_array_equal(images[1], alone[0])


def spy(monkeypatch: pytest.MonkeyPatch, pipe: Any) -> list[dict[str, Any]]:
    """Record the arguments of every call of the opened pipeline."""
    seen: list[dict[str, Any]] = []
    found = type(pipe._pipe)
    original = found.__call__

    def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        seen.append(kwargs)
        return original(self, *args, **kwargs)

    call.__wrapped__ = original  # type: ignore[attr-defined]
    monkeypatch.setattr(found, "__call__", call)
    return seen


def rows(module: torch.nn.Module) -> list[int]:
    """Count the rows that go through an encoder from now on."""
    counted: list[int] = []

    def hook(_: Any, args: Any, kwargs: Any) -> None:
        counted.append(len(args[0] if args else kwargs["input_ids"]))

    module.register_forward_pre_hook(hook, with_kwargs=True)
    return counted


@pytest.mark.parametrize(
    "family",
    ["stable_diffusion", "sdxl", "sd3", "flux", "pixart_sigma", "sana", "aura_flow", "hunyuan_dit", "unclip", "z_image", "qwen_image"],
)
def test_each_prompt_is_encoded_once_and_alone(family: str, folder: Callable[[str], Path]) -> None:
    pipe = opened(folder(family), NEEDS.get(family, {"text"}), **SETTINGS[family])
    counted = rows(pipe.base.text_encoder)
    for _ in range(2):
        pipe.generate([1, 2, 3, 4], [Inputs(prompt=text, images=(picture(1),)) for text in ("a cat", "a dog", "a cat", "a cat")])
    negatives = 0 if family in ("flux", "sdxl") else 1  # SDXL sets an empty negative to zero, Flux has none
    assert counted == [1] * (2 + negatives)
    assert pipe.describe()["prompts_encoded_once"]


@pytest.mark.parametrize("family", ["stable_diffusion", "sdxl", "sd3", "flux", "pixart_alpha", "aura_flow", "hunyuan_dit", "chroma"])
def test_remembered_encodings_make_the_image_that_the_pipeline_makes_itself(family: str, folder: Callable[[str], Path]) -> None:
    heeds = {"call": {"true_cfg_scale": 2.0}} if family == "flux" else {}
    pipe = opened(folder(family), {"text"}, negative_prompt="a blue bird", **SETTINGS[family], **heeds)
    wanted = inputs(2)
    pipe.generate([8, 9], wanted)
    images = pipe.generate([1, 2], wanted)
    del pipe.base.encode_prompt
    plain = pipe.generate([1, 2], wanted)
    difference = np.abs(np.stack(images).astype(int) - np.stack(plain).astype(int))
    assert difference.max() <= 1  # a batch of two and two batches of one sum floats in another order


@pytest.mark.parametrize("family", ["cogview4", "qwen_image"])
def test_prompts_of_different_lengths_are_never_padded_together(
    family: str, folder: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    pipe = opened(folder(family), {"text"}, **SETTINGS[family])
    seen = spy(monkeypatch, pipe)
    texts = ["a cat", "a very long prompt about a dog", "a dog"]
    images = pipe.generate([1, 2, 3], [Inputs(prompt=text) for text in texts])
    assert [call["prompt"] for call in seen] == [texts, [texts[0], texts[2]], [texts[1]]]  # the first stops at its encoding
    np.testing.assert_array_equal(images[1], pipe.generate([2], [Inputs(prompt=texts[1])])[0])


def test_texts_of_one_image_are_encoded_together_where_their_lengths_differ() -> None:
    class Pipe:
        def encode_prompt(self, prompt: list[str], device: Any = None) -> Any:
            return torch.stack([torch.ones(max(map(len, prompt))) * len(text) for text in prompt])

    pipe, memo = Pipe(), PromptMemo()
    memo.install(pipe)
    memo.batch = 1
    assert pipe.encode_prompt(["a bird", ""]).shape == (2, 6) and memo.bypassed
    memo.batch = 2
    with pytest.raises(Split, match="2 groups"):
        pipe.encode_prompt(["a bird", ""])


def test_memory_for_encodings_is_bounded(folder: Callable[[str], Path]) -> None:
    pipe = opened(folder("stable_diffusion"), {"text"})
    pipe.memo.limit = 10_000
    counted = rows(pipe.base.text_encoder)
    for text in ["a cat", *(f"a dog {number}" for number in range(8)), "a cat"]:
        pipe.generate([1], [Inputs(prompt=text)])
    assert pipe.memo._size <= 10_000
    assert len(counted) > 10


def test_return_names_come_from_the_source() -> None:
    import diffusers

    from factory.generators._encode import return_names

    assert return_names(diffusers.FluxPipeline.encode_prompt) == ["prompt_embeds", "pooled_prompt_embeds", "text_ids"]
    assert return_names(diffusers.VisualClozeGenerationPipeline.encode_prompt) == ["prompt_embeds", "pooled_prompt_embeds", "text_ids"]
    assert return_names(diffusers.PRXPipeline.encode_prompt)[2] == "negative_prompt_embeds"
    assert return_names(len) == []


def embeddings(monkeypatch: pytest.MonkeyPatch, pipe: Any, argument: str) -> list[torch.Tensor]:
    """Record what reaches the denoiser in one of its arguments."""
    seen: list[torch.Tensor] = []
    original = pipe._pipe.unet.forward

    def forward(*args: Any, **kwargs: Any) -> Any:
        value = kwargs[argument]
        value = value["image_embeds"] if isinstance(value, dict) else value
        seen.append((value[0] if isinstance(value, list) else value).clone())
        return original(*args, **kwargs)

    monkeypatch.setattr(pipe._pipe.unet, "forward", forward)
    return seen


def halves(rows: np.ndarray) -> np.ndarray:
    assert rows.shape == (2, 32) and rows.dtype == np.float32
    return 0.25 * rows[0] + 0.75 * rows[1]


def test_mixed_embedding_reaches_unclip_in_the_conditional_row_only(folder: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch) -> None:
    pipe = opened(folder("unclip"), {"image_embedding"}, noise_level=0)
    seen = embeddings(monkeypatch, pipe, "class_labels")
    mixed = inputs(2, images=2, combine=halves)
    pipe.generate([1, 2], mixed)
    with torch.no_grad():
        plain = pipe._embed.encode([tiny_pil(image) for one in mixed for image in one.images])
    expected = torch.stack([0.25 * plain[0] + 0.75 * plain[1], 0.25 * plain[2] + 0.75 * plain[3]])
    assert seen[0].shape == (4, 64)
    assert not seen[0][:2].any()  # the unconditional rows
    level = pipe.base.noise_image_embeddings(expected, 0, noise=torch.zeros_like(expected))
    torch.testing.assert_close(seen[0][2:, 32:], level[:, 32:])  # the noise-level half, as if nothing were mixed
    torch.testing.assert_close(seen[0][2:, :32], level[:, :32], atol=0.05, rtol=0)  # noise level 0 is a little noise
    apart = seen[0][2:, :32] - level[:, :32]
    assert apart.abs().mean() < 0.02


def tiny_pil(image: np.ndarray) -> Any:
    from factory.images import to_pil

    return to_pil(image)


def test_first_embedding_is_taken_without_a_combination(folder: Callable[[str], Path]) -> None:
    pipe = opened(folder("unclip"), {"image_embedding"})
    one = Inputs(images=(picture(1), picture(2)))
    same = pipe.generate([5], [one])[0]
    np.testing.assert_array_equal(same, pipe.generate([5], [Inputs(images=(picture(1), picture(3)))])[0])
    assert not np.array_equal(same, pipe.generate([5], [Inputs(images=(picture(2),))])[0])


def test_combination_of_the_wrong_size_is_an_error(folder: Callable[[str], Path]) -> None:
    pipe = opened(folder("unclip"), {"image_embedding"})
    with pytest.raises(ValueError, match="combine must give one embedding of 32"):
        pipe.generate([1], inputs(1, images=2, combine=lambda rows: rows.reshape(-1)))


@pytest.mark.parametrize("guidance", [2.0, 0.0])
def test_image_prompt_adapter_takes_the_mix(
    folder: Callable[[str], Path], adapter: dict[str, Any], monkeypatch: pytest.MonkeyPatch, guidance: float
) -> None:
    pipe = opened(folder("stable_diffusion_with_encoder"), {"text", "image_embedding"}, ip_adapter=adapter, guidance=guidance)
    assert pipe.accepts >= {"text", "image", "image_embedding"}
    seen = embeddings(monkeypatch, pipe, "added_cond_kwargs")
    mixed = inputs(2, images=2, combine=halves)
    images = pipe.generate([1, 2], mixed)
    with torch.no_grad():
        plain = pipe._embed.encode([tiny_pil(image) for one in mixed for image in one.images])
    expected = torch.stack([0.25 * plain[0] + 0.75 * plain[1], 0.25 * plain[2] + 0.75 * plain[3]])
    torch.testing.assert_close(seen[0][-2:, 0], expected)
    assert len(seen[0]) == (4 if guidance else 2)
    assert not seen[0][:-2].any()
    for index, image in enumerate(images):
        alone = pipe.generate([index + 1], mixed[index : index + 1])[0]
        assert np.abs(alone.astype(int) - image.astype(int)).max() <= 2
    plainly = pipe.generate([1, 2], inputs(2, images=2))
    assert not np.array_equal(images[0], plainly[0])


def test_kandinsky_decodes_a_real_images_embedding(folder: Callable[[str], Path]) -> None:
    pipe = opened(folder("kandinsky22"), {"image_embedding"}, **{**SETTINGS["kandinsky22"], "call": {}})
    first, second = pipe.generate([1, 1], inputs(2, images=2, combine=halves))
    assert first.shape == (32, 32, 3)
    assert not np.array_equal(first, second)


def test_own_pipeline_takes_text_embeddings_and_images_together(folder: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch) -> None:
    path, rng = folder("embedding_diffusion"), np.random.default_rng(0)
    weights = rng.random(16).astype(np.float32)
    wanted = inputs(2, images=2, combine=lambda rows: rows[0] * weights + rows[1] * (1 - weights))
    made = {}
    for needs in ({"text"}, {"image_embedding"}, {"text", "image_embedding"}, {"text", "image"}, {"text", "image", "image_embedding"}):
        pipe = opened(path, needs, steps=4)
        assert pipe.accepts >= {"text", "image", "image_embedding"}
        seen = spy(monkeypatch, pipe)
        asked = [
            Inputs(
                one.prompt if "text" in needs else None, images=one.images, combine=one.combine, strength=0.5 if "image" in needs else None
            )
            for one in wanted
        ]
        images = pipe.generate([1, 2], asked)
        assert images[0].shape == (16, 16, 3)
        assert {name for name in ("prompt", "image", "image_embeds", "strength") if name in seen[0]} == {
            *({"prompt"} if "text" in needs else ()),
            *({"image", "strength"} if "image" in needs else ()),
            *({"image_embeds"} if "image_embedding" in needs else ()),
        }
        made[frozenset(needs)] = images[1].tobytes()
        alone = pipe.generate([2], asked[1:])[0]
        assert np.abs(alone.astype(int) - images[1].astype(int)).max() <= 1
    assert len(set(made.values())) == len(made)


def test_low_rank_adapters_are_mixed_by_their_scales(folder: Callable[[str], Path], tmp_path: Path) -> None:
    pytest.importorskip("peft")
    import diffusers

    weights = tiny.lora(tmp_path, diffusers.StableDiffusionPipeline.from_pretrained(folder("stable_diffusion")))
    plain, silent, loud = (
        opened(folder("stable_diffusion"), {"text"}, loras=loras).generate([1], inputs(1))[0]
        for loras in ([], [{"model": str(weights), "scale": 0.0}], [{"model": str(weights), "scale": 1.0}])
    )
    np.testing.assert_array_equal(plain, silent)
    assert not np.array_equal(plain, loud)


def test_class_names_become_the_pipelines_ids(folder: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch) -> None:
    pipe = opened(folder("dit"), {"class_label"})
    seen = spy(monkeypatch, pipe)
    pipe.generate([1, 2, 3], inputs(3))
    assert seen[0]["class_labels"] == [2, 1, 0]
    mapped = opened(folder("dit"), {"class_label"}, class_ids={"cat": 281, "goldfish": 1, "tench": 0})
    mapped.generate([1], inputs(1))
    assert seen[-1]["class_labels"] == [281]


def test_unknown_classes_are_named_and_never_guessed(folder: Callable[[str], Path]) -> None:
    pipe = Diffusers(model=str(folder("dit"))).open("cpu")
    with pytest.raises(UserError, match=r"class_ids.*no class called tabby among its 1000"):
        pipe.check(frozenset({"class_label"}), ["cat", "tabby"])
    with pytest.raises(UserError, match="3 classes without names and the source has 2"):
        Diffusers(model=str(folder("consistency"))).open("cpu").check(frozenset({"class_label"}), ["cat", "dog"])
    with pytest.raises(UserError, match="no id for tench"):
        opened(folder("dit"), {"class_label"}, class_ids={"cat": 1, "goldfish": 2})
    with pytest.raises(UserError, match="cat: 4000 is outside the 1000"):
        opened(folder("dit"), {"class_label"}, class_ids={"cat": 4000, "goldfish": 2, "tench": 3})
    with pytest.raises(UserError, match="no label"):
        opened(folder("dit"), {"class_label"}).generate([1], [Inputs()])


@pytest.mark.parametrize(
    ("family", "needs", "says"),
    [
        ("dit", {"text"}, "needs text, but DiTPipeline takes no prompt; it can take: class_label"),
        (
            "stable_diffusion",
            {"text", "class_label"},
            "needs class_label, but StableDiffusionPipeline has no class labels; it can take: guidance, image, mask, strength, text",
        ),
        ("stable_diffusion", {"image_embedding"}, "no way in for image embeddings; load an ip_adapter"),
        ("unclip", {"image"}, "cannot start from an image: its `image` is no initial image"),
        ("unclip", {"text"}, "steered by image embeddings, and the condition gives no image_embedding"),
        ("ddpm", {"text"}, "takes no prompt; it can take: nothing"),
        ("stable_diffusion_inpaint", {"text"}, "repaints a part of an image, and the condition gives no mask; use condition: inpaint"),
        ("dit", set(), "makes images of a class, and the condition gives no class_label"),
        ("lumina2", {"image"}, "no image-to-image sibling"),
        ("stable_diffusion_depth_and_colour", {"text"}, "LDM3DPipeline makes rgb, depth, nsfw_content_detected, not images"),
        ("kandinsky22", {"text", "image_embedding"}, r"cannot take image_embedding and text at once \(text would be lost\)"),
    ],
)
def test_needs_that_cannot_be_honoured_are_refused(family: str, needs: set[str], says: str, folder: Callable[[str], Path]) -> None:
    with pytest.raises(UserError, match=says):
        opened(folder(family), needs)


@pytest.mark.parametrize(
    ("family", "settings", "says"),
    [
        ("stable_diffusion", {"noise_level": 3}, "generator.noise_level: StableDiffusionPipeline takes no noise_level"),
        ("ddpm", {"guidance": 2.0}, "generator.guidance: DDPMPipeline takes no guidance_scale"),
        ("dit", {"height": 64}, "generator.height: DiTPipeline takes no height"),
        ("stable_diffusion", {"call": {"clip_skp": 1}}, "generator.call.clip_skp: .* did you mean clip_skip"),
        ("stable_diffusion", {"call": {"generator": 1}}, "set by the plan's seeds"),
        ("stable_diffusion", {"call": {"guidance_scale": 3}, "guidance": 2.0}, "generator.guidance sets it already"),
        ("stable_diffusion", {"scheduler": "DDIMSchedule"}, "no scheduler DDIMSchedule"),
        ("dit", {"ip_adapter": {"model": "x", "weight_name": "a.safetensors"}}, "takes no image-prompt adapter"),
        ("stable_diffusion", {"ip_adapter": {"model": "x", "weight_name": "a.bin"}}, "ip_adapter: a.bin is pickled"),
        ("dit", {"loras": [{"model": "x"}]}, "takes no LoRA"),
    ],
)
def test_settings_that_change_nothing_are_refused(family: str, settings: dict[str, Any], says: str, folder: Callable[[str], Path]) -> None:
    needs = {"dit": {"class_label"}, "ddpm": set()}.get(family, {"text"})
    with pytest.raises(UserError, match=says):
        opened(folder(family), needs, **settings)


def test_arguments_the_pipeline_refuses_are_the_users_to_mend(folder: Callable[[str], Path]) -> None:
    with pytest.raises(UserError, match=r"StableDiffusionPipeline refuses its arguments: .*divisible by 8"):
        opened(folder("stable_diffusion"), {"text"}, height=33, width=32).generate([1], inputs(1))


def test_scheduler_and_its_options_are_used(folder: Callable[[str], Path]) -> None:
    pipe = opened(
        folder("stable_diffusion"),
        {"text"},
        scheduler="EulerAncestralDiscreteScheduler",
        scheduler_options={"timestep_spacing": "trailing"},
    )
    assert type(pipe.base.scheduler).__name__ == "EulerAncestralDiscreteScheduler"
    assert pipe.base.scheduler.config.timestep_spacing == "trailing"
    first = pipe.generate([1, 2], inputs())[0]
    np.testing.assert_array_equal(first, pipe.generate([1, 7], inputs())[0])


def test_noise_without_a_generator_is_made_one_image_at_a_time(folder: Callable[[str], Path]) -> None:
    pipe = opened(folder("dit"), {"class_label"}, scheduler="DDPMScheduler")  # DiT hands its scheduler no generator
    wanted = inputs(3)
    torch.manual_seed(1)
    images = pipe.generate([1, 2, 3], wanted)
    assert "without a generator" in pipe.alone
    torch.manual_seed(2)
    again = pipe.generate([1, 8, 9], wanted)
    np.testing.assert_array_equal(images[0], again[0])
    np.testing.assert_array_equal(images[2], pipe.generate([3], wanted[2:])[0])


def test_pipelines_that_refuse_lists_get_one_generator(folder: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch) -> None:
    pipe = opened(folder("stable_diffusion"), {"text"})
    listed = pipe.generate([1, 2], inputs())
    found = type(pipe._pipe)
    original = found.prepare_latents

    def prepare_latents(
        self: Any, batch: int, channels: int, height: int, width: int, dtype: Any, device: Any, generator: Any, latents: Any = None
    ) -> Any:
        latents = torch.randn((batch, channels, height // 2, width // 2), generator=generator)
        return original(self, batch, channels, height, width, dtype, device, generator, latents)

    monkeypatch.setattr(found, "prepare_latents", prepare_latents)
    pipe = opened(folder("stable_diffusion"), {"text"})
    images = pipe.generate([1, 2], inputs())
    assert pipe.alone == "the pipeline refuses a list of generators"
    assert np.abs(images[0].astype(int) - listed[0].astype(int)).max() <= 1
    pipe = opened(folder("stable_diffusion"), {"text"})
    np.testing.assert_array_equal(pipe.generate([1], inputs(1))[0], images[0])  # a first batch of one image learns it too


def test_pipelines_that_take_no_lists_get_one_prompt_a_call(folder: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch) -> None:
    pipe = opened(folder("stable_diffusion"), {"text"})
    listed = pipe.generate([1, 2], inputs())
    found = type(pipe._pipe)
    original = found.check_inputs

    def check_inputs(self: Any, prompt: Any, *rest: Any, **more: Any) -> Any:
        if not isinstance(prompt, str):
            raise ValueError("`prompt` has to be of type `str`")
        return original(self, prompt, *rest, **more)

    monkeypatch.setattr(found, "check_inputs", check_inputs)
    pipe = opened(folder("stable_diffusion"), {"text"})
    images = pipe.generate([1, 2], inputs())
    assert pipe.alone == "the pipeline cannot make a batch" and pipe.bare
    assert np.abs(images[0].astype(int) - listed[0].astype(int)).max() <= 1
    pipe = opened(folder("stable_diffusion"), {"text"})
    monkeypatch.setattr(pipe._pipe.unet, "forward", lambda *_, **__: 1 / 0)
    with pytest.raises(ZeroDivisionError):  # and not that the prompt must be one text
        pipe.generate([1, 2], inputs())


def test_what_fails_however_it_is_called_is_told_once_and_changes_nothing(
    folder: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    pipe = opened(folder("stable_diffusion_inpaint"), {"text", "image"}, steps=4)  # the denoiser wants nine channels, and gets four
    with pytest.raises(UserError, match=r"StableDiffusionImg2ImgPipeline failed over RuntimeError: .* 9 channels.*\.py:\d+\); try other"):
        pipe.generate([1, 2], inputs(images=1, strength=0.5))
    assert pipe.alone is None and not pipe.bare
    monkeypatch.setattr(pipe, "_arguments", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        pipe.generate([1], inputs(1, images=1, strength=0.5))


def test_memory_that_runs_out_is_the_users_to_mend(folder: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch) -> None:
    pipe = opened(folder("stable_diffusion"), {"text"})

    def full(*_: Any, **__: Any) -> Any:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(pipe._pipe.unet, "forward", full)
    with pytest.raises(UserError, match=r"2 images do not fit .* lower batch"):
        pipe.generate([1, 2], inputs())

    def broken(*_: Any, **__: Any) -> Any:
        raise RuntimeError("a fault of the model")

    monkeypatch.setattr(pipe._pipe.unet, "forward", broken)
    with pytest.raises(UserError, match="failed over RuntimeError: a fault of the model"):
        pipe.generate([1, 2], inputs())


def copied(folder: Callable[[str], Path], family: str, to: Path) -> Path:
    return Path(shutil.copytree(folder(family), to / family))


def test_pickled_weights_are_refused(folder: Callable[[str], Path], tmp_path: Path) -> None:
    path = copied(folder, "stable_diffusion", tmp_path)
    weights = path / "unet" / "diffusion_pytorch_model.safetensors"
    from safetensors.torch import load_file

    torch.save(load_file(weights), weights.with_name("diffusion_pytorch_model.bin"))
    weights.unlink()
    with pytest.raises(UserError, match=r"unet/diffusion_pytorch_model.bin .* allow_pickle: true"):
        Diffusers(model=str(path)).open("cpu")
    trusted = opened(path, {"text"}, allow_pickle=True).generate([1], inputs(1))
    np.testing.assert_array_equal(trusted[0], opened(folder("stable_diffusion"), {"text"}).generate([1], inputs(1))[0])


def test_code_of_strangers_is_refused(folder: Callable[[str], Path], tmp_path: Path) -> None:
    path = copied(folder, "ddpm", tmp_path)
    mark = tmp_path / "ran"
    code = f"import pathlib\npathlib.Path({str(mark)!r}).touch()\nfrom diffusers import DDPMPipeline\nclass Mine(DDPMPipeline):\n    pass\n"
    (path / "pipeline.py").write_text(code)
    with pytest.raises(UserError, match=r"ships Python code \(pipeline.py\).* trust_remote_code: true"):
        Diffusers(model=str(path)).open("cpu")
    tiny.edit_index(path, _class_name=["pipeline", "Mine"])
    with pytest.raises(UserError, match=r"made by Python code that ships with it .* trust_remote_code: true"):
        Diffusers(model=str(path)).open("cpu")
    (path / "pipeline.py").unlink()
    tiny.edit_index(path, _class_name="DDPMPipeline", unet=["mine", "Net"])
    (path / "unet" / "mine.py").write_text(code)
    with pytest.raises(UserError, match=r"unet/mine.py"):
        Diffusers(model=str(path)).open("cpu")
    assert not mark.exists()


def test_models_that_are_not_there_are_one_line(folder: Callable[[str], Path], tmp_path: Path) -> None:
    for model, says in {
        str(tmp_path / "none"): "there is no folder",
        str(tmp_path): "has no model_index.json",
        "nobody/nothing": "neither a folder here nor in the Hub cache, and the Hub cannot be reached; run `hf download nobody/nothing`",
        "nobody": "there is no folder nobody",
    }.items():
        with pytest.raises(UserError, match=says) as caught:
            Diffusers(model=model).open("cpu")
        assert "\n" not in str(caught.value)
    path = copied(folder, "ddpm", tmp_path)
    tiny.edit_index(path, _class_name="NoSuchPipeline")
    with pytest.raises(UserError, match="NoSuchPipeline, which neither diffusers"):
        Diffusers(model=str(path)).open("cpu")
    (path / "model_index.json").write_text("{")
    with pytest.raises(UserError, match="not valid JSON"):
        Diffusers(model=str(path)).open("cpu")


def test_weights_that_are_cut_short_are_one_line(folder: Callable[[str], Path], tmp_path: Path) -> None:
    copy = shutil.copytree(folder("ddpm"), tmp_path / "cut")
    file = copy / "unet" / "diffusion_pytorch_model.safetensors"
    file.write_bytes(file.read_bytes()[:2000])
    with pytest.raises(UserError, match=r"^generator.model: cannot load .*cut: [^\n]+; is each of its files whole\?$"):
        opened(copy, set())


def test_models_of_the_hub_are_found_in_its_cache(folder: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub.constants

    commit, home = "0123456789abcdef0123456789abcdef01234567", tmp_path / "models--someone--birds"
    shutil.copytree(folder("ddpm"), home / "snapshots" / commit)
    (home / "refs").mkdir()
    (home / "refs" / "main").write_text(commit)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    for module in list(sys.modules.values()):
        if getattr(module, "__name__", "").startswith(("diffusers", "huggingface_hub")) and "HF_HUB_CACHE" in vars(module):
            monkeypatch.setattr(module, "HF_HUB_CACHE", str(tmp_path))
    pipe = opened(Path("someone/birds"), set())
    assert pipe.describe()["commit"] == commit
    assert pipe.generate([1], inputs(1))[0].shape == (16, 16, 3)
    with pytest.raises(UserError, match="someone/birds@v2 is neither"):
        opened(Path("someone/birds"), set(), revision="v2")


def test_description_is_json_and_names_what_made_the_images(folder: Callable[[str], Path]) -> None:
    import json

    told = opened(folder("stable_diffusion"), {"text", "image"}, steps=4).describe()
    assert told["pipeline"] == "StableDiffusionImg2ImgPipeline"
    assert told["scheduler"] == "DDIMScheduler"
    assert told["guidance"] == {"guidance_scale": 2.0}
    assert told["weights"]["unet/diffusion_pytorch_model.safetensors"] > 0
    json.dumps(told)
    assert opened(folder("stable_diffusion"), {"text"}, guidance=None).describe()["guidance"] == {"guidance_scale": 7.5}


def test_image_to_image_folder_also_makes_images_from_text(folder: Callable[[str], Path], tmp_path: Path) -> None:
    path = copied(folder, "stable_diffusion", tmp_path)
    tiny.edit_index(path, _class_name="StableDiffusionImg2ImgPipeline")
    images = opened(path, {"text"}).generate([1], inputs(1))
    np.testing.assert_array_equal(images[0], opened(folder("stable_diffusion"), {"text"}).generate([1], inputs(1))[0])


def test_recipe_is_checked_without_torch() -> None:
    code = (
        "import sys; from factory import kinds; from factory.contracts import Generator; "
        "kinds.find('generators', 'diffusers', Generator)(model='a/b').settings(); "
        "assert not {'torch', 'diffusers', 'transformers'} & set(sys.modules), 'imported'"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[1])


def test_misspelt_keys_are_refused() -> None:
    with pytest.raises(ValueError, match="step"):
        Diffusers(model="a/b", step=3)  # type: ignore[call-arg]
