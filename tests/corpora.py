"""Small corpora for tests, good and hostile, and a scorer that needs no model."""

from __future__ import annotations

import io
import itertools
import json
import tarfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from factory.contracts import Filter, FilterContext
from factory.corpora.parquet import Parquet
from factory.records import Cut, Samples


class Brightness(Filter):
    """score: mean of all pixels in [0, 255]. Counts what it is asked, and can fail or have no answer on a colour."""

    nan_above: float = 1000.0
    raise_above: float = 1000.0
    log: str | None = None
    seconds: float = 0.0  # for each image

    def open(self, context: FilterContext) -> Scorer:
        return Scorer(self)


class Scorer:
    def __init__(self, kind: Brightness) -> None:
        self.kind = kind

    def score(self, samples: Samples) -> dict[str, np.ndarray]:
        means = np.array([np.nan if image is None else image.mean() for image in samples.images], np.float32)
        if (means > self.kind.raise_above).any():
            raise ZeroDivisionError("too bright to look at")
        if self.kind.log is not None:
            with open(self.kind.log, "a", encoding="utf-8") as log:
                log.writelines(f"{name}\n" for name in samples.ids)
        time.sleep(self.kind.seconds * len(samples))
        return {"score": np.where(means > self.kind.nan_above, np.nan, means).astype(np.float32)}


class First(Parquet):
    """The first two shards of Parquet files: a kind of corpus from outside the project."""

    def cut(self, rows: int, catalogue: Path) -> Iterator[tuple[Cut, str]]:
        yield from itertools.islice(super().cut(rows, catalogue), 2)


def picture(value: int, format: str = "PNG", size: tuple[int, int] = (12, 8), mode: str = "RGB") -> bytes:
    """A grey picture of one value."""
    out = io.BytesIO()
    Image.new("L", size, value).convert(mode).save(out, format)
    return out.getvalue()


def values(count: int) -> list[int]:
    return [(37 * i) % 256 for i in range(count)]


def parquet(path: Path, count: int, group: int = 7, first: int = 0) -> Path:
    """`photo` (file bytes), `kind` (text), `text`, `uid`, `size` and `tags`; values() are the greys."""
    rows = [
        {
            "photo": picture(v),
            "kind": ["dark", "light"][v > 127],
            "text": f"grey {v}",
            "uid": f"u{first + i}",
            "size": i,
            "tags": ["a"] * (i % 3),
        }
        for i, v in enumerate(values(count))
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows), path, row_group_size=group)
    return path


def folder(path: Path, count: int) -> Path:
    for i, v in enumerate(values(count)):
        place = path / ["dark", "light"][v > 127]
        place.mkdir(parents=True, exist_ok=True)
        (place / f"{i:03d}.png").write_bytes(picture(v))
        (place / f"{i:03d}.txt").write_text(f"grey {v}")
    return path


def tar(path: Path, count: int, first: int = 0, image: str = "png") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as out:
        for i, v in enumerate(values(count)):
            meta = json.dumps({"caption": f"grey {v}", "width": 12, "score": i / 2}).encode()
            for suffix, data in ((image, picture(v)), ("cls", str(int(v > 127)).encode()), ("json", meta)):
                member = tarfile.TarInfo(f"{first + i:06d}.{suffix}")
                member.size = len(data)
                out.addfile(member, io.BytesIO(data))
    return path


def hostile() -> dict[str, bytes]:
    """File name -> bytes of what other people's folders hold."""
    jpeg = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)).save(jpeg, "JPEG")
    bomb = io.BytesIO()
    Image.new("1", (20_000, 20_000)).save(bomb, "PNG")
    cmyk = io.BytesIO()
    Image.new("CMYK", (12, 8), (0, 0, 0, 100)).save(cmyk, "JPEG", quality=95)
    palette = io.BytesIO()
    Image.new("L", (12, 8), 90).convert("P").save(palette, "PNG")
    deep = io.BytesIO()
    Image.fromarray(np.full((8, 12), 60 * 257, np.uint16)).save(deep, "PNG")
    film = io.BytesIO()
    frames = [Image.new("L", (12, 8), v) for v in (70, 200)]
    frames[0].save(film, "GIF", save_all=True, append_images=frames[1:])
    return {
        "a_truncated.jpg": jpeg.getvalue()[:900],
        "b_wrong_extension.png": picture(100, "JPEG"),
        "c_empty.png": b"",
        "d_bomb.png": bomb.getvalue(),
        "e_cmyk.jpg": cmyk.getvalue(),
        "f_palette.png": palette.getvalue(),
        "g_sixteen_bit.png": deep.getvalue(),
        "h_animated.gif": film.getvalue(),
        "i_text.jpg": b"<html>not found</html>",
        "j_good.webp": picture(50, "WEBP"),
    }


def recipe(path: Path, **sections: str) -> Path:
    """A filter recipe with one rule on brightness; keyword arguments replace or add top-level lines."""
    lines = {
        "name": "greys",
        "filters": "[{kind: tests.corpora.Brightness, min: 100}]",
        "shard": "10",
        "batch": "4",
        "threads": "1",
        "readers": "2",
        **sections,
    }
    path.write_text("".join(f"{key}: {value}\n" for key, value in lines.items()), encoding="utf-8")
    return path
