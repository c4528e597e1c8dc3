"""Names and texts of other encodings, corpora that change under a run, and filters that fail: nothing is lost, and nothing is mixed up."""

from __future__ import annotations

import json
import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from factory import filtering, scoring
from factory.corpora import _columns
from factory.errors import UserError
from factory.filtering import reading, story
from factory.reselect import run as reselect
from tests import corpora


def sift(tmp_path: Path, name: str = "run", **sections: str) -> dict[str, Any]:
    recipe = filtering.load(corpora.recipe(tmp_path / f"{name}.yaml", **sections))
    report = filtering.run(recipe, tmp_path / name, "cpu")
    assert report is not None and report["read"] == report["kept"] + sum(report["refused"].values())
    return report


def kept(tmp_path: Path, name: str = "run") -> list[dict[str, Any]]:
    return pq.read_table(tmp_path / name / "kept.parquet").to_pylist()


def pictures(at: Path, names: list[str]) -> Path:
    at.mkdir()
    for name in names:
        (at / name).write_bytes(corpora.picture(200))
    return at


def metadata(at: Path, rows: list[dict[str, Any]]) -> None:
    (at / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


# ---- names and texts


def test_names_that_are_no_utf8_are_rows(tmp_path: Path) -> None:
    at = pictures(tmp_path / "corpus", ["käse.png"])
    try:
        with open(os.fsencode(at) + b"/caf\xe9.png", "wb") as file:
            file.write(corpora.picture(200))
    except OSError:
        pytest.skip("this file system takes no such names")
    report = sift(tmp_path, corpus=f"{{dataset: {at}}}", keep="both")
    assert report["kept"] == 2 and {row["id"] for row in kept(tmp_path)} == {"caf\\udce9.png", "käse.png"}


def test_members_of_a_tar_whose_names_are_no_utf8_are_rows(tmp_path: Path) -> None:
    import io
    import tarfile

    with tarfile.open(tmp_path / "0.tar", "w", format=tarfile.GNU_FORMAT, encoding="latin-1") as tar:
        for name in ("a.png", "café.png"):
            member = tarfile.TarInfo(name)
            member.size = len(corpora.picture(200))
            tar.addfile(member, io.BytesIO(corpora.picture(200)))
    assert sift(tmp_path, corpus=f"{{dataset: {tmp_path / '0.tar'}}}")["kept"] == 2
    assert [row["id"] for row in kept(tmp_path)] == ["0.tar/a", "0.tar/caf\\xe9"]


@pytest.mark.parametrize("suffix", ["parquet", "tar"])
def test_files_whose_own_names_are_no_utf8_are_read_and_exported(suffix: str, tmp_path: Path) -> None:
    plain = tmp_path / f"plain.{suffix}"
    corpora.parquet(plain, 5) if suffix == "parquet" else corpora.tar(plain, 5)
    (tmp_path / "corpus").mkdir()
    try:
        os.rename(plain, os.fsencode(tmp_path / "corpus") + b"/caf\xe9." + suffix.encode())
    except OSError:
        pytest.skip("this file system takes no such names")
    image = "photo" if suffix == "parquet" else "image"
    report = sift(tmp_path, corpus=f"{{dataset: {tmp_path / 'corpus'}, image: {image}}}", filters="[]", keep="both")
    assert report["kept"] == 5 and all(row["id"].startswith(f"caf\\udce9.{suffix}") for row in kept(tmp_path))
    assert reselect(tmp_path / "run", None, [], True)["kept"] == 5
    if suffix == "parquet":
        with pytest.raises(UserError, match=r"caf\\udce9.parquet has no column 'nothing'"):
            sift(tmp_path, "wrong", corpus=f"{{dataset: {tmp_path / 'corpus'}, image: nothing}}")
        (tmp_path / "corpus" / os.fsdecode(b"d\xe9.parquet")).write_bytes(b"PAR1")
        report = sift(tmp_path, "damaged", corpus=f"{{dataset: {tmp_path / 'corpus'}, image: photo}}", filters="[]")
        assert report["examples"]["unreadable_file"][0]["id"] == "d\\udce9.parquet"


def test_a_link_in_a_tar_is_a_row_with_a_reason(tmp_path: Path) -> None:
    import tarfile

    pictures(tmp_path / "corpus", ["a.png"])
    (tmp_path / "corpus" / "b.png").hardlink_to(tmp_path / "corpus" / "a.png")
    with tarfile.open(tmp_path / "0.tar", "w") as tar:
        for name in ("a.png", "b.png"):
            tar.add(tmp_path / "corpus" / name, name)
    report = sift(tmp_path, corpus=f"{{dataset: {tmp_path / '0.tar'}}}")
    assert report["read"] == 2 and report["refused"]["empty"] == 1


def test_texts_and_numbers_that_no_column_holds_pass_through_as_text(tmp_path: Path) -> None:
    at = pictures(tmp_path / "corpus", ["a.png", "b.png"])
    metadata(
        at, [{"file_name": "a.png", "t": "half \ud83d", "n": 1, "tags": ["x"]}, {"file_name": "b.png", "t": "", "n": 10**20, "tags": "y"}]
    )
    sift(tmp_path, corpus=f"{{dataset: {at}, caption: t}}", carry="[n, tags]", keep="both", shard="1")
    rows = kept(tmp_path)
    assert [row["n"] for row in rows] == ["1", str(10**20)]
    assert [row["tags"] for row in rows] == ['["x"]', "y"]
    assert _columns.caption("half \ud83d") == "half \\ud83d"


def test_of_two_metadata_files_that_know_a_file_the_nearest_is_taken_and_nothing_is_missing(tmp_path: Path) -> None:
    at = tmp_path / "corpus"
    at.mkdir()
    pictures(at / "sub", ["a.png"])
    metadata(at, [{"file_name": "sub/a.png", "who": "far"}])
    metadata(at / "sub", [{"file_name": "a.png", "who": "near"}])
    report = sift(tmp_path, corpus=f"{{dataset: {at}}}", carry="[who]")
    assert report["read"] == report["kept"] == 1 and kept(tmp_path)[0]["who"] == "near"


def test_a_link_that_leads_back_up_repeats_nothing(tmp_path: Path) -> None:
    at = pictures(tmp_path / "corpus", ["a.png"])
    (at / "again").symlink_to(at, target_is_directory=True)
    assert sift(tmp_path, corpus=f"{{dataset: {at}}}")["read"] == 1


def test_a_damaged_footer_is_a_row_with_a_reason(tmp_path: Path) -> None:
    at = tmp_path / "corpus"
    corpora.parquet(at / "a.parquet", 3)
    data = (at / "a.parquet").read_bytes()
    length = int.from_bytes(data[-8:-4], "little")
    (at / "b.parquet").write_bytes(data[: -8 - length] + b"\xff" * length + data[-8:])
    report = sift(tmp_path, corpus=f"{{dataset: {at}, image: photo}}", filters="[]")
    assert report["read"] == 4 and report["refused"]["unreadable_file"] == 1


# ---- what may not be read


def test_what_may_not_be_read_is_not_called_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    at = pictures(tmp_path / "corpus", ["a.png", "b.png"])
    fetch = reading._fetched

    def guarded(place: str) -> bytes:
        if place.endswith("b.png"):
            raise PermissionError(13, "Permission denied", place)
        return fetch(place)

    monkeypatch.setattr(reading, "_fetched", guarded)
    report = sift(tmp_path, corpus=f"{{dataset: {at}}}")
    assert report["refused"] == {"Brightness": 0, "no_permission": 1} and report["kept"] == 1
    assert "no permission to read" in report["examples"]["no_permission"][0]["detail"]


@pytest.mark.parametrize("kind", ["folder", "parquet"])
def test_a_corpus_that_may_not_be_listed_or_opened_says_so(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from fsspec.implementations.local import LocalFileSystem

    at = pictures(tmp_path / "corpus", ["a.png"])
    if kind == "parquet":
        corpora.parquet(tmp_path / "corpus" / "a.parquet", 3)

    def denied(*_: Any, **__: Any) -> Any:
        raise PermissionError(13, "Permission denied", "somewhere")

    monkeypatch.setattr(*((os, "scandir") if kind == "folder" else (LocalFileSystem, "open")), denied)
    with pytest.raises(UserError, match=r"no permission to .*grant it, or leave"):
        sift(tmp_path, corpus=f"{{dataset: {at}, kind: {kind}, image: photo}}", filters="[]")


# ---- what changes under a run


def replaced(file: Path, data: bytes) -> None:
    """Other bytes, as many, at another time."""
    size, before = file.stat().st_size, file.stat().st_mtime_ns
    file.write_bytes(data)
    os.utime(file, ns=(before + 1_000, before + 1_000))
    assert file.stat().st_size == size


@pytest.mark.parametrize("kind", ["folder", "caption", "parquet", "path", "path beside bytes", "tar"])
def test_a_file_that_was_replaced_by_one_of_the_same_size_is_noticed(kind: str, tmp_path: Path) -> None:
    at = tmp_path / "corpus"
    corpus, told = f"{{dataset: {at}}}", "shard 000000, rows 0 to 1"
    if kind in ("folder", "caption"):
        pictures(at, ["a.png"])
        (at / "a.txt").write_text("one")
        file, data = (at / "a.png", corpora.picture(201)) if kind == "folder" else (at / "a.txt", b"two")
        corpus = f"{{dataset: {at}, caption: .txt}}"
    elif kind == "parquet":
        file, told = corpora.parquet(at / "a.parquet", 5), "a.parquet"
        data, corpus = file.read_bytes(), f"{{dataset: {at}, image: photo}}"
    elif kind.startswith("path"):
        names = [f"{number}.png" for number in range(5)]
        pictures(at, names)
        image = pa.array(names) if kind == "path" else pa.array([{"bytes": None, "path": name} for name in names])
        pq.write_table(pa.table({"image": image}), at / "a.parquet", row_group_size=2)
        file, data, told = at / "3.png", corpora.picture(201), "a.parquet"
        corpus = f"{{dataset: {at}/a.parquet{'' if kind == 'path' else f', root: file://{at}'}}}"
    else:
        file, told = corpora.tar(at / "0.tar", 5), "0.tar"
        data = file.read_bytes()
    sift(tmp_path, corpus=corpus)
    sift(tmp_path, corpus=corpus)
    replaced(file, data)
    with pytest.raises(UserError, match=rf"the corpus changed since .*, at {told}: .*new --out"):
        sift(tmp_path, corpus=corpus)
    with pytest.raises(UserError, match="the corpus changed"):
        reselect(tmp_path / "run", None, [], True)
    assert reselect(tmp_path / "run", None, [], False)["rows"] > 0  # the scores are still those of what was there
    with pytest.raises(UserError, match=r"another plan .*shard"):
        sift(tmp_path, corpus=corpus, shard="3")  # not taken for a change of the corpus


def test_a_fault_that_may_pass_leaves_no_digest_of_some_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pictures(tmp_path / "corpus", ["0.png"])
    pq.write_table(pa.table({"image": pa.array(["0.png"] * 3)}), tmp_path / "corpus" / "a.parquet")

    def failing(file: pq.ParquetFile, *_: Any, **__: Any) -> Any:
        yield file.read(["image"]).to_batches()[0][:1]
        raise OSError(5, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(pq.ParquetFile, "iter_batches", failing)
        with pytest.raises(UserError, match=r"a.parquet cannot be read for now: .*run the same command again"):
            sift(tmp_path, corpus=f"{{dataset: {tmp_path}/corpus/a.parquet}}", filters="[]")
    assert sift(tmp_path, corpus=f"{{dataset: {tmp_path}/corpus/a.parquet}}", filters="[]")["kept"] == 3


def test_a_row_that_names_no_possible_file_costs_that_row_alone(tmp_path: Path) -> None:
    pictures(tmp_path / "corpus", ["0.png"])
    pq.write_table(pa.table({"image": pa.array(["0.png", "a\0b.png"])}), tmp_path / "corpus" / "a.parquet")
    report = sift(tmp_path, corpus=f"{{dataset: {tmp_path}/corpus/a.parquet}}", filters="[]")
    assert report["kept"] == 1 and report["refused"]["missing"] == 1


def test_a_run_of_an_earlier_version_says_what_to_do(tmp_path: Path) -> None:
    corpora.parquet(tmp_path / "corpus" / "a.parquet", 9)
    corpus = f"{{dataset: {tmp_path / 'corpus'}, image: photo}}"
    report = sift(tmp_path, corpus=corpus)
    cuts = tmp_path / "run" / "corpus" / "cuts.parquet"
    old = pq.read_table(cuts, columns=["name", "place", "start", "stop"])  # no digests, and places as text
    pq.write_table(old.set_column(1, "place", old["place"].cast(pa.string())), cuts)
    run = json.loads((tmp_path / "run" / "run.json").read_text())
    run["identity"]["corpus"]["digest"] = "0" * 32
    (tmp_path / "run" / "run.json").write_text(json.dumps(run))
    with pytest.raises(UserError, match=r"run was begun by an earlier version .*new --out"):
        sift(tmp_path, corpus=corpus)
    with pytest.raises(UserError, match="earlier version"):
        reselect(tmp_path / "run", None, [], True)
    assert reselect(tmp_path / "run", None, [], False)["kept"] == report["kept"] > 0


def test_a_file_elsewhere_is_told_by_the_checksum_that_its_server_gives() -> None:
    from factory.corpora import _places

    away = SimpleNamespace(protocol="s3")
    one, other = ({"size": 5, "ETag": tag, "LastModified": "now"} for tag in ("a", "b"))
    assert _places.stamp(away, "x", one) == "5 a" != _places.stamp(away, "x", other)
    assert _places.stamp(away, "x", {"size": 5, "mtime": 7}) == "5 7" and _places.stamp(away, "x", {"size": 5}) == "5 "


def test_new_shards_of_a_tar_that_changed_are_refused(tmp_path: Path) -> None:
    corpora.tar(tmp_path / "0.tar", 6)
    sift(tmp_path, corpus=f"{{dataset: {tmp_path / '0.tar'}}}", filters="[]")
    corpora.tar(tmp_path / "0.tar", 4)
    with pytest.raises(UserError, match="the corpus changed"):
        reselect(tmp_path / "run", None, [], True)
    assert not (tmp_path / "run" / "dataset").exists()


def test_rows_that_moved_within_a_tar_are_not_given_to_another_filter(tmp_path: Path) -> None:
    place = f"{{dataset: {tmp_path / '0.tar'}}}"
    corpora.tar(tmp_path / "0.tar", 6)
    sift(tmp_path, corpus=place, filters="[]")
    before = (tmp_path / "0.tar").stat()
    corpora.tar(tmp_path / "0.tar", 6, first=3)
    os.utime(tmp_path / "0.tar", ns=(before.st_mtime_ns, before.st_mtime_ns))  # as a file system without times would have it
    assert (tmp_path / "0.tar").stat().st_size == before.st_size
    with pytest.raises(UserError, match="the corpus changed"):
        sift(tmp_path, corpus=place)


def test_columns_that_a_run_did_not_carry_are_never_null(tmp_path: Path) -> None:
    at = pictures(tmp_path / "corpus", ["a.png"])
    metadata(at, [{"file_name": "a.png", "uid": "u1"}])
    sift(tmp_path, corpus=f"{{dataset: {at}}}")
    with pytest.raises(UserError, match="carry"):
        sift(tmp_path, corpus=f"{{dataset: {at}}}", carry="[uid]")
    with pytest.raises(UserError, match="'uid'"):
        reselect(tmp_path / "run", None, ["carry=[uid]"], False)


@pytest.mark.parametrize(("status", "passes"), [(429, True), (503, True), (404, False)])
def test_a_server_that_asks_for_a_pause_is_asked_again(status: int, passes: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    class Answer(Exception):
        def __init__(self) -> None:
            self.status = status

    answers = iter([Answer(), b"bytes"])

    def fetch(place: str) -> bytes:
        answer = next(answers)
        if isinstance(answer, Exception):
            raise answer
        return answer

    monkeypatch.setattr(reading, "_fetched", fetch)
    monkeypatch.setattr(reading, "PATIENCE", 0)
    read = reading.decoded(SimpleNamespace(fault="", image="https://x/y.png"))  # type: ignore[arg-type]
    assert read.reason == ("not_an_image" if passes else "missing")


# ---- filters that fail


def test_a_bad_row_alone_in_its_batch_stops_nothing(tmp_path: Path) -> None:
    at = tmp_path / "corpus"
    at.mkdir()
    for number, value in enumerate([150, 160, 250]):  # the last one is a batch of its own
        (at / f"{number}.png").write_bytes(corpora.picture(value))
    report = sift(tmp_path, corpus=f"{{dataset: {at}}}", filters="[{kind: tests.corpora.Brightness, raise_above: 200}]", batch="2")
    assert report["kept"] == 2 and report["refused"]["Brightness_no_score"] == 1


def test_texts_of_rows_without_an_answer_are_empty() -> None:
    texts = np.array(["key"], "<U64")
    joined = scoring.joined([(1, {"score": np.full(1, np.nan, np.float32)}), (1, {"nearest": texts})])
    assert joined["nearest"].tolist() == ["", "key"]


def test_a_filter_that_always_fails_is_raised(tmp_path: Path) -> None:
    at = pictures(tmp_path / "corpus", ["a.png", "b.png"])
    with pytest.raises(ZeroDivisionError):
        sift(tmp_path, corpus=f"{{dataset: {at}}}", filters="[{kind: tests.corpora.Brightness, raise_above: 10}]")


def test_a_card_names_no_secret_of_a_url(tmp_path: Path) -> None:
    from factory import publish
    from factory.filtering import facts as filtered
    from factory.select import Selection
    from factory.store import Store

    url = "https://me:word@host/a/b.parquet?sig=SECRET"
    recipe = filtering.load(corpora.recipe(tmp_path / "r.yaml", corpus=f"{{kind: parquet, dataset: '{url}'}}"))
    store = Store.open(tmp_path / "run", "0" * 16, {"corpus": {"shards": 1, "digest": "1" * 32}}, recipe.settings())
    nothing = Selection(np.zeros(0, bool), np.zeros(0, np.int16), [""])
    facts = filtered.gather(recipe, store, np.zeros(0, np.int32), [], nothing, [])
    for text in (publish.card([facts], 1), json.dumps(facts)):
        assert "SECRET" not in text and "word" not in text and "host/a/b.parquet" in text


def test_a_ray_worker_that_lives_on_scores_by_the_recipe_of_the_next_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from factory.filtering import ray_engine
    from factory.store import Store

    monkeypatch.setattr(ray_engine, "_held", {})  # what a worker process keeps between tasks
    corpora.parquet(tmp_path / "corpus" / "a.parquet", 9)
    for rules in ("[]", "[{kind: tests.corpora.Brightness, min: 100}]"):
        recipe = filtering.load(
            corpora.recipe(tmp_path / "r.yaml", corpus=f"{{dataset: {tmp_path / 'corpus'}, image: photo}}", filters=rules)
        )
        with Store(tmp_path / "run").owned():
            store, job = story.begin(recipe, tmp_path / "run")
            for cut in job.cuts:
                ray_engine.score(str(tmp_path / "run"), os.getcwd(), cut, "cpu")
            assert all(store.has_scores(cut.name, f.identity()) for cut in job.cuts for f in recipe.filters)
