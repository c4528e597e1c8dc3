"""A small CLIP from class labels and measured attributes, with a self-supervised loss beside the captions.

Captions: unified contrastive learning (Yang et al. 2022): every caption that is true of an image is its positive. Pixels:
NT-Xent between two views (Chen et al. 2020) as in SLIP (Mu et al. 2021), so that embeddings tell instances apart too.
"""

from __future__ import annotations

import logging
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F

from factory.errors import UserError
from factory.models.clip import ClipEncoder
from factory.models.pixels import unit
from factory.train import captions, data, loop
from factory.train.recipe import Clip
from factory.train.summary import write_facts

log = logging.getLogger("factory.train")
PAD, BOS, EOS, UNKNOWN = "[PAD]", "[BOS]", "[EOS]", "[UNK]"


def train(recipe: Clip) -> None:
    """Train and write `recipe.out`, an open_clip folder."""
    pictures = data.load(recipe.source)
    facts = captions.measure(pictures.pixels, pictures.labels, pictures.class_names, recipe.words)
    torch.manual_seed(recipe.seed)
    encoder = ClipEncoder(model_cfg(recipe), preprocess_cfg(recipe, pictures.pixels), make_tokenizer(recipe, pictures.class_names))
    encoder.model.visual.to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(loop.decaying(encoder.parameters()), lr=recipe.lr, weight_decay=recipe.weight_decay, betas=(0.9, 0.98))
    pixels = torch.from_numpy(pictures.pixels)
    log.info("%d images, %.2f M parameters", len(pictures), loop.parameters(encoder) / 1e6)

    def step(k: int) -> dict[str, torch.Tensor]:
        rng, rows = loop.draws(recipe, k), loop.rows(recipe, len(pictures), k)
        texts, claims = zip(*(captions.draw(facts, row, rng) for row in rows.tolist()), strict=True)
        truth = torch.from_numpy(captions.match(facts.values[rows], np.stack(claims)))
        views = two_views(pixels[rows], recipe.image_size, encoder.preprocess_cfg, rng)
        with torch.autocast("cpu", torch.bfloat16, enabled=recipe.bf16):
            seen = encoder.model.encode_image(views)
            read = encoder.model.encode_text(encoder.tokenize(list(texts)))
        seen, read = F.normalize(seen.float(), dim=-1), F.normalize(read.float(), dim=-1)
        caption_loss = multi_positive(encoder.model.logit_scale.exp() * seen @ read.T, truth.repeat(2, 1))
        view_loss = nt_xent(seen)
        loop.descend(recipe, k, caption_loss + recipe.self_supervised * view_loss, optimizer, encoder.parameters())
        with torch.no_grad():
            encoder.model.logit_scale.clamp_(0, np.log(100))
        return {"captions": caption_loss.detach(), "views": view_loss.detach()}

    encoder.train()
    loop.run(recipe, {"encoder": encoder.model, "optimizer": optimizer}, step, made_from=pictures.identity)
    encoder.eval().save_pretrained(recipe.out)
    write_facts(recipe, len(pictures), {}, labels_used=True)
    loop.finish(recipe)


def multi_positive(logits: torch.Tensor, truth: torch.Tensor) -> torch.Tensor:
    """logits, truth [N, M] -> the mean negative log-likelihood of the true pairs, over both directions (Yang et al. 2022, eq. 2-4)."""

    def one_way(scores: torch.Tensor, positive: torch.Tensor) -> torch.Tensor:
        weights = positive / positive.sum(1, keepdim=True)
        return -(weights * scores.log_softmax(1)).sum(1).mean()

    positive = truth.float()
    return (one_way(logits, positive) + one_way(logits.T, positive.T)) / 2


def nt_xent(embeddings: torch.Tensor, temperature: float = 0.1) -> torch.Tensor:
    """unit [2N, D], the second view of row i is row N + i -> the NT-Xent loss (Chen et al. 2020, eq. 1)."""
    count = len(embeddings) // 2
    scores = embeddings @ embeddings.T / temperature
    scores = scores.masked_fill(torch.eye(2 * count, dtype=torch.bool), -1e9)
    return F.cross_entropy(scores, torch.arange(2 * count).roll(count))


