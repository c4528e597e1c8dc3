"""A recipe's settings -> a pipeline in memory, then on its device."""

from __future__ import annotations

import contextlib
import inspect
import logging
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from factory.errors import UserError
from factory.generators import _controls, _fast
from factory.generators._source import Located, last_line, locate, pipeline_class, refuse_pickle, refuse_pickled_folder

if TYPE_CHECKING:
    from factory.generators.diffusers import Diffusers

DENOISERS = ("unet", "transformer", "transformer_2", "prior", "decoder", "prior_prior")


@dataclass(frozen=True)
class Loaded:
    """A pipeline and where it came from."""

    pipe: Any
    located: Located


def load(kind: Diffusers, device: str) -> Loaded:
    """Load the pipeline with its scheduler and adapters into host memory, with the number type for a device. Raises UserError."""
    located = locate(kind)
    found = pipeline_class(located.index, kind.model)
    with quiet():
        pipe = _read(found, located, kind, device)
        _set_scheduler(pipe, kind)
        _add_loras(pipe, kind)
        _add_embeddings(pipe, kind)
        _add_ip_adapter(pipe, kind)
        if kind.controlnets:
            pipe = _controls.attach(pipe, kind, _dtype(kind, device))
    for name in DENOISERS:
        module = getattr(pipe, name, None)
        if kind.compile and module is not None:
            module.compile()
    return Loaded(pipe, located)


def place(pipe: Any, kind: Diffusers, device: str) -> None:
    """Put a pipeline on its device, or leave it in host memory and bring its parts over as they are needed."""
    pipe.set_progress_bar_config(disable=True)
    try:
        if kind.offload == "none" or device == "cpu":
            pipe.to(device)
        elif kind.offload == "model":
            pipe.enable_model_cpu_offload(device=device)
        else:
            pipe.enable_sequential_cpu_offload(device=device)
    except RuntimeError as error:
        if not out_of_memory(error):
            raise
        raise UserError(
            f"generator.model: {kind.model} does not fit into the memory of {device}; set offload: model, or a shorter dtype"
        ) from error
    vae = getattr(pipe, "vae", None)
    for wanted, method in ((kind.vae_slicing, "enable_slicing"), (kind.vae_tiling, "enable_tiling")):
        if wanted and not hasattr(vae, method):
            raise UserError(f"generator.vae_{method.removeprefix('enable_')}: {type(pipe).__name__} has no such switch; remove the key")
        if wanted:
            getattr(vae, method)()


def out_of_memory(error: Exception) -> bool:
    """Whether a device or the host had no memory left; torch has a class for the one and a message for the other."""
    import torch

    return isinstance(error, torch.OutOfMemoryError) or "not enough memory" in str(error)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep the libraries' progress bars and advice off the terminal; errors still pass."""
    import diffusers.utils.logging as diffusers_logging
    import transformers.utils.logging as transformers_logging

    kept = diffusers_logging.get_verbosity(), transformers_logging.get_verbosity()
    diffusers_bars, transformers_bars = diffusers_logging.is_progress_bar_enabled(), transformers_logging.is_progress_bar_enabled()
    diffusers_logging.set_verbosity(logging.ERROR)
    transformers_logging.set_verbosity(logging.ERROR)
    diffusers_logging.disable_progress_bar()
    transformers_logging.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        diffusers_logging.set_verbosity(kept[0])
        transformers_logging.set_verbosity(kept[1])
        if diffusers_bars:
            diffusers_logging.enable_progress_bar()
        if transformers_bars:
            transformers_logging.enable_progress_bar()


def _dtype(kind: Diffusers, device: str) -> Any:
    import torch

    if kind.dtype != "auto":
        return getattr(torch, kind.dtype)
    if device.startswith("cpu"):
        return torch.float32
    return torch.bfloat16 if device.startswith("cuda") and torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16


def _read(found: Any, located: Located, kind: Diffusers, device: str) -> Any:
    renamed = '"dtype"' in inspect.getsource(found.from_pretrained)  # older diffusers says torch_dtype, and ignores dtype
    options: dict[str, Any] = {"dtype" if renamed else "torch_dtype": _dtype(kind, device)}
    if kind.variant:
        options["variant"] = kind.variant
    if kind.trust_remote_code:
        options["trust_remote_code"] = True
    if not kind.allow_pickle:
        options["use_safetensors"] = True
    try:
        return found.from_pretrained(str(located.folder), **options)
    except Exception as error:  # each library that reads a damaged file, or one that does not fit its configuration, has its own
        if out_of_memory(error):
            raise
        raise UserError(
            f"generator.model: cannot load {kind.model}: {last_line(error)} ({type(error).__name__}); is each of its files whole?"
        ) from error


def _set_scheduler(pipe: Any, kind: Diffusers) -> None:
    if kind.scheduler is None and not kind.scheduler_options:
        return
    import diffusers

    if getattr(pipe, "scheduler", None) is None:
        raise UserError(f"generator.scheduler: {type(pipe).__name__} has no scheduler; remove the key")
    name = kind.scheduler or type(pipe.scheduler).__name__
    found = getattr(diffusers, name, None) if name.endswith("Scheduler") else None
    if found is None:
        known = ", ".join(sorted(cls.__name__ for cls in getattr(pipe.scheduler, "compatibles", [])))
        raise UserError(
            f"generator.scheduler: diffusers has no scheduler {name}; this model takes {known or type(pipe.scheduler).__name__}"
        )
    try:
        pipe.scheduler = found.from_config(pipe.scheduler.config, **kind.scheduler_options)
    except (ImportError, TypeError, ValueError, NotImplementedError) as error:
        raise UserError(f"generator.scheduler_options: {name} refuses them: {last_line(error)}") from error


