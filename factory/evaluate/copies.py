"""Who is a copy of whom: nearest real images in three ways, as a share of the distance that real images keep from each other.

A network's features see the same object again; thumbnails see the same pixels again after re-encoding, noise, blur, a mirror, a shift or crop by a
pixel, which features of small images do not bear; registration sees those that were turned, cropped or shifted further, among the few that features
find. A copy in any of them is a copy. An image of one colour shows nothing and is nobody's copy: the empty fields
of a microscope are all alike.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from factory import seeds
from factory.evaluate import registration
from factory.filters.blank import contrast
from factory.records import evenly

THUMBNAIL = 8  # pixels a side
SAME = 2e-3  # up to this distance two images are one: what is left of zero in sums of 32-bit floats
TYPICAL = 500  # reference images that tell the typical spacing
SHIFT = 1 / 28  # of a side
BLANK = 2.0  # levels of 255: the standard deviation of every channel up to which there is nothing to see, unless the thumbnail has a shape
VIEWS = 11  # that `_views` makes of an image
REGISTERED = 3  # reference images, nearest by features, that a query is registered with
USUAL, CLOSE = 100, 10  # reference images that tell what is typical of registration; per cent of them that are called close
TOLD = 10  # of them, at least, that are no duplicates: fewer tell nothing
_LEAST = 0.1  # of the typical spacing: a duplicate within the real images must not make its neighbours infinitely far from copies


class Nearest(NamedTuple):
    """For each query its nearest reference image.

    row: int [N].  distance: float [N], of unit features, 0 to 2.  ratio: float [N], below 1 where the query is nearer to a real
    image than other real images are; the smallest one of features, thumbnails and registration.
    """

    row: np.ndarray
    distance: np.ndarray
    ratio: np.ndarray


class Space(NamedTuple):
    """Images where copies are looked for.

    units: float32 [N, D].  thumbs: float32 [N, 192].  views: of each, float32 [V, N, 192].  blank: bool [N].  grey: uint8 [N, 32, 32].
    """

    units: np.ndarray
    thumbs: np.ndarray
    views: np.ndarray
    blank: np.ndarray
    grey: np.ndarray

    def take(self, rows: Sequence[int] | np.ndarray) -> Space:
        """Some of the images."""
        return Space(self.units[rows], self.thumbs[rows], self.views[:, rows], self.blank[rows], self.grey[rows])

    def beside(self, other: Space) -> Space:
        """These images, then those of another space."""
        parts = [np.concatenate(both, axis=axis) for both, axis in zip(zip(self, other, strict=True), (0, 0, 1, 0, 0), strict=True)]
        return Space(*parts)


def space(features: np.ndarray, small: np.ndarray) -> Space:
    """features: float [N, D].  small: uint8 [N, S, S, 3], the same images."""
    units = features / np.linalg.norm(features, axis=1, keepdims=True).clip(1e-12)
    views = np.empty((2 * VIEWS, len(small), 3 * THUMBNAIL**2), np.float32)
    for place, view in zip(views, (view for face in (small, small[:, :, ::-1]) for view in _views(face)), strict=True):
        place[:] = _thumbnails(view)
    plain = np.array([contrast(x) <= BLANK for x in small], bool)
    blank = plain & ~views[0].any(1)  # a faint cell has a shape
    return Space(units.astype(np.float32), views[0], views, blank, registration.grey(small))


def _views(images: np.ndarray) -> Iterator[np.ndarray]:
    """uint8 [N, S, S, 3] -> the same as it is, then moved, with one edge or all repeated, and with all cut off: what undoes a crop or a frame."""
    side = images.shape[1]
    step = max(1, round(SHIFT * side))
    wide = np.pad(images, ((0, 0), (step, step), (step, step), (0, 0)), mode="edge")
    middle, ends = (step, step + side), [(0, side), (2 * step, 2 * step + side), (0, step + side), (step, 2 * step + side)]
    cuts = [(middle, middle), *((end, middle) for end in ends), *((middle, end) for end in ends)]
    for (top, bottom), (left, right) in [*cuts, ((0, None), (0, None)), ((2 * step, side), (2 * step, side))]:
        yield wide[:, top:bottom, left:right]


def _thumbnails(images: np.ndarray) -> np.ndarray:
    """uint8 [N, H, W, 3] -> unit float32 [N, 192], without brightness and contrast; zero for an image of one colour."""
    import cv2

    blurred = (cv2.GaussianBlur(np.ascontiguousarray(x), (0, 0), SHIFT * len(x)) for x in images)  # what half a move would change
    scaled = [cv2.resize(x, (THUMBNAIL, THUMBNAIL), interpolation=cv2.INTER_AREA) for x in blurred]
    flat = np.stack(scaled).reshape(len(images), -1).astype(np.float32)
    flat -= flat.mean(1, keepdims=True)
    length = np.linalg.norm(flat, axis=1, keepdims=True)
    return np.where(length > flat.shape[1] ** 0.5, flat / length.clip(1e-6), 0)


def unseen(test: Sequence[bytes], real: Sequence[bytes]) -> list[int]:
    """Places of test images whose pixels are those of no real training image. test, real: pixel digests."""
    known = set(real)
    return [place for place, pixels in enumerate(test) if pixels not in known]


def nearest(queries: Space, reference: Space, among: Space | None = None) -> Nearest:
    """The nearest reference image of every query, and how near it is as real images go.

    among: real images that tell how far a reference image is from others; the reference itself, its own row left out, by default.
    """
    rows, found = zip(*(_in_one(*parts) for parts in _spaces(queries, reference, among)), strict=True)
    ratios, shown = np.stack(found), queries.thumbs.any(1)
    ratios[1, ~shown] = np.inf  # one colour has no shapes, and is like any other one
    # As strange to features and thumbnails as real images are: then registration alone would prove nothing.
    moved = _moved(queries, reference, among, np.flatnonzero(shown & (ratios.min(0) < 1)))
    ratios, rows = np.concatenate([ratios, moved[1][None]]), (*rows, moved[0])
    smaller, chosen = np.argmin(ratios, 0), np.arange(ratios.shape[1])
    row = np.stack(rows)[smaller, chosen]
    distance = np.linalg.norm(queries.units - reference.units[row], axis=1)
    ratio = ratios[smaller, chosen]
    return Nearest(row, distance, np.where(queries.blank, np.maximum(ratio, 1), ratio))


def nearest_held_out(queries: Space, held_out: Space, training: Space) -> Nearest:
    """The nearest held-out image of every query, and how near it is by the distance of that one to other real images.

    These are the training images. Where there are few beside the held-out ones, any stranger comes nearer to some of many held-out images than
    a few training images do; then each half of the held-out images is measured by the other half too.
    """
    count = len(held_out.units)
    if count < 2 or 2 * len(training.units) >= count:
        return nearest(queries, held_out, training if len(training.units) else None)
    order = seeds.rng("copies", "halves").permutation(count)
    halves = order[::2], order[1::2]
    found = [nearest(queries, held_out.take(own), training.beside(held_out.take(other))) for own, other in (halves, halves[::-1])]
    second = found[1].ratio < found[0].ratio
    rows = [own[one.row] for own, one in zip(halves, found, strict=True)]
    return Nearest(*(np.where(second, b, a) for a, b in (rows, [f.distance for f in found], [f.ratio for f in found])))


def _spaces(queries: Space, reference: Space, among: Space | None) -> list[tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray | None]]:
    """The arguments of `_in_one` for features, and for thumbnails."""
    others = (None, None) if among is None else (among.units[None], among.views)
    return [
        (queries.units[None], reference.units, reference.units[None], others[0]),
        (queries.views, reference.thumbs, reference.views, others[1]),
    ]


def _in_one(queries: np.ndarray, reference: np.ndarray, own: np.ndarray, among: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
    """`nearest` in one space: (row, ratio) of each query. queries, own (of the reference), among: views [V, N, D].  reference: [M, D]."""
    row, distance = _search(queries, reference)
    needed, place = np.unique(row, return_inverse=True)
    spaced: Callable[[np.ndarray], np.ndarray]
    if among is None:
        spaced = partial(_spacing, own, reference)
    else:  # views of the others are compared with the reference as it is, just as the queries are
        flat = among.reshape(-1, among.shape[-1])
        spaced = lambda rows: _search(reference[None, rows], flat)[1]  # noqa: E731
    # What is typical is told by rows of all the reference: those that queries are near to may all be duplicates, the first to be memorised.
    usual = _median(spaced(evenly(len(reference), TYPICAL)))
    return row, distance / _told(spaced(needed), usual)[place]


def _median(distances: np.ndarray) -> float:
    """Of those between different images."""
    return float(np.median(distances[distances > SAME])) if (distances > SAME).any() else SAME


def _told(spacing: np.ndarray, usual: float) -> np.ndarray:
    """How far others are, where a duplicate tells nothing of it."""
    return np.where(spacing > SAME, np.maximum(spacing, _LEAST * usual), usual)


def _moved(queries: Space, reference: Space, among: Space | None, asked: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(row, ratio) of each query, registered with the few reference images that are nearest to it by features; infinite for rows not asked for."""
    row, ratio = np.zeros(len(queries.units), np.int64), np.full(len(queries.units), np.inf)
    shown = np.flatnonzero(reference.thumbs.any(1))  # an empty field is far from every other one, and tells nothing of cells
    usual = _unlike(reference, among, shown[evenly(len(shown), USUAL)]) if len(shown) and len(asked) else np.zeros(0)
    usual = usual[usual > SAME]
    if len(usual) < TOLD:
        return row, ratio
    # Registration brings many strangers close too, cells in an empty field above all: a copy is closer than nearly any two real images.
    close = float(np.percentile(usual, CLOSE))
    near = _some(queries.units[asked], reference.units, REGISTERED)
    pairs = zip(asked.tolist(), near.tolist(), strict=True)
    apart = np.array([[registration.distance(queries.grey[query], reference.grey[one]) for one in some] for query, some in pairs])
    spacing = np.full(near.shape, close)  # at most, so that what is farther apart need not be measured
    needed, place = np.unique(near[apart < close], return_inverse=True)
    if len(needed):
        spacing[apart < close] = np.minimum(_told(_unlike(reference, among, needed), close), close)[place]
    ratios = apart / spacing
    best = ratios.argmin(1)[:, None]
    row[asked] = np.take_along_axis(near, best, 1)[:, 0]
    ratio[asked] = np.take_along_axis(ratios, best, 1)[:, 0]
    return row, ratio


