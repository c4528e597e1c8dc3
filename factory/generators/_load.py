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
        _add_ip_adapter(pipe, kind)
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
    except (OSError, ImportError, ValueError) as error:
        raise UserError(f"generator.model: cannot load {kind.model}: {last_line(error)}") from error


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
    if not kind.loras:
        return
    if not hasattr(pipe, "load_lora_weights"):
        raise UserError(f"generator.loras: {type(pipe).__name__} takes no LoRA; remove the key")
    for number, lora in enumerate(kind.loras):
        if lora.weight_name is not None:
            refuse_pickle(lora.weight_name, kind, f"loras[{number}]")
        options = {"weight_name": lora.weight_name, "revision": lora.revision, "use_safetensors": None if kind.allow_pickle else True}
        try:
            pipe.load_lora_weights(lora.model, adapter_name=f"lora_{number}", **options)
        except (OSError, ImportError, ValueError) as error:
            raise UserError(f"generator.loras[{number}]: cannot load {lora.model}: {last_line(error)}") from error
    pipe.set_adapters([f"lora_{number}" for number in range(len(kind.loras))], [lora.scale for lora in kind.loras])


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
