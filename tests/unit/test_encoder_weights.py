import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import segmentation_models_pytorch as smp
import timm
import torch
from huggingface_hub import constants
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor, nn

from conftest import DATA
from underpaint.segmenter.architecture import Architecture, build
from underpaint.segmenter.encoder_weights import _PACKAGED, EncoderWeightsError, _match_by_order, load_imagenet

LITE0 = "tu-tf_efficientnet_lite0"

# Photographs, and the ImageNet class that each shows, found by looking at them.
PHOTOGRAPHS = {
    "train_img/000000138805": 977,  # sandbar
    "train_img/000000184101": 766,  # rotisserie
    "train_img/000000197384": 867,  # trailer truck
    "train_img/000000284465": 805,  # soccer ball
    "train_img/000000580986": 752,  # tennis racket
    "val_img/000000000785": 795,  # ski
    "val_img/000000001490": 693,  # paddle
    "val_img/000000001503": 527,  # desktop computer
    "val_img/000000001818": 340,  # zebra
}


def encoder_of(name: str, channels: int = 3, architecture: str = "FPN", **options: Any) -> nn.Module:
    described = Architecture(name=architecture, encoder=name, classes=("sky",), channels=channels, options=options)
    return build(described).get_submodule("encoder")


def features(encoder: nn.Module, images: Tensor) -> list[Tensor]:
    with torch.inference_mode():
        answer: list[Tensor] = encoder.eval()(images)
    return answer


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of an empty cache of Hugging Face, and a hub that refuses connections."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    return tmp_path


def cache(hub: Path, repository: str, weights: dict[str, Tensor], revision: str, config: str = "{}") -> None:
    """Lay files into the cache as a download would."""
    folder = hub / f"models--{repository.replace('/', '--')}"
    snapshot = folder / "snapshots" / revision
    snapshot.mkdir(parents=True)
    (folder / "refs").mkdir()
    (folder / "refs" / "main").write_text(revision)
    (snapshot / "config.json").write_text(config)
    save_file({name: value.contiguous() for name, value in weights.items()}, snapshot / "model.safetensors")


@pytest.mark.parametrize("name", _PACKAGED)
def test_packaged_weights_set_every_parameter_and_buffer(name: str) -> None:
    encoder = encoder_of(name)
    before = features(encoder, torch.ones(1, 3, 64, 64))[-1]
    with torch.no_grad():
        for value in encoder.state_dict().values():
            value.fill_(77)
    pretraining = load_imagenet(encoder, name)
    assert (pretraining.mean, pretraining.std) == ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
    assert "Apache-2.0" in pretraining.licences
    untouched = [key for key, value in encoder.state_dict().items() if value.numel() > 1 and (value == 77).all()]
    assert untouched == []
    assert not torch.allclose(features(encoder, torch.ones(1, 3, 64, 64))[-1], before)


@pytest.mark.parametrize("name", _PACKAGED)
def test_the_weights_recognise_what_photographs_show(name: str) -> None:
    """With its own classifier behind it, an encoder finds among 1000 classes what a person sees."""
    folder = DATA / "cocostuff-sample"
    if not folder.exists():
        pytest.skip("no photographs: shared data is absent")
    classifier = timm.create_model(name.removeprefix("tu-")).eval()
    source = torch.load(_PACKAGED[name](), weights_only=True)
    classifier.load_state_dict(_match_by_order(classifier.state_dict(), source))
    encoder = encoder_of(name)
    load_imagenet(encoder, name)
    ours = {key.removeprefix("model."): value for key, value in encoder.state_dict().items()}
    assert all(torch.equal(value, classifier.state_dict()[key]) for key, value in ours.items())

    side = timm.get_pretrained_cfg(name.removeprefix("tu-")).input_size[1]  # type: ignore[union-attr]
    images = np.stack([_central(folder / f"{photograph}.jpg", side) for photograph in PHOTOGRAPHS])
    with torch.inference_mode():
        odds = classifier(torch.from_numpy(images).permute(0, 3, 1, 2) / 127.5 - 1)
    shown = torch.tensor(list(PHOTOGRAPHS.values()))
    assert (odds.argmax(dim=1) == shown).float().mean() >= 0.8, "chance is 0.001"
    assert (odds.topk(5).indices == shown[:, None]).any(dim=1).all()


