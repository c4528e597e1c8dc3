"""Conditions that look at other images, other classes, captions, masks and layouts."""

from __future__ import annotations

import io
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from pydantic import ValidationError

from factory import encoders, honour, indexes, kinds, seeds
from factory import recipe as recipes
from factory.conditions.control import Control
from factory.conditions.image_and_caption import ImageAndCaption
from factory.conditions.inpaint import Inpaint
from factory.conditions.ip_adapter import IpAdapter
from factory.conditions.other_class import OtherClass
from factory.conditions.outpaint import Outpaint
from factory.conditions.propagation import Propagation
from factory.conditions.retrieval import Retrieval
from factory.contracts import Condition, Context, Source
from factory.errors import UserError
from factory.records import Annotations, Example, Request
from tests.conftest import ROOT, wordless

CLIP = str(ROOT / "data/models/fashion-mnist/clip")
REQUEST = Request("1-000001", 1, 1, 42, "a photo of a cat", (3,), classes=3)


@pytest.fixture(scope="module")
def table() -> Any:
    return kinds.nested("sources", Source, {"dataset": str(ROOT / "data/fashion-mnist"), "shots": 8}).open()  # type: ignore[attr-defined]


@pytest.fixture
def context(table: Any, tmp_path: Path) -> Context:
    return Context(table, table.class_names, 0, "cpu", tmp_path)


def example(label: int = 0, **more: Any) -> Example:
    return Example(5, "ab", np.random.default_rng(1).integers(0, 256, (20, 30, 3), np.uint8), label, **more)


def marked() -> Annotations:
    mask = np.zeros((20, 30), np.int32)
    mask[5:12, 8:20] = 2
    return Annotations(np.array([[8, 5, 20, 12]], np.float32), np.array([1]), mask)


def request_of(table: Any, row: int) -> Request:
    return Request("r", int(table.labels[row]), 0, 1, "a photo of a Sneaker", (row,), classes=10)


# ---- image and caption


def test_the_parents_caption_is_the_prompt() -> None:
    kind = ImageAndCaption(text="{caption}, a photo", strength=0.6)
    inputs = kind.prepare(REQUEST, [example(caption=" a cat on a mat ", annotations=marked())], seeds.rng(0))
    assert inputs.prompt == "a cat on a mat, a photo" and inputs.strength == 0.6 and inputs.annotations is not None
    bare = kind.prepare(REQUEST, [example()], seeds.rng(0))
    assert bare.prompt == REQUEST.prompt and bare.record["caption"] == 0
    with pytest.raises(UserError, match=r"set source\.caption"):
        kind.check(wordless(["a"]).table)
    with pytest.raises(ValidationError, match=r"nothing fills \{label\} in .*; use \{caption\} or \{prompt\}"):
        ImageAndCaption(text="{label}")
    with pytest.raises(ValidationError, match=r"write \{\{ and \}\} for plain braces"):
        ImageAndCaption(text="{caption")
    with pytest.raises(ValidationError, match=r"Unknown format code 'd'.*\{caption:\.77\} is a way"):
        ImageAndCaption(text="{caption:d}")
    assert ImageAndCaption(text="{caption:.77}").text == "{caption:.77}"
    with pytest.raises(ValidationError, match=r"nothing fills \{lable\} in 'a \{lable\}'; use \{label\}"):
        IpAdapter(template="a {lable}")


# ---- other class


def test_the_label_is_shared_by_strength() -> None:
    kind = OtherClass(strength=0.81, gamma=0.5)
    assert kind.parents_of == "others"
    soft = kind.prepare(REQUEST, [example(label=2)], seeds.rng(0)).soft_label
    assert soft is not None and np.allclose(soft, [0, 0.9, 0.1])
    soft = kind.prepare(REQUEST, [example(label=2, soft_label=np.array([0.5, 0, 0.5], np.float32))], seeds.rng(0)).soft_label
    assert soft is not None and np.allclose(soft, [0.05, 0.9, 0.05])


