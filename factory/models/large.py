"""Images of any size from a model of small ones: overlapping windows, a grid of embeddings, decoding that streams.

Graikos et al. 2024 (arXiv 2312.07330), section 3.3; windows over any other pipeline as in MultiDiffusion (Bar-Tal et al. 2023). At one noise
level the predicted image is a linear map of a model's output, so that averaging outputs over windows is averaging predicted images.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F

from factory.models.guided import RepresentationDiffusionPipeline, from_latents

BATCH = 32  # windows denoised together
TILE = 256  # pixels along a side of a tile in a TIFF
OVERLAP = 0.75  # share of a window that its neighbours see too, as in the paper
SPREAD = 0.25  # share of a tile that neighbouring tiles decode too
NAMES = ("sample", "hidden_states")  # what denoisers call what they denoise


def slerp(first: torch.Tensor, second: torch.Tensor, share: torch.Tensor) -> torch.Tensor:
    """Rows [N, …, D] and share [N] of the second in [0, 1] -> points on the arcs between them (Shoemake 1985); straight where one is zero."""
    share = share.reshape(-1, *[1] * (first.ndim - 1)).to(first)
    cosine = F.cosine_similarity(first, second, dim=-1).clamp(-1, 1)[..., None]
    angle = torch.acos(cosine)
    sine = torch.sin(angle)
    straight = sine < 1e-4
    safe = torch.where(straight, torch.ones_like(sine), sine)
    weights = [torch.where(straight, flat, torch.sin(flat * angle) / safe) for flat in ((1 - share), share)]
    zero = (first.norm(dim=-1, keepdim=True) == 0) | (second.norm(dim=-1, keepdim=True) == 0)
    curved = weights[0] * first + weights[1] * second
    return torch.where(zero, (1 - share) * first + share * second, curved)


def at(grid: torch.Tensor, rows: torch.Tensor, columns: torch.Tensor) -> torch.Tensor:
    """grid [R, C, …, D] and places in [0, 1]² -> [N, …, D]: slerp along columns, then along rows, between the four nearest cells."""
    height, width = grid.shape[:2]
    y, x = (place.clamp(0, 1) * (count - 1) for place, count in ((rows, height), (columns, width)))
    y0, x0 = y.floor().long().clamp(max=max(height - 2, 0)), x.floor().long().clamp(max=max(width - 2, 0))
    y1, x1 = (y0 + 1).clamp(max=height - 1), (x0 + 1).clamp(max=width - 1)
    above = slerp(grid[y0, x0], grid[y0, x1], x - x0)
    below = slerp(grid[y1, x0], grid[y1, x1], x - x0)
    return slerp(above, below, y - y0)


def starts(length: int, window: int, overlap: float) -> list[int]:
    """Where windows begin so that they cover a length, the last one flush with the end."""
    stride = max(1, round(window * (1 - overlap)))
    return [*range(0, length - window, stride), length - window]


def ramp(window: int) -> torch.Tensor:
    """A window's weights, float [window]: a raised cosine that is nowhere zero."""
    places = (torch.arange(window) + 0.5) / window
    return torch.sin(places * torch.pi) ** 2 + 1e-3


