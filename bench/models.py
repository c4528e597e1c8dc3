"""How good the embedded models are: `python -m bench.models [--json] [--n 1000] [--write-cards]`.

Zero-shot and classifier accuracy on all 10,000 test images; whether the classifier sees the wanted class in generated
images; whether variations of test images keep the class without copying. Prints figures, asserts nothing.
"""

from __future__ import annotations

import argparse
import datetime
import re
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from bench._report import emit, parser
from factory.models.classifier import SmallClassifier
from factory.models.clip import ClipEncoder
from factory.models.pipeline import EmbeddingDiffusionPipeline
from factory.train import data
from factory.train.recipe import SourceSpec

DATA = Path(__file__).resolve().parent.parent / "data"
PROMPT, STEPS, GUIDANCE, BATCH = "a photo of a {label}", 20, 2.0, 100
MEANING = {
    "clip_zero_shot": "zero-shot top-1 of the CLIP on the 10,000 test images, prompt “a photo of a {label}”",
    "classifier_accuracy": "accuracy of the classifier on the 10,000 test images",
    "class_agreement": "generated from the prompt: the classifier sees the wanted class",
    "class_agreement_lowest": "the same for the class where it is lowest",
    "variation_agreement": "variations of test images: the classifier sees the label of the original",
    "variation_agreement_lowest": "the same for the class where it is lowest",
    "variation_similarity": "mean cosine of a variation's CLIP embedding with its original's",
    "nearest_variation": "mean RMS pixel distance (0 to 1) from a variation to the nearest training image",
    "nearest_test": "the same from a real test image, for comparison",
    "nearest_original": "mean RMS pixel distance from a variation to its own original",
    "diversity_made": "mean RMS pixel distance between two generated images of a class",
    "diversity_real": "the same between two real test images of a class",
    "seconds_per_image": "seconds per generated image (CPU, batches of 100)",
    "megabytes": "all files of data/models",
}


def main() -> None:
    """Measure, print, and write the cards where that is asked for."""
    arguments = parse()
    torch.set_grad_enabled(False)
    test = data.load(SourceSpec(dataset=str(next((DATA / "fashion-mnist").glob("test-*.parquet"))), split="test"))
    train = data.load(SourceSpec(dataset=str(arguments.train or next((DATA / "fashion-mnist").glob("train-*.parquet")))))
    classifier = SmallClassifier.from_pretrained(DATA / "models/fashion-classifier").float().eval()
    pipeline = EmbeddingDiffusionPipeline.from_pretrained(DATA / "models/fashion-mnist", use_safetensors=True)
    pipeline.set_progress_bar_config(disable=True)
    figures = {
        "clip_zero_shot": zero_shot(pipeline.clip, test),
        "classifier_accuracy": float((classify(classifier, torch.from_numpy(test.pixels)) == test.labels).mean()),
        **generation(pipeline, classifier, test, train, arguments.n),
        "megabytes": sum(path.stat().st_size for path in (DATA / "models").rglob("*") if path.is_file()) / 1e6,
        "n": arguments.n,
        "train_images_compared": len(train),
    }
    figures = {name: round(value, 4) for name, value in figures.items()}
    if arguments.write_cards:
        write_cards(figures)
    emit(figures, arguments.json)


def parse() -> argparse.Namespace:
    """The command line."""
    options = parser(__doc__)
    options.add_argument("--n", type=int, default=1000, help="images generated per measurement (default 1000)")
    options.add_argument("--train", type=Path, help="Parquet file to look for copies in (default: the embedded sample)")
    options.add_argument("--write-cards", action="store_true", help="write the figures into data/models/*/README.md")
    return options.parse_args()


def zero_shot(clip: ClipEncoder, test: data.Pictures) -> float:
    """Share of the test images whose nearest class text is their own class's."""
    texts = clip.encode_text([PROMPT.format(label=name) for name in test.class_names])
    seen = torch.cat([clip.encode_image(part) for part in torch.from_numpy(test.pixels).split(500)])
    return float(((seen @ texts.T).argmax(1).numpy() == test.labels).mean())


