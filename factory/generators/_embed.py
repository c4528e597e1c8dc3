"""Real images -> the embeddings that a pipeline is conditioned on, by the pipeline's own image encoder.

A route knows which argument of the call takes the embeddings, how the pipeline makes them, and how their rows for a batch
are laid out. Rows that a condition mixes are the conditional ones only: the unconditional half for classifier-free
guidance, and unCLIP's noise-level half, are added by the route or the pipeline afterwards.
"""

from __future__ import annotations

import functools
import inspect
import re
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence, Set
from typing import Any

import numpy as np
from PIL import Image

from factory.errors import UserError
from factory.images import to_pil
from factory.records import Inputs


class EmbedRoute(ABC):
    """target: the pipeline to call, which for combined pipelines is their decoder.

    several: whether one image may be conditioned on several embeddings, each a token of its own.
    """

    several = False

    def __init__(self, target: Any):
        self.target = target

    @abstractmethod
    def encode(self, pictures: list[Image.Image]) -> Any:
        """Pictures -> tensor [N, …], one conditional row each."""

    @abstractmethod
    def arguments(self, rows: Any, guided: bool) -> dict[str, Any]:
        """Conditional rows [B, tokens, …] -> arguments of the call. guided: the pipeline will do classifier-free guidance."""


def find(pipe: Any, adapted: bool) -> EmbedRoute | None:
    """The way into this pipeline for image embeddings, or None. adapted: an image-prompt adapter is loaded."""
    parameters = inspect.signature(pipe.__call__).parameters
    if "ip_adapter_image_embeds" in parameters and adapted:
        return _Adapter(pipe) if getattr(pipe, "image_encoder", None) is not None else None
    name = next((name for name in ("image_embeds", "image_embeddings") if name in parameters), None)
    if name and (callable(getattr(pipe, "encode_image", None)) or getattr(pipe, "image_encoder", None) is not None):
        return _Direct(pipe, name)
    prior, decoder = getattr(pipe, "prior_pipe", None), getattr(pipe, "decoder_pipe", None)
    if (
        hasattr(prior, "get_zero_embed")
        and decoder is not None
        and "negative_image_embeds" in inspect.signature(decoder.__call__).parameters
    ):
        return _Combined(prior, decoder)
    return None


def target_class(found: type, parts: Set[str], adapted: bool) -> type | None:
    """The class that `find` would call with embeddings, from a pipeline class and the names of its components; None where there is no way in."""
    parameters = inspect.signature(found.__call__).parameters
    if "ip_adapter_image_embeds" in parameters and adapted:
        return found
    if {"image_embeds", "image_embeddings"} & parameters.keys() and (hasattr(found, "encode_image") or "image_encoder" in parts):
        return found
    prior, decoder = (_made_in_init(found, name) for name in ("prior_pipe", "decoder_pipe"))
    if hasattr(prior, "get_zero_embed") and decoder and "negative_image_embeds" in inspect.signature(decoder.__call__).parameters:
        return decoder
    return None


def _made_in_init(found: type, attribute: str) -> type | None:
    """The class of which a combined pipeline's __init__ makes one of its attributes."""
    try:
        source = inspect.getsource(found.__init__)  # type: ignore[misc]
    except (OSError, TypeError):  # made without a source, or without an __init__ of its own
        return None
    match = re.search(rf"self\.{attribute}\s*=\s*(\w+)\(", source)
    return getattr(sys.modules[found.__module__], match[1], None) if match else None


def mix(route: EmbedRoute, inputs: Sequence[Inputs]) -> Any:
    """Encode every image of a batch in order and combine each request's rows as its condition asks -> tensor [B, tokens, …].

    There is one token, but for inputs that ask for `tokens` on a route that takes several; elsewhere theirs are averaged.
    """
    import torch

    pictures = [to_pil(image) for one in inputs for image in one.images]
    with torch.no_grad():
        encoded: Any = route.encode(pictures) if pictures else None
    rows, start = [], 0
    for one in inputs:
        if one.embedding is not None:
            given = torch.from_numpy(one.embedding).to(route.target._execution_device)
            wide = getattr(getattr(route.target, "encoder", None), "embed_dim", given.shape[-1])
            if given.shape[-1] != wide:
                raise UserError(
                    f"condition: it draws embeddings of {given.shape[-1]} numbers and the generator's encoder makes {wide}; use a model that "
                    "was trained for this pipeline"
                )
            rows.append(given if route.several else given[None] if len(given) > 1 else given)
            continue
        own = encoded[start : start + len(one.images)]
        start += len(one.images)
        if one.combine is not None:
            rows.append(_combined(one.combine, own))
        elif one.tokens and len(own) > 1:
            rows.append(own if route.several else own.float().mean(0, keepdim=True).to(encoded))
        else:  # as the encoder made it, without a detour over float32
            rows.append(own[:1])
    return torch.stack(rows)