@contextlib.contextmanager
def windowed(denoiser: Any, window: tuple[int, int], overlap: float = OVERLAP, grid: bool = False) -> Iterator[None]:
    """While this lasts, the denoiser works on canvases of any size: on windows of its own size, whose outputs are averaged smoothly.

    grid: its second input from the front, `image_embeds`, is [B, R, C, …, D], and each window gets the embedding of its place.
    Raises ValueError for a denoiser whose input is no image of channels (packed tokens).
    """
    inner = denoiser.forward

    def forward(*args: Any, **kwargs: Any) -> Any:
        values = {**{str(i): value for i, value in enumerate(args)}, **kwargs}  # inputs without a name go by their place
        name = next((name for name in ("0", *NAMES) if isinstance(values.get(name), torch.Tensor)), "")
        sample = values.get(name)
        if sample is None or sample.ndim != 4:
            raise ValueError(f"{type(denoiser).__name__} does not denoise images of channels, so windows cannot be cut from them")
        if tuple(sample.shape[-2:]) == window and not grid:
            return inner(*args, **kwargs)
        further = {key: value for key, value in values.items() if key != name}
        embeds = further.pop("2") if grid else None
        out: Any = None
        weight = (ramp(window[0])[:, None] * ramp(window[1])[None]).to(sample.device)
        total = torch.zeros(sample.shape[-2:], device=sample.device)
        for places in _batches(sample.shape, window, overlap):
            rest = {key: _repeated(value, len(sample), len(places)) for key, value in further.items()}
            if embeds is not None:
                rest["2"] = _embeds(embeds, places, sample.shape, window)
            parts = torch.cat([sample[:, :, y : y + window[0], x : x + window[1]] for y, x in places])
            answer = _call(inner, name, parts, rest)
            found = _tensor(answer).float()
            if out is None:  # a model that answers with a variance too has more channels than it was given
                out = torch.zeros(len(sample), found.shape[1], *sample.shape[2:], device=sample.device)
            for (y, x), part in zip(places, found.split(len(sample)), strict=True):
                out[:, :, y : y + window[0], x : x + window[1]] += weight * part
                total[y : y + window[0], x : x + window[1]] += weight
        return _like(answer, (out / total).to(sample.dtype))

    denoiser.forward = forward
    try:
        yield
    finally:
        del denoiser.forward


def reference_grid(pipe: RepresentationDiffusionPipeline, image: np.ndarray, spacing: float = 0.5) -> torch.Tensor:
    """The embeddings of a real image's patches, [R, C, …, D]: patches of the trained size, `spacing` of a side apart.

    image: uint8 [H, W, 3]. Raises ValueError for one that is smaller than a patch.
    """
    side = pipe.sample_size
    if min(image.shape[0] - side[0], image.shape[1] - side[1]) < 0:
        raise ValueError(f"the reference is {image.shape[0]}×{image.shape[1]}, smaller than the patches of {side[0]}×{side[1]}; enlarge it")
    rows, columns = (
        np.rint(np.linspace(0, length - one, max(1, round((length - one) / (one * spacing)) + 1))).astype(int)
        for length, one in zip(image.shape[:2], side, strict=True)
    )
    # Row by row, since patches overlap: all of a large scan's at once are several times its size.
    return torch.stack([pipe.encode_image([image[y : y + side[0], x : x + side[1]] for x in columns]) for y in rows])


@torch.no_grad()
def generate(
    pipe: Any,
    height: int,
    width: int,
    generator: torch.Generator,
    grid: torch.Tensor | None = None,
    overlap: float = OVERLAP,
    **call: Any,
) -> torch.Tensor:
    """The latents (or pixels) of a large image, [C, h, w]; `rows` decodes them. Memory grows with this canvas alone.

    pipe: a RepresentationDiffusionPipeline with a grid of embeddings [R, C, …, D], or any pipeline of diffusers whose denoiser takes images
    of channels; then `call` holds its prompt.  height, width: multiples of what the pipeline asks for.  overlap: of windows.
    call: further arguments of the pipeline's call.  Raises ValueError.
    """
    denoiser = denoiser_of(pipe)
    window = trained(denoiser)
    factor = factor_of(pipe)
    if height < window[0] * factor or width < window[1] * factor:
        raise ValueError(
            f"a large image is at least {window[0] * factor}×{window[1] * factor}, the size of one patch; not {height}×{width}"
        )
    if isinstance(pipe, RepresentationDiffusionPipeline):
        if grid is None:
            raise ValueError("a representation-guided model needs a grid of embeddings")
        call["image_embeds"] = grid[None]
    with windowed(denoiser, window, overlap, grid="image_embeds" in call):
        return pipe(height=height, width=width, generator=generator, output_type="latent", **call).images[0]


