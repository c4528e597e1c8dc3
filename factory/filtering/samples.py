"""Some rows of a filtered corpus, read again where it stands: for pictures."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence

import numpy as np

from factory.errors import Undecodable
from factory.filtering import catalogue
from factory.filtering.reading import stored
from factory.filtering.recipe import FilterRecipe
from factory.filtering.sifter import unchanged
from factory.records import Found
from factory.store import Store


def read(recipe: FilterRecipe, store: Store, shards: Sequence[str], rows: np.ndarray) -> Iterator[tuple[int, Found, bytes]]:
    """(place among the rows of all shards, row, its image's bytes) of these rows, in order; no bytes where it has none that can be read.

    A shard is read up to the last row that is asked for. Raises UserError where the corpus changed, OSError where it cannot be read for now.
    """
    cuts = {cut.name: cut for cut in catalogue.read(store.folder / "corpus")}
    reader = recipe.corpus.open(store.folder / "corpus", ())
    for shard, span in store.spans(shards):
        own = set((rows[(rows >= span.start) & (rows < span.stop)] - span.start).tolist())
        if own:
            ids = store.read_shard(shard, ["id"])["id"].slice(0, max(own) + 1).to_pylist()
            for offset, found in enumerate(unchanged(itertools.islice(reader.read(cuts[shard]), len(ids)), ids)):
                if offset in own:
                    yield span.start + offset, found, _bytes(found)


def _bytes(found: Found) -> bytes:
    try:
        return b"" if found.fault else stored(found.image)
    except Undecodable:
        return b""
