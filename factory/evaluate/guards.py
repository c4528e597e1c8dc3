"""What would make a result flatter than it is: each leak between training and test images is an error that names them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from factory.errors import UserError
from factory.evaluate.copies import Nearest

NAMED = 10  # indices named in one message
REPEATED, SOME = 0.1, 2  # share, and number, of test images that may be near-copies of training images by chance
LEAST, LEAST_EACH = 50, 5  # real training images, and those of each class, from which on the distances between them are typical


def digest(image: np.ndarray) -> bytes:
    """Of the pixels and the shape of a uint8 [H, W, 3]."""
    shape = hashlib.blake2b(repr(image.shape).encode(), digest_size=16).digest()
    return hashlib.blake2b(np.ascontiguousarray(image).tobytes(), digest_size=16, salt=shape).digest()


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


def require_parents(parents: Sequence[Iterable[int]], drawn: Iterable[int]) -> None:
    """Raises UserError where a synthetic image has a parent that is not among the drawn real images.

    parents: for each synthetic image, indices into the real images that the draw was made from.
    """
    allowed = set(map(int, drawn))
    strays = [(index, sorted(set(map(int, own)) - allowed)) for index, own in enumerate(parents)]
    strays = [(index, own) for index, own in strays if own]
    if strays:
        named = ", ".join(f"{index} from real {own}" for index, own in strays[:NAMED])
        raise UserError(
            f"{len(strays)} synthetic images were made from real images outside the draw of {len(allowed)} ({named}); "
            "make them from the drawn images alone, or the arm sees more labels than the one it is compared with"
        )


def says_test(name: str) -> bool:
    """Whether the name of a split or a file says that it holds test images: test-00000, my_testing, never latest."""
    words = "".join(letter if letter.isalpha() else " " for letter in name.lower()).split()
    return any(word in ("test", "testing", "tests") for word in words)


@dataclass(frozen=True)
class Check:
    """One question about leaks. name: a slug.  ids: what fails it.  why: a sentence with what to do, without the ids."""

    name: str
    ids: list[str]
    why: str

    @property
    def passed(self) -> bool:
        """Whether nothing fails it."""
        return not self.ids

    def __str__(self) -> str:
        more = f" and {len(self.ids) - NAMED} more" if len(self.ids) > NAMED else ""
        return f"{self.name}: {self.why}: {', '.join(self.ids[:NAMED])}{more}"


def require(checks: Iterable[Check]) -> None:
    """Raises UserError that names every failed check and its ids, one a line."""
    failed = [str(check) for check in checks if not check.passed]
    if failed:
        raise UserError("\n".join(failed))


def synthetic_in(what: str, ids: Sequence[str], pixels: Sequence[bytes], marked: np.ndarray | None, made: Mapping[bytes, str]) -> Check:
    """Generated images among those that results are measured on.

    what: test or validation.  marked: bool [N], rows that say of themselves that they were generated.  made: pixel digest -> id of every
    image that this run has generated, refused ones included.
    """
    found = [
        f"{what} {name}" + (f" = {made[digest]}" if digest in made else "")
        for place, (name, digest) in enumerate(zip(ids, pixels, strict=True))
        if digest in made or (marked is not None and marked[place])
    ]
    return Check(f"synthetic_in_{what}", found, f"{len(found)} {what} images are synthetic; measure on real images alone")


def test_images_in(name: str, what: str, images: Iterable[tuple[str, bytes]], test: Mapping[bytes, str]) -> Check:
    """Images that test images must not be among, pixel by pixel.

    name: of the check.  what: they are, for the message.  images: (id, pixel digest).  test: pixel digest -> id.
    """
    found = [f"{one} = test {test[digest]}" for one, digest in images if digest in test]
    return Check(name, found, f"{len(found)} {what} are test images; take them out of one of the two")


def parents_outside(
    ids: Sequence[str], parents: Sequence[Sequence[str]], allowed: frozenset[str], draw: str, learnt: bool = False
) -> Check:
    """Synthetic images with a parent that the draw does not hold.

    parents: content keys of the parents of each.  allowed: content keys of the drawn images.  draw: what it is called, for the message.
    learnt: labels beyond the draw have reached every image, by the condition or a model, so that all fail.
    """
    found = [name for name, own in zip(ids, parents, strict=True) if learnt or any(key not in allowed for key in own)]
    why = (
        f"{len(found)} synthetic images were made from real images outside {draw}, so their arm would see more labels than the one it is "
        "compared with; "
    )
    why += (
        "their labels reached every image by the condition or a model: train and build from the drawn images alone"
        if learnt
        else "build a run from those images alone, or say --set outside=leave_out"
    )
    return Check("parents_outside_shots", found, why)


def labels_beyond(models: Sequence[str]) -> Check:
    """Models that were trained with the labels of all of --real, of which the run's own images are a part."""
    why = (
        f"{len(models)} models that made these images were trained with the labels of all of --real, and arms of real images alone have those of "
        "the run's own; train them on the latter, or say --only fidelity --only memorisation"
    )
    return Check("labels_beyond_run", list(models), why)