def rows(pipe: Any, canvas: torch.Tensor) -> Iterator[np.ndarray]:
    """Decode a canvas [C, h, w] in tiles, blended where they overlap: strips uint8 [some, W, 3] from the top, one row of tiles in memory."""
    tile = trained(denoiser_of(pipe))
    if getattr(pipe, "vae", None) is None:
        for strip in canvas.split(tile[0], dim=1):
            yield _bytes(strip.float() / 2 + 0.5)
        return
    tile = (min(tile[0], canvas.shape[1]), min(tile[1], canvas.shape[2]))
    factor = factor_of(pipe)
    tops, lefts = (starts(length, side, SPREAD) for length, side in zip(canvas.shape[1:], tile, strict=True))
    weight = (_edges(tile[0] * factor)[:, None] * _edges(tile[1] * factor)[None]).to(canvas.device)
    strip, done = torch.zeros(4, 0), 0
    for number, top in enumerate(tops):
        fresh = torch.zeros(4, tile[0] * factor, canvas.shape[2] * factor, device=canvas.device)
        for left in lefts:
            pixels = _decoded(pipe.vae, canvas[None, :, top : top + tile[0], left : left + tile[1]])
            span = slice(left * factor, (left + tile[1]) * factor)
            fresh[:3, :, span] += weight * pixels
            fresh[3, :, span] += weight
        kept = done - top * factor  # rows of this strip that are already out
        if strip.shape[1]:
            fresh[:, : strip.shape[1]] += strip
        end = (tops[number + 1] if number + 1 < len(tops) else top + tile[0]) * factor
        ready = fresh[:, kept : end - top * factor]
        yield _bytes(ready[:3] / ready[3])
        strip, done = fresh[:, end - top * factor :], end


def write(path: Any, pipe: Any, canvas: torch.Tensor) -> None:
    """Decode a canvas into a tiled, compressed (Big)TIFF; one row of tiles is in memory, never the whole picture."""
    import tifffile

    factor = factor_of(pipe)
    height, width = canvas.shape[1] * factor, canvas.shape[2] * factor

    def tiles() -> Iterator[np.ndarray]:
        for band in _bands(rows(pipe, canvas), TILE):
            for left in range(0, width, TILE):
                tile = band[:, left : left + TILE]
                yield np.pad(tile, ((0, TILE - tile.shape[0]), (0, TILE - tile.shape[1]), (0, 0)), mode="edge")

    tifffile.imwrite(
        path,
        tiles(),
        shape=(height, width, 3),
        dtype=np.uint8,
        photometric="rgb",
        tile=(TILE, TILE),
        compression="zlib",
        bigtiff=height * width > 2**29,
    )


def _bands(strips: Iterator[np.ndarray], deep: int) -> Iterator[np.ndarray]:
    """The same rows in bands of equal height, the last one lower."""
    held: list[np.ndarray] = []
    for strip in strips:
        while len(strip):
            missing = deep - sum(map(len, held))
            held.append(strip[:missing])
            strip = strip[missing:]
            if sum(map(len, held)) == deep:
                yield np.concatenate(held)
                held = []
    if held:
        yield np.concatenate(held)


def seam_ratio(image: np.ndarray, lines: tuple[list[int], list[int]], lattice: int = 1) -> float:
    """Mean absolute gradient across the given rows and columns (each a first pixel of a tile), over that across all others; 1 is no seam.

    lattice: only rows and columns at its multiples are compared: pixels per latent, since a decoder has steps of its own between its latents, and
    photographs stored as JPEG have some between their blocks, with or without a seam.
    """
    grey = image.astype(np.float32).mean(2)
    at_lines, elsewhere = [], []
    for axis, places in enumerate(lines):
        steps = np.abs(np.diff(grey, axis=axis)).mean(1 - axis)
        border = np.zeros(len(steps), bool)
        border[[place - 1 for place in places if 0 < place <= len(steps)]] = True
        compared = np.arange(1, len(steps) + 1) % lattice == 0
        at_lines.append(steps[border & compared])
        elsewhere.append(steps[~border & compared])
    return float(np.concatenate(at_lines).mean() / np.concatenate(elsewhere).mean())


