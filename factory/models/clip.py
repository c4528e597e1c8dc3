"""An open_clip model as a diffusers component: one folder that both libraries load."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from diffusers.models.modeling_utils import ModelMixin  # diffusers looks for this name in a component's module
from torch.nn import functional as F

from factory.models.pixels import unit

CONFIG, WEIGHTS = "open_clip_config.json", "open_clip_model.safetensors"


class ClipEncoder(ModelMixin):
    """Image and text encoders with one embedding space (CLIP, Radford et al. 2021), any architecture open_clip builds.

    model_cfg, preprocess_cfg: the two halves of open_clip_config.json.  tokenizer: a transformers tokenizer.
    """

    def __init__(self, model_cfg: dict[str, Any], preprocess_cfg: dict[str, Any], tokenizer: Any):
        super().__init__()
        from open_clip.model import CLIP

        self.model_cfg, self.preprocess_cfg, self.tokenizer = model_cfg, preprocess_cfg, tokenizer
        self.model = CLIP(model_cfg["embed_dim"], model_cfg["vision_cfg"], model_cfg["text_cfg"])

    @property
    def embed_dim(self) -> int:
        """Length of an embedding."""
        return int(self.model_cfg["embed_dim"])

    def prepare(self, images: torch.Tensor) -> torch.Tensor:
        """uint8, or float in [0, 1], [N, 1 or 3, H, W] -> normalised [N, 3, size, size], as open_clip's transform does it."""
        x = unit(images, self.device).expand(-1, 3, -1, -1)
        size = self.model_cfg["vision_cfg"]["image_size"]
        height, width = (round(side * size / min(x.shape[2:])) for side in x.shape[2:])
        if (height, width) != tuple(x.shape[2:]):
            mode = self.preprocess_cfg.get("interpolation", "bicubic")
            x = F.interpolate(x, (height, width), mode=mode, antialias=True, align_corners=False).clamp(0, 1)
        top, left = (height - size) // 2, (width - size) // 2
        x = x[:, :, top : top + size, left : left + size]
        mean, std = (torch.tensor(self.preprocess_cfg[key], device=x.device).view(3, 1, 1) for key in ("mean", "std"))
        return ((x - mean) / std).to(self.dtype)

    def encode_image(self, images: torch.Tensor) -> torch.Tensor:
        """uint8, or float in [0, 1], [N, 1 or 3, H, W] -> float [N, D], unit length."""
        return F.normalize(self.model.encode_image(self.prepare(images)).float(), dim=-1)

    def encode_text(self, texts: list[str]) -> torch.Tensor:
        """N texts -> float [N, D], unit length. Texts longer than the context are cut."""
        return F.normalize(self.model.encode_text(self.tokenize(texts)).float(), dim=-1)

    def tokenize(self, texts: list[str]) -> torch.Tensor:
        """N texts -> int64 [N, context], cut and padded as open_clip's tokenizer does it."""
        context = self.model_cfg["text_cfg"]["context_length"]
        ids = self.tokenizer(texts, max_length=context, truncation=True, padding="max_length", return_tensors="pt").input_ids
        return ids.to(self.device)

    @classmethod
    def from_pretrained(  # type: ignore[override]
        cls, folder: str | Path, dtype: torch.dtype | None = None, torch_dtype: torch.dtype | None = None, **_: Any
    ) -> ClipEncoder:
        """Read an open_clip folder (safetensors only). dtype (torch_dtype is its older name): float32 where not given."""
        from safetensors.torch import load_file
        from transformers import PreTrainedTokenizerFast

        folder = Path(folder)
        config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
        tokenizer = PreTrainedTokenizerFast.from_pretrained(folder)
        encoder = cls(config["model_cfg"], config["preprocess_cfg"], tokenizer)
        encoder.model.load_state_dict(load_file(folder / WEIGHTS))
        encoder.eval().requires_grad_(False)
        encoder.model.to(dtype or torch_dtype or torch.float32)
        return encoder

    def save_pretrained(self, folder: str | Path, **_: Any) -> None:  # type: ignore[override]
        """Write an open_clip folder: configuration, float16 safetensors, tokenizer."""
        from safetensors.torch import save_file

        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        config = {"model_cfg": self.model_cfg, "preprocess_cfg": self.preprocess_cfg}
        (folder / CONFIG).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
        weights = self.model.state_dict().items()
        save_file(
            {name: (w.half() if w.is_floating_point() else w).contiguous() for name, w in weights},
            folder / WEIGHTS,
            metadata={"format": "pt"},
        )
        self.tokenizer.save_pretrained(folder)
