"""Strategies of transfer train just the parameters they name."""

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import nn

from underpaint.checkpoints.checkpoint import Checkpoint
from underpaint.segmenter.architecture import Architecture, build
from underpaint.segmenter.encoder_weights import load_imagenet
from underpaint_workers.dataset import Item
from underpaint_workers.strategies import (
    STRATEGIES,
    Strategy,
    add_layer,
    choose,
    fold_layer,
    last_stage,
    select,
    set_training,
)
from underpaint_workers.train_settings import TrainSettings
from underpaint_workers.training import train

CLASSES = ("sky", "water", "tree")
LITE = "tu-tf_efficientnet_lite0"


def _net(name: str = "FPN", encoder: str = LITE) -> nn.Module:
    torch.manual_seed(0)
    if name == "DPT":  # takes vision transformers only
        options = {"dynamic_img_size": True}
        return build(Architecture(name=name, encoder="tu-vit_tiny_patch16_224", classes=CLASSES, options=options))
    return build(Architecture(name=name, encoder=encoder, classes=CLASSES))


def _items(count: int = 2) -> list[Item]:
    random = np.random.default_rng(0)
    images = random.integers(0, 256, (count, 64, 64, 3), np.uint8)
    return [(image, random.integers(0, len(CLASSES), (64, 64), np.uint8)) for image in images]


def _learning(module: nn.Module) -> set[str]:
    return {name for name, parameter in module.named_parameters() if parameter.requires_grad}


@pytest.mark.parametrize(
    ("strategy", "prefixes"),
    [
        ("final", ("segmentation_head.0.",)),
        ("head", ("segmentation_head.", "decoder.")),
        ("stage4", ("segmentation_head.", "decoder.", "encoder.model.blocks.5.", "encoder.model.blocks.6.")),
        ("all", ("",)),
    ],
)
@pytest.mark.parametrize("name", ["FPN", "Unet", "Hypercolumn"])
def test_each_names_its_parameters(name: str, strategy: Strategy, prefixes: tuple[str, ...]) -> None:
    module = _net(name)
    select(module, strategy)
    expected = {each for each, _ in module.named_parameters() if each.startswith(prefixes)}
    assert _learning(module) == expected


def test_extra_names_the_new_layer_alone() -> None:
    module = _net()
    add_layer(module, [(0,), ()])
    select(module, "extra")
    assert _learning(module) == {"segmentation_head.0.1.weight", "segmentation_head.0.1.bias"}


@pytest.mark.parametrize(
    ("encoder", "prefixes"),
    [("resnet18", ("layer4.",)), (LITE, ("model.blocks.5.", "model.blocks.6.")), ("tu-regnetx_002", ("model.s4.",))],
)
def test_the_last_stage_is_what_only_the_deepest_features_need(encoder: str, prefixes: tuple[str, ...]) -> None:
    module = _net(encoder=encoder).get_submodule("encoder")
    module.train()
    found = {id(parameter) for parameter in last_stage(module)}
    assert {name for name, each in module.named_parameters() if id(each) in found} == {
        name for name, _ in module.named_parameters() if name.startswith(prefixes)
    }
    assert all(each.training for each in module.modules())
    assert all(parameter.requires_grad for parameter in module.parameters())


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("name", ["FPN", "Unet", "Hypercolumn"])
def test_a_training_step_changes_those_and_no_others(
    name: str, strategy: Strategy, make_checkpoint: Callable[..., Checkpoint]
) -> None:
    parent = Checkpoint.from_module(_net(name), _card(make_checkpoint, name))
    before = parent.module().state_dict()
    settings = TrainSettings(strategy=strategy, architecture=name, min_steps=2, epochs=1, image_size=64, device="cpu")
    after = train(_items(), CLASSES, parent, settings).module().state_dict()
    changed = {each for each in before if not torch.equal(before[each], after[each])}

    reference = _net(name)
    select(reference, "final" if strategy == "extra" else strategy)  # the new layer is folded into the last one
    allowed = _learning(reference)
    statistics = {each for each, _ in reference.named_buffers()}
    assert changed - statistics <= allowed
    assert len(changed & allowed) > 0.9 * len(allowed)
    assert not any(each.startswith("encoder.") for each in changed & statistics), "the encoder's BatchNorm moved"
    if strategy in ("final", "extra"):
        assert not changed & statistics


def test_frozen_parts_are_in_evaluation_mode() -> None:
    module = _net("Unet")
    select(module, "final")
    set_training(module)
    assert not any(each.training for each in module.modules() if isinstance(each, nn.BatchNorm2d))
    select(module, "all")
    set_training(module)
    norms = {name: each.training for name, each in module.named_modules() if isinstance(each, nn.BatchNorm2d)}
    assert all(training == (not name.startswith("encoder.")) for name, training in norms.items())


