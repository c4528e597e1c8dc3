"""Fixtures that every test may use: an offline hub, few threads, a small folder of real images, a recipe over it."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")  # spinning threads on busy cores cost more than they give

import numpy as np
import pytest
from PIL import Image

from factory.contracts import Context
from factory.records import Example
from tests.hub_client import Client
from tests.hub_server import Hub

ROOT = Path(__file__).parent.parent


@pytest.fixture
def image_folder(tmp_path: Path) -> Path:
    """Two classes of six 20×24 images."""
    folder = tmp_path / "birds"
    noise = np.random.default_rng(0)
    for name, tint in (("finch", 40), ("heron", 200)):
        (folder / name).mkdir(parents=True)
        for i in range(6):
            pixels = np.clip(noise.normal(tint, 30, (24, 20, 3)), 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{i}.png")
    return folder


@pytest.fixture
def write_recipe(tmp_path: Path, image_folder: Path) -> Callable[..., Path]:
    """Write a small recipe; keyword arguments replace or add top-level lines."""

    def write(name: str = "recipe.yaml", **sections: str) -> Path:
        lines = {
            "name": "birds",
            "seed": "3",
            "source": f"{{dataset: {image_folder}}}",
            "generator": "{kind: tests.paint.Paint, batch: 4}",
            "condition": "{kind: augmented_image, mix: none}",
            "amount": "{per_class: 10}",
            "filters": "[undecodable, {kind: blank}]",
            "shard": "6",
            "threads": "1",
            **sections,
        }
        path = tmp_path / name
        path.write_text("".join(f"{key}: {value}\n" for key, value in lines.items() if value), encoding="utf-8")
        return path

    return write


class Wordless:
    """A table without images: what prompts may ask of one."""

    notes: frozenset[str] = frozenset()
    captions: list[str] | None = None
    fingerprint = "0"

    def __init__(self, class_names: list[str]) -> None:
        self.class_names, self.labels = class_names, np.zeros(0, np.int32)

    def __len__(self) -> int:
        return 0

    def read(self, index: int) -> Example:
        raise IndexError(index)


def wordless(class_names: list[str], seed: int = 0, cache: Path = Path("runs/cache")) -> Context:
    """What prompts open with, for kinds that need class names alone; [""] is an unlabelled source."""
    names = [name for name in class_names if name]
    return Context(Wordless(names), names, seed, "cpu", cache)


@pytest.fixture(scope="module")
def server() -> Iterator[Hub]:
    """A server that speaks the Hub's protocol."""
    with Hub(page=3) as hub:
        yield hub


@pytest.fixture(scope="module")
def ada(server: Hub, home: Path) -> Iterator[Client]:
    """Somebody with a token, at work in the `home` of the test's module."""
    with Client(server.url, "hf_writer000000000000000000000000000000", home) as client:
        yield client


@pytest.fixture
def hub(server: Hub) -> Hub:
    """The server as it is on its first day."""
    server.repos.clear()
    server.blobs.clear()
    server.requests.clear()
    server.bodies.clear()
    server.stored, server.chunk = 0, None
    return server