def _batches(shape: Any, window: tuple[int, int], overlap: float) -> Iterator[list[tuple[int, int]]]:
    """The windows' corners, some at a time."""
    places = [(y, x) for y in starts(shape[2], window[0], overlap) for x in starts(shape[3], window[1], overlap)]
    size = max(1, BATCH // shape[0])
    for start in range(0, len(places), size):
        yield places[start : start + size]


def _embeds(grid: torch.Tensor, places: list[tuple[int, int]], shape: Any, window: tuple[int, int]) -> torch.Tensor:
    """Each window's embedding by its place, for every image: [windows · B, …, D], windows outermost."""
    free = [length - side for length, side in zip(shape[-2:], window, strict=True)]
    y, x = (torch.tensor([place[i] / free[i] if free[i] else 0.5 for place in places], device=grid.device) for i in (0, 1))
    each = torch.stack([at(one, y, x) for one in grid], dim=1)
    return each.flatten(0, 1)


def _repeated(value: Any, images: int, windows: int) -> Any:
    """A denoiser's further input, once for every window: anything with a row per image is repeated."""
    if isinstance(value, torch.Tensor) and value.ndim and len(value) == images:
        return value.repeat(windows, *[1] * (value.ndim - 1))
    if isinstance(value, dict):
        return {key: _repeated(inner, images, windows) for key, inner in value.items()}
    return value


def _call(inner: Any, name: str, parts: torch.Tensor, rest: dict[str, Any]) -> Any:
    """The denoiser's answer for `parts` under this name and its further inputs; see `windowed` for the names."""
    values = {name: parts, **rest}
    positional = [values.pop(key) for key in sorted(filter(str.isdigit, values), key=int)]
    return inner(*positional, **values)


def _tensor(answer: Any) -> torch.Tensor:
    """What a denoiser predicts, out of a tuple or an output of diffusers."""
    return answer if isinstance(answer, torch.Tensor) else answer[0]


def _like(answer: Any, out: torch.Tensor) -> Any:
    """Another prediction in the wrapping of this answer."""
    if isinstance(answer, torch.Tensor):
        return out
    return (out,) if isinstance(answer, tuple) else type(answer)(sample=out)


def trained(denoiser: Any) -> tuple[int, int]:
    """The height and width that a denoiser was trained on, in latents. Raises ValueError when it does not say."""
    side = getattr(denoiser.config, "sample_size", None)
    if side is None:
        raise ValueError(f"{type(denoiser).__name__} does not say on which size it was trained, so windows have no size")
    return (side, side) if isinstance(side, int) else (side[0], side[1])


def denoiser_of(pipe: Any) -> Any:
    """A pipeline's denoiser, whatever it is called. Raises ValueError where it has none."""
    found = next((part for name in ("unet", "transformer") if (part := getattr(pipe, name, None)) is not None), None)
    if found is None:
        raise ValueError(f"{type(pipe).__name__} has no denoiser of images, so that no windows can be cut")
    return found


def factor_of(pipe: Any) -> int:
    """Pixels per latent along a side; 1 for a pipeline without an autoencoder."""
    return 1 if getattr(pipe, "vae", None) is None else int(getattr(pipe, "factor", None) or pipe.vae_scale_factor)


def _edges(side: int) -> torch.Tensor:
    """A tile's weights in decoding: flat, falling off linearly where tiles overlap."""
    places = torch.arange(side) + 0.5
    return (torch.minimum(places, side - places) / (side * SPREAD)).clamp(max=1)


@torch.no_grad()  # else every strip would hold the graph of all strips above it
def _decoded(vae: Any, tile: torch.Tensor) -> torch.Tensor:
    """Latents [1, C, h, w] -> pixels [3, H, W] in [0, 1]."""
    return (from_latents(vae, tile)[0].float() / 2 + 0.5).clamp(0, 1)


def _bytes(pixels: torch.Tensor) -> np.ndarray:
    return (pixels.clamp(0, 1).expand(3, -1, -1) * 255).round().byte().permute(1, 2, 0).cpu().numpy()