@torch.no_grad()
@pytest.mark.parametrize("name", ["FPN", "Unet", "Hypercolumn", "DPT"])
def test_a_folded_layer_is_the_same_net(name: str) -> None:
    module = _net(name).eval()
    images = torch.rand(1, 3, 64, 64)
    add_layer(module, [(2,), (), (0, 1), (1,)])
    stacked = module(images)
    fold_layer(module)
    assert stacked.shape == (1, 4, 64, 64)
    torch.testing.assert_close(module(images), stacked, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_a_new_layer_starts_from_its_sources() -> None:
    module = _net().eval()
    images = torch.rand(1, 3, 64, 64)
    before = module(images)
    add_layer(module, [(2,), (0, 1)])
    after = module(images)
    torch.testing.assert_close(after[:, 0], before[:, 2], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(after[:, 1], before[:, :2].mean(dim=1) + math.log(2), rtol=1e-4, atol=1e-5)


def test_the_last_layer_from_imagenet_lies_on_the_encoders_own_features() -> None:
    settings = TrainSettings(strategy="final", min_steps=2, epochs=1, image_size=64, device="cpu")
    made = train(_items(), CLASSES, None, settings)
    assert (made.card.architecture, made.card.options) == ("Hypercolumn", {"decoder_channels": 0})
    encoder = made.module().get_submodule("encoder")
    untouched = build(Architecture(name="Hypercolumn", encoder=LITE, classes=CLASSES)).get_submodule("encoder")
    load_imagenet(untouched, LITE)
    assert all(torch.equal(value, encoder.state_dict()[name]) for name, value in untouched.state_dict().items())
    again = train(_items(), CLASSES, made, settings)
    assert again.card.parent == made.version


def test_extra_needs_a_parent() -> None:
    with pytest.raises(ValueError, match="--strategy final"):
        train(_items(), CLASSES, None, TrainSettings(strategy="extra", image_size=64, device="cpu"))


def _card(make_checkpoint: Callable[..., Checkpoint], name: str):  # type: ignore[no-untyped-def]
    from dataclasses import replace

    return replace(make_checkpoint(CLASSES, "sky").card, architecture=name)


@pytest.mark.parametrize(
    ("paintings", "seen", "expected"), [(1, 1.0, "head"), (4, 1.0, "head"), (5, 1.0, "all"), (40, 0.5, "head")]
)
def test_auto_lets_all_learn_from_enough_paintings_of_enough_classes(
    paintings: int, seen: float, expected: str
) -> None:
    assert choose("auto", paintings, parent=True, seen=seen) == expected
    assert choose("stage4", paintings, parent=True, seen=seen) == "stage4"


@pytest.mark.parametrize(("paintings", "expected"), [(1, "stage4"), (14, "stage4"), (15, "all"), (40, "all")])
def test_auto_lets_all_learn_from_many_paintings_without_a_parent(paintings: int, expected: str) -> None:
    assert choose("auto", paintings, parent=False) == expected


def test_auto_counts_the_parents_classes_among_the_labels(make_checkpoint: Callable[..., Checkpoint]) -> None:
    parent = Checkpoint.from_module(_net(), _card(make_checkpoint, "FPN"))
    items = _items(5)
    settings = TrainSettings(architecture="FPN", min_steps=1, epochs=1, image_size=64, device="cpu")
    assert train(items, CLASSES, parent, settings).card.settings["strategy"] == "all"
    one_class = [(image, np.zeros_like(ids)) for image, ids in items]
    assert train(one_class, CLASSES, parent, settings).card.settings["strategy"] == "head"
    assert train(one_class, CLASSES, None, settings).card.settings["strategy"] == "stage4"


def test_a_net_that_learned_from_few_paintings_goes_half_way_back_to_its_parent(
    make_checkpoint: Callable[..., Checkpoint], monkeypatch: pytest.MonkeyPatch
) -> None:
    parent = Checkpoint.from_module(_net(), _card(make_checkpoint, "FPN"))
    settings = TrainSettings(strategy="all", architecture="FPN", min_steps=3, epochs=1, image_size=64, device="cpu")

    def learn(few: int, paintings: int) -> dict[str, torch.Tensor]:
        monkeypatch.setattr("underpaint_workers.training.FEW", few)
        return train(_items(paintings), (*CLASSES[:2], "volcano"), parent, settings).module().state_dict()

    start, far, half = parent.module().state_dict(), learn(2, 2), learn(3, 2)
    assert far.keys() == half.keys()
    for name, learned in far.items():
        if name.startswith("segmentation_head."):
            torch.testing.assert_close(half[name][:2], start[name][:2].lerp(learned[:2], 0.5))
            assert torch.equal(half[name][2], learned[2]), "what a new class learned is all that it has"
        elif learned.is_floating_point():
            torch.testing.assert_close(half[name], start[name].lerp(learned, 0.5))
    assert any(not torch.equal(half[name], far[name]) for name in far if not name.startswith("segmentation_head."))