def _central(path: Path, side: int) -> np.ndarray[Any, np.dtype[np.uint8]]:
    with Image.open(path) as file:
        width, height = file.size
        edge = min(width, height)
        left, top = (width - edge) // 2, (height - edge) // 2
        box = (left, top, left + edge, top + edge)
        return np.array(file.convert("RGB").resize((side, side), Image.Resampling.BICUBIC, box))


def test_the_weights_recognise_what_paintings_show() -> None:
    """With its own classifier behind it, the encoder gives paintings ImageNet's outdoor classes."""
    paths = sorted((DATA / "monet/val/images").glob("*.jpg"))
    if not paths:
        pytest.skip("no paintings: shared data is absent")
    classifier = timm.create_model("tf_efficientnet_lite0").eval()
    source = torch.load(_PACKAGED[LITE0](), weights_only=True)
    classifier.load_state_dict(_match_by_order(classifier.state_dict(), source))
    images = np.stack([np.array(Image.open(path).resize((224, 224))) for path in paths])
    with torch.inference_mode():
        odds = classifier(torch.from_numpy(images).permute(0, 3, 1, 2) / 127.5 - 1).softmax(dim=1)
    outdoors = list(range(970, 981))  # alp, cliff, geyser, lakeside, promontory, sandbar, seashore, valley, volcano
    boats_and_shores = [460, 536, 780, 814, 914]  # breakwater, dock, schooner, speedboat, yawl
    places = odds[:, outdoors + boats_and_shores].sum(dim=1)
    assert places.mean() > 0.15, "chance is 0.016"
    assert odds.max(dim=1).values.median() > 0.2, "chance is 0.001"


def test_grey_images_are_seen_as_rgb_ones_of_three_equal_channels() -> None:
    rgb, grey = encoder_of(LITE0), encoder_of(LITE0, channels=1)
    load_imagenet(rgb, LITE0)
    pretraining = load_imagenet(grey, LITE0, channels=1)
    assert (pretraining.mean, pretraining.std) == ((0.5,), (0.5,))
    image = torch.randn(1, 1, 64, 64)
    for ours, theirs in zip(features(grey, image)[1:], features(rgb, image.expand(1, 3, 64, 64))[1:], strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-4)


def test_further_channels_repeat_the_weights() -> None:
    six = encoder_of(LITE0, channels=6)
    assert load_imagenet(six, LITE0, channels=6).std == (0.5,) * 6
    rgb = encoder_of(LITE0)
    load_imagenet(rgb, LITE0)
    image = torch.randn(1, 3, 64, 64)
    torch.testing.assert_close(
        features(six, image.repeat(1, 2, 1, 1))[-1], features(rgb, image)[-1], rtol=1e-3, atol=1e-4
    )


def test_shallow_encoders_take_the_first_of_the_weights() -> None:
    shallow, deep = encoder_of(LITE0, architecture="PSPNet"), encoder_of(LITE0)
    for encoder in (shallow, deep):
        load_imagenet(encoder, LITE0)
    image = torch.randn(1, 3, 64, 64)
    assert torch.equal(features(shallow, image)[3], features(deep, image)[3])


@pytest.mark.parametrize(("channels", "options"), [(3, {}), (1, {"encoder_depth": 4, "decoder_channels": [8] * 4})])
def test_weights_of_timm_come_from_the_cache(hub: Path, channels: int, options: dict[str, Any]) -> None:
    torch.manual_seed(1)
    source: Any = timm.create_model("resnet18").eval()
    cache(hub, "timm/resnet18.a1_in1k", source.state_dict(), "0" * 40)
    encoder = encoder_of("tu-resnet18", channels, "Unet", **options)
    pretraining = load_imagenet(encoder, "tu-resnet18", channels)
    image = torch.randn(1, 1, 64, 64)
    with torch.inference_mode():
        whole = source.forward_intermediates(image.expand(1, 3, 64, 64), intermediates_only=True)
    ours = features(encoder, image.expand(1, channels, 64, 64))
    torch.testing.assert_close(ours[-1], whole[len(ours) - 2], rtol=1e-3, atol=1e-4)
    assert "timm/resnet18.a1_in1k (apache-2.0)" in pretraining.licences
    expected = {3: (0.485, 0.456, 0.406), 1: ((0.485 + 0.456 + 0.406) / 3,)}[channels]
    assert pretraining.mean == pytest.approx(expected)


