"""Pushing through the unmodified clients of the Hub to a server that speaks its protocol: interrupted anywhere, never half, never twice."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import shutil
import signal
import tarfile
import time
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from huggingface_hub import DatasetCard
from PIL import Image

from factory import reselect
from factory.errors import UserError
from factory.push import follow, gate, leaks, story
from factory.store import Store
from tests.hub_client import Client
from tests.hub_server import Hub
from tests.test_build import run

RECIPE = """
name: birds
seed: {seed}
source: {{dataset: {birds}}}
generator: {{kind: tests.paint.Paint, batch: 4, size: 160}}
condition: {{kind: augmented_image, mix: none}}
prompts: {{text: "a photo of a {{label}} in {home}"}}
amount: {{per_class: 12, rounds: 2}}
shard: 6
threads: 1
filters: [undecodable, blank]
export: {{kind: parquet, shard_mb: 1}}
"""


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home folder with photos and two finished runs of several shards each."""
    home = tmp_path_factory.mktemp("home") / "ada-lovelace"
    noise = np.random.default_rng(0)
    for name in ("finch", "heron"):
        (home / "birds" / name).mkdir(parents=True)
        for i in range(3):
            Image.fromarray(noise.integers(0, 256, (24, 20, 3), np.uint8)).save(home / "birds" / name / f"{i}.png")
    for name, seed in (("run", 1), ("other", 2)):
        recipe = home / f"{name}.yaml"
        recipe.write_text(RECIPE.format(seed=seed, birds=home / "birds", home="a tree"))
        run(recipe, home / name)
    return home


def shards(folder: Path) -> dict[str, bytes]:
    return {f"data/{path.name}": path.read_bytes() for path in sorted((folder / "dataset" / "data").iterdir())}


def size(folder: Path) -> int:
    return sum(map(len, shards(folder).values()))


def selection_of(folder: Path) -> str:
    """Names the images that a run has exported."""
    return str(json.loads(next(folder.glob("dataset/provenance/*/facts.json")).read_text())["selection"])


def assert_holds(hub: Hub, folder: Path, repo: str = "ada/birds") -> None:
    """The head of the repository has the shards of a run, byte by byte, and what explains them."""
    for path, data in shards(folder).items():
        assert hub.read(repo, path) == data
    plan = json.loads((folder / "run.json").read_text())["plan"]
    assert {"README.md", "croissant.json", *(f"provenance/{plan}/{name}" for name in ("recipe.yaml", "plan.json", "facts.json"))} <= set(
        hub.repos[repo].tree
    )


def test_a_dataset_is_pushed_and_loaded(hub: Hub, ada: Client, home: Path) -> None:
    status, said = ada.factory("push", "run", "ada/birds", "--license", "mit")
    assert status == 0 and "pushed" in said, said
    assert_holds(hub, home / "run")
    assert hub.repos["ada/birds"].private
    assert [message for _, message, _ in hub.repos["ada/birds"].commits][1:] == [f"24 synthetic images of plan {plan(home / 'run')}"]
    card = DatasetCard(hub.read("ada/birds", "README.md").decode())
    assert card.data.license == "mit" and f"provenance/{plan(home / 'run')}/contact_sheet.png" in card.text
    found = ada.python(
        "import datasets, hashlib, json\n"
        "whole = datasets.load_dataset('ada/birds', split='train')\n"
        "stream = list(datasets.load_dataset('ada/birds', split='train', streaming=True))\n"
        "def digest(rows): return [[row['id'], row['label'], hashlib.sha256(row['image'].tobytes()).hexdigest()] for row in rows]\n"
        "print(json.dumps([digest(whole), digest(stream), whole.features['label'].names]))"
    )
    local = datasets.load_dataset(str(home / "run" / "dataset"), split="train", cache_dir=str(home / "cache"))
    wanted = [[row["id"], row["label"], hashlib.sha256(row["image"].tobytes()).hexdigest()] for row in local]
    assert found == [wanted, wanted, ["finch", "heron"]]


