"""The story of a push: what is there, what is missing, large files first and unseen, then one commit that readers see."""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import re
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from huggingface_hub import CommitOperationAdd, CommitOperationDelete
from huggingface_hub.utils import disable_progress_bars
from huggingface_hub.utils.sha import git_hash, sha_fileobj

from factory import evaluation_file, publish
from factory.errors import UserError
from factory.publish.facts import PROVENANCE
from factory.push import contents, follow, gate, leaks
from factory.push.contents import Contents
from factory.push.remote import Remote, State, Unseen
from factory.store import Store

log = logging.getLogger("factory")
TOGETHER = 5  # large files that are uploaded at once


@dataclass(frozen=True)
class Options:
    """How to push. licence: of the images, for the card.  append, replace: what becomes of other plans' images in the repository."""

    public: bool = False
    append: bool = False
    replace: bool = False
    dry_run: bool = False
    follow: bool = False
    pictures: bool = True
    licence: str | None = None
    accept_memorisation: bool = False


def run(folder: Path, name: str, options: Options) -> dict[str, Any]:
    """Push a run's dataset to a dataset repository; what is there already is not sent again. Raises UserError.

    Returns {repository, commit, commits, files: [{path, bytes, change}], bytes}; commit is None where nothing had to change. A dry run adds
    `unseen`: why the repository could not be looked at and is taken to be new, or "".
    """
    if options.append and options.replace:
        raise UserError("--append and --replace exclude each other")
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", name):
        raise UserError(f"{name!r} is no name of a dataset on the Hub; write user/name")
    store = Store.existing(folder)
    if options.follow and store.is_filtered():
        raise UserError("--follow uploads what a build makes while it goes on; push a filter run without it, when it is finished")
    if not sys.stderr.isatty():
        disable_progress_bars()
    accepted = gate.check(evaluation_file.read(folder), options.accept_memorisation)
    remote = Remote(name)
    if options.follow and not options.dry_run:
        remote.create(private=not options.public)
        follow.upload(store, remote)
    with _unchanging(store):
        evaluation = evaluation_file.read(folder)  # looked at again: a build that was followed takes hours
        accepted = gate.check(evaluation, options.accept_memorisation)
        return _push(store, remote, options, evaluation, accepted)


def _push(store: Store, remote: Remote, options: Options, evaluation: dict[str, Any] | None, accepted: str) -> dict[str, Any]:
    folder, facts = store.folder, contents.facts_of(store)
    contents.refuse_small_files(folder / "dataset", facts)
    sheet = options.pictures and (folder / contents.SHEET).exists()
    if not options.dry_run:
        remote.create(private=not options.public)
    state, unseen = _seen(remote, options.dry_run)
    evaluation = gate.of_these(evaluation, facts)
    facts = contents.told(facts if unseen else _with_licences(facts, remote), evaluation, accepted, options.licence, sheet)
    whole = _whole(folder, facts, remote, state, options)
    changes = list(_changes(whole, state))
    _check_leaks(store, changes)
    result = _result(remote, changes, state)
    if options.dry_run:
        return {**result, "commit": None, "unseen": unseen}
    if options.public and state.private and state.head is not None:
        log.warning("%s is private and stays so; open it in its settings on the Hub", remote.name)
    if not options.public and not state.private and state.head is not None:
        log.warning("%s is public, and everybody will see these images", remote.name)
    additions = {path: CommitOperationAdd(path, content) for path, content, _ in changes if content is not None}
    _upload(remote, whole, additions)

    def operations(now: State) -> list[CommitOperationAdd | CommitOperationDelete]:
        return [
            CommitOperationDelete(path, is_folder=False) if content is None else additions.get(path) or CommitOperationAdd(path, content)
            for path, content, _ in (changes if now.head == state.head else _changes(whole, now))  # unchanged shards are hashed once
        ]

    message = f"{facts['rows']} {publish.images(facts)} of plan {facts['plan']}"
    return {**result, "commit": remote.commit(message, operations)}


@contextlib.contextmanager
def _unchanging(store: Store) -> Iterator[None]:
    """Hold the run, so that no build or selection swaps its dataset under a push. Raises UserError."""
    with contextlib.ExitStack() as held:
        try:
            held.enter_context(store.owned())
        except UserError:
            raise UserError(
                "the run is being built or selected; wait for it, or upload its shards as they are finished with --follow"
            ) from None
        yield


def _seen(remote: Remote, dry_run: bool) -> tuple[State, str]:
    """What the repository holds; for a dry run that cannot see it, nothing, and why."""
    try:
        state = remote.state()
    except Unseen as error:
        if not dry_run:
            raise
        return State(None, {}), str(error)
    hidden = dry_run and state.head is None and remote.anonymous
    return state, f"{remote.name}: there is no token, and a private one would not be seen; log in with `hf auth login`" if hidden else ""


def _with_licences(facts: dict[str, Any], remote: Remote) -> dict[str, Any]:
    """Ask the Hub for the licences that this machine does not know."""
    models = [
        model if model["licence"] or model["name"].count("/") != 1 else {**model, "licence": remote.licence(model["name"])}
        for model in facts["models"]
    ]
    return {**facts, "models": models}