def generation(
    pipeline: EmbeddingDiffusionPipeline, classifier: SmallClassifier, test: data.Pictures, train: data.Pictures, n: int
) -> dict[str, float]:
    """Everything that needs generated images: n from prompts, and variations of n test images, equally many per class."""
    classes = len(test.class_names)
    rows = np.concatenate([np.flatnonzero(test.labels == label)[: n // classes] for label in range(classes)])
    labels, originals = test.labels[rows], torch.from_numpy(test.pixels[rows])
    began = time.perf_counter()
    made = generate(pipeline, len(rows), lambda part: {"prompt": [PROMPT.format(label=test.class_names[label]) for label in labels[part]]})
    seconds = (time.perf_counter() - began) / len(rows)
    varied = generate(pipeline, len(rows), lambda part: {"image": originals[part].expand(-1, 3, -1, -1)})
    known = torch.from_numpy(train.pixels).float() / 255
    agree_made, agree_varied = classify(classifier, made) == labels, classify(classifier, varied) == labels
    return {
        "class_agreement": float(agree_made.mean()),
        "class_agreement_lowest": min(float(agree_made[labels == label].mean()) for label in range(classes)),
        "variation_agreement": float(agree_varied.mean()),
        "variation_agreement_lowest": min(float(agree_varied[labels == label].mean()) for label in range(classes)),
        "variation_similarity": float((pipeline.clip.encode_image(varied) * pipeline.clip.encode_image(originals)).sum(1).mean()),
        "nearest_variation": nearest(varied[:, :1], known),
        "nearest_test": nearest(originals.float() / 255, known),
        "nearest_original": float((varied[:, :1] - originals.float() / 255).pow(2).mean((1, 2, 3)).sqrt().mean()),
        "diversity_made": spread(made[:, :1], labels),
        "diversity_real": spread(originals.float() / 255, labels),
        "seconds_per_image": seconds,
    }


def generate(pipeline: EmbeddingDiffusionPipeline, n: int, condition: Any) -> torch.Tensor:
    """float [n, 3, H, W] in [0, 1]; image i has the seed i."""
    parts = []
    for start in range(0, n, BATCH):
        part = slice(start, min(n, start + BATCH))
        seeds = [torch.Generator().manual_seed(i) for i in range(part.start, part.stop)]
        settings: dict[str, Any] = {"num_inference_steps": STEPS, "guidance_scale": GUIDANCE, "output_type": "pt", "return_dict": False}
        parts.append(pipeline(**condition(part), **settings, generator=seeds)[0])
    return torch.cat(parts)


def classify(classifier: SmallClassifier, images: torch.Tensor) -> np.ndarray:
    """uint8, or float in [0, 1], [N, C, H, W] -> the class that is seen in each, int64 [N]."""
    return torch.cat([classifier.probabilities(part).argmax(1) for part in images.split(500)]).numpy()


def nearest(images: torch.Tensor, known: torch.Tensor) -> float:
    """Mean over images of the RMS pixel distance to the nearest known image."""
    scale = known[0].numel() ** 0.5
    flat = known.flatten(1)
    return float(torch.cat([torch.cdist(part.flatten(1), flat).min(1).values for part in images.split(200)]).mean()) / scale


def spread(images: torch.Tensor, labels: np.ndarray) -> float:
    """Mean RMS pixel distance between two images of one class."""
    means = []
    for label in np.unique(labels):
        flat = images[torch.from_numpy(labels == label)].flatten(1)
        means.append(torch.pdist(flat).mean() / flat.shape[1] ** 0.5)
    return float(torch.stack(means).mean())


def write_cards(figures: dict[str, float]) -> None:
    """Replace the measured part of every model card."""
    lines = [f"| {MEANING[name]} | {value:.4g} |" for name, value in figures.items() if name in MEANING]
    command = f"python -m bench.models --n {figures['n']} --write-cards" + (
        " --train PATH" if figures["train_images_compared"] > 5000 else ""
    )
    head = f"Measured on {datetime.date.today()} on a 2-core x86-64 CPU by `{command}`"
    how = f"{STEPS} steps, guidance {GUIDANCE:g}; copies are looked for among {figures['train_images_compared']:,} training images."
    table = "\n".join([f"{head}: {how}", "", "| what | value |", "|---|---|", *lines])
    for card in sorted((DATA / "models").glob("*/README.md")):
        text = card.read_text(encoding="utf-8")
        text = re.sub(r"(<!-- measured -->\n).*?(<!-- /measured -->)", lambda found: f"{found[1]}{table}\n{found[2]}", text, flags=re.S)
        card.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
