"""Scorers behind Hub models, each with a tiny model of the real class that is made here and read from disk."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import save_file

from factory import classifiers
from factory.contracts import FilterContext
from factory.errors import UserError
from factory.records import Samples
from tests.test_encoders import directly, make_model, pictures
from tests.test_filters import NAMES, make, samples, score


def vit(folder: Path, labels: list[str], **settings: Any) -> str:
    """A tiny Transformers classifier with random weights."""
    from transformers import ViTConfig, ViTForImageClassification, ViTImageProcessor

    torch.manual_seed(len(labels))
    sizes = {
        "hidden_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "intermediate_size": 16,
        "image_size": 32,
        "patch_size": 16,
    }
    config = ViTConfig(
        **sizes, id2label=dict(enumerate(labels)), label2id={n: i for i, n in enumerate(labels)}, initializer_range=0.5, **settings
    )
    network = ViTForImageClassification(config)
    torch.nn.init.normal_(network.classifier.weight)
    network.save_pretrained(folder)
    ViTImageProcessor(size={"height": 32, "width": 32}).save_pretrained(folder)
    return str(folder)


def asked(folder: str, images: list[np.ndarray]) -> np.ndarray:
    """The logits of Transformers' own calls, one image at a time."""
    from PIL import Image
    from transformers import AutoImageProcessor, AutoModelForImageClassification

    processor, network = AutoImageProcessor.from_pretrained(folder), AutoModelForImageClassification.from_pretrained(folder)
    with torch.no_grad():
        return np.concatenate([network(**processor(images=Image.fromarray(x), return_tensors="pt")).logits.numpy() for x in images])


def softmax(logits: np.ndarray) -> np.ndarray:
    weights = np.exp(logits - logits.max(axis=1, keepdims=True))
    return weights / weights.sum(axis=1, keepdims=True)


def holed(images: list[np.ndarray]) -> Samples:
    """The images, and after them one that cannot be decoded; no labels, captions or parents."""
    return samples([*images, None], labels=np.full(len(images) + 1, -1, np.int32), prompts=[""] * (len(images) + 1))


def test_nsfw_is_the_probability_of_the_unsafe_label(tmp_path: Path) -> None:
    images, model = pictures(5), vit(tmp_path / "nsfw", ["normal", "nsfw"])
    expected = softmax(asked(model, images))
    assert expected[:, 1].std() > 0.01
    answer = score("nsfw", holed(images), model=model)["score"]
    assert answer[:5] == pytest.approx(expected[:, 1], abs=1e-5) and np.isnan(answer[5]) and answer.dtype == np.float32
    assert np.isnan(score("nsfw", samples([None]), model=model)["score"]).all()
    assert score("nsfw", samples(list(images)), model=model, labels=["Normal"])["score"] == pytest.approx(expected[:, 0], abs=1e-5)
    assert make("nsfw").bounds() == (-np.inf, 0.5) and make("nsfw").model == "Falconsai/nsfw_image_detection"  # type: ignore[attr-defined]


def test_several_labels_add_up_and_independent_ones_stay_below_one(tmp_path: Path) -> None:
    images = pictures(4)
    many = vit(tmp_path / "many", ["drawing", "hentai", "porn", "neutral"])
    assert score("nsfw", samples(list(images)), model=many)["score"] == pytest.approx(
        softmax(asked(many, images))[:, 1:3].sum(axis=1), abs=1e-5
    )
    apart = vit(tmp_path / "apart", ["clean", "watermark"], problem_type="multi_label_classification")
    assert score("watermark", samples(list(images)), model=apart)["score"] == pytest.approx(
        1 / (1 + np.exp(-asked(apart, images)[:, 1])), abs=1e-5
    )
    assert (score("watermark", samples(list(images)), model=apart, labels=["clean", "watermark"])["score"] <= 1).all()
    assert make("watermark").bounds() == (-np.inf, 0.8)


def test_a_label_that_the_model_lacks_is_named_with_those_it_has(tmp_path: Path) -> None:
    model = vit(tmp_path / "model", ["clean", "watermark"])
    with pytest.raises(UserError, match=r"no label 'nsfw'.*'clean', 'watermark'"):
        score("nsfw", samples([]), model=model)
    with pytest.raises(UserError, match="did you mean 'watermark'"):
        score("watermark", samples([]), model=model, labels=["watermarks"])


def test_a_model_that_cannot_be_opened_is_the_users_to_mend(tmp_path: Path) -> None:
    (tmp_path / "broken").mkdir()
    cases = [("org/absent", "cannot open classifier"), (str(tmp_path / "no"), "does not exist"), (str(tmp_path / "broken"), "config.json")]
    for model, what in [*cases, ("timm:resnet18.a1_in1k_nope", "cannot open")]:
        with pytest.raises(UserError, match=what):
            classifiers.open(model, "cpu")


