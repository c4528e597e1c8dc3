"""What would make a result flatter than it is: each leak between training and test images is an error that names them."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np

from factory.errors import UserError

NAMED = 10  # indices named in one message


def digests(images: Sequence[np.ndarray] | np.ndarray) -> list[bytes]:
    """One digest of the pixels and the shape of each uint8 [H, W, 3]."""
    return [hashlib.blake2b(np.ascontiguousarray(x).tobytes(), digest_size=16, salt=_shape(x)).digest() for x in images]


def _shape(image: np.ndarray) -> bytes:
    return hashlib.blake2b(repr(image.shape).encode(), digest_size=16).digest()


def require_disjoint(training: Sequence[bytes], test: Sequence[bytes], what: str) -> None:
    """Raises UserError where an image of `training` has the pixels of a test image. what: "real training image", for the message."""
    known: dict[bytes, int] = {}
    for index, digest in enumerate(test):
        known.setdefault(digest, index)
    shared = [(index, known[digest]) for index, digest in enumerate(training) if digest in known]
    if shared:
        pairs = ", ".join(f"{ours} = test {theirs}" for ours, theirs in shared[:NAMED])
        more = f" and {len(shared) - NAMED} more" if len(shared) > NAMED else ""
        raise UserError(f"{len(shared)} {what}s are also test images ({pairs}{more}); take them out of one of the two")


def require_parents(parents: Sequence[Sequence[int]], drawn: np.ndarray) -> None:
    """Raises UserError where a synthetic image has a parent that is not among the drawn real images.

    parents: for each synthetic image, indices into the real images that the draw was made from.
    """
    allowed = set(np.asarray(drawn).tolist())
    strays = [(index, sorted(set(map(int, own)) - allowed)) for index, own in enumerate(parents)]
    strays = [(index, own) for index, own in strays if own]
    if strays:
        named = ", ".join(f"{index} from real {own}" for index, own in strays[:NAMED])
        raise UserError(
            f"{len(strays)} synthetic images were made from real images outside the draw of {len(allowed)} ({named}); "
            "make them from the drawn images alone, or the arm sees more labels than the one it is compared with"
        )