def near_copies_of_test(ids: Sequence[str], found: Nearest, test: Sequence[str], threshold: float) -> Check:
    """Synthetic images that show a test image. found: for each the nearest test image, by the spacing of real training images."""
    named = [f"{ids[i]} ~ test {test[found.row[i]]} ({found.ratio[i]:.2f})" for i in np.flatnonzero(found.ratio < threshold).tolist()]
    why = f"{len(named)} synthetic images are copies or near-copies of test images (ratio below {threshold:g}); filter them out"
    return Check("near_copies_of_test", named, why)


def tell_spacing(labels: np.ndarray) -> bool:
    """Whether there are enough real training images that an image much nearer to one than they are to each other repeats it.

    labels: int [N], -1 unlabelled. Where a class has an image or two, other images of that class are all nearer than the next real image.
    """
    counts = np.unique(labels[labels >= 0], return_counts=True)[1]
    return len(labels) >= LEAST and bool((counts >= LEAST_EACH).all())


def test_near_training(ids: Sequence[str], found: Nearest, training: Sequence[str], threshold: float) -> Check:
    """Test images that show training images again, where they are more than real data happens to repeat.

    ids: of test images.  found: for each the nearest training image, by the spacing of training images.  training: ids of these.
    """
    near = np.flatnonzero(found.ratio < threshold).tolist()
    named = (
        [f"test {ids[i]} ~ {training[found.row[i]]} ({found.ratio[i]:.2f})" for i in near]
        if len(near) > max(SOME, REPEATED * len(ids))
        else []
    )
    why = (
        f"{len(named)} of {len(ids)} test images are copies or near-copies of real training images (ratio below {threshold:g}), so that they "
        "tell neither accuracy on unseen images nor what a copy is; take them out of the test images"
    )
    return Check("test_near_training", named, why)


def class_list(made: Sequence[str], train: Sequence[str], test: Sequence[str]) -> Check:
    """Classes that were generated, that the training images do not have, and the test images do: the list came from the test."""
    found = [name for name in made if name not in train and name in test]
    why = f"{len(found)} generated classes have no real training image but are tested; take the class list from the training images"
    return Check("class_list_from_test", found, why)


def prompts_from_test(ids: Sequence[str], prompts: Sequence[str], captions: Sequence[str] | None, own: Sequence[str] | None) -> Check:
    """Synthetic images whose prompt is the caption of a test image, and of no training image."""
    known = {text.strip().lower() for text in captions or () if text} - {text.strip().lower() for text in own or ()}
    found = [name for name, prompt in zip(ids, prompts, strict=True) if prompt.strip().lower() in known]
    why = f"{len(found)} synthetic images were prompted with captions of test images; take captions from the training images"
    return Check("prompts_from_test", found, why)