def _whole(folder: Path, facts: dict[str, Any], remote: Remote, state: State, options: Options) -> Contents:
    """What the repository will hold, by what it holds now. Raises UserError where images would be lost or mixed up."""
    known = [remote.read(state, f"{PROVENANCE}/{plan}/facts.json") for plan in state.plans()]
    strangers = [other for other in known if other["plan"] != facts["plan"]]
    mine = [other for other in known if other["plan"] == facts["plan"]]
    if strangers and not (options.append or options.replace):
        plans = ", ".join(f"{other['plan']} ({other['rows']} images)" for other in strangers)
        raise UserError(
            f"{remote.name} holds images of another plan: {plans}; add to them with --append, or put these in their place with --replace"
        )
    recorded = {path for other in known for path in other["files"]}
    foreign = [path for path in state.matching(facts["data_files"]) if path not in recorded]
    if foreign:
        raise UserError(
            f"{remote.name} holds files that no push of the factory put there ({', '.join(foreign[:3])}), and readers would mix them up with "
            "these images; push to a name of its own"
        )
    others, before = (strangers, mine) if options.append else ([], known)
    contents.check_beside(facts, others)
    croissant = remote.read(state, contents.CROISSANT) if others and contents.CROISSANT in state.files else None
    return contents.gather(folder, facts, others, before, state, remote.name, croissant)


def _check_leaks(store: Store, changes: Sequence[tuple[str, Path | bytes | None, str]]) -> None:
    watch = leaks.Watch([*_both(store.folder), *_data_places(store)])
    for path, content, _ in changes:
        if content is not None:
            watch.check(path, content)


def _both(path: Path) -> list[Path]:
    return [path.absolute(), path.resolve()]


def _data_places(store: Store) -> list[Path]:
    """Where on this machine the real images or the corpus of a run are, if they are here; what is just below the root is too short to tell."""
    recipe = json.loads((store.folder / "recipe.json").read_text(encoding="utf-8"))
    given = [str((recipe.get(section) or {}).get("dataset") or "") for section in ("source", "corpus")]
    local = [Path(re.split(r"[*?\[]", text)[0]) for text in given if text and "://" not in text]
    return [place for path in local if path.exists() for place in _both(path) if len(place.parts) > 3]


def _changes(whole: Contents, state: State) -> Iterator[tuple[str, Path | bytes | None, str]]:
    """(path, what it becomes or None, added | changed | removed) where the repository differs from what it will hold."""
    for path, content in whole.files.items():
        if path not in state.files:
            yield path, content, "added"
        elif not _is_same(content, state.files[path]):
            yield path, content, "changed"
    yield from ((path, None, "removed") for path in whole.gone if path in state.files)


def _is_same(content: Path | bytes, there: Any) -> bool:
    size = len(content) if isinstance(content, bytes) else content.stat().st_size
    if size != there.size:
        return False
    if there.lfs is None:
        return bool(git_hash(content if isinstance(content, bytes) else content.read_bytes()) == there.blob_id)
    if isinstance(content, bytes):
        return bool(hashlib.sha256(content).hexdigest() == there.lfs.sha256)
    with content.open("rb") as file:
        return bool(sha_fileobj(file).hex() == there.lfs.sha256)


def _upload(remote: Remote, whole: Contents, additions: dict[str, CommitOperationAdd]) -> None:
    """Large files, a few at a time; each is in the Hub's storage when its group is done, whatever happens to the next."""
    large = [additions[path] for path in whole.data if path in additions]
    for start in range(0, len(large), TOGETHER):
        group = large[start : start + TOGETHER]
        remote.upload(group)
        size = sum(addition.upload_info.size for addition in group)
        log.info("%d of %d shards are uploaded (%s more)", start + len(group), len(large), size_of(size))


def _result(remote: Remote, changes: Sequence[tuple[str, Path | bytes | None, str]], state: State) -> dict[str, Any]:
    files = [{"path": path, "bytes": _bytes(content), "change": change} for path, content, change in changes]
    unchanged = len(state.files) - sum(change != "added" for _, _, change in changes)
    total = sum(_bytes(content) for _, content, _ in changes)
    return {"repository": remote.url, "commits": int(bool(files)), "bytes": total, "unchanged": unchanged, "files": files}


def _bytes(content: Path | bytes | None) -> int:
    return 0 if content is None else len(content) if isinstance(content, bytes) else content.stat().st_size


def size_of(count: int) -> str:
    """Bytes for people."""
    value, unit = float(count), "B"
    for bigger in ("kB", "MB", "GB", "TB"):
        if value < 1000:
            break
        value, unit = value / 1000, bigger
    return f"{value:.0f} {unit}" if unit == "B" or value >= 100 else f"{value:.1f} {unit}"


def summary(result: dict[str, Any], dry_run: bool) -> str:
    """A push in a few lines for a terminal; a dry run names every file."""
    files = result["files"]
    shown = files if dry_run else []
    lines = [f"{file['change']:8} {size_of(file['bytes']):>9}  {file['path']}" for file in shown]
    count = f"{len(files)} file{'s' if len(files) != 1 else ''}, {size_of(result['bytes'])}, {result['unchanged']} unchanged"
    if dry_run:
        lines.append(f"would push {result['commits']} commit: {count}, to {result['repository']}")
        return "\n".join([*lines, *([f"as if it were new: {result['unseen']}"] if result["unseen"] else [])])
    if result["commit"] is None:
        return f"nothing to push: {result['repository']} holds this dataset"
    return f"pushed {count}, in commit {result['commit'][:12]}\ndataset {result['repository']}"
