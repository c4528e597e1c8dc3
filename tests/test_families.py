"""Pipelines that are driven by their signature alone: editing, variation, enlarging, several kinds of control, tokens, cascades."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from factory.contracts import NEEDS
from factory.errors import UserError
from factory.generators import _reference
from factory.generators.diffusers import Diffusers
from factory.records import Inputs
from tests import tiny_families, tiny_pipelines
from tests.test_generators import SMALL, few_threads, picture  # noqa: F401  fixtures

UNBINNED = {**SMALL, "call": {"use_resolution_binning": False}}
AS_IT_IS = {**SMALL, "call": {"_auto_resize": False, "max_area": 1024}}
CASES: list[tuple[str, set[str], dict[str, Any]]] = [
    ("instruct_pix2pix", {"text", "reference"}, SMALL),
    ("image_variation", {"reference"}, {}),
    ("upscale", {"text", "reference"}, {"height": 16, "width": 16}),
    ("flux_kontext", {"text", "reference"}, AS_IT_IS),
    ("perturbed_attention", {"text"}, {}),
    ("perturbed_attention", {"text", "image"}, {"steps": 4}),
    ("perturbed_attention", {"text", "mask"}, {"steps": 4}),
    ("text_to_image_adapter", {"text", "control"}, {}),
    ("control_union", {"text", "control"}, {"call": {"control_mode": 0}}),
    ("control_union", {"text", "control"}, {"call": {"control_mode": [0, 3]}}),
    ("flux_control", {"text", "control"}, SMALL),
    ("flux_fill", {"text", "mask"}, {**SMALL, "steps": 4}),
    ("sd3", {"text", "image"}, {**SMALL, "steps": 4}),
    ("amused", {"text"}, {}),
    ("kandinsky3", {"text"}, SMALL),
    ("sana_sprint", {"text"}, UNBINNED),
    ("sana_sprint", {"text", "image"}, UNBINNED),
    ("unconditional_latent", set(), {}),
    ("kandinsky22_inpaint", {"text", "mask"}, SMALL),
    ("chroma_from_image", {"text"}, SMALL),
    ("chroma_from_image", {"text", "image"}, {**SMALL, "steps": 4}),
    ("omni_gen", {"text"}, SMALL),
    ("wan", {"text"}, {**SMALL, "call": {"num_frames": 1}}),
]


@pytest.fixture(scope="module")
def family(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    root, made = tmp_path_factory.mktemp("families"), {}

    def get(name: str) -> Path:
        if name not in made:
            made[name] = tiny_pipelines.save(name, root, tiny_families if hasattr(tiny_families, name) else tiny_pipelines)
        return made[name]

    return get


def asked(needs: set[str], number: int) -> Inputs:
    side = np.arange(32)[:, None] + np.zeros((1, 32))
    return Inputs(
        prompt=("a cat", "a small red dog")[number] if "text" in needs else None,
        images=(picture(number, 32),) if needs & {"image", "mask", "reference"} else (),
        strength=0.6 if "image" in needs else None,
        control=picture(9 + number, 32) if "control" in needs else None,
        mask=np.where(side > 15, 255, 0).astype(np.uint8) if "mask" in needs else None,
    )


def changed(one: Inputs) -> Inputs:
    """The same request after another image, or another text where it has none."""
    if one.control is not None:
        return replace(one, control=picture(77, 32))
    return replace(one, images=(picture(77, 32),)) if one.images else replace(one, prompt="a blue bird")


@pytest.mark.parametrize(("name", "needs", "settings"), CASES, ids=[f"{name}-{'+'.join(sorted(needs))}" for name, needs, _ in CASES])
def test_a_family_that_no_code_names(name: str, needs: set[str], settings: dict[str, Any], family: Callable[[str], Path]) -> None:
    kind = Diffusers(model=str(family(name)), **{"steps": 2, **settings})
    assert not needs & kind.lacks().keys() and not kind.refuses(frozenset(needs)), "its class alone says that it can"
    pipe = kind.open("cpu")
    assert NEEDS.keys() - kind.lacks().keys() == pipe.accepts
    pipe.check(frozenset(needs), [])
    wanted = [asked(needs, 0), asked(needs, 1)]
    first, second = pipe.generate([1, 2], wanted)
    assert first.dtype == np.uint8 and first.shape == second.shape and first.ndim == 3 and len(np.unique(first)) > 20
    alone = pipe.generate([2], wanted[1:])[0]
    assert np.abs(alone.astype(int) - second.astype(int)).max() <= 2, "who else is in the batch does not matter"
    assert not np.array_equal(second, pipe.generate([3], wanted[1:])[0]), "the seed does"
    if needs:
        assert not np.array_equal(second, pipe.generate([2], [changed(wanted[1])])[0]), "and so does what it is made from"


def test_an_empty_negative_prompt_is_as_long_as_its_prompt(family: Callable[[str], Path]) -> None:
    kandinsky = Diffusers(model=str(family("kandinsky3")), steps=1, **SMALL).open("cpu")
    kandinsky.check(frozenset({"text"}), [])
    kandinsky.generate([1], [Inputs(prompt="a cat")])
    after = kandinsky.generate([2], [Inputs(prompt="a small red dog")])[0]
    del kandinsky._pipe.encode_prompt
    np.testing.assert_array_equal(after, kandinsky.generate([2], [Inputs(prompt="a small red dog")])[0])


def test_the_size_of_an_edited_image_is_the_recipes_else_its_own(family: Callable[[str], Path]) -> None:
    one = replace(asked({"text", "reference"}, 0), images=(picture(1, 40)[:26],))
    for settings, shape in (({}, (24, 40, 3)), (SMALL, (32, 32, 3))):
        assert Diffusers(model=str(family("instruct_pix2pix")), steps=1, **settings).open("cpu").generate([1], [one])[0].shape == shape


def test_an_image_that_is_edited_is_never_smaller_than_the_result(family: Callable[[str], Path]) -> None:
    pipe = Diffusers(model=str(family("flux_kontext"))).open("cpu").base
    assert _reference.arguments(pipe, picture(1, 40)[:10], 40, 40)["image"].size == (80, 20)
    assert _reference.arguments(pipe, picture(1, 40), 16, 16)["image"].size == (40, 40), "what is larger is left to the pipeline"


def test_videos_are_refused_with_the_way_to_stills(family: Callable[[str], Path]) -> None:
    kind = Diffusers(model=str(family("wan")), steps=1)
    says = "WanPipeline makes frames, not images; for stills set call: {num_frames: 1}"
    assert kind.lacks()["text"] == says
    with pytest.raises(UserError, match=re.escape(says)):
        kind.open("cpu").check(frozenset({"text"}), [])


def test_an_image_is_needed_where_the_call_needs_one(family: Callable[[str], Path]) -> None:
    kind = Diffusers(model=str(family("image_variation")))
    assert "takes no prompt" in kind.lacks()["text"]
    assert "varies or edits a real image, and the condition gives none" in kind.refuses(frozenset())
    with pytest.raises(UserError, match="cannot start from an image"):
        kind.open("cpu").check(frozenset({"image"}), [])
    with pytest.raises(UserError, match=r"takes no real image to vary or edit; load an ip_adapter, or set condition\.strength"):
        Diffusers(model=str(family("perturbed_attention"))).open("cpu").check(frozenset({"reference"}), [])


def test_settings_that_this_family_would_not_heed_are_refused(family: Callable[[str], Path]) -> None:
    painted = Diffusers(model=str(family("kandinsky22")))
    assert "repaints without a strength" in painted.lacks()["strength"] and "strength" not in painted.open("cpu").accepts
    assert "strength" not in Diffusers(model=str(family("flux_fill"))).lacks()
    union = Diffusers(model=str(family("control_union"))).open("cpu")
    with pytest.raises(UserError, match=r"6 kinds of control; .* call: \{control_mode: 0\}"):
        union.check(frozenset({"text", "control"}), [])
    kontext = Diffusers(model=str(family("flux_kontext")), negative_prompt="a bird").open("cpu")
    with pytest.raises(UserError, match=r"generator.negative_prompt: .* set call: \{true_cfg_scale: 2\}"):
        kontext.check(frozenset({"text"}), [])


def test_the_scale_that_guides_is_the_one_that_is_on() -> None:
    import diffusers

    from factory.generators._arguments import guidance_name

    names = {
        "FluxPipeline": "guidance_scale",
        "QwenImagePipeline": "true_cfg_scale",
        "QwenImageControlNetInpaintPipeline": "true_cfg_scale",
        "StableDiffusionInstructPix2PixPipeline": "guidance_scale",
        "UnCLIPImageVariationPipeline": "decoder_guidance_scale",
        "HunyuanImagePipeline": "distilled_guidance_scale",
        "MarigoldDepthPipeline": None,
    }
    assert {name: guidance_name(getattr(diffusers, name)) for name in names} == names


@pytest.mark.parametrize("refused", [False, True])
def test_images_of_a_batch_are_told_apart_at_a_small_size(
    refused: bool,
    family: Callable[[str], Path],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """And at the recipe's own where the pipeline makes no other."""
    pipe: Any = Diffusers(model=str(family("kandinsky22_inpaint")), steps=1, batch=2, height=96, width=96).open("cpu")
    generate, tried = pipe.generate, []

    def seen(seeds: Any, inputs: Any) -> Any:
        tried.append((pipe.kind.height, pipe._settings["height"], pipe._settings["num_inference_steps"]))
        if refused and pipe.kind.height == 64:
            raise UserError("this size is not made")
        return generate(seeds, inputs)

    monkeypatch.setattr(pipe, "generate", seen)
    pipe.check(frozenset({"text", "mask"}), [])
    assert tried == ([(64, 64, 4), (96, 96, 4), (96, 96, 4)] if refused else [(64, 64, 4)] * 2)
    assert pipe.alone == "the pipeline mixes the images of a batch"
    assert (pipe.kind.height, pipe._settings["height"], pipe._settings["num_inference_steps"]) == (96, 96, 1)
