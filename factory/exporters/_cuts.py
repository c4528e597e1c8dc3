"""Where a file of many rows ends: drawn from the content of its last row, so that a dropped row moves only the ends near it."""

from __future__ import annotations

from hashlib import sha256
from typing import Any


def draws(row: dict[str, Any], data: bytes) -> tuple[float, float]:
    """Two numbers in [0, 1) that follow from the row's id and the bytes of its image."""
    digest = sha256(repr(row.get("id")).encode() + data).digest()
    return int.from_bytes(digest[:8], "big") / 2**64, int.from_bytes(digest[8:16], "big") / 2**64


def file_ends(draw: float, added: int, held: int, limit: int) -> bool:
    """Whether a file of `held` bytes ends behind the `added` last ones: only from 3/4 of the limit on, and most likely well before it."""
    return held >= limit * 3 // 4 and draw < added / (limit / 16)
