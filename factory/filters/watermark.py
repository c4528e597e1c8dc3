"""Pictures with a watermark."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field

from factory.filters._labels import LabelFilter


class Watermark(LabelFilter):
    """score: probability in [0, 1] of the watermark label of an image classifier; NaN for an image that cannot be decoded.

    Model and bound are those of Data-Juicer's image_watermark_filter (Chen et al. 2023, arXiv 2309.02033). The licence of the weights is on
    the model's card; look there before publishing what they chose.
    """

    usual: ClassVar[tuple[str, ...]] = ("watermark", "watermarked", "with watermark")

    max: float | None = Field(0.8, description="Keep rows whose score is at most this.")
    model: str = Field(
        "amrul-hzz/watermark_detector",
        description="Transformers classifier by Hub id or folder, timm:NAME, or a folder of `factory train`.",
    )
