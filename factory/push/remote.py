"""One dataset repository on the Hub: what is in it, and the few ways in which it changes. Errors say what to do."""

from __future__ import annotations

import contextlib
import fnmatch
import json
import logging
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TypeVar

from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, get_token
from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled, RepositoryNotFoundError
from huggingface_hub.hf_api import RepoFile

from factory.errors import UserError
from factory.publish.facts import PROVENANCE

log = logging.getLogger("factory")
TRANSPORT: type[Exception] = HfHubHTTPError.__bases__[
    0
]  # the base of all errors of the library that speaks HTTP: requests, httpx or a later one
TRANSIENT = (408, 425, 429, 500, 502, 503, 504)
TRIES = 4
AGAIN = "run the same command again, what is uploaded stays"
T = TypeVar("T")


class Unseen(UserError):
    """The Hub cannot be asked what it holds: it is not reached, has a fault, or does not know the token."""


@dataclass(frozen=True)
class State:
    """head: the last commit, None before the first push.  files: path -> what is there."""

    head: str | None
    files: dict[str, RepoFile]
    private: bool = True

    def matching(self, pattern: str) -> list[str]:
        return [path for path in self.files if fnmatch.fnmatchcase(path, pattern)]

    def plans(self) -> list[str]:
        """The plans whose images are in it, in the order of their names."""
        return sorted(path.split("/")[1] for path in self.matching(f"{PROVENANCE}/*/facts.json"))


class Remote:
    """A dataset on the Hub (or wherever HF_ENDPOINT points) by its name."""

    def __init__(self, name: str):
        self.name = name
        self.api = HfApi(library_name="synthetic-dataset-factory")
        self.url = f"{self.api.endpoint}/datasets/{name}"

    @property
    def anonymous(self) -> bool:
        """Whether there is no token: a private repository then looks as if it were not there."""
        return get_token() is None

    def create(self, private: bool) -> None:
        """Make the repository unless it is there."""
        self._call("create the repository", lambda: self.api.create_repo(self.name, repo_type="dataset", private=private, exist_ok=True))

    def state(self) -> State:
        """What is in it now; empty where there is no such repository. Raises Unseen where the Hub cannot be asked."""

        def look() -> State:
            try:
                info = self.api.repo_info(self.name, repo_type="dataset")
            except RepositoryNotFoundError:
                return State(None, {})
            tree = self.api.list_repo_tree(self.name, repo_type="dataset", revision=info.sha, recursive=True)
            return State(info.sha, {entry.path: entry for entry in tree if isinstance(entry, RepoFile)}, bool(info.private))

        return self._call("read the repository", look)

    def read(self, state: State, path: str) -> Any:
        """A JSON file of that state."""

        def fetch() -> Any:
            with TemporaryDirectory() as folder:
                found = self.api.hf_hub_download(self.name, path, repo_type="dataset", revision=state.head, local_dir=folder)
                return json.loads(Path(found).read_text(encoding="utf-8"))

        return self._call(f"read {path}", fetch)

    def upload(self, additions: Sequence[CommitOperationAdd]) -> None:
        """Bring large files into the repository's storage, where no reader sees them before a commit; what is there is not sent again."""
        with self._explained("upload"):
            self.api.preupload_lfs_files(self.name, additions, repo_type="dataset", free_memory=False)

    def commit(self, message: str, changes: Callable[[State], list[CommitOperationAdd | CommitOperationDelete]]) -> str | None:
        """One visible commit of what `changes` finds, on top of the state that it was given; None when there is nothing to change.

        Its answer may be lost on the way, so before every try the repository is looked at. Raises UserError when somebody else changed it.
        """
        before = self.state()
        for attempt in range(TRIES):
            state = self.state() if attempt else before
            operations = changes(state)
            if not operations:
                return state.head if attempt else None
            if state.head != before.head:
                raise UserError(f"{self.name} was changed by somebody else meanwhile; {AGAIN}")
            try:
                with self._explained("commit", lasting=attempt == TRIES - 1):
                    done = self.api.create_commit(
                        self.name, operations, commit_message=message, repo_type="dataset", parent_commit=state.head
                    )
                    return str(done.oid)
            except _Transient as error:
                log.warning("commit: %s; trying again", error)
                time.sleep(2**attempt / 2)
        raise AssertionError("the last try returns or raises")

    def licence(self, model: str) -> str | None:
        """What a model's card on the Hub says; None where the Hub has no such model."""
        with contextlib.suppress(TRANSPORT, OSError, ValueError):
            card = self.api.model_info(model).card_data
            return None if card is None or card.license is None else str(card.license)
        return None

    def _call(self, what: str, call: Callable[[], T]) -> T:
        """A call that may be repeated, tried again while the Hub is busy."""
        for attempt in range(TRIES):
            try:
                with self._explained(what, lasting=attempt == TRIES - 1):
                    return call()
            except _Transient as error:
                log.warning("%s: %s; trying again", what, error)
                time.sleep(2**attempt / 2)
        raise AssertionError("the last try returns or raises")

    @contextlib.contextmanager
    def _explained(self, what: str, lasting: bool = True) -> Iterator[None]:
        """Turn the client's errors into what a person can do. lasting: a passing fault is final too."""
        try:
            yield
        except (TRANSPORT, OSError, RuntimeError, ValueError) as error:
            status, cause = _status(error)
            if not lasting and (status in TRANSIENT or (status is None and isinstance(cause, TRANSPORT | json.JSONDecodeError))):
                raise _Transient(f"the Hub answered {status}" if status else type(cause).__name__) from error
            silent = isinstance(cause, TRANSPORT | OSError) if status is None else status == 401 or status >= 500
            raise (Unseen if silent else UserError)(self._advice(what, status, cause)) from error

    def _advice(self, what: str, status: int | None, cause: BaseException) -> str:
        where = f"{self.name}: cannot {what}"
        if isinstance(cause, OfflineModeIsEnabled):
            return f"{where}: the clients of the Hub are told to stay offline; unset HF_HUB_OFFLINE"
        if status == 401:
            return f"{where}: the Hub does not know your token (or there is none); log in with `hf auth login`, or set HF_TOKEN"
        if status == 403:
            return f"{where}: your token may not write there; give it write permission, or push to a name of your own"
        if status == 412:
            return f"{where}: somebody else changed it meanwhile; {AGAIN}"
        if status == 429:
            return f"{where}: the Hub asks for a pause (429); {AGAIN}"
        if status is not None and status >= 500:
            return f"{where}: the Hub has a fault ({status}); {AGAIN}"
        if status is not None:
            return f"{where}: the Hub refused it ({status}): {_first_line(cause)}"
        return f"{where}: {type(cause).__name__}: {_first_line(cause)}; {AGAIN}"


class _Transient(Exception):
    """A fault that may have passed at the next try."""


def _status(error: BaseException) -> tuple[int | None, BaseException]:
    """The HTTP status behind an error, and the error that has it; the client wraps some in others."""
    seen: BaseException | None = error
    while seen is not None:
        response = getattr(seen, "response", None)
        if response is not None:
            return int(response.status_code), seen
        if isinstance(seen, TRANSPORT):
            return None, seen
        seen = seen.__cause__
    return None, error


def _first_line(error: BaseException) -> str:
    text = getattr(error, "server_message", None) or getattr(error, "strerror", None) or str(error)  # strerror names no local path
    return next((line.strip() for line in text.splitlines() if line.strip()), "")[:300]
