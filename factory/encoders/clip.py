"""Encoders of images and texts, by open_clip."""

from __future__ import annotations

import json
import os
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cached_property, lru_cache
from typing import Any

import numpy as np

from factory import images
from factory.encoders import weights
from factory.encoders.encoder import CHUNK, Dtype, digest

REMEMBERED_CHUNKS = 1024  # of texts
LONGEST_TEXT = 8192  # characters: no tokenizer's window reaches so far, and remembering more would fill the memory
BATCHES_AHEAD = 4


class OpenClip:
    """A dual encoder of open_clip (Ilharco et al. 2021) with the model's own preprocessing and tokenizer."""

    def __init__(self, model: str, device: str, dtype: Dtype) -> None:
        import torch
        from open_clip.transform import PreprocessCfg, image_transform_v2

        network, self._tokenizer, self.dim = weights.load(model, device, dtype)
        self._network: Any = network.eval().requires_grad_(False)
        self._device = torch.device(device)
        self._dtype = getattr(torch, dtype)
        self._preprocessing: dict[str, Any] = dict(network.visual.preprocess_cfg)
        self._transform = image_transform_v2(PreprocessCfg(**self._preprocessing), is_train=False)
        self.logit_scale = float(network.logit_scale.detach().float().exp().reshape(-1)[0])
        self._texts = lru_cache(maxsize=REMEMBERED_CHUNKS)(self._encode_texts)
        self._pool = ThreadPoolExecutor(min(8, os.cpu_count() or 1), thread_name_prefix="factory-resize")
        self._latest: dict[int, tuple[np.ndarray, np.ndarray]] = {}  # identity of a picture -> the picture, its embedding
        self._ready: deque[dict[int, tuple[np.ndarray, Future[Any]]]] = deque(maxlen=BATCHES_AHEAD)

    @cached_property
    def identity(self) -> str:
        """Digest of the loaded weights, their precision and the preprocessing."""
        return digest(self._network, json.dumps([str(self._dtype), self._preprocessing], sort_keys=True, default=str))

    def encode_images(self, pictures: Sequence[np.ndarray]) -> np.ndarray:
        """uint8 [H, W, 3] each, of any sizes -> float32 [N, dim] of unit length."""
        if any(id(picture) not in self._latest for picture in pictures):
            unit = self._encode_images(pictures)
            unit.flags.writeable = False  # the same rows answer the next filter
            # Several filters look at one batch, or at some of it, through one encoder. A picture that is held keeps its identity.
            self._latest = {id(picture): (picture, row) for picture, row in zip(pictures, unit, strict=True)}
        return np.stack([self._latest[id(picture)][1] for picture in pictures]) if len(pictures) else np.empty((0, self.dim), np.float32)

    def ahead(self, pictures: Sequence[np.ndarray]) -> None:
        """Begin to resize a batch that will be asked for soon, beside the model; it changes no value. Callable from any thread."""
        self._ready.append({id(picture): (picture, self._pool.submit(self._prepare, picture)) for picture in pictures})

    def _encode_images(self, pictures: Sequence[np.ndarray]) -> np.ndarray:
        import torch

        ready = {name: entry for batch in tuple(self._ready) for name, entry in batch.items()}
        waiting = [ready[id(p)][1] if id(p) in ready else self._pool.submit(self._prepare, p) for p in pictures]
        rows = [np.empty((0, self.dim), np.float32)]
        for start in range(0, len(pictures), CHUNK):
            batch = torch.stack([future.result() for future in waiting[start : start + CHUNK]])
            rows.append(self._unit("encode_image", batch.to(self._device, self._dtype)))
        return np.concatenate(rows)

    def encode_texts(self, texts: Sequence[str]) -> np.ndarray:
        """float32 [N, dim] of unit length: a pure function of the set of texts, whatever their order and whatever was asked before.

        The distinct texts go through the model in chunks, in alphabetical order. A chunk is remembered as a whole, since in another chunk a
        text's last bits may differ: a single text is always encoded alone. Long texts are cut by the tokenizer.
        """
        asked = [text[:LONGEST_TEXT] for text in texts]
        distinct, rows = sorted(set(asked)), dict[str, np.ndarray]()
        for start in range(0, len(distinct), CHUNK):
            chunk = tuple(distinct[start : start + CHUNK])
            rows.update(zip(chunk, self._texts(chunk), strict=True))
        return np.stack([rows[text] for text in asked]) if asked else np.empty((0, self.dim), np.float32)

    def _prepare(self, picture: np.ndarray) -> Any:
        return self._transform(images.to_pil(picture))

    def _encode_texts(self, chunk: tuple[str, ...]) -> np.ndarray:
        unit = self._unit("encode_text", self._tokenizer(list(chunk)).to(self._device))
        unit.flags.writeable = False  # the same array answers every later call
        return unit

    def _unit(self, method: str, batch: Any) -> np.ndarray:
        import torch

        # A caller's autocast would change the precision, and with it the scores.
        with torch.inference_mode(), torch.autocast(self._device.type, enabled=False):
            features = getattr(self._network, method)(batch).float()
            unit: np.ndarray = torch.nn.functional.normalize(features, dim=-1).cpu().numpy()
        return unit
