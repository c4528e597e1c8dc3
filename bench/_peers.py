"""The filters of other programs over the same images, each in an interpreter of its own environment.

Each builds the same architecture there with random weights (speed does not depend on them), before the clock starts, and uses the same batch and threads.
"""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

# clip-retrieval 2.45 (MIT): its inference worker over a folder of files, images alone.
CLIP_RETRIEVAL = """
import json, sys, time
import open_clip, torch
from clip_retrieval.clip_inference import mapper, worker
given = json.loads(sys.argv[1])
torch.set_num_threads(given["threads"])
network, _, preprocess = open_clip.create_model_and_transforms(given["architecture"])
loaded = (network.eval(), preprocess, open_clip.get_tokenizer(given["architecture"]))
mapper.load_clip = worker.load_clip = lambda **options: loaded
started = time.perf_counter()
worker.worker([0], given["images"], given["out"], 1, batch_size=given["batch"], num_prepro_workers=given["readers"], enable_text=False, use_jit=False)
print(json.dumps(given["count"] / (time.perf_counter() - started)))
"""

# Data-Juicer 1.6 (Apache-2.0): image_text_similarity_filter as its own pipeline runs it; transformers' CLIP B/32 by its default configuration.
DATA_JUICER = """
import gzip, json, os, sys, time
from pathlib import Path
import open_clip, tokenizers, torch, transformers
given = json.loads(sys.argv[1])
torch.set_num_threads(given["threads"])
folder = Path(given["out"]) / "clip"
transformers.CLIPModel(transformers.CLIPConfig(projection_dim=512)).save_pretrained(folder)
lines = gzip.open(Path(open_clip.__file__).parent / "bpe_simple_vocab_16e6.txt.gz", "rt", encoding="utf-8").read().split("\\n")
merges = lines[1 : 49152 - 256 - 2 + 1]
bytes_ = sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet())
words = [*bytes_, *(b + "</w>" for b in bytes_), *("".join(m.split()) for m in merges), "<|startoftext|>", "<|endoftext|>"]
(folder / "vocab.json").write_text(json.dumps({w: i for i, w in enumerate(words)}), encoding="utf-8")
(folder / "merges.txt").write_text("\\n".join(["#version: 0.2", *merges]), encoding="utf-8")
tokenizer = transformers.CLIPTokenizer(str(folder / "vocab.json"), str(folder / "merges.txt"))
transformers.CLIPProcessor(transformers.CLIPImageProcessor(), tokenizer).save_pretrained(folder)
from data_juicer.core.data import NestedDataset
from data_juicer.ops.filter.image_text_similarity_filter import ImageTextSimilarityFilter
from data_juicer.utils.mm_utils import SpecialTokens
from data_juicer.utils.model_utils import get_model
op = ImageTextSimilarityFilter(hf_clip=str(folder), min_score=-1.0, max_score=1.0, num_proc=given["threads"], batch_size=given["batch"])
get_model(op.model_key, 0, op.use_cuda())
text = SpecialTokens.image + " a photo of a thing " + SpecialTokens.eoc
files = sorted(str(path) for path in Path(given["images"]).iterdir())
data = NestedDataset.from_list([{"text": text, "images": [path]} for path in files])
started = time.perf_counter()
kept = op.run(data)
seconds = time.perf_counter() - started
assert len(kept) == given["count"], len(kept)
print(json.dumps(given["count"] / seconds))
"""


def ratio(script: str, python: str | None, files: list[bytes], given: Any, rate: float) -> float | None:
    """Our images per second over the peer's; None without its interpreter."""
    if python is None:
        return None
    with TemporaryDirectory() as name:
        images = Path(name) / "images"
        images.mkdir()
        for number, data in enumerate(files):
            (images / f"{number:06d}.jpg").write_bytes(data)
        told = {"images": str(images), "out": name, "count": len(files), "architecture": given.architecture, "batch": given.batch}
        told |= {"threads": given.threads, "readers": given.threads}
        done = subprocess.run([python, "-c", script, json.dumps(told)], capture_output=True, text=True, cwd=name)
        if done.returncode:
            raise SystemExit(f"{python} failed:\n{done.stderr[-3000:]}")
        return round(rate / float(json.loads(done.stdout.splitlines()[-1])), 2)