def _combined(combine: Callable[[np.ndarray], np.ndarray], own: Any) -> Any:
    import torch

    host = own.float().cpu().numpy().reshape(len(own), -1)
    mixed = np.asarray(combine(host), dtype=np.float32)
    if mixed.shape != host.shape[1:]:
        raise ValueError(f"combine must give one embedding of {host.shape[1]} numbers, not {mixed.shape}")
    return torch.from_numpy(mixed).reshape(own[:1].shape).to(own)


class _Direct(EmbedRoute):
    """Pipelines whose call takes `image_embeds`: unCLIP, and the project's own, of which some take several."""

    def __init__(self, target: Any, name: str):
        super().__init__(target)
        self.name = name
        self.several = bool(getattr(target, "takes_tokens", False))

    def encode(self, pictures: list[Image.Image]) -> Any:
        if callable(getattr(self.target, "encode_image", None)):
            return _first(_by_name(self.target.encode_image, pictures, self.target, {}))
        return _projected(self.target.image_encoder, _processor(self.target), pictures, self.target)

    def arguments(self, rows: Any, guided: bool) -> dict[str, Any]:
        return {self.name: rows if self.several else rows[:, 0]}


class _Combined(EmbedRoute):
    """Kandinsky 2: the prior would make an image embedding from text; a real image's embedding goes to the decoder instead."""

    def __init__(self, prior: Any, decoder: Any):
        super().__init__(decoder)
        self.prior = prior

    def encode(self, pictures: list[Image.Image]) -> Any:
        return _projected(self.prior.image_encoder, _processor(self.prior), pictures, self.prior)

    def arguments(self, rows: Any, guided: bool) -> dict[str, Any]:
        rows = rows[:, 0]
        return {"image_embeds": rows, "negative_image_embeds": self.prior.get_zero_embed(len(rows), rows.device).to(rows)}


class _Adapter(EmbedRoute):
    """Image-prompt adapters: embeddings [B, 1, …], after as many unconditional ones where the pipeline expects these."""

    def __init__(self, target: Any):
        super().__init__(target)
        self.unconditional: Any = None
        prepare = inspect.signature(target.prepare_ip_adapter_image_embeds).parameters
        self.halves = "do_classifier_free_guidance" in prepare
        annotation = str(inspect.signature(target.__call__).parameters["ip_adapter_image_embeds"].annotation)
        self.listed = self.several = "list[" in annotation.casefold()
        _keep_rows(target)

    def encode(self, pictures: list[Image.Image]) -> Any:
        from diffusers.models.embeddings import ImageProjection

        denoiser = getattr(self.target, "unet", None) or self.target.transformer
        layers = getattr(getattr(denoiser, "encoder_hid_proj", None), "image_projection_layers", [None])
        encoded = _by_name(
            self.target.encode_image, pictures, self.target, {"output_hidden_states": not isinstance(layers[0], ImageProjection)}
        )
        self.unconditional = encoded[1][:1] if isinstance(encoded, tuple) else None
        return _first(encoded)

    def arguments(self, rows: Any, guided: bool) -> dict[str, Any]:
        import torch

        if self.halves and guided:
            empty = torch.zeros_like(rows) if self.unconditional is None else self.unconditional[:, None].expand_as(rows)
            rows = torch.cat([empty, rows])
        rows = rows if self.listed or rows.ndim == 3 else rows[:, 0]
        return {"ip_adapter_image_embeds": [rows] if self.listed else rows}


def _keep_rows(pipe: Any) -> None:
    """Make the pipeline take one embedding per image: its own code would repeat each as often as the batch is long."""
    method = pipe.prepare_ip_adapter_image_embeds
    if hasattr(method, "__wrapped__"):
        return
    signature = inspect.signature(method)

    @functools.wraps(method)
    def prepare_ip_adapter_image_embeds(*args: Any, **kwargs: Any) -> Any:
        bound = signature.bind(*args, **kwargs)
        bound.arguments["num_images_per_prompt"] = 1
        return method(*bound.args, **bound.kwargs)

    pipe.prepare_ip_adapter_image_embeds = prepare_ip_adapter_image_embeds


def _processor(pipe: Any) -> Any:
    found = getattr(pipe, "feature_extractor", None)
    return found if found is not None else pipe.image_processor


def _projected(encoder: Any, processor: Any, pictures: list[Image.Image], pipe: Any) -> Any:
    pixels = processor(images=pictures, return_tensors="pt").pixel_values
    encoded = encoder(pixels.to(device=pipe._execution_device, dtype=next(encoder.parameters()).dtype))
    return encoded.image_embeds if hasattr(encoded, "image_embeds") else encoded.pooler_output


def _by_name(method: Any, pictures: list[Image.Image], pipe: Any, extra: dict[str, Any]) -> Any:
    """Call a pipeline's image encoding with what its signature asks for."""
    offered = {"image": pictures, "images": pictures, "device": pipe._execution_device, "num_images_per_prompt": 1, **extra}
    parameters = inspect.signature(method).parameters
    return method(**{name: value for name, value in offered.items() if name in parameters})


def _first(encoded: Any) -> Any:
    return encoded[0] if isinstance(encoded, tuple) else encoded