def judged(batch: Samples, classes: list[str] = NAMES, **keys: Any) -> dict[str, np.ndarray]:
    """The columns of kind classifier."""
    return make("classifier", **keys).open(FilterContext("cpu", classes, None)).score(batch)


def test_classifier_of_transformers_gives_the_rows_label_found_by_name(tmp_path: Path) -> None:
    images, model = pictures(4), vit(tmp_path / "birds", ["house wren", "blue_jay", "Robin", "car"])
    chances = softmax(asked(model, images))
    batch = samples([*images, None], labels=np.array([0, 1, 2, -1, 0], np.int32))
    answer = judged(batch, model=model, names={"wren": "house-wren", "jay": "Blue Jay"})
    assert answer["score"][:3] == pytest.approx([chances[0, 0], chances[1, 2], chances[2, 1]], abs=1e-5)
    assert np.isnan(answer["score"][3:]).all()
    assert answer["predicted"][:4].tolist() == chances[:, [0, 2, 1]].argmax(axis=1).tolist() and np.isnan(answer["predicted"][4])
    with pytest.raises(UserError, match=r"no label 'wren'.*house wren.*names"):
        judged(batch, model=model)
    with pytest.raises(UserError, match="no class of the data"):
        judged(batch, model=model, names={"wrn": "house wren"})
    with pytest.raises(UserError, match="no classes"):
        judged(batch, [], model=model)


def test_classifier_of_timm_from_a_folder(tmp_path: Path) -> None:
    import timm
    from PIL import Image

    torch.manual_seed(0)
    network = timm.create_model("resnet10t", num_classes=3).eval()
    folder = tmp_path / "timm"
    folder.mkdir()
    save_file(network.state_dict(), str(folder / "model.safetensors"))
    how = {"input_size": [3, 32, 32], "mean": [0.5] * 3, "std": [0.25] * 3, "num_classes": 3, "label_names": ["n01", "n02", "n03"]}
    how["label_descriptions"] = {"n01": "wren, house wren", "n02": "robin", "n03": "jay"}
    (folder / "config.json").write_text(json.dumps({"architecture": "resnet10t", "num_classes": 3, "pretrained_cfg": how}))
    images = pictures(3)
    transform = timm.data.create_transform(
        **{**timm.data.resolve_data_config({"input_size": (3, 32, 32), "mean": (0.5,) * 3, "std": (0.25,) * 3}, model=network)}
    )
    with torch.no_grad():
        expected = torch.stack([network(transform(Image.fromarray(x))[None])[0].softmax(0) for x in images]).numpy()
    answer = score("classifier", samples(list(images)), model=str(folder))["score"]
    assert answer == pytest.approx(expected[range(3), range(3)], abs=1e-5)
    assert score("classifier", samples(list(images)), model=f"timm:local-dir:{folder}")["score"] == pytest.approx(answer)


def test_classifier_that_the_factory_trained(tmp_path: Path) -> None:
    from factory.models.classifier import SmallClassifier

    torch.manual_seed(0)
    network = SmallClassifier(NAMES, image_size=16, width=4, channels=3).eval()
    network.half().save_pretrained(tmp_path / "own")
    images = pictures(4)
    expected = [network.float().probabilities(torch.from_numpy(x).permute(2, 0, 1)[None])[0].numpy() for x in images]
    answer = score("classifier", samples(list(images)), model=str(tmp_path / "own"))
    assert answer["score"] == pytest.approx([row[i % 3] for i, row in enumerate(expected)], abs=1e-4)


def test_names_are_found_by_whole_name_synonym_or_number_and_never_by_a_guess() -> None:
    names = ["crane, bird", "crane, machine", "tench, Tinca tinca", "bird"]
    assert classifiers.positions(names, ["tinca TINCA", "bird", "crane", "machine", "1", "tench,_Tinca-tinca", "9"]) == [
        2,
        3,
        None,
        1,
        1,
        2,
        None,
    ]


def by_brightness(images: Sequence[np.ndarray]) -> list[Mapping[str, float] | None]:
    """An attribution hook: bright images are sdxl's, small ones nobody's."""
    return [None if len(x) < 4 else {"sdxl": float(x.mean()) / 255, "flux": 1 - float(x.mean()) / 255} for x in images]


def one_for_all(images: Sequence[np.ndarray]) -> dict[str, float]:
    """What a hook must not return."""
    return {"sdxl": 1.0}