def _add_loras(pipe: Any, kind: Diffusers) -> None:
    wanted = [(f"loras[{i}]", lora.model, lora.weight_name, lora.revision, lora.scale) for i, lora in enumerate(kind.loras)]
    own = _fast.lora(kind.fast, type(pipe).__name__, kind.steps) if kind.fast is not None and not _brings_speed(kind) else None
    if own is not None:
        wanted.append(("fast", own[0], own[1], None, 1.0))
    if not wanted:
        return
    if not hasattr(pipe, "load_lora_weights"):
        raise UserError(f"generator.{wanted[0][0]}: {type(pipe).__name__} takes no LoRA; remove the key")
    for number, (what, model, weight_name, revision, _) in enumerate(wanted):
        if weight_name is not None:
            refuse_pickle(weight_name, kind, what)
        options = {"weight_name": weight_name, "revision": revision, "use_safetensors": None if kind.allow_pickle else True}
        try:
            pipe.load_lora_weights(model, adapter_name=f"lora_{number}", **options)
        except (OSError, ImportError, ValueError) as error:
            raise UserError(f"generator.{what}: cannot load {model}: {last_line(error)}") from error
    pipe.set_adapters([f"lora_{number}" for number in range(len(wanted))], [scale for *_, scale in wanted])


def _brings_speed(kind: Diffusers) -> bool:
    """Whether the recipe names the few-step adapter itself, from another place: one whose name says so."""
    key = {"lcm_lora": "lcm", "hyper_sd": "hyper", "tcd": "tcd"}.get(kind.fast or "", "")
    return bool(key) and any(key in f"{lora.model}/{lora.weight_name}".casefold() for lora in kind.loras)


def _add_embeddings(pipe: Any, kind: Diffusers) -> None:
    if not kind.embeddings:
        return
    if not hasattr(pipe, "load_textual_inversion"):
        raise UserError(f"generator.embeddings: {type(pipe).__name__} takes no textual inversion; remove the key")
    for number, one in enumerate(kind.embeddings):
        what = f"embeddings[{number}]"
        for name in filter(None, (one.weight_name, one.model if Path(one.model).expanduser().is_file() else None)):
            refuse_pickle(name, kind, what)
        before = {name: len(tokenizer) for name, tokenizer, _ in _towers(pipe)}
        options = {"weight_name": one.weight_name, "revision": one.revision, "use_safetensors": None if kind.allow_pickle else True}
        try:
            pipe.load_textual_inversion(one.model, token=one.token, **{k: v for k, v in options.items() if v is not None})
        except (OSError, ImportError, ValueError) as error:
            raise UserError(f"generator.{what}: cannot load {one.model}: {last_line(error)}") from error
        for name, tokenizer, encoder in _towers(pipe):
            rows = encoder.get_input_embeddings().weight.data
            rows[before[name] : len(tokenizer)] *= one.scale


def _towers(pipe: Any) -> list[tuple[str, Any, Any]]:
    """(name, tokenizer, text encoder) of each pair that a pipeline has."""
    names = [(f"tokenizer{suffix}", f"text_encoder{suffix}") for suffix in ("", "_2", "_3")]
    return [
        (first, getattr(pipe, first), getattr(pipe, second))
        for first, second in names
        if getattr(pipe, first, None) is not None and getattr(pipe, second, None) is not None
    ]


def _add_ip_adapter(pipe: Any, kind: Diffusers) -> None:
    adapter = kind.ip_adapter
    if adapter is None:
        return
    if not hasattr(pipe, "load_ip_adapter"):
        raise UserError(f"generator.ip_adapter: {type(pipe).__name__} takes no image-prompt adapter; remove the key")
    refuse_pickle(adapter.weight_name, kind, "ip_adapter")
    if getattr(pipe, "image_encoder", None) is None and adapter.image_encoder and not kind.allow_pickle:
        near = "" if "/" in adapter.image_encoder else adapter.subfolder
        refuse_pickled_folder(Path(adapter.model).expanduser() / near / adapter.image_encoder, adapter.model, "ip_adapter")
    options: dict[str, Any] = {"weight_name": adapter.weight_name}
    accepted = _parameters(pipe.load_ip_adapter)
    if adapter.subfolder or ("subfolder" in accepted and accepted["subfolder"].default is inspect.Parameter.empty):
        options["subfolder"] = adapter.subfolder
    if adapter.revision:
        options["revision"] = adapter.revision
    if adapter.image_encoder != "image_encoder":
        name = next((name for name in ("image_encoder_folder", "image_encoder_pretrained_model_name_or_path") if name in accepted), None)
        options |= {name: adapter.image_encoder} if name else {}
    if "image_encoder_dtype" in accepted:
        options["image_encoder_dtype"] = pipe.dtype
    try:
        pipe.load_ip_adapter(adapter.model, **options)
    except (OSError, ImportError, ValueError) as error:
        raise UserError(f"generator.ip_adapter: cannot load {adapter.weight_name} of {adapter.model}: {last_line(error)}") from error
    pipe.set_ip_adapter_scale(adapter.scale)


def _parameters(function: Any) -> dict[str, Any]:
    return dict(inspect.signature(function).parameters)
