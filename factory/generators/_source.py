"""Where a model comes from, and whether loading it could run somebody's code. Reads configuration only, never weights."""

from __future__ import annotations

import importlib
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from factory.errors import UserError

if TYPE_CHECKING:
    from factory.generators.diffusers import Diffusers

PICKLES = (".bin", ".ckpt", ".pt", ".pth", ".pkl")
_OWN = "factory."
_OWN_PIPELINES = ("factory.models.pipeline", "factory.models.guided")


@dataclass(frozen=True)
class Located:
    """A model on this disk. commit: the Hub's commit hash, or None for a local folder."""

    folder: Path
    index: dict[str, Any]
    commit: str | None


def locate(kind: Diffusers) -> Located:
    """Find the model's folder, downloading it from the Hub when it is no local folder, and refuse unsafe contents.

    model_index.json is judged before any weights are downloaded. Raises UserError.
    """
    local = Path(kind.model).expanduser()
    if local.is_dir():
        index, commit = read_index(local / "model_index.json", kind.model), None
    else:
        index_file = _download_index(kind, local)
        index, commit = read_index(index_file, kind.model), index_file.parent.name
    _refuse_code(index, kind)
    folder = local if local.is_dir() else _download(kind)
    if not kind.trust_remote_code:
        _refuse_code_files(folder, index, kind)
    if not kind.allow_pickle:
        _refuse_pickles(folder, index, kind)
    return Located(folder, index, commit)


def refuse_missing(kind: Diffusers) -> None:
    """Raise UserError for a model that is not here and cannot be on the Hub by its name."""
    if not Path(kind.model).expanduser().exists() and (kind.model.startswith((".", "/", "~")) or kind.model.count("/") != 1):
        raise UserError(
            f"generator.model: there is no folder {kind.model}; give a folder with a model_index.json or a Hub id such as owner/name"
        )


def refuse_pickle(name: str, kind: Diffusers, what: str) -> None:
    """Raise UserError for the name of an adapter's file that would be unpickled: diffusers unpickles whatever is not safetensors."""
    if not kind.allow_pickle and not name.endswith(".safetensors"):
        raise UserError(
            f"generator.{what}: {name} is pickled and can run code when it is read; "
            "use a .safetensors file, or set allow_pickle: true if you trust it"
        )


def refuse_pickled_folder(folder: Path, model: str, what: str) -> None:
    """Raise UserError for a folder of weights that are all pickled. A folder that is not there holds none."""
    files = sorted(path for path in folder.glob("*") if path.is_file())
    pickles = [path for path in files if path.suffix in PICKLES]
    if pickles and not any(path.suffix == ".safetensors" for path in files):
        raise UserError(
            f"generator.{what}: {folder.name}/{pickles[0].name} of {model} is pickled and can run code when it is read; "
            "convert it to .safetensors, or set allow_pickle: true if you trust it"
        )


def pipeline_class(index: dict[str, Any], model: str) -> Any:
    """The class that model_index.json names: of diffusers, or of this project. Raises UserError for an unknown one."""
    import diffusers

    name = index["_class_name"]
    if isinstance(name, list):  # reached only with trust_remote_code
        return diffusers.DiffusionPipeline
    if name in dir(diffusers):
        try:
            found = getattr(diffusers, name)
            getattr(found, "config_name", None)  # a stand-in for a class whose library is not installed tells so when it is touched
            return found
        except (ImportError, RuntimeError) as error:
            raise UserError(f"generator.model: {model} needs {name}, which cannot be imported: {' '.join(str(error).split())}") from error
    for library in sorted(_libraries(index)):  # diffusers takes component classes only from modules that are imported already
        if library.startswith(_OWN):
            importlib.import_module(library)
    for module in _OWN_PIPELINES:
        own = importlib.import_module(module)
        if hasattr(own, name):
            return getattr(own, name)
    raise UserError(
        f"generator.model: {model} is a {name}, which neither diffusers {diffusers.__version__} nor factory.models has; "
        "upgrade diffusers, or check _class_name in its model_index.json"
    )


