"""How fast a corpus is filtered, and in how much memory: python -m bench.filter [--images N] [--large N] [--json]

Speed: JPEG files of 256 px in Parquet, scored by `clip_similarity` against one text, from "models ready" to the last shard written: reading, decoding,
resizing, the image tower, writing. Beside it, in turn and several times over, the bare open_clip forward on ready tensors of the same model, batch and
threads; `ratio_to_bare_forward` is the median of the pairs. Without --model the network is open_clip's ViT-B-32 with random weights, which is as fast as
with trained ones.

Memory: fresh processes filter a synthetic corpus of 16 px PNG files by `blank` (a scorer without a model), with 10 thousand rows and with --large rows
(`large_rows` says how many); `peak_mb_…` is each process's peak resident memory.

Peers run the same images and network side by side: --clip-retrieval PYTHON and --data-juicer PYTHON name interpreters of virtual environments that have
them; null without.
"""

from __future__ import annotations

import argparse
import io
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from bench import _peers
from bench._report import emit, parser
from factory import encoders, filtering, runtime

TEXT = "a photo of a thing"
RECIPE = """
name: bench
corpus: {{dataset: {corpus}, image: image}}
filters: [{filter}]
shard: {shard}
batch: {batch}
threads: {threads}
"""
ALONE = """
import json, re, sys
from pathlib import Path
from factory import filtering
report = filtering.run(filtering.load(sys.argv[1], environ={}), Path(sys.argv[2]), "cpu")
peak = int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1])  # ru_maxrss would be the parent's, from before exec
print(json.dumps({"read": report["read"], "kept": report["kept"], "peak_mb": round(peak / 1024, 1)}))
"""


