"""Corpora in every format, hostile rows, killed and resumed runs, cascades: counts always add up, and no row is lost or repeated."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fsspec
import jsonschema
import numpy as np
import PIL.Image
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import ClassLabel, Dataset, Features, Image, Value, load_dataset
from ruamel.yaml import YAML

from factory import contact_sheet, filtering, schema, store
from factory.contact_sheet import CELL, GAP, LABEL, MARGIN, PAPER
from factory.errors import RecipeError, UserError
from factory.filtering import report as told
from factory.filtering import samples, sheets
from factory.reselect import run as reselect
from tests import corpora
from tests.conftest import ROOT


def sift(tmp_path: Path, name: str = "run", sets: tuple[str, ...] = (), **sections: str) -> dict[str, Any]:
    """Filter a corpus in this process; the report."""
    recipe = filtering.load(corpora.recipe(tmp_path / f"{name}.yaml", **sections), sets)
    report = filtering.run(recipe, tmp_path / name, "cpu")
    assert report is not None and report["read"] == report["kept"] + sum(report["refused"].values())
    return report


def table(path: Path) -> list[dict[str, Any]]:
    return pq.read_table(path).to_pylist()


def bright(count: int) -> list[int]:
    return [v for v in corpora.values(count) if v >= 100]


# ---- formats and places


def as_parquet(at: Path) -> str:
    corpora.parquet(at / "part-0.parquet", 25)
    corpora.parquet(at / "part-1.parquet", 25, first=25)
    return f"{{dataset: {at}, image: photo, label: kind, caption: text}}"


def as_folder(at: Path) -> str:
    return f"{{dataset: {corpora.folder(at, 50)}, label: folder, caption: .txt}}"


def as_tars(at: Path) -> str:
    corpora.tar(at / "0.tar", 25)
    corpora.tar(at / "1.tar", 25)
    return f"{{dataset: '{at}/*.tar', label: cls, class_names: [dark, light], caption: json.caption}}"


FORMATS: dict[str, Callable[[Path], str]] = {"parquet": as_parquet, "folder": as_folder, "webdataset": as_tars}


@pytest.mark.parametrize("format", FORMATS)
def test_every_format_gives_the_same_rows(format: str, tmp_path: Path) -> None:
    report = sift(tmp_path, corpus=FORMATS[format](tmp_path / "corpus"), keep="both")
    expected = bright(50) if format == "folder" else bright(25) * 2
    assert report["kept"] == len(expected) and report["read"] == 50
    assert report["per_class"]["light"]["kept"] == sum(v > 127 for v in expected)
    kept = table(tmp_path / "run" / "kept.parquet")
    assert sorted(round(row["Brightness"]) for row in kept) == sorted(expected) and len({row["id"] for row in kept}) == len(kept)
    data = load_dataset(str(tmp_path / "run" / "dataset"), split="train")
    assert sorted(int(np.asarray(image).mean()) for image in data["image"]) == sorted(expected)
    assert data.features["label"].names == ["dark", "light"]
    text = "text" if format == "parquet" else "caption"
    for row in data:
        value = int(np.asarray(row["image"]).mean())
        assert row[text] == f"grey {value}" and row["label"] == int(value > 127)


def test_nothing_is_copied_unless_asked(tmp_path: Path) -> None:
    sift(tmp_path, corpus=as_parquet(tmp_path / "corpus"))
    assert not (tmp_path / "run" / "dataset").exists()
    assert all("image" not in pq.read_schema(path).names for path in (tmp_path / "run").rglob("*.parquet"))
    sift(tmp_path, "second", corpus=as_parquet(tmp_path / "corpus"), keep="dataset")
    assert (tmp_path / "second" / "dataset").exists() and not (tmp_path / "second" / "kept.parquet").exists()


@pytest.mark.parametrize("format", FORMATS)
def test_a_corpus_may_be_anywhere(format: str, tmp_path: Path) -> None:
    FORMATS[format](tmp_path / "corpus")
    memory = fsspec.filesystem("memory")
    memory.put(str(tmp_path / "corpus"), f"/{format}/corpus", recursive=True)
    local = sift(tmp_path, corpus=FORMATS[format](tmp_path / "corpus"))
    away = FORMATS[format](tmp_path / "corpus").replace(str(tmp_path / "corpus"), f"memory://{format}/corpus")
    remote = sift(tmp_path, "away", corpus=away)
    assert remote["kept"] == local["kept"] > 0
    ids = [[row["id"] for row in table(tmp_path / run / "kept.parquet")] for run in ("run", "away")]
    assert ids[0] == ids[1]


def test_columns_and_bytes_pass_through(tmp_path: Path) -> None:
    rows = [
        {
            "img": {"bytes": corpora.picture(200, "JPEG"), "path": "x.jpg"},
            "id": "mine",
            "n": 1,
            "f": 0.5,
            "ok": True,
            "s": {"a": [1]},
            "l": ["x"],
        },
        {"img": {"bytes": corpora.picture(210, "WEBP"), "path": None}, "id": None, "n": None, "f": None, "ok": None, "s": None, "l": []},
    ]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "c.parquet")
    sift(tmp_path, corpus=f"{{dataset: {tmp_path}/c.parquet, image: img}}", keep="both", carry="[id, n]")
    data = load_dataset(str(tmp_path / "run" / "dataset"), split="train").with_format("arrow")[:].to_pylist()
    assert [row["image"]["bytes"] for row in data] == [row["img"]["bytes"] for row in rows]
    assert [row["id"] for row in data] == ["c.parquet#0", "c.parquet#1"]
    assert data[0]["corpus_id"] == "mine" and data[0]["n"] == 1 and data[0]["f"] == 0.5 and data[0]["ok"] is True and data[0]["l"] == ["x"]
    assert json.loads(data[0]["s"]) == {"a": [1]} and data[1]["n"] is None and data[1]["s"] is None
    kept = table(tmp_path / "run" / "kept.parquet")
    assert [row["n"] for row in kept] == [1, None]


def test_paths_in_parquet_and_metadata_beside_images(tmp_path: Path) -> None:
    corpora.folder(tmp_path / "pictures", 20)
    names = sorted(str(p.relative_to(tmp_path / "pictures")) for p in (tmp_path / "pictures").rglob("*.png"))
    pq.write_table(pa.table({"file": [*names, "dark/none.png", None]}), tmp_path / "paths.parquet")
    report = sift(tmp_path, corpus=f"{{dataset: {tmp_path}/paths.parquet, image: file, root: {tmp_path}/pictures}}")
    assert report["read"] == 22 and report["refused"]["missing"] == 2 and report["kept"] == len(bright(20))
    lines = [json.dumps({"file_name": name, "stars": i, "say": f"no {i}"}) for i, name in enumerate([*names, "light/gone.png"])]
    (tmp_path / "pictures" / "metadata.jsonl").write_text("\n".join(lines))
    report = sift(tmp_path, "two", corpus=f"{{dataset: {tmp_path}/pictures, caption: say}}", keep="dataset")
    assert report["read"] == 21 and report["refused"]["missing"] == 1
    data = load_dataset(str(tmp_path / "two" / "dataset"), split="train")
    assert all(row["say"] == f"no {row['stars']}" and names[row["stars"]] == row["id"] for row in data)


# ---- hostile rows


def test_a_bad_row_is_a_row_with_a_reason(tmp_path: Path) -> None:
    place = tmp_path / "hostile"
    place.mkdir()
    for name, data in corpora.hostile().items():
        (place / name).write_bytes(data)
    (place / "k_link.png").symlink_to(tmp_path / "nowhere.png")
    report = sift(tmp_path, corpus=f"{{dataset: {place}}}", filters="[{kind: tests.corpora.Brightness, min: 1}]", keep="both")
    reasons = {row["id"]: row["reason"] for row in table(tmp_path / "run" / "selection.parquet")}
    assert reasons == {
        "a_truncated.jpg": "damaged",
        "b_wrong_extension.png": "",
        "c_empty.png": "empty",
        "d_bomb.png": "too_large",
        "e_cmyk.jpg": "",
        "f_palette.png": "",
        "g_sixteen_bit.png": "",
        "h_animated.gif": "",
        "i_text.jpg": "not_an_image",
        "j_good.webp": "",
        "k_link.png": "missing",
    }
    scores = {row["id"]: row["Brightness"] for row in table(tmp_path / "run" / "kept.parquet")}
    expected = {"b_wrong_extension.png": 100, "e_cmyk.jpg": 155, "f_palette.png": 90, "g_sixteen_bit.png": 60, "h_animated.gif": 70}
    assert all(abs(scores[name] - value) < 2 for name, value in expected.items()), scores
    assert report["refused"]["too_large"] == 1 and "64,000,000 pixels" in report["examples"]["too_large"][0]["detail"]
    assert len(load_dataset(str(tmp_path / "run" / "dataset"), split="train")) == 6


def test_captions_that_are_null_or_huge_and_scores_that_are_nan(tmp_path: Path) -> None:
    rows = [{"image": corpora.picture(v), "text": text} for v, text in ((200, "x" * 1_000_000), (201, None), (250, "bright"), (202, ""))]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "c.parquet")
    filters = "[{kind: tests.corpora.Brightness, min: 100, nan_above: 240}]"
    report = sift(tmp_path, corpus=f"{{dataset: {tmp_path}/c.parquet, caption: text}}", filters=filters, keep="dataset")
    assert report["kept"] == 3 and report["refused"]["Brightness_no_score"] == 1 and report["refused"]["Brightness"] == 0
    data = load_dataset(str(tmp_path / "run" / "dataset"), split="train")
    assert [row["text"] for row in data] == ["x" * 1_000_000, None, ""]


def test_a_scorer_that_fails_on_one_image_costs_no_other(tmp_path: Path) -> None:
    filters = "[{kind: tests.corpora.Brightness, min: 100, raise_above: 200}]"
    report = sift(tmp_path, corpus=as_parquet(tmp_path / "corpus"), filters=filters)
    failed = [v for v in corpora.values(25) * 2 if v > 200]
    assert report["refused"]["Brightness_no_score"] == len(failed) > 0
    assert report["kept"] == len(bright(25)) * 2 - len(failed)
    with pytest.raises(ZeroDivisionError):
        sift(tmp_path, "always", corpus=as_parquet(tmp_path / "corpus"), filters="[{kind: tests.corpora.Brightness, raise_above: -1}]")


def test_broken_files_cost_only_themselves(tmp_path: Path) -> None:
    whole = corpora.tar(tmp_path / "tars" / "0.tar", 20).read_bytes()
    (tmp_path / "tars" / "1.tar").write_bytes(whole[: len(whole) // 2 + 200])
    report = sift(tmp_path, corpus=f"{{dataset: {tmp_path}/tars}}")
    assert report["refused"]["broken_archive"] == 1 and report["read"] == 32
    corpora.parquet(tmp_path / "files" / "0.parquet", 20)
    (tmp_path / "files" / "1.parquet").write_bytes(b"PAR1 no footer")
    damaged = bytearray(corpora.parquet(tmp_path / "files" / "2.parquet", 20).read_bytes())
    damaged[4:400] = b"\xff" * 396  # the pages of the first row group
    (tmp_path / "files" / "2.parquet").write_bytes(damaged)
    report = sift(tmp_path, "two", corpus=f"{{dataset: {tmp_path}/files, image: photo}}")
    assert report["read"] == 41 and 1 < report["refused"]["unreadable_file"] <= 11
    with pytest.raises(UserError, match=r"no column 'image'.*photo"):
        sift(tmp_path, "three", corpus=f"{{dataset: {tmp_path}/files}}")


# ---- resume


def files(run: Path) -> dict[str, bytes]:
    names = ("selection.parquet", "kept.parquet", "dataset/data/train-00000-of-00001.parquet")
    return {name: (run / name).read_bytes() for name in names}


def _run_until_killed(path: Path, out: Path, most: int) -> None:
    """Filter in this process, which is killed before it marks one more shard than `most`."""
    real, marks = store.write_json, [0]

    def write(file: Path, value: Any) -> None:
        marks[0] += file.parent.name == "marks"
        if marks[0] > most:
            os.kill(os.getpid(), signal.SIGKILL)
        real(file, value)

    store.write_json = write
    filtering.run(filtering.load(path), out, "cpu")


@pytest.mark.parametrize("format", FORMATS)
def test_killed_again_and_again_the_result_is_the_same(format: str, tmp_path: Path) -> None:
    corpus = FORMATS[format](tmp_path / "corpus")
    sift(tmp_path, "peace", corpus=corpus, keep="both", shard="5")
    path = corpora.recipe(tmp_path / "fire.yaml", corpus=corpus, keep="both", shard="5")
    for most in (0, 1):
        child = multiprocessing.get_context("fork").Process(target=_run_until_killed, args=(path, tmp_path / "fire", most))
        child.start()
        child.join()
        assert child.exitcode == -signal.SIGKILL
    recipe = filtering.load(path)
    filtering.run(recipe, tmp_path / "fire", "cpu")
    assert files(tmp_path / "fire") == files(tmp_path / "peace")


def test_workers_share_a_run(tmp_path: Path) -> None:
    corpus = as_parquet(tmp_path / "corpus")
    sift(tmp_path, "one", corpus=corpus, keep="both")
    path = corpora.recipe(tmp_path / "many.yaml", corpus=corpus, keep="both")
    command = [sys.executable, "-m", "factory", "filter", str(path), "--out", str(tmp_path / "many"), "--workers", "2", "--device", "cpu"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0 and "kept" in done.stdout, done.stderr
    assert files(tmp_path / "many") == files(tmp_path / "one")


def test_a_finished_run_scores_nothing_again_and_a_changed_corpus_is_noticed(tmp_path: Path) -> None:
    log = tmp_path / "log"
    filters = f"[{{kind: tests.corpora.Brightness, min: 100, log: {log}}}]"
    corpus = as_folder(tmp_path / "corpus")
    sift(tmp_path, corpus=corpus, filters=filters)
    assert len(log.read_text().split()) == 50
    sift(tmp_path, corpus=corpus, filters=filters.replace("100", "90"))  # another threshold
    assert len(log.read_text().split()) == 50
    (tmp_path / "corpus").rename(tmp_path / "moved")  # the same corpus elsewhere
    report = sift(tmp_path, corpus=corpus.replace("corpus", "moved"), filters=filters)
    assert len(log.read_text().split()) == 50 and report["kept"] == len(bright(50))
    (tmp_path / "moved" / "dark" / "new.png").write_bytes(corpora.picture(3))
    with pytest.raises(UserError, match=r"the corpus changed since .* at shard 00000"):
        sift(tmp_path, corpus=corpus.replace("corpus", "moved"), filters=filters)


# ---- pictures


def greys(sheet: Path) -> list[int]:
    """What stands in the middle of each cell of a contact sheet, paper left out."""
    left, top, step = MARGIN + LABEL + CELL // 2, MARGIN + 34 + CELL // 2, CELL + GAP
    pixels = np.asarray(PIL.Image.open(sheet))
    cells = pixels[top::step, left::step][: (pixels.shape[0] - top) // step + 1].reshape(-1, 3)
    return [int(cell[0]) for cell in cells if tuple(cell) != PAPER]


def test_kept_and_refused_images_are_shown_apart(tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    file = corpora.parquet(tmp_path / "c" / "a.parquet", 40)
    rows = pq.read_table(file).to_pylist()
    rows[8]["photo"] = b"damaged"
    pq.write_table(pa.Table.from_pylist(rows), file)
    corpus = f"{{dataset: {tmp_path}/c, image: photo, label: kind}}"
    sift(tmp_path, corpus=corpus, filters="[{kind: tests.corpora.Brightness, min: 100}, {kind: tests.corpora.Brightness, max: 220}]")
    values = [v for i, v in enumerate(corpora.values(40)) if i != 8]
    kept, refused = tmp_path / "run" / "contact_sheet.png", tmp_path / "run" / "refused.png"
    shown = greys(kept)
    dark, light = ([v for v in values if low <= v <= high] for low, high in ((100, 127), (128, 220)))
    assert sorted(shown[: len(dark)]) == sorted(dark) and sorted(shown[len(dark) :]) == sorted(light)  # a line for each class
    low, high = [v for v in values if v < 100], [v for v in values if v > 220]
    lines = greys(refused)
    assert len(lines) == 8 + min(8, len(high)) and set(lines[:8]) <= set(low) and set(lines[8:]) <= set(high)
    before = kept.read_bytes()
    reselect(tmp_path / "run", None, ["filters[0].min=160"], False)
    assert kept.read_bytes() == before, "the corpus is not read again"
    reselect(tmp_path / "run", None, ["filters[0].min=160"], True)
    assert set(greys(kept)) == {v for v in values if 160 <= v <= 220}

    before = kept.read_bytes()
    sift(tmp_path, corpus=corpus)
    assert kept.read_bytes() == before, "an index of more rows does not publish what the dataset beside it refused"

    def gone(*_: Any) -> Any:
        raise OSError("the network is down")

    monkeypatch.setattr(samples, "read", gone)
    report = sift(tmp_path, corpus=corpus, keep="both")
    assert report["kept"] > 0 and not kept.exists() and not refused.exists() and "the network is down" in caplog.text


def test_names_in_any_script_are_written_as_far_as_a_font_goes(monkeypatch: pytest.MonkeyPatch) -> None:
    def written(name: str) -> bytes:
        return contact_sheet.grid([(name, "", [PIL.Image.new("RGB", (CELL, CELL))])], "", "").tobytes()

    monkeypatch.setattr(contact_sheet, "SYSTEM_FONTS", ())
    contact_sheet._system_fonts.cache_clear()
    assert written("Ä") == written("A") and written("靴") == written("?"), "and no sign for what is missing"
    contact_sheet._system_fonts.cache_clear()


def test_a_large_corpus_is_looked_into_and_not_read_whole() -> None:
    near = sheets._near([slice(1000 * i, 1000 * (i + 1)) for i in range(50)])
    assert len(near) <= sheets.LOOK and set(near // 1000) >= {0, 49} and len(set(near // 1000)) == sheets.SHARDS


# ---- cascades and selecting


def test_a_cascade_scores_only_what_is_not_settled(tmp_path: Path) -> None:
    log = tmp_path / "log"

    def filters(low: int) -> str:
        cheap = f"{{kind: tests.corpora.Brightness, min: {low}}}"
        return f"[{cheap}, {{kind: tests.corpora.Brightness, max: 220, log: {log}, after: Brightness}}]"

    corpus = as_parquet(tmp_path / "corpus")
    report = sift(tmp_path, corpus=corpus, filters=filters(150))
    every = corpora.values(25) * 2
    assert len(log.read_text().split()) == sum(v >= 150 for v in every)
    assert report["kept"] == sum(150 <= v <= 220 for v in every)
    assert report["refused"] == {"Brightness": sum(v < 150 for v in every), "Brightness_2": sum(v > 220 for v in every)}
    again = reselect(tmp_path / "run", None, ["filters[0].min=200"], False)  # stricter: what is scored is enough
    assert again["kept"] == sum(200 <= v <= 220 for v in every) and not any("unscored" in slug for slug in again["refused"])
    looser = reselect(tmp_path / "run", None, ["filters[0].min=100"], False)
    waiting = sum(100 <= v < 150 for v in every)
    assert looser["refused"]["unscored_Brightness_2"] == waiting > 0 and looser["rows"] == looser["kept"] + sum(looser["refused"].values())
    log.unlink()
    report = sift(tmp_path, corpus=corpus, filters=filters(100))
    assert len(log.read_text().split()) == waiting  # those rows alone
    assert report["kept"] == sum(100 <= v <= 220 for v in every)
    fresh = sift(tmp_path, "fresh", corpus=corpus, filters=filters(100).replace(str(log), str(tmp_path / "other")))
    assert fresh["refused"] == report["refused"] and fresh["kept"] == report["kept"]


def test_rows_that_no_filter_sees_are_compared_with_none(tmp_path: Path) -> None:
    corpora.tar(tmp_path / "0.tar", 4, image="input.png")
    report = sift(tmp_path, "two", corpus=f"{{dataset: {tmp_path / '0.tar'}}}", filters="[{kind: perceptual_hash}]")
    assert report["refused"]["missing"] == 4 and not report["kept"]
    detail = report["examples"]["missing"][0]["detail"]
    assert detail == "no field that is an image; there are: input.png, cls, json; name one in corpus.image"
    as_parquet(tmp_path / "dark")
    chain = "[{kind: tests.corpora.Brightness, min: 300}, {kind: perceptual_hash, after: 0}]"
    report = sift(tmp_path, "none", corpus=f"{{dataset: {tmp_path / 'dark'}, image: photo}}", filters=chain, keep="both")
    assert report["kept"] == 0
    assert "has no row" in told.summary(report, filtering.load(tmp_path / "none.yaml", ()), tmp_path / "none")


def test_a_filter_added_later_scores_without_the_others(tmp_path: Path) -> None:
    log = tmp_path / "log"
    first = f"{{kind: tests.corpora.Brightness, min: 100, log: {log}}}"
    corpus = as_tars(tmp_path / "corpus")
    sift(tmp_path, corpus=corpus, filters=f"[{first}]")
    report = sift(tmp_path, corpus=corpus, filters=f"[{first}, {{kind: blank, min: 0}}]")
    assert len(log.read_text().split()) == 50 and report["kept"] == len(bright(25)) * 2


FAULTS = {
    "after nothing": ("[{kind: blank, after: clip_similarity}]", "filters[0].after: there is no earlier filter 'clip_similarity'"),
    "after itself": ("[{kind: blank, after: 0}]", "filters[0].after: there is no earlier filter 0"),
    "after no rule": ("[{kind: tests.corpora.Brightness}, {kind: blank, after: Brightness}]", "settles no row by itself"),
    "misspelt": ("[{kind: blank, mim: 3}]", "did you mean min?"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_faults_are_told_with_their_line(fault: str, tmp_path: Path) -> None:
    filters, expected = FAULTS[fault]
    with pytest.raises(RecipeError) as error:
        sift(tmp_path, corpus=as_parquet(tmp_path / "corpus"), filters=filters)
    assert expected in str(error.value) and "run.yaml:2 " in str(error.value)


def test_a_corpus_that_is_not_there_is_told_with_its_line(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"run.yaml:\d+ corpus.dataset: there is nothing at .*nowhere"):
        sift(tmp_path, corpus="{dataset: ./nowhere/birds.d}")
    with pytest.raises(RecipeError, match=r"corpus"):
        sift(tmp_path)


def test_select_exports_new_shards_of_a_filter_run(tmp_path: Path) -> None:
    sift(tmp_path, corpus=as_tars(tmp_path / "corpus"))
    result = reselect(tmp_path / "run", None, ["filters[0].min=200", "export.kind=webdataset"], True)
    assert result["kept"] == 2 * sum(v >= 200 for v in corpora.values(25)) > 0
    data = load_dataset(str(tmp_path / "run" / "dataset"), split="train", streaming=True)
    rows = list(data)
    assert len(rows) == result["kept"] and all(row["txt"].startswith("grey") and "png" in row for row in rows)


@pytest.mark.parametrize("path", sorted((ROOT / "recipes" / "filter").glob("*.yaml")), ids=lambda p: p.stem)
def test_every_recipe_loads_and_fits_the_schema(path: Path, tmp_path: Path) -> None:
    jsonschema.Draft202012Validator(schema.of_filter_recipes()).validate(YAML(typ="safe").load(path))
    assert path.read_text().startswith(f"# factory filter recipes/filter/{path.name}")
    settings = filtering.load(path).settings()
    (tmp_path / "copy.json").write_text(json.dumps(settings))
    assert filtering.load(tmp_path / "copy.json").settings() == settings


@pytest.mark.parametrize("form", ["parquet", "saved", "stream"])
def test_datasets_of_the_hub_in_three_forms(form: str, tmp_path: Path) -> None:
    place = tmp_path / "repository"
    features = Features({"picture": Image(), "kind": ClassLabel(names=["dark", "light"]), "n": Value("int64")})
    rows = [
        {"picture": {"bytes": corpora.picture(v), "path": None}, "kind": int(v > 127), "n": i} for i, v in enumerate(corpora.values(30))
    ]
    data = Dataset.from_list(rows, features=features)
    label = "kind"
    if form == "parquet":
        (place / "data").mkdir(parents=True)
        data.to_parquet(place / "data" / "train-00000-of-00001.parquet")
    elif form == "saved":
        data.save_to_disk(place)
    else:
        for text in corpora.folder(place / "train", 30).rglob("*.txt"):
            text.unlink()
        label = "label"
    corpus = f"{{kind: hub, dataset: {place}, image: {'image' if form == 'stream' else 'picture'}, label: {label}}}"
    report = sift(tmp_path, corpus=corpus, keep="both")
    assert report["read"] == 30 and report["kept"] == len(bright(30))
    assert report["per_class"] == {name: report["per_class"][name] for name in ("dark", "light")}
    new = load_dataset(str(tmp_path / "run" / "dataset"), split="train")
    assert new.features["label"].names == ["dark", "light"]
    assert all(row["label"] == int(np.asarray(row["image"]).mean() > 127) for row in new)
    if form != "stream":
        assert [corpora.values(30)[n] for n in new["n"]] == bright(30)
