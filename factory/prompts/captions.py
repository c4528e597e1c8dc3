"""What the source says about its own images."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from factory import blanks, seeds
from factory.contracts import Context, Prompts
from factory.errors import UserError


class Captions(Prompts):
    """The captions of a class's real images, each once, in a drawn order."""

    text: Annotated[str, blanks.of("caption", "label")] = Field(
        "{caption}", description="What is asked for; {caption} and {label} are filled in."
    )
    max_similarity: float | None = Field(
        0.95, gt=0, le=1, description="Drop a caption whose sentence embedding is more similar to an earlier one."
    )

    def texts(self, context: Context) -> list[list[str]]:
        """Raises UserError for a source without captions and for a class without one."""
        captions = context.table.captions
        if captions is None:
            raise UserError("prompts captions: the source has no captions; set source.caption, or use prompts: template")
        labels = context.table.labels
        groups = []
        for number, name in enumerate(context.class_names or [""]):
            own = {c.strip(): None for c, label in zip(captions, labels, strict=True) if c and c.strip() and (label == number or not name)}
            if not own:
                raise UserError(f"prompts captions: class {name!r} has no caption; add some, or use prompts: template")
            order = seeds.rng(context.seed, "captions", name).permutation(len(own))
            distinct = list(own)
            groups.append([self.text.format(caption=distinct[place], label=name) for place in order.tolist()])
        return groups