def _unlike(reference: Space, among: Space | None, rows: np.ndarray) -> np.ndarray:
    """How far these reference rows are, registered, from the few other real images that are nearest to them by features; 2 where there are none."""
    others = reference if among is None else among
    near = _some(reference.units[rows], others.units, REGISTERED + (among is None))
    return np.array(
        [
            min((registration.distance(others.grey[b], reference.grey[a]) for b in beside if among is not None or a != b), default=2.0)
            for a, beside in zip(rows.tolist(), near.tolist(), strict=True)
        ]
    )


def _some(queries: np.ndarray, reference: np.ndarray, count: int) -> np.ndarray:
    """Rows int [N, count] of the nearest of [M, D], or of all M where these are fewer."""
    return np.asarray(_index(reference).search(np.ascontiguousarray(queries, np.float32), min(count, len(reference)))[1])


def _index(reference: np.ndarray) -> Any:
    """By squared Euclidean distance, exact. reference: [M, D]."""
    import faiss

    index = faiss.IndexFlatL2(reference.shape[1])
    index.add(np.ascontiguousarray(reference, np.float32))
    return index


def _search(queries: np.ndarray, reference: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Views [V, N, D] of queries against [M, D]: the nearest row and its Euclidean distance over all views."""
    index = _index(reference)
    found = [index.search(np.ascontiguousarray(view, np.float32), 1) for view in queries]
    squared, rows = np.stack([f[0][:, 0] for f in found]), np.stack([f[1][:, 0] for f in found])
    best, chosen = squared.argmin(0), np.arange(queries.shape[1])
    return rows[best, chosen], np.sqrt(squared[best, chosen].clip(0))


def _spacing(own: np.ndarray, reference: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """The distance of these reference rows, which are all seen in views [V, M, D], to the nearest other one."""
    if len(reference) < 2:
        return np.full(len(rows), 2.0)
    index = _index(reference)
    best = np.full(len(rows), np.inf)
    for view in own[:, rows]:
        squared, found = index.search(np.ascontiguousarray(view, np.float32), 2)
        other = np.where(found == rows[:, None], np.inf, squared).min(1)
        best = np.minimum(best, other)
    return np.sqrt(best.clip(0))
