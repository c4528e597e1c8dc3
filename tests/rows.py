"""Rows as exporters get them, and what a test asks of any export."""

import hashlib
import math

import numpy as np

from factory.contracts import DatasetInfo
from factory.images import encode

NAMES = ["T-shirt/top", "train", "cat"]
COLUMNS = {"id": "string", "seed": "int64", "prompt": "string", "parents": "list<string>", "clip_similarity": "float32"}
ANNOTATED = {"id": "string", "soft_label": "list<float32>", "boxes": "list<list<float32>>", "box_labels": "list<int64>", "mask": "image"}


def make(count=30, height=8, width=10, labels=NAMES):
    for i in range(count):
        yield {
            "id": f"{i % len(NAMES)}-{i:06d}",
            "image": np.random.default_rng(i).integers(0, 256, (height, width, 3), np.uint8),
            "label": i % len(labels) if labels else -1,
            "seed": 2**62 + i,
            "prompt": f"a “{i}”",
            "parents": ["ab"] * (i % 3),
            "clip_similarity": math.nan if i == 4 else i / 100,
            "not asked for": object(),
        }


def info(names=NAMES, rows=30):
    return DatasetInfo("test", names, COLUMNS, rows)


def digest(folder):
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return [(path.relative_to(folder).as_posix(), hashlib.sha256(path.read_bytes()).hexdigest()) for path in files]


def annotated():
    for i, row in enumerate(make(4)):
        mask = encode(np.full((8, 10, 3), i, np.uint8)) if i != 2 else None
        yield {**row, "soft_label": [0.25, 0.75, 0], "boxes": [[0, 1, 2, 3]] * i, "box_labels": list(range(i)), "mask": mask}
