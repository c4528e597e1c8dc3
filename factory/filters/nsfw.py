"""Pictures that are not safe for work."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field

from factory.filters._labels import LabelFilter


class Nsfw(LabelFilter):
    """score: probability in [0, 1] of the unsafe labels of an image classifier; NaN for an image that cannot be decoded.

    Model and bound are those of Data-Juicer's image_nsfw_filter (Chen et al. 2023, arXiv 2309.02033). Falconsai/nsfw_image_detection is a
    ViT (Dosovitskiy et al. 2020, arXiv 2010.11929) under Apache-2.0.
    """

    usual: ClassVar[tuple[str, ...]] = ("nsfw", "unsafe", "porn", "hentai", "sexy")

    max: float | None = Field(0.5, description="Keep rows whose score is at most this.")
    model: str = Field(
        "Falconsai/nsfw_image_detection",
        description="Transformers classifier by Hub id or folder, timm:NAME, or a folder of `factory train`.",
    )