def plan(folder: Path) -> str:
    return str(json.loads((folder / "run.json").read_text())["plan"])


def test_a_second_push_sends_nothing(hub: Hub, ada: Client) -> None:
    ada.factory("push", "run", "ada/birds")
    hub.stored = 0
    status, said = ada.factory("push", "run", "ada/birds")
    assert (status, hub.stored, len(hub.repos["ada/birds"].commits)) == (0, 0, 2) and "nothing to push" in said


def test_it_may_fail_at_any_request(hub: Hub, ada: Client, home: Path) -> None:
    """Each request in turn is refused for good; readers see nothing or everything, and the next push sends what is missing."""
    with hub.failing(lambda n, method, path: None):
        ada.factory("push", "run", "ada/whole")
        count = len(hub.requests)
    largest = max(map(len, shards(home / "run").values()))
    assert count > 10
    failed = 0
    for n in range(count):
        hub.repos.clear()
        hub.blobs.clear()
        hub.stored = 0
        with hub.failing(lambda k, method, path, n=n: 410 if k == n else None):
            status, said = ada.factory("push", "run", "ada/birds")
        if status:
            failed += 1
            assert status == 2 and "Traceback" not in said, said
            assert all(len(repo.tree) == 1 for repo in hub.repos.values())  # nothing but the Hub's own first file
            status, said = ada.factory("push", "run", "ada/birds")
        assert status == 0, said
        assert_holds(hub, home / "run")
        assert len(hub.repos["ada/birds"].commits) == 2
        assert size(home / "run") <= hub.stored <= size(home / "run") + largest + 500_000  # the sheet too
    assert failed > count / 2


@pytest.mark.parametrize("fault", [429, 503, "disconnect", "half", "lost"])
def test_a_passing_fault_is_overcome(hub: Hub, ada: Client, home: Path, fault: Any) -> None:
    """At a call that the client repeats by itself, and at two that it does not; a commit whose answer is lost is found."""
    struck: set[str] = set()

    def strike(n: int, method: str, path: str) -> Any:
        kind = next((kind for kind in ("/repos/create", "/commit/", "/storage/") if kind in path), "")
        if not kind or kind in struck:
            return None
        struck.add(kind)
        return fault

    with hub.failing(strike):
        status, said = ada.factory("push", "run", "ada/birds")
    assert status == 0 and len(struck) == 3, said
    assert_holds(hub, home / "run")
    assert len(hub.repos["ada/birds"].commits) == 2


def test_killed_and_pushed_again(hub: Hub, home: Path) -> None:
    token = next(iter(hub.tokens))
    with Client(hub.url, token, home) as victim:

        def kill(n: int, method: str, path: str) -> Any:
            if path.startswith("/storage/") and sum(other.startswith("/storage/") for _, other in hub.requests) == 2:
                victim.process.send_signal(signal.SIGKILL)
                return "half"
            return None

        with hub.failing(kill):
            status, _ = victim.factory("push", "run", "ada/birds")
    assert status == -signal.SIGKILL and len(hub.repos["ada/birds"].tree) == 1
    with Client(hub.url, token, home) as again:
        hub.settle()
        before = hub.stored
        assert again.factory("push", "run", "ada/birds")[0] == 0
        assert hub.stored - before <= size(home / "run") + 500_000
    assert_holds(hub, home / "run")


def test_large_files_go_in_parts(hub: Hub, ada: Client, home: Path) -> None:
    hub.chunk = 300_000
    status, said = ada.factory("push", "run", "ada/birds")
    assert status == 0, said
    assert sum("part=" in path for _, path in hub.requests) >= 4
    assert_holds(hub, home / "run")


