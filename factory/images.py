"""The one place where image layouts, ranges and file formats change. Between rooms: uint8 [H, W, 3] RGB."""

from __future__ import annotations

import io
import warnings
from typing import Any, Literal

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError
from PIL.PngImagePlugin import PngInfo

from factory.errors import Undecodable

ImageFormat = Literal["png", "webp", "jpeg"]
IMAGE_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm", ".avif", ".jp2"})
MAX_PIXELS = 64_000_000  # a decompression bomb is a row with a reason, not a dead worker
# Pillow warns far below our own limit; a filter that is set once is safe where many threads decode.
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)


def decode(data: bytes) -> np.ndarray:
    """Bytes of any format Pillow reads -> uint8 [H, W, 3] RGB, EXIF orientation applied, first frame, alpha on white.

    Raises Undecodable with a reason: empty, not_an_image, too_large (more than MAX_PIXELS), damaged.
    """
    if not data:
        raise Undecodable("there are no bytes", "empty")
    try:
        picture = Image.open(io.BytesIO(data))
        if picture.width * picture.height > MAX_PIXELS:
            raise Undecodable(f"{picture.width}×{picture.height} is more than {MAX_PIXELS:,} pixels", "too_large")
        picture.load()
        return to_array(ImageOps.exif_transpose(picture))
    except (Undecodable, MemoryError):  # too little memory is a fact about this machine, not about the image
        raise
    except UnidentifiedImageError as error:
        raise Undecodable("no known image format", "not_an_image") from error
    except Image.DecompressionBombError as error:
        raise Undecodable(f"more than {MAX_PIXELS:,} pixels", "too_large") from error
    except Exception as error:  # Pillow raises nearly everything on hostile data; each is the same fact to us
        raise Undecodable(f"{type(error).__name__}: {error}", "damaged") from error


def decoded(data: bytes) -> np.ndarray | None:
    """`decode`, or None for what cannot be decoded."""
    try:
        return decode(data)
    except Undecodable:
        return None


def to_array(picture: Image.Image) -> np.ndarray:
    """A Pillow image of any mode -> uint8 [H, W, 3] RGB; 16-bit is scaled by its range, alpha is laid on white."""
    if picture.mode.startswith("I") or picture.mode == "F":
        values = np.asarray(picture, dtype=np.float32)
        top = 65535.0 if picture.mode.startswith("I") and values.max(initial=0) > 255 else 255.0
        grey = np.clip(values * (255.0 / top), 0, 255).astype(np.uint8)
        return np.repeat(grey[..., None], 3, axis=2)
    if picture.mode in ("RGBA", "LA", "PA") or "transparency" in picture.info:
        rgba = picture.convert("RGBA")
        picture = Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba)
    return np.asarray(picture.convert("RGB"))


def to_pil(image: np.ndarray) -> Image.Image:
    """uint8 [H, W, 3] -> Pillow RGB."""
    return Image.fromarray(np.ascontiguousarray(image))


def fit(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """uint8 [H, W, 3] -> [height, width, 3]: scaled until it covers the size, the middle cut out; bicubic with antialiasing."""
    if image.shape[:2] == (height, width):
        return image
    return np.asarray(ImageOps.fit(to_pil(image), (width, height), Image.Resampling.BICUBIC))


def encode(image: np.ndarray, format: ImageFormat = "png", quality: int = 95, xmp: bytes | None = None) -> bytes:
    """uint8 [H, W, 3] -> file bytes. PNG is lossless; quality (1 to 100) is for WebP and JPEG; WebP at 100 is lossless.

    xmp: an XMP packet to carry, where the format's standard has it: iTXt in PNG, APP1 in JPEG, the XMP chunk in WebP.
    """
    out = io.BytesIO()
    carried = {} if xmp is None else {"xmp": xmp}
    if format == "png":
        chunks = PngInfo()
        if xmp is not None:
            chunks.add_itxt("XML:com.adobe.xmp", xmp.decode())
        to_pil(image).save(out, "PNG", compress_level=1, pnginfo=chunks)
    elif format == "webp":
        to_pil(image).save(out, "WEBP", quality=quality, lossless=quality == 100, method=4, **carried)
    else:
        to_pil(image).save(out, "JPEG", quality=quality, subsampling=0 if quality >= 90 else 2, **carried)
    return out.getvalue()


def from_output(output: Any) -> list[np.ndarray]:
    """Whatever a diffusion pipeline returns as images -> list of uint8 [H, W, 3].

    Takes Pillow images, float arrays or tensors in [0, 1] (NHWC or NCHW), uint8 arrays. Nested per-prompt lists are
    flattened. Raises ValueError for anything else.
    """
    if isinstance(output, Image.Image):
        return [to_array(output)]
    if isinstance(output, list | tuple):
        return [image for item in output for image in from_output(item)]
    if hasattr(output, "detach"):
        output = output.detach()
        if output.is_floating_point():  # round on the device: a quarter of the bytes cross the bus
            output = (output.float().clamp(0, 1) * 255).round()
            output = output.byte()
        output = output.cpu().numpy()
    array = np.asarray(output)
    if array.ndim == 3:
        array = array[None]
    if array.ndim != 4:
        raise ValueError(f"expected images [N, H, W, C] or [N, C, H, W], got shape {array.shape}")
    if array.shape[-1] not in (1, 3, 4) and array.shape[1] in (1, 3, 4):
        array = array.transpose(0, 2, 3, 1)
    if array.dtype != np.uint8:
        array = np.clip(np.nan_to_num(array.astype(np.float32)) * 255, 0, 255).round().astype(np.uint8)
    array = np.repeat(array, 3, axis=3) if array.shape[3] == 1 else array[..., :3]
    return [np.ascontiguousarray(image) for image in array]
