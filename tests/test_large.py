"""Large images: windows cover and blend, embeddings lie on arcs, decoding streams, other pipelines work too."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL
from typer.testing import CliRunner

from factory.errors import UserError
from factory.generators.diffusers import Diffusers
from factory.models import large
from factory.models.guided import RepresentationDiffusionPipeline
from factory.models.representation import RepresentationEncoder, timm_tower
from factory.models.scheduler import GaussianPathScheduler
from factory.models.transformer import PatchTransformer
from factory.records import Inputs
from tests import tiny_pipelines as tiny


def pipeline(latent: bool = False) -> RepresentationDiffusionPipeline:
    torch.manual_seed(0)
    tower, spec = timm_tower("resnet10t", 16, (0.5,) * 3, (0.25,) * 3, channels=[8, 8, 16, 16], stem_width=8)
    encoder = RepresentationEncoder([spec], spec["dim"])
    encoder.networks[0].load_state_dict(tower.state_dict())
    vae = None
    if latent:
        vae = AutoencoderKL(
            block_out_channels=(8, 8),
            down_block_types=("DownEncoderBlock2D",) * 2,
            up_block_types=("UpDecoderBlock2D",) * 2,
            layers_per_block=1,
            norm_num_groups=8,
            latent_channels=3,
            mid_block_add_attention=False,
        ).eval()
    transformer = PatchTransformer(3, 8 if latent else 16, 4, 16, 1, 2, spec["dim"])
    for parameter in transformer.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    made = RepresentationDiffusionPipeline(transformer.eval(), GaussianPathScheduler(), encoder.eval(), vae)
    made.set_progress_bar_config(disable=True)
    return made


def test_windows_cover_every_length() -> None:
    for length, window, overlap in ((100, 16, 0.75), (16, 16, 0.5), (17, 16, 0.9), (64, 16, 0.0)):
        places = large.starts(length, window, overlap)
        seen = np.zeros(length, bool)
        for place in places:
            assert 0 <= place <= length - window
            seen[place : place + window] = True
        assert seen.all() and len(set(places)) == len(places)


def test_slerp_keeps_the_length_and_the_ends() -> None:
    first, second = torch.nn.functional.normalize(torch.randn(2, 4, 8), dim=-1)
    middle = large.slerp(first, second, torch.full((4,), 0.5))
    assert torch.allclose(middle.norm(dim=-1), torch.ones(4), atol=1e-5)
    assert torch.allclose(large.slerp(first, second, torch.zeros(4)), first, atol=1e-5)
    assert torch.equal(large.slerp(torch.zeros(1, 3), torch.zeros(1, 3), torch.tensor([0.3])), torch.zeros(1, 3))
    assert torch.allclose(large.slerp(first, first, torch.full((4,), 0.3)), first, atol=1e-5)


def test_the_grid_is_met_at_its_cells() -> None:
    grid = torch.nn.functional.normalize(torch.randn(3, 4, 8), dim=-1)
    found = large.at(grid, torch.tensor([0.0, 0.5, 1.0]), torch.tensor([0.0, 1 / 3, 1.0]))
    assert torch.allclose(found, torch.stack([grid[0, 0], grid[1, 1], grid[2, 3]]), atol=1e-4)
    assert large.at(grid[:1, :1], torch.tensor([0.7]), torch.tensor([0.2])).shape == (1, 8)


def test_a_window_of_the_whole_canvas_is_the_plain_pipeline() -> None:
    pipe = pipeline()
    embeds = torch.nn.functional.normalize(torch.randn(1, pipe.encoder.embed_dim), dim=-1)
    plain = pipe(image_embeds=embeds, generator=torch.Generator().manual_seed(3), num_inference_steps=3, output_type="pt").images[0]
    canvas = large.generate(pipe, 16, 16, torch.Generator().manual_seed(3), embeds[None], num_inference_steps=3)
    assert torch.allclose(pipe.decode(canvas[None])[0], plain, atol=1e-4)


def test_averaging_outputs_averages_predicted_images() -> None:
    """What lets any scheduler step be used: at one time the predicted image is linear in the output."""
    scheduler, x = GaussianPathScheduler("trigonometric", "velocity"), torch.randn(1, 1, 4, 4)
    outputs, time = torch.randn(5, 1, 1, 4, 4), torch.tensor(400.0)
    of_mean = scheduler.split(outputs.mean(0), time, x)[0]
    assert torch.allclose(of_mean, torch.stack([scheduler.split(one, time, x)[0] for one in outputs]).mean(0), atol=1e-5)


@pytest.mark.parametrize("latent", [False, True])
def test_a_large_image_has_no_seams_and_streams(latent: bool, tmp_path: Path) -> None:
    import tifffile

    pipe = pipeline(latent)
    reference = np.random.default_rng(0).integers(0, 256, (40, 48, 3), np.uint8)
    grid = large.reference_grid(pipe, reference, 1.0)
    canvas = large.generate(pipe, 56, 72, torch.Generator().manual_seed(1), grid, num_inference_steps=2, guidance_scale=1.5)
    strips = list(large.rows(pipe, canvas))
    assert all(strip.shape[1:] == (72, 3) for strip in strips) and len(strips) > 1
    image = np.concatenate(strips)
    assert image.shape == (56, 72, 3) and image.std() > 0
    large.write(tmp_path / "big.tif", pipe, canvas)
    assert np.array_equal(tifffile.imread(tmp_path / "big.tif"), image)


def test_patches_of_a_reference_are_encoded_row_by_row(monkeypatch: pytest.MonkeyPatch) -> None:
    pipe, asked = pipeline(latent=False), []
    encode = pipe.encode_image
    monkeypatch.setattr(pipe, "encode_image", lambda patches: asked.append(len(patches)) or encode(patches))
    reference = np.random.default_rng(0).integers(0, 256, (64, 48, 3), np.uint8)
    grid = large.reference_grid(pipe, reference)
    assert asked == [grid.shape[1]] * grid.shape[0] and len(asked) > 1
    (height, width), last = pipe.sample_size, reference[-pipe.sample_size[0] :, -pipe.sample_size[1] :]
    assert last.shape[:2] == (height, width) and torch.allclose(grid[-1, -1], encode(last[None])[0], atol=1e-5)


def test_decoding_holds_no_graph_of_the_strips_above() -> None:
    pipe = pipeline(latent=True)
    pipe.vae.requires_grad_(True)  # as it comes from a folder
    seen = []
    decode = pipe.vae.decode
    pipe.vae.decode = lambda x, return_dict: seen.append(decode(x, return_dict=return_dict)[0]) or (seen[-1],)
    list(large.rows(pipe, torch.randn(3, 30, 22)))
    assert seen and not any(pixels.requires_grad for pixels in seen)


def test_streamed_decoding_is_a_blend_of_tiles() -> None:
    """A decoder that only enlarges gives the same picture in tiles as at once."""
    pipe = pipeline(latent=True)
    pipe.vae.decode = lambda x, return_dict: (torch.nn.functional.interpolate(x, scale_factor=2.0),)
    canvas = torch.randn(3, 30, 22) * 0.3
    whole = (pipe.decode(canvas[None])[0] * 255).round().byte().permute(1, 2, 0).numpy()
    assert np.abs(np.concatenate(list(large.rows(pipe, canvas))).astype(int) - whole).max() <= 1


def test_seams_are_seen() -> None:
    smooth = np.tile(np.arange(64, dtype=np.uint8)[None, :, None] * 2, (64, 1, 3))
    cut = smooth.copy()
    cut[:, 32:] += 60
    lines: tuple[list[int], list[int]] = ([32], [32])
    assert (
        large.seam_ratio(cut, lines) > 5 > large.seam_ratio(smooth + np.random.default_rng(0).integers(0, 9, smooth.shape, np.uint8), lines)
    )
    blocks = np.random.default_rng(0).integers(90, 110, (32, 32, 1)).repeat(3, 2).repeat(8, 0).repeat(8, 1)  # a lattice of 8, and no seam
    every: tuple[list[int], list[int]] = ([32, 96, 160], [64, 128, 192])
    assert large.seam_ratio(blocks, every) > 5 and 0.8 < large.seam_ratio(blocks, every, 8) < 1.2
    blocks[:, 64:] += 60
    assert large.seam_ratio(blocks, every, 8) > 1.5


@pytest.mark.parametrize("name", ["stable_diffusion", "sdxl", "sd3", "pixart_alpha"])
def test_any_text_to_image_pipeline_can_be_the_patch_model(name: str, tmp_path: Path) -> None:
    folder = tiny.save(name, tmp_path / name)
    extra: dict[str, Any] = {"call": {"use_resolution_binning": False}} if name == "pixart_alpha" else {}
    base: dict[str, Any] = {"model": str(folder), "steps": 2, "batch": 2, **extra}
    small = Diffusers(**base).open("cpu")
    small.check(frozenset({"text"}), [])
    size = small.generate([1], [Inputs(prompt="a cat")])[0].shape[:2]
    height, width = size[0], 2 * size[1]
    kind = Diffusers(**base, height=height, width=width, windows=0.5)
    generator = kind.open("cpu")
    generator.check(frozenset({"text"}), [])
    made = generator.generate([1, 2], [Inputs(prompt="a cat"), Inputs(prompt="a dog")])
    assert made[0].shape == (height, width, 3) and made[0].std() > 0
    alone = generator.generate([2], [Inputs(prompt="a dog")])[0]
    assert np.abs(alone.astype(int) - made[1].astype(int)).mean() < 1
    assert "forward" not in vars(generator._pipe.unet if getattr(generator._pipe, "unet", None) else generator._pipe.transformer)


def test_packed_tokens_are_refused(tmp_path: Path) -> None:
    generator = Diffusers(model=str(tiny.save("flux", tmp_path / "flux")), steps=1, height=64, width=64, windows=0.5).open("cpu")
    generator.check(frozenset({"text"}), [])
    with pytest.raises((UserError, ValueError), match="windows"):
        generator.generate([1], [Inputs(prompt="a cat")])


def test_the_command_line(tmp_path: Path) -> None:
    import tifffile

    from factory.cli import app

    pipeline(latent=True).save_pretrained(tmp_path / "model")
    tifffile.imwrite(tmp_path / "reference.tif", np.random.default_rng(0).integers(0, 256, (32, 40, 3), np.uint8))
    base = ["large", str(tmp_path / "model"), "--size", "32x48", "--steps", "2", "--out", str(tmp_path / "big.tif")]
    done = CliRunner().invoke(app, [*base, "--reference", str(tmp_path / "reference.tif"), "--device", "cpu"])
    assert done.exit_code == 0, done.output
    assert tifffile.imread(tmp_path / "big.tif").shape == (32, 48, 3)
    before = (tmp_path / "big.tif").read_bytes()
    for name in ("small.tif", "broken"):
        (tmp_path / name).mkdir()
    (tmp_path / "broken" / "torn.png").write_bytes(b"no picture")
    tifffile.imwrite(tmp_path / "few.tif", np.zeros((4, 40, 3), np.uint8))
    given = [*base, "--reference", str(tmp_path / "reference.tif")]
    for arguments, word in (
        (base, "reference"),
        ([*base, "--reference", str(tmp_path / "no.png")], "no file"),
        ([*base, "--reference", str(tmp_path)], "no file"),
        ([*base, "--reference", str(tmp_path / "few.tif")], "smaller than the patches"),
        ([*base, "--patches", str(tmp_path / "broken")], "--patches: not one image"),
        ([*base, "--patches", str(tmp_path / "model")], "--patches: "),
        ([*base[:3], "12", *base[4:]], "HEIGHTxWIDTH"),
        ([*given, "--size", "33x48"], "multiples"),
        ([*given, "--size", "0x48"], "at least"),
        ([*given, "--size", "10000000x10000000"], "GB are free"),
        ([*given, "--out", str(tmp_path / "small.tif")], "is a folder"),
        ([*given, "--out", str(tmp_path / "big.tif" / "x.tif")], "cannot be made"),
        ([*given, "--prompt", "a cat"], "leave it out"),
    ):
        failed = CliRunner().invoke(app, [*arguments, "--device", "cpu"])
        assert isinstance(failed.exception, UserError) and word in str(failed.exception), word
    assert (tmp_path / "big.tif").read_bytes() == before


def test_a_canvas_beyond_this_machines_memory_is_not_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    from factory import panorama

    monkeypatch.setattr(panorama.os, "sysconf", lambda name: 1024)
    with pytest.raises(UserError, match="this machine has"):
        panorama._require_memory(pipeline(), 512, 512)
    panorama._require_memory(pipeline(), 16, 16)


def test_a_pipeline_that_no_text_guides_is_no_patch_model() -> None:
    from factory import panorama

    with pytest.raises(UserError, match="takes no prompt"):
        panorama._require_prompt(pipeline(), "a cat", None)


def test_a_whole_parent_guides_a_large_child(tmp_path: Path) -> None:
    pipeline().save_pretrained(tmp_path / "model")
    kind = Diffusers(model=str(tmp_path / "model"), steps=2, height=32, width=48, windows=0.5, batch=2)
    generator = kind.open("cpu")
    generator.check(frozenset({"image_embedding"}), [])
    parent = np.random.default_rng(0).integers(0, 256, (40, 60, 3), np.uint8)
    made = generator.generate([1, 2], [Inputs(images=(parent,)), Inputs(images=(parent,))])
    assert made[0].shape == (32, 48, 3) and not np.array_equal(made[0], made[1])
    with pytest.raises(UserError, match="smaller than the patches"):
        generator.generate([1], [Inputs(images=(parent[:8, :8],))])
