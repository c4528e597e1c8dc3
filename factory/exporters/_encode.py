"""Rows with their pixels encoded by a few threads, in order and only a little ahead of the writer."""

from __future__ import annotations

import io
import itertools
import os
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Literal

import numpy as np
from PIL import Image
from pydantic import Field

from factory import images
from factory.contracts import Exporter
from factory.exporters import _c2pa, _xmp

FileFormat = images.ImageFormat | Literal["original"]
FORMATS = (
    "png is lossless; webp is smaller, and lossless at quality 100; jpeg is read everywhere; "
    "original passes on the file that a row was read from, where it is one of these."
)
SUFFIX: dict[images.ImageFormat, str] = {"png": "png", "webp": "webp", "jpeg": "jpg"}
_ORIENTATION = 274  # the EXIF tag


class ImageExporter(Exporter):
    """A format that holds image files, and what each of these says of itself."""

    image: FileFormat = Field("png", description=FORMATS)
    quality: int = Field(95, ge=1, le=100, description="For webp and jpeg.")
    digital_source_type: _xmp.DigitalSourceType | None = Field(
        "trainedAlgorithmicMedia",
        description="IPTC digital source type that each image carries as XMP; compositeWith… is for real images with generated parts "
        "(inpaint, outpaint); null writes none. Files that are passed on as they are stay unchanged.",
    )

    c2pa: _c2pa.Signing | None = Field(
        None,
        description="Sign each image that was made here with a C2PA manifest: {certificate: chain.pem, key: key.pem}. "
        "A signature has its time in it, so that signed exports are never equal in bytes.",
    )

    def check(self, notes: frozenset[str]) -> None:
        """Raise UserError when the signer's files are missing or do not go together: at the start, not when all images are made."""
        if self.c2pa is not None:
            format = "png" if self.image == "original" else self.image
            self._sign()(images.encode(np.zeros((8, 8, 3), np.uint8), format), format)

    def encoded(self, rows: Iterable[dict[str, Any]], format: FileFormat | None = None) -> Iterator[tuple[dict[str, Any], bytes]]:
        """Each row with the file bytes of its image, as these keys ask for, or in another format. Raises UserError when they cannot be signed."""
        xmp = None if self.digital_source_type is None else _xmp.packet(self.digital_source_type)
        return encoded(rows, format or self.image, self.quality, xmp, None if self.c2pa is None else self._sign())

    def _sign(self) -> _c2pa.Sign:
        assert self.c2pa is not None
        return self.c2pa.open(self.digital_source_type or "trainedAlgorithmicMedia")


def suffix(format: FileFormat, data: bytes) -> str:
    """The suffix of a file of this format; of what it is where it was passed on as it is."""
    return SUFFIX[_format(data) or "png"] if format == "original" else SUFFIX[format]


def uniform(rows: Iterable[dict[str, Any]], format: FileFormat) -> tuple[images.ImageFormat, Iterable[dict[str, Any]]]:
    """One format for all rows, where readers want one: for `original` that of the first row. And the rows, from the first on."""
    if format != "original":
        return format, rows
    rest = iter(rows)
    first = next(rest, None)
    if first is None:
        return "png", ()
    own = first.get("bytes")
    return (_format(own) if own is not None else None) or "png", itertools.chain([first], rest)


def encoded(
    rows: Iterable[dict[str, Any]],
    format: FileFormat,
    quality: int,
    xmp: bytes | None = None,
    sign: _c2pa.Sign | None = None,
) -> Iterator[tuple[dict[str, Any], bytes]]:
    """Each row with the bytes of its image, in the order of the rows; at most a few dozen images are in memory.

    xmp, sign: a packet and a signature for the images that were made here; a row that brings the file it was read from says nothing that
    this file did not.
    """
    threads = min(8, os.cpu_count() or 1)
    waiting: deque[tuple[dict[str, Any], Future[bytes]]] = deque()
    with ThreadPoolExecutor(threads, thread_name_prefix="factory-encode") as pool:
        try:
            for row in rows:
                waiting.append((row, pool.submit(_bytes, row, format, quality, xmp, sign)))
                if len(waiting) > 4 * threads:
                    first, data = waiting.popleft()
                    yield first, data.result()
            while waiting:
                first, data = waiting.popleft()
                yield first, data.result()
        finally:
            for _, data in waiting:
                data.cancel()


def size(data: bytes) -> tuple[int, int]:
    """(height, width) of an encoded image, from its header."""
    picture = Image.open(io.BytesIO(data))
    return picture.height, picture.width


def _bytes(row: dict[str, Any], format: FileFormat, quality: int, xmp: bytes | None, sign: _c2pa.Sign | None) -> bytes:
    """The row's own file where it is one upright picture in this format, else its pixels encoded. Raises Undecodable."""
    own = row.get("bytes")
    if own is not None and _format(own) in (SUFFIX if format == "original" else (format,)):
        return own
    format = "png" if format == "original" else format
    if own is not None:
        image = row.get("image")
        return images.encode(images.decode(own) if image is None else image, format, quality)
    data = images.encode(row["image"], format, quality, xmp)
    return data if sign is None else sign(data, format)


def _format(data: bytes) -> images.ImageFormat | None:
    """The format of a file that may be passed on: not animated and not turned by EXIF, for readers that ignore either would see another
    image than the one that was scored; None for any other."""
    try:
        picture = Image.open(io.BytesIO(data))
        plain = picture.getexif().get(_ORIENTATION, 1) == 1 and getattr(picture, "n_frames", 1) == 1
        return next((format for format in SUFFIX if plain and picture.format == format.upper()), None)
    except Exception:  # whatever Pillow raises, these bytes are not for passing on; decoding them tells why
        return None