def test_attribution_by_a_function_or_a_classifier(tmp_path: Path) -> None:
    images = [np.full((8, 8, 3), 51, np.uint8), np.full((2, 8, 3), 51, np.uint8), np.full((8, 8, 3), 255, np.uint8)]
    hook = "tests.test_classifier_scorers.by_brightness"
    for labels, expected in (
        (["sdxl"], [0.2, np.nan, 1, np.nan]),
        (["sdxl", "flux"], [1, np.nan, 1, np.nan]),
        (["pixart"], [0, np.nan, 0, np.nan]),
    ):
        assert score("attribution", holed(images), model=hook, labels=labels)["score"] == pytest.approx(expected, nan_ok=True)
    model = vit(tmp_path / "who", ["real", "sdxl", "flux"])
    expected = softmax(asked(model, images))[:, 1:].sum(axis=1)
    assert score("attribution", holed(images), model=model, labels=["sdxl", "flux"])["score"][:3] == pytest.approx(expected, abs=1e-5)


def test_attribution_says_what_is_wrong_with_a_hook() -> None:
    for model, what in (("tests.absent.judge", "cannot import"), ("tests.test_classifier_scorers.NAMES", "no function")):
        with pytest.raises(UserError, match=what):
            score("attribution", samples([]), model=model, labels=["sdxl"])
    with pytest.raises(UserError, match="mapping"):
        score("attribution", holed(pictures(2)), model="tests.test_classifier_scorers.one_for_all", labels=["sdxl"])
    for keys in ({"model": "a.b"}, {"labels": ["sdxl"]}, {"model": "a.b", "labels": []}):
        with pytest.raises(ValidationError):
            make("attribution", **keys)


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(make_model(tmp_path_factory.mktemp("aesthetic") / "clip"))


def laion_head(wide: int) -> torch.nn.Sequential:
    """The layers of LAION's improved predictor, narrower."""
    torch.manual_seed(0)
    dropout, linear = torch.nn.Dropout(0.2), torch.nn.Linear
    head = torch.nn.Sequential(linear(wide, 12), dropout, linear(12, 8), dropout, linear(8, 1))
    return torch.nn.ModuleDict({"layers": head}).eval()["layers"]  # type: ignore[return-value]


def test_aesthetic_is_laions_head_over_unit_embeddings(clip: str, tmp_path: Path) -> None:
    images, head = pictures(4), laion_head(24)
    named = {f"layers.{name}": tensor for name, tensor in head.state_dict().items()}
    torch.save(named, tmp_path / "head.pth")
    save_file(named, str(tmp_path / "head.safetensors"))
    seen, _, _ = directly(clip, images, [])
    with torch.no_grad():
        expected = head(torch.from_numpy(seen))[:, 0].numpy()
        rectified = torch.nn.Sequential(head[0], torch.nn.ReLU(), head[2], torch.nn.ReLU(), head[4])(torch.from_numpy(seen))[:, 0].numpy()
    for name in ("head.pth", "head.safetensors"):
        answer = score("aesthetic", holed(images), model=clip, head=str(tmp_path / name))["score"]
        assert answer[:4] == pytest.approx(expected, abs=1e-5) and np.isnan(answer[4])
    relu = score("aesthetic", holed(images), model=clip, head=str(tmp_path / name), activation="relu")["score"]
    assert relu[:4] == pytest.approx(rectified, abs=1e-5) and np.abs(relu[:4] - expected).max() > 1e-3
    linear = torch.nn.Linear(24, 1)
    torch.save(linear.state_dict(), tmp_path / "linear.pth")
    plain = score("aesthetic", holed(images), model=clip, head=str(tmp_path / "linear.pth"))["score"]
    assert plain[:4] == pytest.approx(linear(torch.from_numpy(seen))[:, 0].detach().numpy(), abs=1e-5)


class Mischief:
    """What a pickle may hold: a call that is made when it is opened."""

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (Path("opened"),))


def test_aesthetic_refuses_a_head_that_does_not_fit_or_is_not_safe(clip: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save(torch.nn.Linear(768, 1).state_dict(), "wide.pth")
    torch.save(torch.nn.BatchNorm1d(24).state_dict(), "norm.pth")
    torch.save({"weight": Mischief()}, "mischief.pth")
    cases = [("wide.pth", "maps 768"), ("norm.pth", "no chain of linear layers"), ("mischief.pth", "safely"), ("./absent.pth", "no file")]
    for head, what in [*cases, ("org/absent/head.pth", "cannot get head")]:
        with pytest.raises(UserError, match=what):
            score("aesthetic", samples([]), model=clip, head=head)
    assert not Path("opened").exists()
