"""The published methods that bench.papers compares, and what their papers claim of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

FILTERED = " filtered"  # of an arm's name: trained on the half of its images that the filter prefers


@dataclass(frozen=True)
class Method:
    """One way to more training images.

    paper: its source.  condition: of the recipe that makes images, as YAML with MODEL and POOL; None where none are made.
    prompts: of that recipe.  prompted: made by the set's text-to-image model, which has seen labels.
    arm, mix: of the classifier where no images are made.
    unlabelled: real images take the synthetic ones' place, under the labels that propagation guesses or under their own, which no method knows.
    """

    name: str
    paper: str
    condition: str | None = None
    prompts: str = "{text: 'a photo of a {label}'}"
    prompted: bool = False
    arm: Any = "real_strong"
    mix: Any = "none"
    unlabelled: Literal["guessed", "true"] | None = None

    @property
    def arms(self) -> tuple[str, ...]:
        """The names of its rows: itself and, where images are made, itself filtered."""
        return (self.name,) if self.condition is None else (self.name, self.name + FILTERED)


PROPAGATION = "{kind: propagation, model: MODEL/encoder, library: POOL}"
CHEN = "Augmented conditioning (Chen et al. 2025, arXiv 2502.04475)"
GRAIKOS = "Representation-guided diffusion (Graikos et al. 2024, arXiv 2312.07330)"
BLATTMANN = "Semi-parametric synthesis (Blattmann et al. 2022, arXiv 2204.11824)"
BANSAL = "Leaving Reality to Imagination (Bansal and Grover 2023, arXiv 2302.02503)"
YOU = "Dual pseudo training (You et al. 2023, arXiv 2302.10586)"
TRABUCCO = "DA-Fusion (Trabucco et al. 2023, arXiv 2302.07944)"
ISCEN = "Label propagation (Iscen et al. 2019, arXiv 1904.04717)"
FAN = "DiverGen (Fan et al. 2024, arXiv 2405.10185)"
HE = "Is synthetic data ready for image recognition? (He et al. 2023, arXiv 2210.07574)"
FROZEN = "A frozen encoder (VICReg, Bardes et al. 2022, arXiv 2105.04906; EfficientNet, Tan and Le 2019, arXiv 1905.11946)"
RAND_AUGMENT = "RandAugment (Cubuk et al. 2020, arXiv 1909.13719)"
MIXUP = "MixUp (Zhang et al. 2018, arXiv 1710.09412)"
CUTMIX = "CutMix (Yun et al. 2019, arXiv 1905.04899)"


def _augmented() -> list[Method]:
    """The variants of augmented conditioning; the tenth, neither mixed nor dropped, is image_variation."""
    variants = [(mix, dropout) for mix in ("none", "mixup", "cutmix", "embed_mixup", "embed_cutmix") for dropout in (0.0, 0.4)][1:]
    return [
        Method(
            "augmented" + (f"_{mix}" if mix != "none" else "") + ("_dropout" if dropout else ""),
            CHEN,
            f"{{kind: augmented_image, mix: {mix}, dropout: {dropout}, text: false}}",
        )
        for mix, dropout in variants
    ]


METHODS = {
    method.name: method
    for method in (
        Method("real", "no augmentation", arm="real"),
        Method("real_strong", RAND_AUGMENT),
        Method("mixup", MIXUP, mix="mixup"),
        Method("cutmix", CUTMIX, mix="cutmix"),
        Method("linear_probe", FROZEN, arm="linear_probe"),
        Method("pseudo_labels", ISCEN, unlabelled="guessed"),
        Method("true_labels", "no method: what there is to gain", unlabelled="true"),
        Method("image_variation", BANSAL, "{kind: image}"),
        *_augmented(),
        Method("embedding_jitter", GRAIKOS, "{kind: embedding, jitter: 0.4}"),
        Method("embedding_slerp", GRAIKOS, "{kind: embedding, mix: slerp}"),
        Method("retrieval", BLATTMANN, "{kind: retrieval, k: 4, model: MODEL/encoder, library: POOL}"),
        Method("retrieval_random", BLATTMANN, "{kind: retrieval, k: 4, mix: random, model: MODEL/encoder, library: POOL}"),
        Method("propagation", YOU, PROPAGATION),
        Method("propagation_image", TRABUCCO, PROPAGATION.replace("}", ", strength: 0.5}")),
        Method("prompts", BANSAL, "text", prompted=True),
        Method("prompts_diverse", FAN, "text", "{set: clip_80, max_similarity: 0.95, keep: 40}", prompted=True),
    )
}
GUIDED = tuple(name for name, method in METHODS.items() if method.condition and not method.prompted)
AUGMENTED = tuple(name for name in GUIDED if name.startswith("augmented"))


@dataclass(frozen=True)
class Claim:
    """ours train better classifiers than theirs: pair by pair where there are as many of both, else each against the only one of theirs."""

    paper: str
    says: str
    ours: tuple[str, ...]
    theirs: tuple[str, ...] = ("real_strong",)

    def pairs(self) -> list[tuple[str, str]]:
        """(ours, theirs), as arms."""
        return list(zip(self.ours, self.theirs if len(self.theirs) == len(self.ours) else self.theirs * len(self.ours), strict=True))


CLAIMS = (
    Claim(RAND_AUGMENT, "Random augmentation of the real images helps.", ("real_strong",), ("real",)),
    Claim(MIXUP, "Mixing real images and their labels helps, on top of strong augmentation.", ("mixup",)),
    Claim(CUTMIX, "Cutting and pasting real images and their labels helps, on top of strong augmentation.", ("cutmix",)),
    Claim(FROZEN, "A frozen encoder carries the classes: a linear probe of the guiding one on few labels does well.", ("linear_probe",)),
    Claim(BANSAL, "Variations of the real images help.", ("image_variation",)),
    Claim(BANSAL, "Images from class prompts help (of a model that has seen all labels).", ("prompts",)),
    Claim(FAN, "Diverse prompts make better training images than one prompt.", ("prompts_diverse",), ("prompts",)),
    Claim(FAN, "Images from diverse prompts help (of a model that has seen all labels).", ("prompts_diverse",)),
    Claim(CHEN, "Images from augmented conditions help.", AUGMENTED),
    Claim(CHEN, "Augmented conditions make better training images than the plain image.", AUGMENTED, ("image_variation",)),
    Claim(GRAIKOS, "Images guided by a representation learned without labels help.", ("embedding_jitter", "embedding_slerp")),
    Claim(BLATTMANN, "Images conditioned on neighbours in an unlabelled library help.", ("retrieval", "retrieval_random")),
    Claim(ISCEN, "Unlabelled images with propagated labels help.", ("pseudo_labels",)),
    Claim(YOU, "Images generated from propagated labels help.", ("propagation",)),
    Claim(TRABUCCO, "Starting from half-noised real images helps (here unlabelled ones that labels have reached).", ("propagation_image",)),
    Claim(
        "No paper's claim; asked here.",
        "Starting from the image helps more than its embedding alone.",
        ("propagation_image",),
        ("propagation",),
    ),
    Claim(
        "No paper's claim; asked here.",
        "Generated images help more than all the real ones that the same labels reach.",
        ("propagation", "propagation_image"),
        ("pseudo_labels",),
    ),
    Claim(
        "No paper's claim; asked here.",
        "The unlabelled images under their true labels, which no method knows, leave room to gain.",
        ("true_labels",),
    ),
    Claim(
        HE,
        "Dropping the images that a classifier doubts helps (there CLIP, here a probe of the labelled images).",
        tuple(name + FILTERED for name in GUIDED),
        GUIDED,
    ),
)
