"""A filtered corpus goes to the Hub by the same command as what was made: whole, with its facts, and with no word of this machine."""

from __future__ import annotations

import base64
import io
import json
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from huggingface_hub import DatasetCard

from factory import filtering, publish, published, reselect
from factory.errors import UserError
from factory.push import contents, story
from tests import corpora
from tests.hub_client import Client
from tests.hub_server import Hub

READ = 40


def sift(home: Path, name: str, corpus: Path, **sections: str) -> None:
    """Filter a corpus of Parquet files, in shards of several files."""
    keys = f"{{dataset: '{corpus}', image: photo, label: kind, caption: text}}"
    recipe = filtering.load(corpora.recipe(home / f"{name}.yaml", **{"corpus": keys, "keep": "both", **sections}))
    assert filtering.run(recipe, home / name, "cpu") is not None


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home folder with two corpora, filtered, and one row that cannot be read."""
    home = tmp_path_factory.mktemp("home") / "ada-lovelace"
    for name, first in (("run", 0), ("other", 100)):
        file = corpora.parquet(home / "corpora" / name / "a.parquet", READ, first=first)
        table = pq.read_table(file).to_pylist()
        table[3]["photo"] = b"cut off"
        pq.write_table(pq.read_table(file).from_pylist(table), file, row_group_size=7)
        sift(home, name, home / "corpora" / name)
    return home


def facts_of(run: Path) -> dict[str, Any]:
    return dict(json.loads(next(run.glob("dataset/provenance/*/facts.json")).read_text()))


def kept_values(first_bad: int = 3) -> list[int]:
    return [v for i, v in enumerate(corpora.values(READ)) if v >= 100 and i != first_bad]


def test_a_filtered_corpus_is_pushed_privately_and_loaded(hub: Hub, ada: Client, home: Path) -> None:
    status, said = ada.factory("push", "run", "ada/greys", "--license", "cc0-1.0")
    assert status == 0, said
    repo, facts = hub.repos["ada/greys"], facts_of(home / "run")
    assert repo.private and [message for _, message, _ in repo.commits][1:] == [
        f"{facts['rows']} images out of a corpus of plan {facts['plan']}"
    ]
    for path in (home / "run" / "dataset" / "data").iterdir():
        assert hub.read("ada/greys", f"data/{path.name}") == path.read_bytes()
    own = f"provenance/{facts['plan']}"
    assert {f"{own}/{name}" for name in ("recipe.yaml", "plan.json", "facts.json", "contact_sheet.png")} <= set(repo.tree)
    assert f"({own}/contact_sheet.png)" in hub.read("ada/greys", "README.md").decode()
    assert (home / "run" / "refused.png").exists() and not any("refused" in path for path in repo.tree)
    found = ada.python(
        "import datasets, json, numpy\n"
        "rows = datasets.load_dataset('ada/greys', split='train')\n"
        "print(json.dumps([[int(numpy.asarray(image).mean()) for image in rows['image']], list(rows['uid']), rows.features['label'].names]))"
    )
    uids = [f"u{i}" for i, v in enumerate(corpora.values(READ)) if v >= 100 and i != 3]
    assert found == [kept_values(), uids, ["dark", "light"]]
    hub.stored = 0
    status, said = ada.factory("push", "run", "ada/greys", "--license", "cc0-1.0")
    assert (status, hub.stored, len(repo.commits)) == (0, 0, 2) and "nothing to push" in said


def test_an_interrupted_push_goes_on(hub: Hub, ada: Client, home: Path) -> None:
    """Readers see nothing of it before the commit, and what was uploaded is not sent again."""
    for refused in ("/storage/", "/commit/"):
        hub.repos.clear()
        hub.blobs.clear()
        with hub.failing(lambda n, method, path, refused=refused: 410 if refused in path else None):
            status, said = ada.factory("push", "run", "ada/greys")
        assert status == 2 and "Traceback" not in said and len(hub.repos["ada/greys"].tree) == 1, said
        hub.stored = 0
        status, said = ada.factory("push", "run", "ada/greys")
        assert status == 0 and len(hub.repos["ada/greys"].commits) == 2, said
        assert (hub.stored == 0) is (refused == "/commit/")


def test_a_dry_run_only_looks(hub: Hub, ada: Client) -> None:
    status, said = ada.factory("push", "run", "ada/greys", "--dry-run")
    assert status == 0 and not hub.repos and "would push 1 commit" in said and "data/train-00000-of-00001.parquet" in said
    assert {method for method, _ in hub.requests} <= {"GET", "HEAD"}


def test_two_corpora_are_read_as_one(hub: Hub, ada: Client, home: Path) -> None:
    ada.factory("push", "run", "ada/greys")
    status, said = ada.factory("push", "other", "ada/greys")
    assert status == 2 and "--append" in said
    status, said = ada.factory("push", "other", "ada/greys", "--append")
    assert status == 0, said
    card = DatasetCard(hub.read("ada/greys", "README.md").decode())
    rows = 2 * len(kept_values())
    assert (
        card.data.dataset_info[0]["splits"][0]["num_examples"] == rows and f"{rows} of the {2 * READ} rows of `run`, `other`" in card.text
    )
    assert json.loads(hub.read("ada/greys", "croissant.json"))["description"] == f"{rows} images, split train, chosen out of a larger set."
    assert ada.python("import datasets, json\nprint(json.dumps(len(datasets.load_dataset('ada/greys', split='train'))))") == rows


def test_nothing_of_this_machine_leaves_it(hub: Hub, ada: Client, home: Path) -> None:
    status, said = ada.factory("push", str(home / "run"), "ada/greys")
    assert status == 0, said
    columns = pq.read_table(io.BytesIO(hub.read("ada/greys", "data/train-00000-of-00001.parquet"))).drop_columns(["image"]).to_pylist()
    sent = [*hub.bodies, *hub.blobs.values(), said.encode(), json.dumps(columns).encode()]
    for line in (line for body in hub.bodies for line in body.splitlines() if line.startswith(b'{"key": "file"')):
        sent.append(base64.b64decode(json.loads(line)["value"]["content"]))
    for secret in (next(iter(hub.tokens)), str(home), str(home.parent)):
        assert not any(secret.encode() in data for data in sent), secret


@pytest.mark.parametrize("secret", ["token", "place"])
def test_a_secret_in_a_column_of_the_corpus_stops_the_push(hub: Hub, ada: Client, home: Path, tmp_path: Path, secret: str) -> None:
    at = tmp_path / "elsewhere" / secret  # not below the home folder
    file = corpora.parquet(at / "a.parquet", 12)
    rows = pq.read_table(file).to_pylist()
    told = next(iter(hub.tokens)) if secret == "token" else f"{at}/photos/3.png"
    rows[3]["uid"] = told
    pq.write_table(pq.read_table(file).from_pylist(rows), file)
    sift(home, f"bad-{secret}", at)
    status, said = ada.factory("push", f"bad-{secret}", "ada/greys")
    assert status == 2 and "(column uid)" in said and told not in said, said
    assert all(len(repo.tree) == 1 for repo in hub.repos.values()) and hub.stored == 0


# ---- without a hub


def test_the_card_answers_what_a_careful_reader_asks(home: Path) -> None:
    facts = facts_of(home / "run")
    assert facts["read"] == READ == facts["rows"] + sum(rule["refused"] for rule in facts["rules"])
    assert facts["rules"][-1]["left"] == facts["rows"] == len(kept_values()) == sum(own["kept"] for own in facts["classes"].values())
    told = {**facts, "models": [{"role": "filter zero_shot", "name": "a/clip", "revision": None, "licence": "mit"}], "pictures": True}
    text = publish.card([told], 1234, "ada/greys")
    card = DatasetCard(text)
    assert card.data.configs[0]["data_files"] == [{"split": "train", "path": "data/train-*.parquet"}] and card.data.get("tags") is None
    for heading in ("What is in it", "How it was chosen", "What was refused", "Licences", "Known limits", "Make it again"):
        assert f"## {heading}" in text
    assert f"{facts['rows']} of the {READ} rows of `run`" in text and "load_dataset('ada/greys', split='train')" in text
    assert "| filter zero_shot | `a/clip` | `not pinned` | mit |" in text and f"provenance/{facts['plan']}/contact_sheet.png" in text
    assert f"{READ} read = {facts['rows']} kept + {READ - facts['rows']} refused" in text
    assert "| `not_an_image` | a row without this fault | 1 | 39 |" in text and "| `Brightness` | score at least 100 |" in text
    assert facts["corpus"]["fingerprint"] in text and "recipe.yaml --set 'corpus.dataset=…'\n" in text
    assert "Every image was generated" not in text and "synthetic images" not in text


def test_the_recipe_that_travels_makes_the_same_selection(home: Path, tmp_path: Path) -> None:
    own = next((home / "run").glob("dataset/provenance/*"))
    text = (own / "recipe.yaml").read_text()
    assert "factory filter recipe.yaml" in text and str(home) not in text and "trainedAlgorithmicMedia" not in text
    recipe = filtering.load(own / "recipe.yaml", [f"corpus.dataset={home / 'corpora' / 'run'}"])
    assert recipe.settings() == json.loads((home / "run" / "recipe.json").read_text())
    assert filtering.run(recipe, tmp_path / "again", "cpu") is not None
    again = facts_of(tmp_path / "again")
    assert (again["plan"], again["selection"]) == (own.name, facts_of(home / "run")["selection"])


def test_only_a_run_that_says_so_calls_its_images_generated(home: Path, tmp_path: Path) -> None:
    said = ("parquet", "folder"), ({}, {"digital_source_type": "trainedAlgorithmicMedia"})
    for kind in said[0]:
        for keys in said[1]:
            recipe = corpora.recipe(
                tmp_path / "r.yaml", corpus=f"{{dataset: {home / 'corpora' / 'run'}}}", export=json.dumps({"kind": kind, **keys})
            )
            export = filtering.load(recipe).settings()["export"]
            assert export["image"] == "original" and export["digital_source_type"] == keys.get("digital_source_type")


def test_an_index_alone_is_written_out_first(home: Path) -> None:
    sift(home, "index", home / "corpora" / "run", keep="index")
    with pytest.raises(UserError, match=r"factory select RUN --export"):
        story.run(home / "index", "ada/greys", story.Options(dry_run=True))
    reselect.run(home / "index", None, ["filters[0].min=150"], export=True)  # as it advises, here with another rule
    facts = facts_of(home / "index")
    assert facts["rows"] == sum(v >= 150 for v in kept_values())
    text = next((home / "index").glob("dataset/provenance/*/recipe.yaml")).read_text()
    assert "min: 150" in text and "keep: dataset" in text


def test_made_and_filtered_images_are_not_appended_to_each_other(home: Path) -> None:
    facts = facts_of(home / "run")
    contents.check_beside(facts, [{**facts, "plan": "f" * 16}])
    made = {key: value for key, value in facts.items() if key != "command"}  # as versions wrote it that only knew made ones
    with pytest.raises(UserError, match="origin of the images"):
        contents.check_beside(facts, [made])


def test_what_only_a_build_can_do_is_told(home: Path) -> None:
    with pytest.raises(UserError, match="without it, when it is finished"):
        story.run(home / "run", "ada/greys", story.Options(follow=True))
    for dataset in (home / "run", home / "run" / "dataset"):
        with pytest.raises(UserError, match="filtered out of a corpus"):
            published.find(str(dataset), "a.parquet:3")
