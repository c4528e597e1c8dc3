"""Training throughput of a representation-guided model: python -m bench.training [--json] [--recipe FILE] [--set KEY=VALUE …] [--steps N]

Trains for a few steps from a fresh start into a temporary folder and prints what the training measured of itself:

model_flops_per_s    arithmetic of the denoiser's forward and backward passes (three forward passes), over the median step's time
matmul_flops_per_s   what this machine does in a plain matrix product of 2,048 × 2,048 numbers of the training's type, measured in the same run
model_share          the first over the second
loader_wait_share    share of the steps' time spent waiting for data

Without --recipe: recipes/train/representation/fashion.yaml on the images that the repository ships, guided by the CLIP that it ships.
"""

from __future__ import annotations

import json
import logging
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from bench._report import emit, parser
from factory import train as training
from factory.train import recipe as recipes

SHIPPED = ["source.dataset=data/fashion-mnist", "encoder=open_clip:data/models/fashion-mnist/clip", "whiten=null"]


def matmul_flops(bf16: bool, side: int = 2048, repeats: int = 8) -> float:
    """The best rate of several products, in floating point operations a second."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    left, right = (torch.randn(side, side, device=device, dtype=torch.bfloat16 if bf16 else torch.float32) for _ in range(2))
    best = float("inf")
    for _ in range(repeats):
        began = time.perf_counter()
        product = left @ right
        product[0, 0].item()  # waits for the device
        best = min(best, time.perf_counter() - began)
    return 2 * side**3 / best


def main() -> None:
    """Train a little, read training.json, measure the machine."""
    options = parser(__doc__)
    options.add_argument("--recipe", type=Path, help="a representation_diffusion recipe")
    options.add_argument("--set", dest="sets", action="append", default=[], metavar="KEY=VALUE", help="override a key; may be repeated")
    options.add_argument("--steps", type=int, default=40)
    given = options.parse_args()
    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="%(message)s")
    path = given.recipe or Path("recipes/train/representation/fashion.yaml")
    with TemporaryDirectory() as scratch:
        out = Path(scratch) / "model"
        sets = [*([] if given.recipe else SHIPPED), f"steps={given.steps}", f"sample_every={given.steps}", *given.sets]
        before = matmul_flops(bf16 := bool(recipes.load(path, sets).bf16))
        training.run(path, sets, out)
        facts: dict[str, Any] = json.loads((out / "training.json").read_text())["facts"]
        rate = max(before, matmul_flops(bf16))
    result = {
        "model_flops_per_s": facts["model_flops_per_s"],
        "matmul_flops_per_s": round(rate),
        "model_share": round(facts["model_flops_per_s"] / rate, 3),
        "loader_wait_share": facts["loader_wait_share"],
        "seconds_per_step": facts["seconds_per_step"],
        "bf16": bf16,
    }
    emit(result, given.json)


if __name__ == "__main__":
    main()
