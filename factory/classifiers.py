"""Image classifiers of any library, for filters; a model is opened once per process. Arithmetic is float32 on every device."""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from factory import images
from factory.errors import UserError

CHUNK = 64  # images per forward pass


class Classifier(Protocol):
    """An opened classifier. names: one per class, in the order of the probabilities; synonyms are separated by commas."""

    names: list[str]

    def probabilities(self, pictures: Sequence[np.ndarray]) -> np.ndarray:
        """uint8 [H, W, 3] each, of any sizes -> float32 [N, C] in [0, 1]; rows sum to 1 unless the model answers each class for itself."""
        ...


def open(model: str, device: str) -> Classifier:
    """The classifier of this name, loaded at most once per process. Raises UserError.

    model: "timm:NAME" ("timm:hf-hub:org/name" too), "transformers:ID", a bare Hub id, which is Transformers', or a folder: timm's,
    Transformers', or one that `factory train`, kind classifier, wrote. Weights are safetensors.
    """
    return _open(model, device)


@cache
def _open(model: str, device: str) -> Classifier:
    library, name = _library(model)
    try:
        kinds: dict[str, Any] = {"timm": _Timm, "transformers": _Transformers, "own": _Own}
        opened: Classifier = kinds[library](name, device)
        return opened
    except UserError:
        raise
    except Exception as error:  # each library raises its own types
        reason = " ".join(str(error).split())[:300] or type(error).__name__
        remote = not Path(name).expanduser().is_dir()
        hint = "; without a network, name a local folder or a model that was downloaded before" if remote else ""
        raise UserError(f"cannot open classifier {model!r}: {reason}{hint}") from error


def _library(model: str) -> tuple[str, str]:
    """(library, its own name for the model)."""
    for library in ("timm", "transformers"):
        if model.startswith(f"{library}:"):
            return library, model.partition(":")[2]
    folder = Path(model).expanduser()
    if not folder.is_dir():
        if model.startswith(("/", ".", "~")):
            raise UserError(f"classifier folder {folder.absolute()} does not exist")
        return "transformers", model
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{folder} has no readable config.json; name a folder of timm, of Transformers or of `factory train`") from error
    if config.get("_class_name") == "SmallClassifier":
        return "own", str(folder)
    return ("timm", f"local-dir:{folder.absolute()}") if "architecture" in config else ("transformers", str(folder))


class _Own:
    """A classifier that `factory train` made."""

    def __init__(self, folder: str, device: str) -> None:
        from factory.models.classifier import SmallClassifier

        self._network: Any = SmallClassifier.from_pretrained(folder).float().to(device).eval().requires_grad_(False)
        self.names = list(self._network.config.class_names)

    def probabilities(self, pictures: Sequence[np.ndarray]) -> np.ndarray:
        import torch

        def prepare(picture: np.ndarray) -> Any:
            return self._network.prepare(torch.from_numpy(picture.copy()).permute(2, 0, 1)[None])[0]

        return _in_chunks(pictures, len(self.names), prepare, lambda batch: self._network(batch).softmax(1))


class _Timm:
    """A timm network with the preprocessing of its weights."""

    def __init__(self, name: str, device: str) -> None:
        import timm

        self._network: Any = timm.create_model(name, pretrained=True).to(device).eval().requires_grad_(False)
        self._transform = timm.data.create_transform(**timm.data.resolve_model_data_config(self._network), is_training=False)
        self._device, self.names = device, _timm_names(self._network)

    def probabilities(self, pictures: Sequence[np.ndarray]) -> np.ndarray:
        def prepare(picture: np.ndarray) -> Any:
            return self._transform(images.to_pil(picture)).to(self._device)

        return _in_chunks(pictures, len(self.names), prepare, lambda batch: self._network(batch).softmax(1))


def _timm_names(network: Any) -> list[str]:
    """The labels that the weights bring, those of ImageNet where they are of ImageNet, else numbers."""
    from timm.data import ImageNetInfo, infer_imagenet_subset

    labels = network.pretrained_cfg.get("label_names")
    if labels:
        described = network.pretrained_cfg.get("label_descriptions") or {}
        return [f"{described[label]}, {label}" if label in described else str(label) for label in labels]
    subset = infer_imagenet_subset(network)
    if subset:
        known = ImageNetInfo(subset)
        return [str(known.index_to_description(index)) for index in range(network.num_classes)]
    return [str(index) for index in range(network.num_classes)]


class _Transformers:
    """A Transformers image classifier with its own processor."""

    def __init__(self, name: str, device: str) -> None:
        from transformers import AutoImageProcessor, AutoModelForImageClassification

        name = str(Path(name).expanduser())
        network: Any = AutoModelForImageClassification.from_pretrained(name, use_safetensors=True)
        self._processor: Any = AutoImageProcessor.from_pretrained(name)
        self._network = network.float().to(device).eval().requires_grad_(False)
        self._device, config = device, network.config
        self.names = [str(config.id2label[index]) for index in range(config.num_labels)]
        self._apart = config.problem_type == "multi_label_classification" or config.num_labels == 1

    def probabilities(self, pictures: Sequence[np.ndarray]) -> np.ndarray:
        def prepare(picture: np.ndarray) -> Any:
            return self._processor(images=images.to_pil(picture), return_tensors="pt")["pixel_values"][0].to(self._device)

        def answer(batch: Any) -> Any:
            logits = self._network(pixel_values=batch).logits
            return logits.sigmoid() if self._apart else logits.softmax(1)

        return _in_chunks(pictures, len(self.names), prepare, answer)


def _in_chunks(pictures: Sequence[np.ndarray], classes: int, prepare: Any, answer: Any) -> np.ndarray:
    import torch

    rows = [np.empty((0, classes), np.float32)]
    with torch.inference_mode():
        for start in range(0, len(pictures), CHUNK):
            batch = torch.stack([prepare(picture) for picture in pictures[start : start + CHUNK]])
            with torch.autocast(batch.device.type, enabled=False):  # a caller's autocast would change the scores
                rows.append(answer(batch).float().cpu().numpy())
    return np.concatenate(rows)


def positions(names: Sequence[str], wanted: Sequence[str]) -> list[int | None]:
    """For each wanted name its place among a classifier's names; None for one that is not there, or that is a synonym of several.

    Case, - and _ do not matter. A whole name goes before a synonym, and the number of a class is understood too.
    """
    places: dict[str, int] = {}
    for spellings in ([[name] for name in names], [name.split(",") for name in names], [[str(index)] for index in range(len(names))]):
        owners: dict[str, set[int]] = {}
        for index, spelled in enumerate(spellings):
            for spelling in spelled:
                owners.setdefault(_plain(spelling), set()).add(index)
        for name, own in owners.items():
            if len(own) == 1:
                places.setdefault(name, *own)
    return [places.get(_plain(name)) for name in wanted]


def nearest(names: Sequence[str], wanted: str) -> str:
    """The part of an error message that says what the labels are called."""
    near = difflib.get_close_matches(wanted, names, n=3)
    shown = ", ".join(map(repr, near or names[:10]))
    return f"did you mean {shown}?" if near else f"its labels are {shown}" + (", …" if len(names) > 10 else "")


def _plain(name: str) -> str:
    return re.sub(r"[\s_-]+", " ", name).strip().casefold()