def test_append_leaves_what_is_there(hub: Hub, ada: Client, home: Path) -> None:
    ada.factory("push", "run", "ada/birds")
    before = dict(hub.repos["ada/birds"].tree)
    status, said = ada.factory("push", "other", "ada/birds")
    assert status == 2 and "--append" in said and "--replace" in said
    hub.stored = 0
    status, said = ada.factory("push", "other", "ada/birds", "--append")
    assert status == 0, said
    after = hub.repos["ada/birds"].tree
    assert {path: file for path, file in before.items() if path in after and path not in ("README.md", "croissant.json")} == {
        path: file for path, file in before.items() if path not in ("README.md", "croissant.json")
    }
    assert hub.stored <= size(home / "other") + 500_000
    card = DatasetCard(hub.read("ada/birds", "README.md").decode())
    assert card.data.dataset_info[0]["splits"][0]["num_examples"] == 48 and "unique within its plan" in card.text
    found = ada.python(
        "import datasets, json\n"
        "rows = datasets.load_dataset('ada/birds', split='train')\n"
        "print(json.dumps([len(rows), len(set(rows['seed'])), [image.size for image in rows['image']] == [(160, 160)] * 48]))"
    )
    assert found == [48, 48, True]
    assert json.loads(hub.read("ada/birds", "croissant.json"))["description"].startswith("48 ")
    status, said = ada.factory("push", "other", "ada/birds", "--append")
    assert status == 0 and "nothing to push" in said
    hub.repos["ada/birds"].private = False
    status, said = ada.factory("push", "run", "ada/birds", "--replace")
    assert "ada/birds is public" in said
    assert status == 0 and not any(plan(home / "other") in path for path in hub.repos["ada/birds"].tree)
    assert len(hub.repos["ada/birds"].tree) == len(before)


def test_append_wants_the_same_columns(hub: Hub, ada: Client, home: Path) -> None:
    ada.factory("push", "run", "ada/birds")
    tree = dict(hub.repos["ada/birds"].tree)
    run(home / "other.yaml", home / "unlike", "filters=[blank]")
    status, said = ada.factory("push", "unlike", "ada/birds", "--append")
    assert status == 2 and "columns" in said and hub.repos["ada/birds"].tree == tree


def test_tars_are_appended_with_their_metadata(hub: Hub, ada: Client, home: Path) -> None:
    for name in ("run", "other"):
        folder = home / f"{name}-tars"
        shutil.copytree(home / name, folder)
        reselect.run(folder, None, ["export.kind=webdataset"], export=True)
        status, said = ada.factory("push", folder.name, "ada/tars", "--append")
        assert status == 0, said
    tars = sorted(path for path in hub.repos["ada/tars"].tree if path.endswith(".tar"))
    listed = [entry for entry in json.loads(hub.read("ada/tars", "croissant.json"))["distribution"] if entry["@type"] == "cr:FileObject"]
    assert sorted(entry["contentUrl"] for entry in listed) == tars and len(tars) >= 4
    rows = ada.python(
        "import datasets, json\nprint(json.dumps(len(list(datasets.load_dataset('ada/tars', split='train', streaming=True)))))"
    )
    assert rows == 48


def test_dry_run_only_looks(hub: Hub, ada: Client, home: Path) -> None:
    status, said = ada.factory("push", "run", "ada/birds", "--dry-run")
    assert status == 0 and not hub.repos and "would push 1 commit" in said
    assert all(path in said for path in [*shards(home / "run"), "README.md"])
    assert {method for method, _ in hub.requests} <= {"GET", "HEAD"}
    status, said = ada.factory("push", "run", "ada/birds", "--dry-run", "--json")
    result = json.loads(said.splitlines()[-1])
    assert result["commit"] is None and result["bytes"] > size(home / "run")