def two_views(pixels: torch.Tensor, size: int, preprocess: dict[str, Any], rng: np.random.Generator) -> torch.Tensor:
    """uint8 [N, C, H, W] -> normalised [2N, 3, size, size]: random crop (area 0.7 to 1), flip, and an erased patch now and then."""
    x = unit(pixels.repeat(2, 1, 1, 1))
    count, channels = x.shape[:2]
    scale = np.sqrt(rng.uniform(0.7, 1.0, count))
    stretch = rng.uniform(0.93, 1.07, count)
    width, height = np.minimum(scale * stretch, 1), np.minimum(scale / stretch, 1)
    flip = rng.choice([-1.0, 1.0], count)
    theta = np.zeros((count, 2, 3), np.float32)
    theta[:, 0, 0], theta[:, 1, 1] = width * flip, height
    theta[:, 0, 2], theta[:, 1, 2] = rng.uniform(-1, 1, count) * (1 - width), rng.uniform(-1, 1, count) * (1 - height)
    grid = F.affine_grid(torch.from_numpy(theta), [count, channels, size, size], align_corners=False)
    x = F.grid_sample(x, grid, mode="bilinear", padding_mode="border", align_corners=False)
    for index in np.flatnonzero(rng.random(count) < 0.25).tolist():
        side = size * rng.integers(10, 25, 2) // 100
        top, left = rng.integers(0, size - side[0]), rng.integers(0, size - side[1])
        x[index, :, top : top + side[0], left : left + side[1]] = 0
    x = (x - preprocess["mean"][0]) / preprocess["std"][0]
    return x.expand(-1, 3, -1, -1).contiguous(memory_format=torch.channels_last)


def model_cfg(recipe: Clip) -> dict[str, Any]:
    """The architecture in open_clip's own words; the ids match `make_tokenizer`."""
    vision = {
        "image_size": recipe.image_size,
        "layers": list(recipe.image_layers),
        "width": recipe.image_width,
        "head_width": recipe.image_width * 4,
    }
    text = {
        "context_length": recipe.context_length,
        "vocab_size": recipe.vocabulary,
        "width": recipe.text_width,
        "heads": recipe.text_heads,
        "layers": recipe.text_layers,
        "hf_tokenizer_name": "tokenizer",
        "pool_type": "eos",
        "pad_id": 0,
        "eos_id": 2,
    }
    return {"embed_dim": recipe.embed_dim, "vision_cfg": vision, "text_cfg": text}


def preprocess_cfg(recipe: Clip, pixels: np.ndarray) -> dict[str, Any]:
    """How images become inputs: the training images' own mean and deviation, the same for all three channels."""
    mean, std = round(float(pixels.mean()) / 255, 4), round(float(pixels.std()) / 255, 4)
    return {
        "size": recipe.image_size,
        "mode": "RGB",
        "mean": [mean] * 3,
        "std": [std] * 3,
        "interpolation": "bilinear",
        "resize_mode": "shortest",
    }


def make_tokenizer(recipe: Clip, class_names: list[str]) -> Any:
    """A lower-case WordPiece tokenizer of the words that captions use; other words fall apart into letters."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    normalizer, splitter = normalizers.BertNormalizer(lowercase=True), pre_tokenizers.BertPreTokenizer()
    words = {word for text in captions.corpus(class_names) for word, _ in splitter.pre_tokenize_str(normalizer.normalize_str(text))}
    letters = [*"abcdefghijklmnopqrstuvwxyz0123456789"]
    pieces = [PAD, BOS, EOS, UNKNOWN, *letters, *(f"##{letter}" for letter in letters), *sorted(words - set(letters))]
    if len(pieces) > recipe.vocabulary:
        raise UserError(f"vocabulary: {recipe.vocabulary} is too few for these class names; give at least {len(pieces)}")
    tokenizer = Tokenizer(models.WordPiece({piece: index for index, piece in enumerate(pieces)}, unk_token=UNKNOWN))
    tokenizer.normalizer, tokenizer.pre_tokenizer = normalizer, splitter
    tokenizer.post_processor = processors.TemplateProcessing(single=f"{BOS} $A {EOS}", special_tokens=[(BOS, 1), (EOS, 2)])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token=PAD, bos_token=BOS, eos_token=EOS, unk_token=UNKNOWN, model_max_length=recipe.context_length
    )