def test_other_classes_are_parents_in_turn(write_recipe: Any) -> None:
    from factory import plan as planning

    recipe = recipes.load(write_recipe(condition="{kind: other_class, strength: 0.7}"))
    opened = recipe.source.open()
    plan = planning.make(recipe, opened)
    requests = plan.requests(np.zeros(2, np.int64), np.array([20, 20]))
    assert (opened.labels[requests.parents[:, 0]] != requests.label).all()
    assert len(np.unique(requests.parents)) > 8
    later = plan.requests(np.array([5, 5]), np.array([3, 3]))
    whole = {(int(c), int(k)): int(p) for c, k, (p,) in zip(requests.label, requests.ordinal, requests.parents, strict=True)}
    assert all(whole[int(c), int(k)] == p for c, k, (p,) in zip(later.label, later.ordinal, later.parents, strict=True))


# ---- retrieval


def test_neighbours_are_the_true_ones_and_never_the_parent(table: Any, context: Context) -> None:
    units = encoders.open(CLIP, "cpu").encode_images([table.read(i).image for i in range(len(table))])
    opened = Retrieval(model=CLIP, k=3).open(context)
    for row in (0, 17, 40):
        parent = table.read(row)
        inputs = opened.prepare(request_of(table, row), [parent], seeds.rng(0))
        cosines = units @ units[row]
        cosines[row] = -1
        expected = [table.read(int(i)).key for i in np.argsort(-cosines)[:3]]
        assert str(inputs.record["neighbours"]).split() == expected
        assert inputs.tokens and len(inputs.images) == 3 and inputs.record["nearest"] >= inputs.record["furthest"]
        assert json.loads(json.dumps(inputs.record)) == inputs.record
    own = Retrieval(model=CLIP, k=1, include_parent=True).open(context).prepare(request_of(table, 5), [table.read(5)], seeds.rng(0))
    assert own.record["neighbours"] == table.read(5).key