def test_a_dry_run_needs_no_hub(hub: Hub, ada: Client, home: Path) -> None:
    with pytest.raises(UserError, match="HF_HUB_OFFLINE"):
        story.run(home / "run", "ada/birds", story.Options())
    result = story.run(home / "run", "ada/birds", story.Options(dry_run=True))
    assert result["commits"] == 1 and {*shards(home / "run"), "README.md"} <= {file["path"] for file in result["files"]}
    assert result["bytes"] > size(home / "run") and "HF_HUB_OFFLINE" in result["unseen"]
    assert "as if it were new: ada/birds: cannot read the repository" in story.summary(result, True)
    named = "import os; os.environ['HF_TOKEN'] = {!r}\nprint(1)"
    for change, why in (
        ("import os; del os.environ['HF_TOKEN']\nprint(1)", "there is no token"),
        (named.format("hf_nobody"), "cannot read the repository: the Hub does not know your token"),
    ):
        ada.python(change)
        status, said = ada.factory("push", "run", "ada/birds", "--dry-run")
        assert status == 0 and not hub.repos and f"as if it were new: ada/birds: {why}" in said, said
        assert all(path in said for path in [*shards(home / "run"), "README.md"])
    ada.python(named.format(next(iter(hub.tokens))))


def test_many_small_files_are_refused(hub: Hub, ada: Client, home: Path) -> None:
    folder = home / "loose"
    shutil.copytree(home / "run", folder)
    reselect.run(folder, None, ["export={kind: folder}"], export=True)
    status, said = ada.factory("push", "loose", "ada/birds")
    assert status == 2 and "export.kind=parquet" in said and not hub.repos
    reselect.run(folder, None, ["export={kind: parquet}"], export=True)  # as it advises
    assert ada.factory("push", "loose", "ada/birds")[0] == 0


def test_memorisation_stops_a_push(hub: Hub, ada: Client, home: Path) -> None:
    found = {
        "version": 1,
        "memorisation": {"gate": {"passed": False, "text": "3 images are copies."}, "pairs": [{"id": "0-000007", "distance": 0.0123}]},
    }
    (home / "run" / "evaluation.json").write_text(json.dumps(found))
    try:
        status, said = ada.factory("push", "run", "ada/birds")
        assert status == 2 and "0-000007 at 0.0123" in said and "3 images are copies" in said and not hub.repos
        status, said = ada.factory("push", "run", "ada/birds", "--accept-memorisation")
        assert status == 0, said
    finally:
        (home / "run" / "evaluation.json").unlink()
    text = hub.read("ada/birds", "README.md").decode()
    assert "**Published although the gate on memorisation did not pass" in text and "0-000007" in text


def test_an_evaluation_of_other_images_is_not_on_the_card(hub: Hub, ada: Client, home: Path) -> None:
    path, words = home / "run" / "evaluation.json", "Use it: synthetic to real 2:1."
    try:
        for selection, told in ((selection_of(home / "run"), True), ("0" * 16, False), (None, False)):
            path.write_text(json.dumps({"version": 1, "selection": selection, "verdict": {"use": True, "text": words}}))
            status, said = ada.factory("push", "run", "ada/birds")
            assert status == 0 and ("`factory evaluate` again" in said) is not told, said
            assert (words in hub.read("ada/birds", "README.md").decode()) is told
    finally:
        path.unlink()


def test_the_gate_in_words() -> None:
    assert gate.check(None, False) == gate.check({}, False) == gate.check({"memorisation": {"gate": {"passed": True}}}, False) == ""
    broken = {
        "guards": {
            "passed": False,
            "checks": [{"name": "parents", "passed": False, "ids": ["1-000001"]}, {"name": "split", "passed": True}],
        }
    }
    with pytest.raises(UserError, match=r"guard.*parents \[1-000001\]"):
        gate.check(broken, False)
    assert "split" not in gate.check(broken, True)


def test_tokens(hub: Hub, ada: Client, home: Path) -> None:
    ada.factory("push", "run", "ada/birds")
    read = "import os; os.environ['HF_TOKEN'] = {!r}\n"
    for token, advice in (("hf_nobody", "hf auth login"), (list(hub.tokens)[1], "may not write")):
        ada.python(read.format(token) + "print(1)")
        status, said = ada.factory("push", "run", "ada/birds")
        assert status == 2 and advice in said and token not in said, said
    ada.python(read.format(next(iter(hub.tokens))) + "print(1)")


