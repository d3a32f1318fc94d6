import os
import subprocess
import sys
from typing import Any

import pytest
import segmentation_models_pytorch as smp
import torch

from underpaint.segmenter.architecture import Architecture, ArchitectureError, build, least_side


def test_a_net_answers_logits_at_the_size_of_its_input() -> None:
    module = build(Architecture(classes=("sky", "sea", "tree"))).eval()
    with torch.inference_mode():
        assert module(torch.zeros(2, 3, 64, 96)).shape == (2, 3, 64, 96)


@pytest.mark.parametrize("name", [*smp.MODEL_ARCHITECTURES_MAPPING, "Hypercolumn"])
def test_every_architecture_takes_the_default_encoder_and_images_of_its_least_side(name: str) -> None:
    thin = {"decoder_readout": "ignore", "decoder_fusion_channels": 8, "decoder_intermediate_channels": [8, 8, 8, 8]}
    options = thin if name == "dpt" else {}
    module = build(Architecture(name=name, classes=("sky", "sea"), channels=4, options=options)).eval()
    side = least_side(name)
    with torch.inference_mode():
        assert module(torch.zeros(1, 4, side, side + 64)).shape == (1, 2, side, side + 64)


def test_options_shape_the_net() -> None:
    small, default = (
        build(Architecture(classes=("sky",), options=options)) for options in ({"decoder_pyramid_channels": 32}, {})
    )
    sizes = [sum(each.numel() for each in module.get_submodule("decoder").parameters()) for module in (small, default)]
    assert sizes[0] < sizes[1] / 2


def test_a_vision_transformer_goes_with_dpt() -> None:
    options = {"dynamic_img_size": True, "decoder_fusion_channels": 16, "decoder_intermediate_channels": [8, 8, 8, 8]}
    module = build(Architecture(name="DPT", encoder="tu-vit_tiny_patch16_224", classes=("sky",), options=options))
    with torch.inference_mode():
        assert module.eval()(torch.zeros(1, 3, 96, 64)).shape == (1, 1, 96, 64)


def test_building_draws_the_same_random_numbers_as_the_net_alone() -> None:
    torch.manual_seed(0)
    module = build(Architecture(classes=("sky",)))
    drawn = torch.rand(1)
    torch.manual_seed(0)
    plain = smp.create_model("FPN", "tu-tf_efficientnet_lite0", encoder_weights=None, classes=1)
    assert torch.equal(torch.rand(1), drawn)
    assert module.training
    assert all(torch.equal(value, plain.state_dict()[name]) for name, value in module.state_dict().items())


@pytest.mark.parametrize(
    "encoder",
    [
        "mit_b0",
        "mobileone_s0",
        "resnext101_32x16d",
        "tu-mobileone_s0",
        "tu-convnextv2_atto",
        "tu-res2net50d",
        "tu-resnet18.fb_swsl_ig1b_ft_in1k",
    ],
)
def test_encoders_with_other_terms_need_a_yes(encoder: str) -> None:
    with pytest.raises(ArchitectureError, match=r"tf_efficientnet_lite0.*UNDERPAINT_ALLOW_NONCOMMERCIAL"):
        build(Architecture(encoder=encoder, classes=("sky",)))


def test_a_yes_is_enough() -> None:
    assert build(Architecture(encoder="mobileone_s0", classes=("sky",)), allow_noncommercial=True)


@pytest.mark.parametrize("encoder", ["tu-resnet18", "tu-resnet18.tv_in1k", "resnet18"])
def test_permissive_encoders_need_none(encoder: str) -> None:
    assert build(Architecture(encoder=encoder, classes=("sky",)))


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
        (Architecture(classes=("sky",), channels=0), "at least one channel, not 0"),
        (Architecture(encoder="tu-resnet18.nope", classes=("sky",)), "no weights 'resnet18.nope': it has resnet18"),
        (
            Architecture(name="DeepLabV3", encoder="densenet121", classes=("sky",)),
            "dilated mode.*takes tu-tf_eff",
        ),
        (Architecture(encoder="tu-vit_tiny_patch16_224", classes=("sky",)), "go with DPT"),
        (Architecture(name="DPT", encoder="tu-vit_tiny_patch16_224", classes=("sky",)), "option dynamic_img_size"),
        (Architecture(name="DPT", encoder="resnet18", classes=("sky",)), "cannot be built with encoder 'resnet18'"),
    ],
)
def test_what_cannot_be_built_says_what_can(architecture: Architecture, near: str) -> None:
    with pytest.raises(ArchitectureError, match=near):
        build(architecture)


@pytest.mark.parametrize(
    ("options", "near"),
    [
        ({"decoder_pyramid_chanels": 32}, "did you mean decoder_pyramid_channels"),
        ({"encoder_weights": "imagenet"}, "no option 'encoder_weights'"),
        ({"checkpoint_path": "weights.pth"}, "no option 'checkpoint_path'"),
        ({"upsampling": 2}, r"shape \(1, 1, 32, 48\)"),
        ({"decoder_merge_policy": "multiply"}, "multiply"),
    ],
)
def test_options_that_will_not_do_are_named(options: dict[str, Any], near: str) -> None:
    with pytest.raises(ArchitectureError, match=near):
        build(Architecture(classes=("sky",), options=options))


def test_torchvision_can_be_imported_after_the_segmenter() -> None:
    """In a process of its own, for the import happens once a process."""
    program = "import underpaint.segmenter, torchvision.transforms.v2, torchvision.ops; print('imported')"
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    child = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=False
    )
    assert child.stdout == "imported\n", child.stderr