def last_line(error: BaseException) -> str:
    """The last line with text of an error's message: the one that says what to do."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__


def _components(index: dict[str, Any]) -> dict[str, tuple[str, str]]:
    """Component name -> (library, class), of those that are present."""
    return {
        name: (value[0], value[1])
        for name, value in index.items()
        if not name.startswith("_")
        and isinstance(value, list)
        and len(value) == 2
        and isinstance(value[0], str)
        and isinstance(value[1], str)
    }


def _libraries(index: dict[str, Any]) -> set[str]:
    return {library for library, _ in _components(index).values()}


def read_index(path: Path, model: str) -> dict[str, Any]:
    """model_index.json as a mapping that names a class. Raises UserError."""
    try:
        index = json.loads(path.read_text())
    except FileNotFoundError:
        raise UserError(
            f"generator.model: {model} has no model_index.json, so it is no diffusers pipeline folder; "
            "save it with save_pretrained, or name its parent"
        ) from None
    except ValueError as error:
        raise UserError(f"generator.model: {path} is not valid JSON ({error}); download the model again") from error
    if not isinstance(index, dict) or not index.get("_class_name"):
        raise UserError(f"generator.model: {path} names no _class_name; this is no diffusers pipeline")
    return index


def _refuse_code(index: dict[str, Any], kind: Diffusers) -> None:
    if isinstance(index["_class_name"], list) and not kind.trust_remote_code:
        raise UserError(
            f"generator.model: {kind.model} is made by Python code that ships with it ({index['_class_name'][0]}.py); "
            "read that code, then set trust_remote_code: true, or choose another model"
        )


def _refuse_code_files(folder: Path, index: dict[str, Any], kind: Diffusers) -> None:
    found = [folder / "pipeline.py"]
    for name, (library, _) in _components(index).items():
        found += [folder / name / f"{library}.py", folder / f"{library}.py"]
        config = folder / name / "config.json"
        if config.is_file() and "auto_map" in (mapped := json.loads(config.read_text())):
            found += [folder / name / f"{str(entry).rpartition('--')[2].split('.')[0]}.py" for entry in mapped["auto_map"].values()]
    for path in found:
        if path.is_file():
            raise UserError(
                f"generator.model: {kind.model} ships Python code ({path.relative_to(folder)}); "
                "read it, then set trust_remote_code: true, or remove the file"
            )


def _refuse_pickles(folder: Path, index: dict[str, Any], kind: Diffusers) -> None:
    for name in _components(index):
        refuse_pickled_folder(folder / name, kind.model, "model")


def _download_index(kind: Diffusers, local: Path) -> Path:
    refuse_missing(kind)
    if local.is_file():
        raise UserError(
            f"generator.model: {kind.model} is a single file; convert it to a folder with diffusers' from_single_file and save_pretrained"
        )
    from huggingface_hub import hf_hub_download

    try:
        return Path(hf_hub_download(kind.model, "model_index.json", revision=kind.revision))
    except Exception as error:
        raise _hub_error(kind, error) from error


def _download(kind: Diffusers) -> Path:
    import diffusers

    try:
        return Path(
            diffusers.DiffusionPipeline.download(
                kind.model,
                revision=kind.revision,
                variant=kind.variant,
                use_safetensors=None if kind.allow_pickle else True,
                trust_remote_code=kind.trust_remote_code,
            )
        )
    except Exception as error:
        raise _hub_error(kind, error) from error


def _hub_error(kind: Diffusers, error: Exception) -> Exception:
    """The one line a person needs for a failed download; an error that is no such thing is returned as it is."""
    from huggingface_hub import errors

    at = f"{kind.model}@{kind.revision}" if kind.revision else kind.model
    if isinstance(error, errors.GatedRepoError):
        return UserError(f"generator.model: {at} is gated; accept its terms on the Hub and run `hf auth login`")
    if isinstance(error, errors.RevisionNotFoundError):
        return UserError(f"generator.model: {kind.model} has no revision {kind.revision}; check the name of the branch, tag or commit")
    if isinstance(error, errors.RepositoryNotFoundError):
        return UserError(
            f"generator.model: {at} is neither a folder here nor a repository on the Hub; check the name, or `hf auth login` if it is private"
        )
    if isinstance(error, errors.LocalEntryNotFoundError | errors.OfflineModeIsEnabled | ConnectionError) or os.environ.get(
        "HF_HUB_OFFLINE"
    ):
        return UserError(
            f"generator.model: {at} is neither a folder here nor in the Hub cache, and the Hub cannot be reached; "
            f"run `hf download {kind.model}` where there is a network"
        )
    if isinstance(error, errors.EntryNotFoundError):
        return UserError(f"generator.model: {at} has no model_index.json, so it is no diffusers pipeline")
    if "safetensors" in str(error):
        return UserError(
            f"generator.model: {at} has weights that are pickled and can run code when they are read; "
            "choose a model with .safetensors, or set allow_pickle: true if you trust it"
        )
    if isinstance(error, errors.HFValidationError | OSError | ValueError):
        return UserError(f"generator.model: cannot download {at}: {last_line(error)}")
    return error