def test_nothing_of_this_machine_leaves_it(hub: Hub, ada: Client, home: Path) -> None:
    (home / "run" / "evaluation.json").write_text(
        json.dumps(
            {
                "version": 1,
                "selection": selection_of(home / "run"),
                "verdict": {"use": None, "ratio": None, "gain": 0, "ci95": 0, "text": f"see {home}/x"},
            }
        )
    )
    try:
        status, said = ada.factory("push", str(home / "run"), "ada/birds")
    finally:
        (home / "run" / "evaluation.json").unlink()
    assert status == 0, said
    columns = [
        pq.read_table(io.BytesIO(data)).drop_columns(["image"]).to_pylist()
        for path, data in shards(home / "run").items()
        if path in hub.repos["ada/birds"].tree
    ]
    sent = [*hub.bodies, *hub.blobs.values(), said.encode(), json.dumps(columns).encode()]
    for line in (line for body in hub.bodies for line in body.splitlines() if line.startswith(b'{"key": "file"')):
        sent.append(base64.b64decode(json.loads(line)["value"]["content"]))
    for secret in (next(iter(hub.tokens)), str(home), str(home / "run"), str(home.parent)):
        assert not any(secret.encode() in data for data in sent), secret
    assert b"see ~/x" in hub.read("ada/birds", "README.md")


def test_a_secret_in_the_data_stops_the_push(hub: Hub, ada: Client, home: Path) -> None:
    token = next(iter(hub.tokens))
    (home / "secret.yaml").write_text(RECIPE.format(seed=3, birds=home / "birds", home=token))
    run(home / "secret.yaml", home / "secret")
    status, said = ada.factory("push", "secret", "ada/birds")
    assert status == 2 and "your access token is in data/train-" in said and "column prompt" in said, said
    assert token not in said and all(len(repo.tree) == 1 for repo in hub.repos.values()) and hub.stored == 0


def test_secrets_are_found_in_any_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    watch = leaks.Watch([tmp_path / "run"])
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        tar.addfile(tarfile.TarInfo("x.json"), io.BytesIO())
    watch.check("a.tar", tmp_path / "a.tar")
    watch.check("text", b"a tree at home")
    for content in (f"{tmp_path}/run/shards".encode(), f'"{tmp_path}/home/x"'.encode(), b"hf_" + b"a1" * 17, b"key: sk-" + b"a1" * 12):
        with pytest.raises(UserError, match="not pushed"):
            watch.check("text", content)
        (tmp_path / "file.json").write_bytes(b" " * leaks._BLOCK + content)
        with pytest.raises(UserError, match="not pushed"):
            watch.check("file.json", tmp_path / "file.json")


@pytest.mark.parametrize(
    "secret", ["hf_" + "a1" * 17, "sk-proj-" + "a1" * 12, "ghp_" + "a1" * 18, "AKIA" + "A1" * 8, "-----BEGIN RSA PRIVATE KEY-----"]
)
def test_keys_of_any_known_service_are_found_in_captions(tmp_path: Path, secret: str) -> None:
    captions = ["a bird on a tree", secret, "a desk-top-with-many-many-things"]
    texts = {"a": pa.array(captions), "b": pa.array([[text] for text in captions]), "c": pa.array([{"text": text} for text in captions])}
    watch = leaks.Watch([])
    for name, column in texts.items():
        pq.write_table(pa.table({name: column}), tmp_path / "x.parquet")
        with pytest.raises(UserError, match=rf"token or a private key is in x\.parquet \(column {name}\)"):
            watch.check("x.parquet", tmp_path / "x.parquet")
        pq.write_table(pa.table({name: column.filter(pa.array([True, False, True]))}), tmp_path / "x.parquet")
        watch.check("x.parquet", tmp_path / "x.parquet")


def test_a_run_that_is_being_built_is_left_alone(hub: Hub, ada: Client, home: Path) -> None:
    with Store(home / "run").owned():
        status, said = ada.factory("push", "run", "ada/birds")
    assert status == 2 and "--follow" in said and not hub.repos
    status, said = ada.factory("push", "nowhere", "ada/birds")
    assert status == 2 and "holds no run" in said
    status, said = ada.factory("push", "run", "birds")
    assert status == 2 and "user/name" in said


