"""Low-rank weights for a class or a set, from a few images: DataDream (Kim et al. 2024, arXiv 2407.10910) on LoRA (Hu et al. 2021)."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch.nn import functional as F

from factory.errors import Undecodable, UserError
from factory.images import to_pil
from factory.models.pixels import signed
from factory.prepare import ParentCache
from factory.train import encoded, loop
from factory.train.recipe import Lora
from factory.train.summary import write_facts

log = logging.getLogger("factory.train")
Loss = Callable[[torch.Tensor, list[str], np.random.Generator], torch.Tensor]
ATTENTION = {"unet": ["to_q", "to_k", "to_v", "to_out.0"], "transformer": ["qkv", "mix"]}


def train(recipe: Lora) -> None:
    """Train and write `recipe.out/pytorch_lora_weights.safetensors`, which `generator.loras` loads. Raises UserError."""
    try:
        from peft import LoraConfig
    except ImportError as error:
        raise UserError("kind: lora needs peft; run `pip install synthetic-dataset-factory[lora]`") from error
    table, pipe = recipe.source.open(), _pipeline(recipe)
    part = "unet" if getattr(pipe, "unet", None) is not None else "transformer"
    loss_of: Loss = _latent_loss(pipe) if part == "unet" else _flow_loss(pipe)
    denoiser = getattr(pipe, part)
    for module in pipe.components.values():
        if isinstance(module, torch.nn.Module):
            module.requires_grad_(False)
    made_from = " ".join(
        [table.fingerprint, *(encoded.digest(one) for one in pipe.components.values() if isinstance(one, torch.nn.Module))]
    )
    torch.manual_seed(recipe.seed)
    targets = recipe.targets or ATTENTION[part]
    try:
        denoiser.add_adapter(LoraConfig(r=recipe.rank, lora_alpha=recipe.rank, init_lora_weights="gaussian", target_modules=targets))
    except ValueError as error:
        raise UserError(f"targets: {type(denoiser).__name__} has no module called like {', '.join(targets)}; name others") from error
    weights = [p for p in denoiser.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(weights, lr=recipe.lr, weight_decay=recipe.weight_decay)
    size = recipe.resolution or _own_size(pipe)
    step_of_size = getattr(pipe, "vae_scale_factor", 8) if part == "unet" else denoiser.config.patch
    if size % step_of_size:
        raise UserError(f"resolution: {size} is no multiple of {step_of_size}, which {type(pipe).__name__} asks for")
    read = ParentCache(table).read
    names = table.class_names
    log.info("%d images, %.2f M weights in %d adapters", len(table), sum(p.numel() for p in weights) / 1e6, len(weights) // 2)

    def step(k: int) -> dict[str, torch.Tensor]:
        rng = loop.draws(recipe, k)
        some = loop.rows(recipe, len(table), k).tolist()
        texts = [recipe.prompt.format(label=names[table.labels[row]] if names and table.labels[row] >= 0 else "") for row in some]
        pixels = torch.stack([_pixels(read, row, size, len(table), bool(rng.random() < 0.5)) for row in some])
        loss = loss_of(pixels, texts, rng)
        loop.descend(recipe, k, loss, optimizer, weights)
        return {"loss": loss.detach()}

    denoiser.train()
    adapter = _Adapter(denoiser)
    loop.run(recipe, {"adapter": adapter, "optimizer": optimizer}, step, made_from=made_from)
    _save(pipe, part, adapter, recipe)
    labels_used = "{label}" in recipe.prompt or bool(recipe.source.settings().get("classes"))
    write_facts(recipe, len(table), {"weights": sum(p.numel() for p in weights)}, labels_used, table.fingerprint)
    loop.finish(recipe)


class _Adapter:
    """The adapter's weights alone, as they are checkpointed and written."""

    def __init__(self, denoiser: Any):
        self.denoiser = denoiser

    def state_dict(self) -> dict[str, torch.Tensor]:
        from peft import get_peft_model_state_dict

        return dict(get_peft_model_state_dict(self.denoiser))

    def load_state_dict(self, state: dict[str, torch.Tensor]) -> None:
        from peft import set_peft_model_state_dict

        set_peft_model_state_dict(self.denoiser, state)


def _pipeline(recipe: Lora) -> Any:
    from factory.generators.diffusers import Diffusers

    pipe = Diffusers(model=recipe.model, revision=recipe.revision, dtype="float32").open("cpu").base
    return pipe.to("cuda") if torch.cuda.is_available() else pipe


def _own_size(pipe: Any) -> int:
    from factory.generators._sizes import own_size

    size = own_size(pipe)
    if size is None:
        raise UserError(f"resolution: {type(pipe).__name__} does not say its size; set resolution")
    return size[0]


