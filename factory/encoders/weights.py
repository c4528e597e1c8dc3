"""Where the weights of an open_clip model are. Nothing that can run code when it is opened is opened."""

from __future__ import annotations

import difflib
import logging
from pathlib import Path
from typing import Any

from factory.encoders.encoder import Dtype
from factory.errors import UserError

_PRECISION = {"float32": "fp32", "float16": "fp16", "bfloat16": "bf16"}
_PREFERRED = ("open_clip_model.safetensors", "open_clip_pytorch_model.safetensors", "model.safetensors")


def load(model: str, device: str, dtype: Dtype) -> tuple[Any, Any, int]:
    """Network, tokenizer and embedding length. Raises UserError."""
    import open_clip
    from open_clip.factory import load_checkpoint

    name, options, weights = resolve(model)
    logging.getLogger().addFilter(_is_true)
    try:
        network = open_clip.create_model(
            name, device=device, precision=_PRECISION[dtype], pretrained_text=False, require_pretrained=weights is None, **options
        )
        if weights is not None:
            load_checkpoint(network, str(weights))
        return network, open_clip.get_tokenizer(name), int(open_clip.get_model_config(name)["embed_dim"])
    except Exception as error:  # a damaged file, a foreign config and a broken network each raise their own type
        raise cannot_open(model, error) from error
    finally:
        logging.getLogger().removeFilter(_is_true)


def _is_true(record: logging.LogRecord) -> bool:
    """False for open_clip's warning about random weights, which are replaced a moment later."""
    return "initialized randomly" not in record.getMessage()


def resolve(model: str) -> tuple[str, dict[str, Any], Path | None]:
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
    except Exception as error:  # the Hub's client, its transport and open_clip each raise their own type
        raise cannot_open(model, error) from error
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


def cannot_open(model: str, error: Exception) -> UserError:
    """The error for a model that a library could not open, with its reason."""
    reason = " ".join(str(error).split())[:300] or type(error).__name__
    remote = not Path(model).expanduser().is_dir()
    hint = "; without a network, use a local open_clip folder or a model that was downloaded before" if remote else ""
    return UserError(f"cannot open model {model!r}: {reason}{hint}")