def test_strangers_files_are_not_mixed_up(hub: Hub, ada: Client) -> None:
    hub.create("ada", {"name": "birds", "organization": "ada", "type": "dataset"})
    repo = hub.repos["ada/birds"]
    repo.commit("by hand", {**repo.tree, "data/train-mine.parquet": hub._keep(b"x"), "notes.txt": hub._keep(b"y")})
    status, said = ada.factory("push", "run", "ada/birds")
    assert status == 2 and "train-mine" in said
    repo.commit("gone", {path: file for path, file in repo.tree.items() if "mine" not in path})
    assert ada.factory("push", "run", "ada/birds")[0] == 0 and "notes.txt" in repo.tree


def grow(source: Path, target: Path, names: list[str]) -> None:
    """Copy shards as a build writes them: images, scores, and the mark last."""
    for name in names:
        for file in (source / "shards" / f"{name}.parquet", *source.glob(f"scores/*/{name}.parquet"), source / "marks" / f"{name}.json"):
            (target / file.relative_to(source)).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(file, target / file.relative_to(source))


def test_shards_are_uploaded_while_they_are_made(hub: Hub, ada: Client, home: Path) -> None:
    """A finished run is laid down shard by shard under the lock of a build, as a follower would see it grow."""
    long, growing = home / "long", home / "growing"
    run(home / "run.yaml", long, "amount.per_class=60")
    growing.mkdir()
    for name in ("run.json", "recipe.json"):
        shutil.copy(long / name, growing)
    shutil.copytree(long / "rounds", growing / "rounds")
    names = sorted(Store(long).marked())
    seen = [0]
    with Store(growing).owned():
        ada.start("push", "growing", "ada/birds", "--follow")
        for part in (names[:12], names[12:]):
            grow(long, growing, part)
            end = time.monotonic() + 60
            while hub.stored <= seen[-1] and time.monotonic() < end:
                time.sleep(0.05)
            seen.append(hub.stored)
        assert len(hub.repos["ada/birds"].tree) == 1 and not any("/commit/" in path for _, path in hub.requests)
        shutil.copytree(long / "dataset", growing / "dataset")
    status, said = ada.finish()
    assert status == 0 and "follow: 2 shards are uploaded" in said, said
    assert 0 < seen[1] < seen[2] <= size(long)
    assert hub.stored == size(long)  # what was uploaded early was not sent again
    assert_holds(hub, long)
    assert not list(growing.glob(".push-*"))


def test_following_a_build_that_stops(hub: Hub, ada: Client, home: Path) -> None:
    growing = home / "stopped"
    growing.mkdir()
    for name in ("run.json", "recipe.json"):
        shutil.copy(home / "run" / name, growing)
    shutil.copytree(home / "run" / "rounds", growing / "rounds")
    grow(home / "run", growing, ["00-00000"])
    status, said = ada.factory("push", "stopped", "ada/birds", "--follow")
    assert status == 2 and "stopped before its end" in said, said


def test_a_finished_build_is_finished_whatever_the_environment(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FACTORY__THREADS", "2")
    follow._check_finished(Store(home / "run"))


def test_an_image_of_the_hub_is_made_again(hub: Hub, ada: Client, home: Path) -> None:
    """Of a dataset of two plans, whose ids are the same: the recipe, the plan and the pixels come from the server alone."""
    ada.factory("push", "run", "ada/birds")
    status, said = ada.factory("push", "other", "ada/birds", "--append")
    assert status == 0, said
    for folder in ("run", "other"):
        own = plan(home / folder)
        status, said = ada.factory("replay", "ada/birds", "1-000004", "--source", "birds", "--plan", own, "--device", "cpu", "--json")
        result = json.loads(said.splitlines()[-1])
        assert status == 0 and result["identical"] and result["plan"] == own, said
    status, said = ada.factory("replay", "ada/nothing", "1-000004")
    assert status == 2 and "ada/nothing" in said and "Traceback" not in said
