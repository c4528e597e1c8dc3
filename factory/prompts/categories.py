"""Further classes beside the source's, by WordNet: the category diversity of DiverGen (Fan et al. 2024, arXiv 2405.10185)."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import Field

from factory import seeds
from factory.errors import UserError
from factory.prompts._template import Filled

log = logging.getLogger(__name__)


class Categories(Filled):
    """The prompts of a template, for the source's classes and for nouns that are far enough from all of them and from each other."""

    add: int = Field(250, ge=1, description="Classes to add; 250 were best on LVIS, and more were worse.")
    cut: float = Field(
        0.4, gt=0, le=1, description="WordNet path similarity above which a noun is too close to a class that is there already."
    )
    within: list[str] = Field(["artifact.n.01", "animal.n.01", "plant.n.02", "food.n.01"], description="Only nouns below these synsets.")
    wordnet: str | None = Field(None, description="Folder of a WordNet 3 database (data.noun, …); null: the one of nltk.")
    draw: int = Field(0, description="Seed of the order in which nouns are tried.")

    def categories(self, class_names: Sequence[str]) -> list[str]:
        """The source's classes, then `add` nouns: tried in a drawn order, each kept if its path similarity to all before is at most `cut`.

        Raises UserError without a WordNet, for an unknown synset, and for an unlabelled source.
        """
        if not class_names:
            raise UserError("prompts categories: the source has no classes to add to; set source.label")
        reader = _reader(self.wordnet)
        taken = [synset for name in class_names for synset in reader.synsets(_lemma(name), pos="n")[:1]]
        unknown = [name for name in class_names if not reader.synsets(_lemma(name), pos="n")]
        if unknown:
            log.warning("WordNet has no noun %s; new classes may come close to it", ", ".join(map(repr, unknown[:5])))
        candidates = sorted({s.name(): s for root in self.within for s in _below(reader, root)}.items())
        names = {name.casefold() for name in class_names}
        added: list[str] = []
        for place in seeds.rng("categories", self.draw).permutation(len(candidates)).tolist():
            if len(added) == self.add:
                break
            synset = candidates[place][1]
            name = synset.lemmas()[0].name().replace("_", " ")
            if name.casefold() not in names and all((synset.path_similarity(other) or 0) <= self.cut for other in taken):
                added.append(name)
                names.add(name.casefold())
                taken.append(synset)
        if len(added) < self.add:
            log.warning("WordNet has only %d nouns for prompts.categories, fewer than the %d asked for", len(added), self.add)
        return [*class_names, *added]


def _lemma(name: str) -> str:
    return name.strip().replace(" ", "_").lower()


def _below(reader: Any, root: str) -> list[Any]:
    """A synset's hyponyms at all depths; UserError where there is no such synset."""
    try:
        top = reader.synset(root)
    except Exception as error:  # nltk raises its own error type, which cannot be named without importing it
        raise UserError(f"prompts.within: WordNet has no synset {root!r}; names look like animal.n.01") from error
    return list(top.closure(lambda synset: synset.hyponyms()))


def _reader(folder: str | None) -> Any:
    try:
        import nltk
        from nltk.corpus.reader.wordnet import WordNetCorpusReader
    except ImportError as error:
        raise UserError("prompts categories needs nltk; run `pip install 'synthetic-dataset-factory[wordnet]'`") from error

    class English(WordNetCorpusReader):  # type: ignore[misc]
        def map_wn(self, version: str = "wordnet") -> None:
            """No mapping to other languages: it would need a second WordNet."""

    get = "run `python -m nltk.downloader wordnet`, or name a folder with its files in prompts.wordnet"
    try:
        if folder is None:
            root = nltk.data.find("corpora/wordnet")
        else:
            path = str(Path(folder).expanduser().resolve())
            if path not in nltk.data.path:
                nltk.data.path.append(path)  # nltk reads from folders on its list alone
            root = nltk.data.FileSystemPathPointer(path)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # about languages other than English
            return English(root, None)
    except LookupError as error:
        raise UserError(f"prompts categories: nltk has no WordNet on this machine; {get}") from error
    except OSError as error:
        raise UserError(f"prompts.wordnet: {folder} is no whole WordNet database ({error}); {get}") from error