def photographs(path: Path, count: int, size: int = 256) -> list[bytes]:
    """Write JPEG files of smooth noise, about as hard to decode as photographs, into Parquet. Returns the files."""
    draw = np.random.default_rng(0)
    files = []
    for _ in range(count):
        coarse = Image.fromarray(draw.integers(0, 256, (size // 8, size // 8, 3), np.uint8)).resize((size, size), Image.Resampling.BICUBIC)
        noisy = np.clip(np.asarray(coarse, np.int16) + draw.integers(-12, 13, (size, size, 3)), 0, 255).astype(np.uint8)
        out = io.BytesIO()
        Image.fromarray(noisy).save(out, "JPEG", quality=90)
        files.append(out.getvalue())
    pq.write_table(pa.table({"image": files, "text": [TEXT] * count}), path, row_group_size=256, compression="none")
    return files


def random_weights(folder: Path, architecture: str) -> Path:
    """A local open_clip folder of this architecture with random weights."""
    import open_clip
    from safetensors.torch import save_file

    network = open_clip.create_model(architecture, pretrained=None)
    folder.mkdir(parents=True)
    config = {"model_cfg": open_clip.get_model_config(architecture), "preprocess_cfg": dict(network.visual.preprocess_cfg)}
    (folder / "open_clip_config.json").write_text(json.dumps(config))
    save_file({name: tensor.contiguous().clone() for name, tensor in network.state_dict().items()}, folder / "open_clip_model.safetensors")
    return folder


class Speed:
    """One corpus and one encoder, opened once."""

    def __init__(self, folder: Path, given: Any):
        self.folder, self.given, self.runs = folder, given, 0
        self.files = photographs(folder / "corpus.parquet", given.images)
        self.model = given.model or str(random_weights(folder / "clip", given.architecture))
        runtime.fix_numerics(given.threads)
        self.device = runtime.device(runtime.worker(), given.device)
        self.encoder: Any = encoders.open(self.model, self.device, given.dtype)

    def bare(self) -> float:
        """Images per second of the image tower alone, on tensors that are ready."""
        import torch

        network = self.encoder._network
        side = network.visual.image_size
        shape = (3, *(side if isinstance(side, tuple) else (side, side)))
        batch = torch.randn(self.given.batch, *shape, device=self.device, dtype=getattr(torch, self.given.dtype))
        count = 0
        started = time.perf_counter()
        with torch.inference_mode():
            while count < self.given.images:
                torch.nn.functional.normalize(network.encode_image(batch[: self.given.images - count]).float(), dim=-1).cpu()
                count += len(batch[: self.given.images - count])
        return count / (time.perf_counter() - started)

    def filter(self) -> float:
        """Images per second of a whole run over the same number of files."""
        self.runs += 1
        path = self.folder / f"recipe-{self.runs}.yaml"
        rule = f"{{kind: clip_similarity, model: {self.model}, prompt: {TEXT}, min: -1, dtype: {self.given.dtype}}}"
        given = self.given
        path.write_text(
            RECIPE.format(corpus=self.folder / "corpus.parquet", filter=rule, shard=given.shard, batch=given.batch, threads=given.threads)
        )
        report = filtering.run(filtering.load(path, environ={}), self.folder / f"run-{self.runs}", self.device)
        assert report is not None and report["kept"] == given.images, report
        rate: float = report["this_launch"]["images_per_s"]
        return rate


def synthetic(folder: Path, rows: int, per_file: int = 50_000) -> None:
    """Small PNG files in Parquet, written a row group at a time."""
    draw = np.random.default_rng(0)
    distinct = []
    for _ in range(997):
        out = io.BytesIO()
        Image.fromarray(draw.integers(0, 256, (16, 16, 3), np.uint8)).save(out, "PNG")
        distinct.append(out.getvalue())
    folder.mkdir()
    for number, first in enumerate(range(0, rows, per_file)):
        with pq.ParquetWriter(folder / f"{number:05d}.parquet", pa.schema([("image", pa.binary())]), compression="none") as writer:
            for start in range(first, min(first + per_file, rows), 1000):
                stop = min(start + 1000, first + per_file, rows)
                writer.write_table(pa.table({"image": [distinct[i % len(distinct)] for i in range(start, stop)]}))


def peak(folder: Path, rows: int) -> float:
    """Peak memory, in MB, of a fresh process that filters that many rows."""
    corpus = folder / f"corpus-{rows}"
    synthetic(corpus, rows)
    path = folder / f"memory-{rows}.yaml"
    path.write_text(RECIPE.format(corpus=corpus, filter="{kind: blank, min: 8}", shard=1024, batch=64, threads=1))
    done = subprocess.run(
        [sys.executable, "-c", ALONE, str(path), str(folder / f"memory-{rows}")], check=True, capture_output=True, text=True
    )
    answer = json.loads(done.stdout.splitlines()[-1])
    assert answer["read"] == rows == answer["kept"], answer
    found: float = answer["peak_mb"]
    return found


def parse() -> argparse.Namespace:
    """The command line."""
    options = parser(__doc__)
    options.add_argument("--images", type=int, default=512)
    options.add_argument("--repeats", type=int, default=3)
    options.add_argument("--batch", type=int, default=64)
    options.add_argument("--shard", type=int, default=256)
    options.add_argument("--threads", type=int, default=2)
    options.add_argument(
        "--dtype", default="float32", choices=("float32", "bfloat16"), help="of our filter and of the bare forward; peers keep their own"
    )
    options.add_argument("--device", default="auto")
    options.add_argument("--architecture", default="ViT-B-32")
    options.add_argument("--model", help="an open_clip model in place of random weights")
    options.add_argument("--small", type=int, default=10_000)
    options.add_argument("--large", type=int, default=1_000_000, help="0 leaves memory out")
    options.add_argument("--clip-retrieval", metavar="PYTHON")
    options.add_argument("--data-juicer", metavar="PYTHON")
    return options.parse_args()


def main() -> None:
    """Measure in turn, print medians."""
    given = parse()
    with TemporaryDirectory() as name:
        folder = Path(name)
        speed = Speed(folder, given)
        speed.bare(), speed.filter()  # warm up
        pairs = [(speed.bare(), speed.filter()) for _ in range(given.repeats)]
        rate = statistics.median(filtered for _, filtered in pairs)
        result = {
            "rows": given.images,
            "images_per_s": round(rate, 2),
            "ratio_to_bare_forward": round(statistics.median(filtered / bare for bare, filtered in pairs), 3),
            "ratios": [round(filtered / bare, 3) for bare, filtered in pairs],
            "bare_images_per_s": round(statistics.median(bare for bare, _ in pairs), 2),
            "ratio_to_clip_retrieval": _peers.ratio(_peers.CLIP_RETRIEVAL, given.clip_retrieval, speed.files, given, rate),
            "ratio_to_data_juicer": _peers.ratio(_peers.DATA_JUICER, given.data_juicer, speed.files, given, rate),
            "dtype": given.dtype,
            "network": given.model or f"{given.architecture} (random weights)",
            "device": speed.device,
            "peak_mb_10k": peak(folder, given.small) if given.large else None,
            "peak_mb_1m": peak(folder, given.large) if given.large else None,
            "small_rows": given.small,
            "large_rows": given.large,
            "memory_scorer": "blank",
        }
    emit(result, given.json)


if __name__ == "__main__":
    main()
