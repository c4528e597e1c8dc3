"""What a model's card says in words about its training images, as far as these are test images."""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import pairwise

_VERB = (
    r"(?:\b(?:pre-?)?trained\b|\bfine-?tuned\b|\bfitted\b|\blearn(?:ed|t)\b|\b(?:pre-?)?training\s+used\b"
    r"|\b(?:pre-?)?train(?:ing|ed)?(?:\s+(?:on|data|set|corpus|images|splits?))?\s*(?:[:=]|\b(?:is|was|are|were|comprises|consists|includes)\b))"
)
_ROWS = r"(?:splits?|sets?|images?|data|partitions?|batch(?:es)?|samples?|examples?|rows|photos|pictures)\b"
_JOINED = r"\W{0,3}(?:[+&∪,/]|\band\b|\bplus\b)\W{0,3}"
_FIGURE = r"(?:accurac|loss|error|score|fid\b|result|curve|metric)"
_TEST_ROWS = (
    rf"(?:(?<![/-])\btest(?:ing)?[\s_-]+{_ROWS}(?!\s*{_FIGURE})"  # the test images, test_batch; but no train/test split of 80 to 20
    rf"|\btrain\w*{_JOINED}(?:(?:val\w*|dev)(?:{_JOINED})?(?:and\s+)?)?test\b(?!\s*(?:split\b|{_FIGURE}))"  # train + test, train/val/test
    rf"|\b\d[\d,]*k?\s+test\b(?!\s*{_FIGURE})|(?<!train)/test\b|\bsplit\W{{1,4}}test\b|\bon\s+test\s*(?:[,)]|$))"
)
_USED = r"\b(?:use[ds]?|using|includ\w+|add(?:ed|s|ing)?|taken|merged)\b"
# "trained on the train and test splits", "training data: train+test", "the test images were used for training"; within one clause.
_CLAIM = re.compile(
    rf"{_VERB}[^.;|\n]{{0,100}}?{_TEST_ROWS}"
    rf"|(?:{_TEST_ROWS}[^.;|\n]{{0,60}}?{_USED}|{_USED}[^.;|\n]{{0,60}}?{_TEST_ROWS})[^.;|\n]{{0,60}}?\b(?:for|in|to|into)\s+(?:pre-?)?train(?:ing)?\b",
    re.I,
)
_DENIAL = re.compile(
    r"\b(?:never|not|no|nor|without|un(?:seen|used)|except|but|exclud\w+|remov\w+|held[- ]out|evaluat\w+|measured|tested|separate|disjoint|apart"
    r"|rather than|instead of|accurac\w+|scor\w+|reach\w*|achiev\w*|fid|report\w*|compar\w+|reserved|kept"
    r"|validat(?:ed|es|ing)|validation\s+on|stopp\w+\s+(?:on|by)|transfer(?!\s+learning)\w*"  # train, validation and test is no denial
    r"|perform(?!ed\s+(?:on|with|using)\b)\w*|(?:chosen|select\w+|obtain\w*)\b(?!\s+(?:from|by)\b))\b",  # training was performed on …
    re.I,
)
_DENIED_BEFORE = re.compile(r"\b(?:never|not|at no \w+)(?:\s+been)?\s*[,(]", re.I)  # "was not, unlike others, trained on"
_SIZES = re.compile(r"(?<!s )\(\s*\d[\d,]*k?\s+train\w*(?:\s+\w+)?,\s*\d[\d,]*k?\s+test\w*(?:\s+\w+)?\s*\)", re.I)  # of a dataset
_WHOLE = re.compile(r"\b(?:all|both|complete|entire|full|whole)\b", re.I)
_NOTHING_DENIED = re.compile(r"\bwithout\s+(?:any\s+)?(?:labels?|supervision|annotations?|classes|texts?|captions?)\b|\bnot only\b", re.I)
_ABOUT_TRAINING = re.compile(r"(?:pre-?)?train(?:ing|ed)?(?:\s+(?:on|data|set|splits?|images|corpus))?", re.I)
_UNDER_HEADER = re.compile(r"\s*\|[\s|:]*-[\s|:-]*")
_NAMES_TEST = re.compile(r"\btest(?:ing)?(?:\b|_)", re.I)


def found(text: str) -> Iterator[str]:
    """The sentences of a card, shortened, that say that test images were trained on."""
    yield from (line.strip()[:120] for line in _prose(text) if _claims(line))


def _prose(text: str) -> Iterator[str]:
    """Sentences of a card, and rows of its tables that tell of the training data; its code is left out."""
    body = re.sub(r"```.*?```", " ", text, flags=re.S)
    pairs = pairwise([*body.splitlines(), ""])
    rows = [line for line, after in pairs if line.lstrip().startswith("|") and not _UNDER_HEADER.fullmatch(after)]
    lines = (line for line in body.splitlines() if not line.lstrip().startswith("|"))
    joined = re.sub(r"\n(?=[a-z(])", " ", "\n".join(lines))  # a wrapped line goes on
    joined = re.sub(r",\s*(?=test\w*\s+\w+\s*:)", "\n", joined, flags=re.I)  # "training data: …, test data: …"
    yield from re.split(r"(?<=[.;!?])\s+|\n", joined)
    for name, *cells in ([cell.strip(" *`") for cell in row.strip().strip("|").split("|")] for row in rows):
        if cells and _ABOUT_TRAINING.fullmatch(name) and _NAMES_TEST.search(" ".join(cells)):
            yield f"training data: {', '.join(cells)}"


def _claims(line: str) -> bool:
    """Whether a sentence says that test images were trained on, and the clause around these words does not deny it."""
    line = _NOTHING_DENIED.sub("", line.replace("*", "").replace("`", ""))
    line = line if _WHOLE.search(line) else _SIZES.sub("", line)
    for claim in _CLAIM.finditer(line):
        start = max(line.rfind(mark, 0, claim.start()) for mark in ",(") + 1
        stop = min((at for mark in ",)" if (at := line.find(mark, claim.end())) >= 0), default=len(line))
        if not _DENIAL.search(line[start:stop]) and not _DENIED_BEFORE.search(line[: claim.start()]):
            return True
    return False
