"""torchvision's transforms with randomness of their own: they draw from torch's global generator, which belongs to the pipelines."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from factory.augment import _geometry
from factory.errors import UserError
from factory.records import Annotations

_DRAWS = ("rand", "randn", "randint", "randperm", "normal", "bernoulli", "multinomial", "poisson", "_sample_dirichlet")
_METHODS = (
    "uniform_",
    "normal_",
    "random_",
    "bernoulli_",
    "exponential_",
    "geometric_",
    "log_normal_",
    "cauchy_",
    "bernoulli",
    "multinomial",
)
_LIKE = {"rand_like": "rand", "randn_like": "randn"}


def run(
    make: Callable[[], Any], image: np.ndarray, notes: Annotations | None, rng: np.random.Generator
) -> tuple[np.ndarray, Annotations | None, dict[str, float | int | str]]:
    """A v2 transform on an image and its annotations. Records the seed it drew from. Raises UserError for a result that is no RGB image."""
    import torch
    from torchvision import tv_tensors

    seed = int(rng.integers(2**53))  # exact in JSON for every reader
    height, width = image.shape[:2]
    parts: dict[str, Any] = {"image": tv_tensors.Image(torch.from_numpy(np.ascontiguousarray(image)).permute(2, 0, 1))}
    if notes is not None and notes.mask is not None:
        parts["mask"] = tv_tensors.Mask(torch.from_numpy(np.ascontiguousarray(notes.mask)))
    if notes is not None and notes.boxes is not None:
        boxes = torch.from_numpy(notes.boxes.astype(np.float32)).reshape(-1, 4)
        parts["boxes"] = tv_tensors.BoundingBoxes(boxes, format="XYXY", canvas_size=(height, width))
    transform = make()
    with _own_randomness(torch.Generator().manual_seed(seed)):
        try:
            out = transform(parts)
        except TypeError as error:
            if "not supported" not in str(error) or len(parts) == 1:
                raise
            out, notes = transform({"image": parts["image"]}), None  # AutoAugment and its like move pixels and say nothing about places
    return _pixels(out["image"], transform), _notes(out, notes), {"seed": seed}


def _pixels(out: Any, transform: Any) -> np.ndarray:
    shape = tuple(getattr(out, "shape", ()))
    if len(shape) != 3 or shape[0] not in (1, 3):
        what = f"the shape {shape}" if shape else f"the type {type(out).__name__}"
        raise UserError(f"augment {type(transform).__name__}: its result has {what}, which is no RGB image; choose another transform")
    if out.is_floating_point():
        out = (out.clamp(0, 1) * 255).round().byte()
    return np.ascontiguousarray(out.expand(3, -1, -1).permute(1, 2, 0).numpy())


def _notes(out: dict[str, Any], notes: Annotations | None) -> Annotations | None:
    if notes is None:
        return None
    mask = np.ascontiguousarray(out["mask"].numpy()) if "mask" in out else None
    if "boxes" not in out:
        return Annotations(mask=mask)
    height, width = out["image"].shape[-2:]
    boxes, kept = _geometry.clip_boxes(out["boxes"].numpy(), (0, 0, width, height), 0.1)
    return Annotations(boxes.astype(np.float32), None if notes.box_labels is None else notes.box_labels[kept], mask)


def _own_randomness(generator: Any) -> Any:
    """Inside, every random function of torch draws from this generator, in this thread alone."""
    import torch
    from torch.overrides import TorchFunctionMode

    draws = {getattr(torch, name) for name in _DRAWS} | {getattr(torch.Tensor, name) for name in _METHODS}
    likes = {getattr(torch, name): getattr(torch, plain) for name, plain in _LIKE.items()}

    class Own(TorchFunctionMode):
        def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            kwargs = dict(kwargs or {})
            if func in draws and kwargs.get("generator") is None:
                kwargs["generator"] = generator
            elif func in likes:
                like = args[0]
                return likes[func](like.shape, generator=generator, dtype=kwargs.get("dtype") or like.dtype, device=like.device)
            return func(*args, **kwargs)

    return Own()