def test_a_parent_in_another_file_is_no_neighbour_however_often_it_is_there(table: Any, context: Context, tmp_path: Path) -> None:
    for i in range(15):
        copy = Image.fromarray(table.read(3).image)
        (tmp_path / "library" / "x").mkdir(parents=True, exist_ok=True)
        copy.save(tmp_path / "library" / "x" / f"{i}.{'png' if i % 2 else 'bmp'}", **({"compress_level": i // 2} if i % 2 else {}))
    Image.fromarray(table.read(9).image).save(tmp_path / "library" / "x" / "other.png")
    kind = Retrieval.model_validate({"model": CLIP, "k": 2, "library": {"dataset": str(tmp_path / "library")}})
    inputs = kind.open(context).prepare(request_of(table, 3), [table.read(3)], seeds.rng(0))
    assert len(inputs.images) == 1 and np.array_equal(inputs.images[0], table.read(9).image)


def test_neighbours_of_the_prompt_and_within_the_class(table: Any, context: Context) -> None:
    of_text = Retrieval(model=CLIP, k=5, of="prompt", text=True)
    assert of_text.parent_count() == 0 and of_text.required() == {"image_embedding", "text"}
    found = str(of_text.open(context).prepare(request_of(table, 0), [], seeds.rng(0)).record["neighbours"]).split()
    label = {table.read(i).key: int(table.labels[i]) for i in range(len(table))}
    assert sum(label[key] == table.class_names.index("Sneaker") for key in found) >= 4
    within = Retrieval(model=CLIP, k=5, within="class").open(context)
    for row in range(0, len(table), 9):
        keys = str(within.prepare(request_of(table, row), [table.read(row)], seeds.rng(0)).record["neighbours"]).split()
        assert {label[key] for key in keys} == {int(table.labels[row])}


def test_another_library_is_one_line(table: Any, context: Context, image_folder: Path) -> None:
    (image_folder / "finch" / "broken.png").write_bytes(b"no image")
    kind = Retrieval.model_validate({"model": CLIP, "k": 4, "library": {"dataset": str(image_folder), "label": None}})
    inputs = kind.open(context).prepare(request_of(table, 0), [table.read(0)], seeds.rng(0))
    assert {image.shape for image in inputs.images} == {(24, 20, 3)}
    assert kind.settings()["library"]["dataset"] == str(image_folder)
    with pytest.raises(ValidationError, match="did you mean label"):
        Retrieval.model_validate({"library": {"dataset": str(image_folder), "lable": None}})
    before = kind.identity()
    (image_folder / "heron" / "0.png").unlink()
    assert kind.identity() != before, "another content is another plan"
    with pytest.raises(UserError, match="the library has no class"):
        Retrieval.model_validate({"model": CLIP, "within": "class", "library": {"dataset": str(image_folder)}}).open(context)


# ---- ip adapter


def test_the_scale_rises_where_clip_is_unsure(table: Any, context: Context) -> None:
    kind = IpAdapter(model=CLIP, low=0.2, high=0.8, sigma=0.1, levels=4)
    opened = kind.open(context)
    sure, unsure = [], []
    for row in range(0, len(table), 3):
        right = opened.prepare(request_of(table, row), [table.read(row)], seeds.rng(row))
        wrong = Request("w", (int(table.labels[row]) + 5) % 10, 0, 1, "a", (row,), classes=10)
        sure.append(right.adapter_scale)
        unsure.append(opened.prepare(wrong, [table.read(row)], seeds.rng(row)).adapter_scale)
        assert right.record["scale"] == right.adapter_scale
    assert np.mean(unsure) > np.mean(sure) + 0.3
    assert {round(float(s), 6) for s in [*sure, *unsure]} <= {0.2, 0.4, 0.6, 0.8}
    with pytest.raises(UserError, match=r"source\.label"):
        kind.check(wordless([]).table)


# ---- inpaint and outpaint


@pytest.mark.parametrize(("area", "at"), [("mask", (8, 10)), ("boxes", (8, 10)), ("background", (0, 0))])
def test_the_repainted_area(area: str, at: tuple[int, int]) -> None:
    inputs = Inpaint(area=area).prepare(REQUEST, [example(annotations=marked())], seeds.rng(0))
    assert inputs.mask is not None and inputs.mask.dtype == np.uint8 and inputs.mask[at] == 255
    inside = 7 * 12
    assert (inputs.mask > 0).sum() == (600 - inside if area == "background" else inside)
    assert inputs.annotations is not None and inputs.annotations.boxes is not None
    grown = Inpaint(area="mask", dilate=2).prepare(REQUEST, [example(annotations=marked())], seeds.rng(0)).mask
    assert grown is not None and grown[4, 10] == 255 and grown[0, 0] == 0


@pytest.mark.parametrize("area", ["mask", "background", "boxes"])
def test_a_parent_without_marks_comes_back_neither_whole_nor_wholly_new(area: str) -> None:
    empty = Annotations(np.zeros((0, 4), np.float32), np.zeros(0, np.int64), np.zeros((20, 30), np.int32))
    for notes in (None, empty):
        inputs = Inpaint(area=area, share=0.3).prepare(REQUEST, [example(annotations=notes)], seeds.rng(0))
        assert inputs.mask is not None and 0.2 < (inputs.mask > 0).mean() < 0.4 and inputs.record["area"] == "random"


def test_what_a_random_rectangle_covers_is_no_longer_marked() -> None:
    seen = set()
    for draw in range(40):
        inputs = Inpaint(area="random", share=0.3).prepare(REQUEST, [example(annotations=marked())], seeds.rng(draw))
        notes = inputs.annotations
        assert inputs.mask is not None and notes is not None and notes.mask is not None and notes.boxes is not None
        assert not notes.mask[inputs.mask > 0].any() and (notes.mask == np.where(inputs.mask > 0, 0, marked().mask)).all()
        left = (inputs.mask[5:12, 8:20] == 0).mean()
        assert len(notes.boxes) == (left >= 0.5) and notes.box_labels is not None and len(notes.box_labels) == len(notes.boxes)
        seen.add(len(notes.boxes))
    assert seen == {0, 1}


def test_a_random_rectangle_has_its_share() -> None:
    shares = [Inpaint(area="random", share=0.3).prepare(REQUEST, [example()], seeds.rng(i)).record["repainted"] for i in range(30)]
    assert all(abs(float(share) - 0.3) < 0.05 for share in shares)
    with pytest.raises(UserError, match=r"source\.mask"):
        Inpaint().check(wordless(["a"]).table)


def test_outpainting_moves_places_with_the_image() -> None:
    for draw in range(10):
        inputs = Outpaint(scale=(0.4, 0.7)).prepare(REQUEST, [example(annotations=marked())], seeds.rng(draw))
        assert inputs.mask is not None and inputs.images[0].shape == (20, 30, 3)
        kept = (inputs.mask == 0).mean()
        assert abs(kept - float(inputs.record["scale"]) ** 2) < 0.06
        notes = inputs.annotations
        assert notes is not None and notes.mask is not None and notes.boxes is not None
        ys, xs = np.nonzero(notes.mask)
        assert np.abs(notes.boxes[0] - [xs.min(), ys.min(), xs.max() + 1, ys.max() + 1]).max() <= 1
        assert (inputs.mask[ys, xs] == 0).all(), "what is marked is not repainted"


# ---- control


def test_edges_are_where_the_image_changes() -> None:
    image = np.zeros((32, 32, 3), np.uint8)
    image[8:24, 8:24] = 255
    inputs = Control().prepare(REQUEST, [Example(0, "0", image)], seeds.rng(0))
    assert inputs.control is not None and inputs.control.shape == image.shape and not inputs.images
    ys, _ = np.nonzero(inputs.control[..., 0])
    assert set(ys.tolist()) <= {7, 8, 23, 24} | set(range(8, 24)) and inputs.control[16, 16].max() == 0 and len(ys) > 40
    assert Control(strength=0.7).required() == {"control", "image", "text"}
    with pytest.raises(ValidationError, match="Canny"):
        Control(model="x")


def test_the_sources_own_masks_as_segmentation() -> None:
    inputs = Control(map="segmentation").prepare(REQUEST, [example(annotations=marked())], seeds.rng(0))
    assert inputs.control is not None and inputs.control[0, 0].max() == 0 and inputs.control[8, 10].max() > 0
    assert len(np.unique(inputs.control.reshape(-1, 3), axis=0)) == 2
    with pytest.raises(UserError, match=r"source\.mask"):
        Control(map="segmentation").check(wordless(["a"]).table)


def test_depth_by_a_transformers_model(tmp_path: Path) -> None:
    import transformers

    config = transformers.DPTConfig(
        hidden_size=16, num_hidden_layers=4, num_attention_heads=2, intermediate_size=16, image_size=32, patch_size=8, is_hybrid=False,
        backbone_out_indices=[0, 1, 2, 3], neck_hidden_sizes=[8, 8, 8, 8], fusion_hidden_size=8, reassemble_factors=[4, 2, 1, 0.5],
    )  # fmt: skip
    network = transformers.DPTForDepthEstimation(config)
    last = [module for module in network.modules() if isinstance(module, torch.nn.Conv2d)][-1]
    torch.nn.init.ones_(last.bias)  # random weights may see nothing but what is behind the camera
    network.save_pretrained(tmp_path)
    transformers.DPTImageProcessor(size={"height": 32, "width": 32}).save_pretrained(tmp_path)
    ready = Control(map="depth", model=str(tmp_path)).open(wordless(["a"]))
    first = ready.prepare(REQUEST, [example()], seeds.rng(0)).control
    assert first is not None and first.shape == (20, 30, 3) and first.dtype == np.uint8 and first.max() == 255 and first.min() == 0
    with pytest.raises(UserError, match="cannot open model"):
        Control(map="depth", model=str(tmp_path / "none")).open(wordless(["a"]))


def test_places_follow_a_layout_to_the_size_of_the_image(write_recipe: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    from factory.store import Store
    from tests.paint import OpenPaint
    from tests.test_build import run

    monkeypatch.setattr(OpenPaint, "accepts", frozenset({"text", "control"}))
    mask = np.zeros((20, 30), np.uint8)
    mask[5:15, 15:] = 1
    images = [example().image] * 2
    features = datasets.Features(
        {
            "image": datasets.Image(),
            "label": datasets.ClassLabel(names=["a", "b"]),
            "boxes": [[datasets.Value("float32")]],
            "mask": datasets.Image(),
        }
    )
    rows = {"image": images, "label": [0, 1], "boxes": [[[15.0, 5.0, 30.0, 15.0]]] * 2, "mask": [mask] * 2}
    datasets.Dataset.from_dict(rows, features=features).to_parquet(tmp_path / "marked.parquet")
    source = f"{{dataset: {tmp_path / 'marked.parquet'}, boxes: boxes, mask: mask}}"
    recipe = write_recipe(
        source=source, condition="control", generator="{kind: tests.paint.Paint, size: 60}", amount="{per_class: 1}", filters=""
    )
    run(recipe, tmp_path / "run")
    made = Store(tmp_path / "run").read_shard("00-00000").to_pylist()
    assert [row["boxes"] for row in made] == [[[30.0, 15.0, 60.0, 45.0]]] * 2
    place = np.asarray(Image.open(io.BytesIO(made[0]["mask"])))
    assert place.shape == (60, 60) and place[15:45, 30:].all() and place.sum() == 30 * 30


# ---- what a pipeline can honour is told before weights are loaded


@pytest.mark.parametrize("name", kinds.names("conditions"))
def test_every_kind_says_what_it_needs(name: str) -> None:
    found = kinds.find("conditions", name, Condition)
    must = {"embedding_prior": {"model": "a folder"}, "propagation": {"library": {"dataset": str(ROOT / "data/fashion-mnist")}}}
    kind = found(**must.get(name, {}))  # type: ignore[arg-type]
    assert kind.required()  # type: ignore[attr-defined]
    assert any(way <= kind.required() for way in found.ways or (found.needs,))  # type: ignore[attr-defined]


def test_an_impossible_condition_fails_at_plan_time_with_the_kinds_that_are_possible(write_recipe: Any) -> None:
    model = ROOT / "data/models/fashion-mnist"
    recipe = recipes.load(write_recipe(generator=f"{{model: {model}}}", condition="control"))
    with pytest.raises(
        UserError, match=r"condition control needs a control image.*conditions that it can honour: .*augmented_image.*retrieval"
    ):
        honour.check(recipe)
    honour.check(recipes.load(write_recipe(generator=f"{{model: {model}}}", condition="{kind: inpaint, area: random}")))


def told(write_recipe: Any, folder: Path, condition: str, name: str, *parts: str, generator: str = "") -> str:
    """What checking a recipe says about a pipeline class of which only the name and the components are known."""
    folder.mkdir(exist_ok=True)
    index = {"_class_name": name, **{part: ["diffusers", "Any"] for part in parts}}
    (folder / "model_index.json").write_text(json.dumps(index))
    try:
        honour.check(recipes.load(write_recipe(generator=f"{{model: {folder}{generator}}}", condition=condition)))
    except UserError as error:
        return str(error)
    return ""


@pytest.mark.parametrize(
    ("name", "condition", "says"),
    [
        ("WanPipeline", "text", r"WanPipeline makes frames, not images; for stills set call: \{num_frames: 1\}"),
        ("MarigoldDepthPipeline", "image", "makes prediction, uncertainty, latent, not images"),
        ("StableCascadePriorPipeline", "text", "makes image_embeddings, .*, not images"),
        ("AudioLDM2Pipeline", "text", "makes audios, not images"),
        ("StableDiffusionAttendAndExcitePipeline", "text", "cannot be called without token_indices; .* can honour: none"),
        ("DiTPipeline", "text", "takes no prompt; conditions that it can honour: class_label$"),
        ("StableDiffusionXLAdapterPipeline", "text", "follows a control image, and the condition gives none; .* can honour: control$"),
        ("KandinskyV22Pipeline", "{kind: image, strength: 0.5}", "cannot be called without image_embeds, negative_image_embeds"),
        ("UnCLIPPipeline", "{kind: embedding}", "no way in for image embeddings; .* can honour: text$"),
        ("StableDiffusionXLControlNetUnionPipeline", "{kind: image, strength: 0.5}", "follows a control image"),
        ("SpectrogramDiffusionPipeline", "text", "cannot be imported: .*note-seq"),
    ],
)
def test_a_class_that_cannot_do_it_is_refused_before_its_weights_are_there(
    name: str, condition: str, says: str, write_recipe: Any, tmp_path: Path
) -> None:
    assert re.search(says, told(write_recipe, tmp_path / "model", condition, name))


def test_what_the_call_needs_may_be_set_in_the_recipe(write_recipe: Any, tmp_path: Path) -> None:
    name = "StableDiffusionAttendAndExcitePipeline"
    assert "token_indices" in told(write_recipe, tmp_path / "model", "text", name)
    assert not told(write_recipe, tmp_path / "model", "text", name, generator=", call: {token_indices: [1]}")
    guided = ("prior_prior", "prior_image_encoder", "unet", "movq")
    assert not told(write_recipe, tmp_path / "model", "{kind: embedding}", "KandinskyV22CombinedPipeline", *guided)
    assert "once" in told(write_recipe, tmp_path / "model", "{kind: embedding, text: true}", "KandinskyV22CombinedPipeline", *guided)


def test_the_control_pipeline_of_the_family_is_judged_where_nets_are_named(write_recipe: Any, tmp_path: Path) -> None:
    nets = ", controlnets: [{model: a/b}]"
    assert not told(write_recipe, tmp_path / "model", "control", "StableDiffusionPipeline", generator=nets)
    assert "use condition: control" in told(write_recipe, tmp_path / "model", "text", "StableDiffusionPAGPipeline", generator=nets)


def test_an_image_folder_of_a_stress_set_is_no_source(write_recipe: Any, tmp_path: Path) -> None:
    from tests.test_build import run

    for export in ("parquet", "folder"):
        out = tmp_path / export
        run(write_recipe(split="stress_test", export=export, name=f"{export}.yaml"), out)
        dataset = out / "dataset"
        import datasets

        loaded = datasets.load_dataset(str(dataset))
        assert list(loaded) == ["stress_test"] and set(loaded["stress_test"]["synthetic"]) == {"stress_test"}
        assert "stress test" in (dataset / "README.md").read_text()
        with pytest.raises(UserError, match="generated stress test"):
            kinds.nested("sources", Source, {"dataset": str(dataset), "split": "train" if export == "folder" else "stress_test"}).open()  # type: ignore[attr-defined]


# ---- propagation


def test_labels_spread_within_what_hangs_together() -> None:
    rng = np.random.default_rng(0)
    centres = np.eye(4, dtype=np.float32)[[0] * 30 + [1] * 30 + [2] * 30]
    units = centres + 0.1 * rng.standard_normal((90, 4)).astype(np.float32)
    units /= np.linalg.norm(units, axis=1, keepdims=True)
    labels = np.full(90, -1)
    labels[[4, 41]] = 0, 1
    shares = indexes.spread_labels(units, labels, 2, k=5)
    assert (shares[:30].argmax(1) == 0).all() and (shares[30:60].argmax(1) == 1).all()
    assert (shares[60:] == 0).all()  # nothing leads there
    assert np.allclose(shares[:60].sum(1), 1, atol=1e-5)


def test_unlabelled_images_that_a_class_has_reached_are_parents(table: Any, context: Context) -> None:
    library = {"dataset": str(ROOT / "data/fashion-mnist"), "label": None}
    kind = Propagation(model=CLIP, library=library, k=10, keep=0.3, jitter=0.2)  # type: ignore[arg-type]
    opened = kind.open(context)
    truth = kinds.nested("sources", Source, {"dataset": str(ROOT / "data/fashion-mnist")}).open().labels  # type: ignore[attr-defined]
    right = [float(np.mean(truth[rows] == label)) for label, rows in enumerate(opened.rows)]
    assert np.mean(right) > 0.8 and all(len(rows) for rows in opened.rows)
    first = opened.prepare(request_of(table, 3), [], seeds.rng(1))
    again = opened.prepare(request_of(table, 3), [], seeds.rng(1))
    assert first.record == again.record and np.array_equal(first.images[0], again.images[0])
    units = np.eye(1, 8, dtype=np.float32)
    assert first.combine is not None and again.combine is not None
    assert np.array_equal(first.combine(units), again.combine(units)) and not np.array_equal(first.combine(units), units[0])
    assert 0 < float(first.record["certainty"]) <= 1
    with pytest.raises(UserError, match="no labels to spread"):
        kind.check(wordless([]).table)
    assert kind.identity()["library"] == kind.library.open().fingerprint


def test_a_reached_image_may_be_where_a_child_starts(table: Any, context: Context) -> None:
    library = {"dataset": str(ROOT / "data/fashion-mnist"), "label": None}
    kind = Propagation(model=CLIP, library=library, k=10, strength=0.5)  # type: ignore[arg-type]
    inputs = kind.open(context).prepare(request_of(table, 3), [], seeds.rng(1))
    assert kind.required() == {"image"} and inputs.strength == 0.5 and inputs.combine is None and len(inputs.images) == 1
    with pytest.raises(ValueError, match="jitter moves an embedding"):
        Propagation(model=CLIP, library=library, jitter=0.2, strength=0.5)  # type: ignore[arg-type]