def _pixels(read: Callable[[int], Any], row: int, size: int, rows: int, flip: bool) -> torch.Tensor:
    """float [3, size, size] in [-1, 1], the middle square, mirrored or not; the next image in place of one that cannot be decoded."""
    for offset in range(rows):
        try:
            picture = to_pil(read((row + offset) % rows).image)
            break
        except Undecodable as error:
            log.warning("source row %d cannot be decoded: %s", (row + offset) % rows, error)
    else:
        raise UserError("source: not one image can be decoded")
    side = min(picture.size)
    left, top = (picture.width - side) // 2, (picture.height - side) // 2
    square = picture.crop((left, top, left + side, top + side)).resize((size, size), Image.Resampling.LANCZOS)
    array = signed(torch.from_numpy(np.array(square)).permute(2, 0, 1))
    return array.flip(2) if flip else array


def _latent_loss(pipe: Any) -> Loss:
    """The noise-prediction loss of latent diffusion (Rombach et al. 2022), or of velocity (Salimans and Ho 2022), as the model was trained."""
    import diffusers

    if getattr(pipe, "vae", None) is None or not hasattr(pipe, "encode_prompt"):
        raise UserError(f"model: a LoRA is trained on text-to-image pipelines with a VAE; {type(pipe).__name__} is none")
    schedule = diffusers.DDPMScheduler.from_config(pipe.scheduler.config)
    kind = schedule.config.prediction_type
    if kind not in ("epsilon", "v_prediction"):
        raise UserError(f"model: its scheduler predicts {kind}; a LoRA is trained for epsilon and v_prediction")
    device, known = next(pipe.unet.parameters()).device, dict[str, Any]()

    def text(prompt: str) -> tuple[torch.Tensor, torch.Tensor | None]:
        if prompt not in known:
            with torch.no_grad():
                found = pipe.encode_prompt(prompt, device=device, num_images_per_prompt=1, do_classifier_free_guidance=False)
            known[prompt] = found[0], (found[2] if len(found) > 2 else None)
        return known[prompt]

    def loss(pixels: torch.Tensor, texts: list[str], rng: np.random.Generator) -> torch.Tensor:
        source = loop.torch_draws(rng)
        with torch.no_grad():
            posterior = pipe.vae.encode(pixels.to(device)).latent_dist
            latents = (
                posterior.mean + posterior.std * torch.randn(posterior.mean.shape, generator=source).to(device)
            ) * pipe.vae.config.scaling_factor
        noise = torch.randn(latents.shape, generator=source).to(device)
        times = torch.randint(schedule.config.num_train_timesteps, (len(latents),), generator=source).to(device)
        rows = [text(prompt) for prompt in texts]
        extra = {}
        if rows[0][1] is not None:  # SDXL: pooled embeddings, and sizes as it was trained with
            side = float(pixels.shape[-1])
            ids = torch.tensor([[side, side, 0, 0, side, side]], device=device).repeat(len(latents), 1)
            extra["added_cond_kwargs"] = {"text_embeds": torch.cat([pooled for _, pooled in rows if pooled is not None]), "time_ids": ids}
        made = pipe.unet(schedule.add_noise(latents, noise, times), times, torch.cat([embeds for embeds, _ in rows]), **extra).sample
        target = noise if kind == "epsilon" else schedule.get_velocity(latents, noise, times)
        return F.mse_loss(made.float(), target.float())

    return loss


def _flow_loss(pipe: Any) -> Loss:
    """The embedded model's own loss: rectified flow (Liu et al. 2022), text always given and the image's embedding every other time."""
    from factory.models.pipeline import EmbeddingDiffusionPipeline

    if not isinstance(pipe, EmbeddingDiffusionPipeline):
        raise UserError(f"model: a LoRA is trained on pipelines with a UNet and on the factory's own; {type(pipe).__name__} is neither")

    def loss(pixels: torch.Tensor, texts: list[str], rng: np.random.Generator) -> torch.Tensor:
        source = loop.torch_draws(rng)
        with torch.no_grad():
            shown = (pixels + 1) / 2
            x = pixels if pipe.transformer.config.in_channels == 3 else pixels.mean(1, keepdim=True)
            image = pipe.clip.encode_image(shown) * torch.from_numpy(rng.random((len(x), 1)) < 0.5).float()
            prompt = pipe.encode_prompt(texts)
        noise = torch.randn(x.shape, generator=source)
        time = torch.randn(len(x), generator=source).sigmoid()
        at = time[:, None, None, None]
        device = pipe.transformer.device
        velocity = pipe.transformer(((1 - at) * x + at * noise).to(device), (time * 1000).to(device), image.to(device), prompt.to(device))
        return F.mse_loss(velocity.float(), (noise - x).to(device))

    return loss


def _save(pipe: Any, part: str, adapter: _Adapter, recipe: Lora) -> None:
    from diffusers.utils import convert_state_dict_to_diffusers

    layers = convert_state_dict_to_diffusers(adapter.state_dict())
    layers = {name: tensor.detach().cpu().contiguous() for name, tensor in layers.items()}
    pipe.save_lora_weights(str(recipe.out), **{f"{part}_lora_layers": layers})
