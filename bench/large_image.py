"""Large images from a model of small ones: python -m bench.large_image [--json] [--model FOLDER --reference IMAGE] [--images N] [--sizes …]

seam_ratio    mean gradient across the borders of denoising windows and of decoded tiles, over the mean gradient at the other borders of latents,
              averaged over N images; 1 is no seam
spread        standard deviation of that ratio over the images
peak_mb_SIZE  peak memory of a process of its own that makes one image of SIZE × SIZE pixels in 2 sampling steps and writes it to disk

--model: a representation-guided model (recipes/train/representation/bccd.yaml) with --reference, a real image or a Parquet file whose images'
embeddings guide it; the images are as large as the reference. Without it, seams are measured on the embedded text-to-image model, whose
28-pixel windows make a canvas of 112 pixels, and memory on a latent model of the shape of bccd.yaml with fresh weights: memory does not depend
on what a model has learned.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import numpy as np
import torch

from bench._report import emit, parser, peak_mb
from factory import images
from factory.models import large
from factory.models.guided import RepresentationDiffusionPipeline

STEPS = 2  # of the images whose memory is measured
OVERLAP = 0.5  # of their windows


class Seen(NamedTuple):
    """What `large.seam_ratio` takes. image: uint8 [H, W, 3].  borders: of its windows and tiles.  lattice: pixels per latent."""

    image: np.ndarray
    borders: tuple[list[int], list[int]]
    lattice: int


def main() -> None:
    """Measure seams here and memory in child processes."""
    options = parser(__doc__)
    options.add_argument("--model", type=Path, help="a representation-guided pipeline folder")
    options.add_argument("--reference", type=Path, help="a real image, or a Parquet file with a column `image`")
    options.add_argument("--images", type=int, default=3, help="images whose seams are measured")
    options.add_argument("--steps", type=int, default=20, help="sampling steps of these")
    options.add_argument(
        "--sizes", type=int, nargs="*", default=[1024, 8192], help="sides in pixels of the images whose memory is measured"
    )
    options.add_argument("--keep", type=Path, help="write the images whose seams are measured into this folder")
    options.add_argument("--one", type=int, help="make one image of this side and print this process's peak memory; what the children do")
    given = options.parse_args()
    if given.one:
        emit({"peak_mb": one_image(given.model, given.one)}, True)
        return
    made = guided(given) if given.model else prompted(given)
    ratios = [large.seam_ratio(*one) for one in made]
    if given.keep:
        given.keep.mkdir(parents=True, exist_ok=True)
        for number, one in enumerate(made):
            images.to_pil(one.image).save(given.keep / f"{number:02d}.png")
    result: dict[str, Any] = {"seam_ratio": round(statistics.mean(ratios), 4), "spread": round(statistics.pstdev(ratios), 4)}
    result["images"] = len(ratios)
    for side in given.sizes:
        command = [sys.executable, "-m", "bench.large_image", "--one", str(side), *(["--model", str(given.model)] if given.model else [])]
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
        result[f"peak_mb_{side}"] = json.loads(done.stdout.strip().splitlines()[-1])["peak_mb"]
    emit(result, given.json)


def guided(given: Any) -> list[Seen]:
    """Images that follow real ones."""
    pipe = _open(given.model)
    made = []
    for number, reference in enumerate(_references(given.reference, given.images)):
        height, width = (side // pipe.factor * pipe.factor for side in reference.shape[:2])
        grid = large.reference_grid(pipe, reference)
        canvas = large.generate(pipe, height, width, torch.Generator().manual_seed(number), grid, num_inference_steps=given.steps)
        made.append(_seen(pipe, canvas))
    return made


def prompted(given: Any) -> list[Seen]:
    """Images of the embedded text-to-image model."""
    from factory.generators import _load
    from factory.generators.diffusers import Diffusers

    kind = Diffusers(model="data/models/fashion-mnist")
    pipe = _load.load(kind, "cpu").pipe
    _load.place(pipe, kind, "cpu")
    pipe.set_progress_bar_config(disable=True)
    made = []
    for number in range(given.images):
        source = torch.Generator().manual_seed(number)
        canvas = large.generate(pipe, 112, 112, source, prompt="a photo of a pullover", num_inference_steps=given.steps)
        made.append(_seen(pipe, canvas))
    return made


def one_image(model: Path | None, side: int) -> float:
    """Make and write one image of side × side pixels from a random grid of embeddings; peak memory in MB."""
    pipe = _fresh() if model is None else _open(model)
    cells = max(2, side // pipe.sample_size[0])
    grid = torch.nn.functional.normalize(
        torch.randn(cells, cells, pipe.encoder.embed_dim, generator=torch.Generator().manual_seed(0)), dim=-1
    )
    canvas = large.generate(
        pipe, side, side, torch.Generator().manual_seed(1), grid, OVERLAP, num_inference_steps=STEPS, guidance_scale=1.0
    )
    with TemporaryDirectory() as scratch:
        large.write(Path(scratch) / "large.tif", pipe, canvas)
    return peak_mb()


def _seen(pipe: Any, canvas: torch.Tensor) -> Seen:
    return Seen(np.concatenate(list(large.rows(pipe, canvas))), _borders(pipe, canvas), large.factor_of(pipe))


def _borders(pipe: Any, canvas: torch.Tensor) -> tuple[list[int], list[int]]:
    """Rows and columns, in pixels, at which a denoising window or a decoded tile begins or ends."""
    window = large.trained(large.denoiser_of(pipe))
    factor = large.factor_of(pipe)
    lines = []
    for length, side in zip(canvas.shape[1:], window, strict=True):
        places = {*large.starts(length, side, large.OVERLAP), *large.starts(length, side, large.SPREAD)}
        lines.append(sorted({place * factor for start in places for place in (start, start + side)} - {0, length * factor}))
    return lines[0], lines[1]


def _references(path: Path | None, count: int) -> list[np.ndarray]:
    if path is None:
        raise SystemExit("--model needs --reference: a real image, or a Parquet file of some")
    if path.suffix != ".parquet":
        return [images.decode(path.read_bytes())] * count
    from factory.sources.parquet import Parquet

    table = Parquet(dataset=str(path), label=None).open()
    return [table.read(index).image for index in range(min(count, len(table)))]


def _open(folder: Path) -> RepresentationDiffusionPipeline:
    pipe: Any = RepresentationDiffusionPipeline.from_pretrained(folder, use_safetensors=True)
    pipe.set_progress_bar_config(disable=True)
    return pipe  # type: ignore[no-any-return]


def _fresh() -> RepresentationDiffusionPipeline:
    """A latent model of the shape of recipes/train/representation/bccd.yaml that has learned nothing."""
    from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL

    from factory.models.representation import RepresentationEncoder, timm_tower
    from factory.models.scheduler import GaussianPathScheduler
    from factory.models.transformer import PatchTransformer

    torch.manual_seed(0)
    _, spec = timm_tower("resnet10t", 64, (0.5,) * 3, (0.25,) * 3, channels=[48, 96, 192, 256])
    widths = (16, 32, 48, 64)
    vae = AutoencoderKL(
        block_out_channels=widths,
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        layers_per_block=1,
        latent_channels=8,
        norm_num_groups=8,
        mid_block_add_attention=False,
    )
    encoder = RepresentationEncoder([spec], spec["dim"])
    transformer = PatchTransformer(8, 16, 2, 192, 6, 3, spec["dim"])
    pipe = RepresentationDiffusionPipeline(transformer.eval(), GaussianPathScheduler(), encoder.eval(), vae.eval().requires_grad_(False))
    pipe.set_progress_bar_config(disable=True)
    return pipe


if __name__ == "__main__":
    main()
