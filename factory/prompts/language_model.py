"""Prompts that a language model writes, a whole class in one call: the prompt diversity of DiverGen (Fan et al. 2024, arXiv 2405.10185)."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path
from typing import Annotated, Any, Literal

from filelock import FileLock
from pydantic import Field

from factory import blanks, seeds
from factory.contracts import Context, Prompts
from factory.errors import UserError
from factory.files import write_json

_BULLET = re.compile(r"^\s*(?:[-*•–]+|\(?\d+[.):]|#+)\s*")
LEAST = 8  # characters of a line that can be a prompt


class LanguageModel(Prompts):
    """Any Transformers text-generation model, local or from the Hub; its answers are cached, so that a recipe is planned twice alike."""

    model: str = Field(
        description="Hub id or local folder of a causal language model; one that follows instructions writes better prompts."
    )
    revision: str | None = Field(None, description="Hub branch, tag or commit; a commit makes the recipe exact.")
    n: int = Field(128, ge=1, description="Prompts per class; DiverGen uses 128.")
    instruction: Annotated[str, blanks.of("n", "label")] = Field(
        "Write {n} different short descriptions of a photo of a {label}, one per line. Vary place, light, viewpoint and style.",
        description="What the model is asked; {n} and {label} are filled in.",
    )
    max_new_tokens: int | None = Field(
        None, ge=1, description="Length of an answer; null: 24 per prompt, and at most what the model can hold."
    )
    temperature: float = Field(1.0, gt=0, description="Of sampling.")
    top_p: float = Field(0.95, gt=0, le=1, description="Of nucleus sampling (Holtzman et al. 2020).")
    retries: int = Field(3, ge=0, description="Further calls for a class whose answers had fewer than n different lines.")
    dtype: Literal["auto", "float32", "float16", "bfloat16"] = Field("auto", description="Number type of the weights.")
    max_similarity: float | None = Field(
        0.95, gt=0, le=1, description="Drop a prompt whose sentence embedding is more similar to an earlier one."
    )

    def texts(self, context: Context) -> list[list[str]]:
        """One call per class that is not in the cache yet. Raises UserError for an unlabelled source or a class without a single line."""
        if not context.class_names:
            raise UserError(
                "prompts language_model writes about classes, and the source has none; set source.label, or use prompts: template"
            )
        writer = _Writer(self, context.device)
        return [self._of_class(name, context, writer) for name in context.class_names]

    def _of_class(self, label: str, context: Context, writer: _Writer) -> list[str]:
        ruled = self.settings(frozenset({"max_similarity", "keep", "sentences"}))
        key = json.dumps([ruled, _weights(self.model), label, context.seed], sort_keys=True)
        path = context.cache / "prompts" / f"{hashlib.sha256(key.encode()).hexdigest()[:32]}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(path.with_suffix(".lock")):  # the workers of a launch plan at once; one asks the model
            if not path.exists():
                lines: dict[str, None] = {}
                for attempt in range(1 + self.retries):
                    seed = int(seeds.rng(context.seed, "language model", label, attempt).integers(2**62))
                    lines |= dict.fromkeys(clean(writer.ask(self.instruction.format(n=self.n, label=label), seed), label))
                    if len(lines) >= self.n:
                        break
                if not lines:
                    raise UserError(
                        f"prompts language_model: {self.model} wrote nothing usable about {label!r}; choose another model or instruction"
                    )
                write_json(path, list(lines)[: self.n])
        found: list[str] = json.loads(path.read_text(encoding="utf-8"))
        return found


def clean(answer: str, label: str) -> list[str]:
    """An answer's lines without numbers, bullets and quotes, each once; the class is put in front where a line does not name it."""
    lines = []
    for line in answer.splitlines():
        text = " ".join(_BULLET.sub("", line).strip(" \t\"'“”‘’`*_").split())
        if len(text) >= LEAST and text.isprintable() and not text.endswith(":"):
            lines.append(text if label.casefold() in text.casefold() else f"a photo of a {label}, {text}")
    return list(dict.fromkeys(lines))


def _weights(model: str) -> list[Any]:
    """Name and size of a local model's weights, so that a retrained one is asked again."""
    folder = Path(model).expanduser()
    return [[path.name, path.stat().st_size] for path in sorted(folder.glob("*.safetensors"))] if folder.is_dir() else []


class _Writer:
    """The model, loaded when it is first asked."""

    def __init__(self, kind: LanguageModel, device: str):
        self.kind, self.device = kind, device
        self._loaded: tuple[Any, Any] | None = None

    def _load(self) -> tuple[Any, Any]:
        import torch
        from transformers import AutoModelForCausalLM, AutoTokenizer

        device = ("cuda" if torch.cuda.is_available() else "cpu") if self.device == "auto" else self.device
        try:
            tokenizer = AutoTokenizer.from_pretrained(self.kind.model, revision=self.kind.revision)
            network = AutoModelForCausalLM.from_pretrained(
                self.kind.model, revision=self.kind.revision, dtype=self.kind.dtype, use_safetensors=True
            )
        except (OSError, ValueError) as error:
            raise UserError(
                f"prompts.model: cannot open {self.kind.model!r}: {str(error).strip().splitlines()[-1]}; "
                "name a causal language model with .safetensors weights, in a folder here or on the Hub"
            ) from error
        return tokenizer, network.eval().requires_grad_(False).to(device)

    def ask(self, instruction: str, seed: int) -> str:
        """The sampled answer; chat models are asked in their own template, others continue the text."""
        import torch

        tokenizer, network = self._loaded = self._loaded or self._load()
        if tokenizer.chat_template:
            text = tokenizer.apply_chat_template([{"role": "user", "content": instruction}], tokenize=False, add_generation_prompt=True)
        else:
            text = f"{instruction}\n1."
        tokens = tokenizer(text, return_tensors="pt").to(network.device)
        asked = tokens["input_ids"].shape[1]
        room = getattr(network.config, "max_position_embeddings", None) or asked + 24 * self.kind.n
        length = min(self.kind.max_new_tokens or 24 * self.kind.n, room - asked)
        if length < 1:
            raise UserError(f"prompts.instruction: it takes {asked} tokens, and {self.kind.model} holds {room}; shorten it")
        options = {"do_sample": True, "temperature": self.kind.temperature, "top_p": self.kind.top_p, "max_new_tokens": length}
        with torch.random.fork_rng(), torch.inference_mode():
            torch.manual_seed(seed)
            out = network.generate(**tokens, **options, pad_token_id=tokenizer.pad_token_id or tokenizer.eos_token_id)
        return str(tokenizer.decode(out[0, asked:], skip_special_tokens=True))