def test_weights_of_a_vision_transformer_come_from_the_cache(hub: Path) -> None:
    name = "vit_tiny_patch16_224"
    weights = timm.get_pretrained_cfg(name)
    assert weights is not None
    source = timm.create_model(name).state_dict()
    cache(hub, str(weights.hf_hub_id), source, "0" * 40)
    encoder = encoder_of(f"tu-{name}", architecture="DPT", dynamic_img_size=True)
    load_imagenet(encoder, f"tu-{name}")
    assert torch.equal(encoder.state_dict()["model.blocks.11.mlp.fc2.weight"], source["blocks.11.mlp.fc2.weight"])


@pytest.mark.parametrize("channels", [3, 1])
def test_weights_of_smp_come_from_the_cache(hub: Path, channels: int) -> None:
    source = smp.encoders.get_encoder("resnet18", weights=None).eval()
    settings = SimpleNamespace(**smp.encoders.encoders["resnet18"]["pretrained_settings"]["imagenet"])
    config = '{"mean": [0.4, 0.5, 0.6], "std": [0.2, 0.2, 0.2]}'
    cache(hub, settings.repo_id, source.state_dict(), settings.revision, config)
    encoder = encoder_of("resnet18", channels)
    pretraining = load_imagenet(encoder, "resnet18", channels)
    image = torch.randn(1, 1, 64, 64)
    ours, theirs = (features(each, image.expand(1, size, 64, 64)) for each, size in ((encoder, channels), (source, 3)))
    torch.testing.assert_close(ours[-1], theirs[-1], rtol=1e-3, atol=1e-4)
    assert pretraining.mean == pytest.approx({3: (0.4, 0.5, 0.6), 1: (0.5,)}[channels])
    assert settings.repo_id in pretraining.licences


def test_cached_weights_that_do_not_fit_are_refused(hub: Path) -> None:
    cache(hub, "timm/resnet18.a1_in1k", timm.create_model("resnet26").state_dict(), "0" * 40)
    with pytest.raises(EncoderWeightsError, match="no ImageNet weights for encoder 'tu-resnet18'"):
        load_imagenet(encoder_of("tu-resnet18"), "tu-resnet18")


@pytest.mark.parametrize("name", ["resnet18", "tu-resnet18"])
def test_without_the_hub_the_alternatives_are_named_at_once(hub: Path, name: str) -> None:
    encoder = encoder_of(name)
    started = time.monotonic()
    with pytest.raises(EncoderWeightsError, match=rf"no ImageNet weights for encoder '{name}'.*not reachable.*{LITE0}"):
        load_imagenet(encoder, name)
    assert time.monotonic() - started < 8, "the hub's client would try for a minute"


def test_a_model_that_nobody_trained_has_no_weights(hub: Path) -> None:
    name = next(name for name in timm.list_models("resnet*") if not timm.is_model_pretrained(name))
    with pytest.raises(EncoderWeightsError, match="timm has none"):
        load_imagenet(nn.Identity(), f"tu-{name}")


def test_weights_of_another_shape_are_refused() -> None:
    with pytest.raises(EncoderWeightsError, match="do not fit the encoder at a"):
        _match_by_order({"a": torch.zeros(2)}, {"b": torch.zeros(3)})
    with pytest.raises(EncoderWeightsError, match="do not fit the encoder at c"):
        _match_by_order({"a": torch.zeros(2), "c": torch.zeros(1)}, {"b": torch.zeros(2)})
