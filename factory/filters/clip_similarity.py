"""Does the picture show what the text says? Cosine of image and text embeddings."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
from pydantic import Field, model_validator

from factory import blanks
from factory.contracts import FilterContext
from factory.encoders import Encoder
from factory.errors import UserError
from factory.filters._encoded import EncodedFilter, cosine, encode
from factory.records import Samples

Preset = Literal["datacomp_b32", "laion_b32", "l14_top30"]
PRESETS: dict[str, tuple[str, dict[str, Any]]] = {
    "datacomp_b32": ("ViT-B-32/openai", {"min": 0.25}),
    "laion_b32": ("ViT-B-32/openai", {"min": 0.28}),
    "l14_top30": ("ViT-L-14/openai", {"keep_top": "30%", "per": "all"}),
}


class ClipSimilarity(EncodedFilter):
    """score: cosine of image and prompt in [-1, 1] (Hessel et al. 2021 without their factor 2.5); NaN without a prompt.

    Presets: datacomp_b32 and l14_top30 after DataComp (Gadre et al. 2023, arXiv 2304.14108), laion_b32 after LAION-5B (Schuhmann et al. 2022,
    arXiv 2210.08402). OpenAI's CLIP weights are MIT.
    """

    own_rule_fields: ClassVar[frozenset[str]] = frozenset({"preset"})  # what it fills in counts, not its name

    preset: Preset | None = Field(
        None, description="A published filter by name, which fills in model and rule; a key that is written beside it wins."
    )
    prompt: Annotated[str, blanks.of("label", "prompt")] | None = Field(
        None, description="Text to compare with, of {label} and {prompt}; without it, each image's own prompt."
    )

    @model_validator(mode="before")
    @classmethod
    def _preset_fills_in(cls, values: Any) -> Any:
        if not isinstance(values, dict) or values.get("preset") not in PRESETS:
            return values
        model, rule = PRESETS[values["preset"]]
        ruled = any(values.get(key) is not None for key in ("min", "max", "between", "keep_top"))
        return {"model": model, **({} if ruled else rule), **values}

    def open(self, context: FilterContext) -> Scorer:
        if self.prompt is not None and "label" in blanks.names(self.prompt) and not context.class_names:
            raise UserError("clip_similarity: the prompt has {label} but the data has no class names; take {label} out")
        return Scorer(self.encoder(context), self.prompt, context.class_names)


@dataclass(frozen=True)
class Scorer:
    encoder: Encoder
    template: str | None
    class_names: Sequence[str]

    def score(self, samples: Samples) -> dict[str, np.ndarray]:
        score = np.full(len(samples), np.nan, np.float32)
        texts = [self._text(prompt, int(label)) for prompt, label in zip(samples.prompts, samples.labels, strict=True)]
        asked = [row for row, text in enumerate(texts) if text]
        pictures = encode(self.encoder, samples)
        score[asked] = cosine(pictures[asked], self.encoder.encode_texts([texts[row] for row in asked]))
        return {"score": score}

    def _text(self, prompt: str, label: int) -> str:
        """The text for one sample; empty where the template asks for the label of an unlabelled one."""
        if self.template is None:
            return prompt
        if label < 0:
            return "" if "label" in blanks.names(self.template) else self.template.format(prompt=prompt)
        return self.template.format(prompt=prompt, label=self.class_names[label] if self.class_names else "")
