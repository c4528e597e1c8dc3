"""Seeds as pure functions of what they are for: never of batch, process, machine or time."""

from __future__ import annotations

import hashlib

import numpy as np

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)


def _mix(x: np.ndarray) -> np.ndarray:
    """The SplitMix64 finaliser (Steele et al. 2014): a bijection of uint64 with full avalanche."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def per_request(plan_seed: int, labels: np.ndarray, ordinals: np.ndarray) -> np.ndarray:
    """Seeds for requests: int64 [N] in [0, 2^63), a function of (plan seed, class, ordinal) alone."""
    with np.errstate(over="ignore"):
        x = _mix(np.uint64(plan_seed % 2**64) + _GOLDEN * np.ones(len(labels), np.uint64))
        x = _mix(x + _GOLDEN * (labels.astype(np.int64).astype(np.uint64) + np.uint64(2)))
        x = _mix(x + _GOLDEN * (ordinals.astype(np.uint64) + np.uint64(1)))
    return (x >> np.uint64(1)).astype(np.int64)


def rng(*parts: object) -> np.random.Generator:
    """A numpy generator for a named purpose: `rng(plan.seed, "parents", label)`."""
    digest = hashlib.sha256("\x1f".join(map(str, parts)).encode()).digest()
    return np.random.Generator(np.random.Philox(key=int.from_bytes(digest[:16], "little")))
