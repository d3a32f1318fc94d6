import json
from dataclasses import replace
from importlib.metadata import version

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from underpaint.checkpoints import Card, CardError, Checkpoint
from underpaint.segmenter.architecture import Architecture, build

CARD = Card(
    architecture="FPN",
    encoder="tu-tf_efficientnet_lite0",
    classes=("sky", "sea"),
    image_size=64,
    mean=(0.5, 0.5, 0.5),
    std=(0.5, 0.5, 0.5),
)

_names = st.text(min_size=1)
_numbers = st.integers(-(2**53), 2**53) | st.floats(allow_nan=False, allow_infinity=False)
_json = st.recursive(
    st.none() | st.booleans() | _numbers | _names,
    lambda values: st.lists(values, max_size=3) | st.dictionaries(_names, values, max_size=3),
    max_leaves=5,
)


@settings(deadline=None)
@given(
    classes=st.lists(_names, max_size=4), metrics=st.dictionaries(_names, _json, max_size=3), parent=st.none() | _names
)
def test_a_card_survives_json(classes: list[str], metrics: dict[str, object], parent: str | None) -> None:
    card = replace(CARD, classes=tuple(classes), metrics=metrics, parent=parent)
    assert Card.from_json(card.to_json()) == card


def test_a_card_of_a_newer_format_names_its_writer_and_the_remedy() -> None:
    text = replace(CARD, format=3, underpaint="9.8.7").to_json()
    with pytest.raises(CardError, match=r"format 3, written by Underpaint 9\.8\.7.*pip install --upgrade"):
        Card.from_json(text)


OLD = (
    '{"architecture":"FPN","classes":["sky","sea"],"created":"2025-01-02T03:04:05+00:00","device":"cpu",'
    '"encoder":"tu-tf_efficientnet_lite0","format":1,"image_size":256,"licences":"Apache-2.0","mean":[0.5,0.5,0.5],'
    '"metrics":{"miou":0.5},"parent":null,"seconds":1.5,"settings":{"seed":0},"snapshot":"abc","std":[0.5,0.5,0.5],'
    '"underpaint":"0.1.0"}'
)


def test_a_card_of_the_first_format_is_read_and_keeps_its_version() -> None:
    card = Card.from_json(OLD)
    assert (card.channels, card.options, card.format) == (3, {}, 1)
    assert card.to_json() == OLD
    assert Checkpoint(card, b"weights").version == "ad68f686e544"
    assert Card.from_json(replace(card, metrics={}).to_json()).metrics == {}


def test_a_card_of_the_first_format_must_be_whole() -> None:
    with pytest.raises(CardError, match=r"lacks \['encoder'\] and has unknown \[\]"):
        Card.from_json(OLD.replace('"encoder":"tu-tf_efficientnet_lite0",', ""))
    with pytest.raises(CardError, match=r"lacks \['channels', 'options'\]"):
        Card.from_json(OLD.replace('"format":1', '"format":2'))


def test_a_card_whose_channels_differ_is_refused() -> None:
    for change in ({"channels": 1}, {"mean": [0.5]}, {"std": [0.5] * 4}):
        with pytest.raises(CardError, match=r"channels.*restore it from a backup"):
            Card.from_json(json.dumps(json.loads(CARD.to_json()) | change))


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"format": 1, "colour": "red"}', "\x00"])
def test_what_is_no_card_is_refused(text: str) -> None:
    with pytest.raises(CardError, match="restore it from a backup"):
        Card.from_json(text)


def test_not_a_number_never_gets_into_a_card() -> None:
    with pytest.raises(ValueError, match="JSON"):
        replace(CARD, metrics={"miou": float("nan")}).to_json()


def test_the_version_depends_on_the_weights_and_on_every_word_of_the_card() -> None:
    versions = {
        Checkpoint(CARD, b"weights").version,
        Checkpoint(CARD, b"weightz").version,
        Checkpoint(replace(CARD, snapshot="other"), b"weights").version,
        Checkpoint(replace(CARD, metrics={"miou": 0.5}), b"weights").version,
    }
    assert len(versions) == 4
    assert Checkpoint(replace(CARD), b"weights").version == Checkpoint(CARD, b"weights").version
    assert all(len(each) == 12 and int(each, 16) >= 0 for each in versions)


def test_a_net_comes_back_as_it_was() -> None:
    torch.manual_seed(0)
    module = build(Architecture(name="FPN", encoder="resnet18", classes=CARD.classes)).eval()
    checkpoint = Checkpoint.from_module(module, replace(CARD, encoder="resnet18"))
    again = checkpoint.module()
    assert not again.training
    image = torch.rand(1, 3, 64, 64)
    with torch.inference_mode():
        assert torch.equal(module(image), again(image))
    strided = module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    assert Checkpoint.from_module(strided, checkpoint.card).weights == checkpoint.weights


def test_half_takes_half_the_room_and_comes_back_as_float32() -> None:
    torch.manual_seed(0)
    module = build(Architecture(encoder="resnet18", classes=CARD.classes)).eval()
    card = replace(CARD, encoder="resnet18")
    whole, half = Checkpoint.from_module(module, card), Checkpoint.from_module(module, card, half=True)
    assert len(half.weights) < 0.51 * len(whole.weights)
    assert half.version != whole.version
    again = half.module()
    assert {value.dtype for value in again.state_dict().values()} == {torch.float32, torch.int64}
    image = torch.rand(1, 3, 64, 64)
    with torch.inference_mode():
        torch.testing.assert_close(again(image), module(image), rtol=0, atol=0.02)
    # What was half precision once loses nothing more.
    assert Checkpoint.from_module(again, card, half=True).weights == half.weights


def test_weights_beyond_half_precision_are_not_halved() -> None:
    module = build(Architecture(encoder="resnet18", classes=CARD.classes))
    with torch.no_grad():
        module.state_dict()["encoder.bn1.running_var"].fill_(1e6)
    card = replace(CARD, encoder="resnet18")
    with pytest.raises(ValueError, match=r"encoder\.bn1\.running_var has values beyond.*half=False"):
        Checkpoint.from_module(module, card, half=True)
    assert Checkpoint.from_module(module, card)


def test_channels_and_options_come_back() -> None:
    options = {"decoder_dropout": 0.5}
    architecture = Architecture(name="Hypercolumn", encoder="resnet18", classes=("sky",), channels=2, options=options)
    card = Card(
        architecture="Hypercolumn",
        encoder="resnet18",
        classes=("sky",),
        image_size=64,
        mean=(0.0, 100.0),
        std=(1.0, 10.0),
        channels=2,
        options=options,
    )
    made = Checkpoint.from_module(build(architecture), card)
    module = Checkpoint(Card.from_json(made.card.to_json()), made.weights).module()
    assert module.get_submodule("decoder.1").extra_repr().startswith("p=0.5")
    with torch.inference_mode():
        assert module(torch.zeros(1, 2, 32, 32)).shape == (1, 1, 32, 32)


def test_weights_that_do_not_fit_their_card_are_refused() -> None:
    module = build(Architecture(encoder="resnet18", classes=("sky",)))
    checkpoint = Checkpoint.from_module(module, replace(CARD, encoder="resnet18"))
    with pytest.raises(ValueError, match="do not fit FPN with resnet18"):
        checkpoint.module()
    with pytest.raises(ValueError, match="do not fit"):
        Checkpoint(replace(CARD, encoder="resnet18"), b"\x80\x04pickle").module()


def test_a_card_says_which_underpaint_wrote_it() -> None:
    try:
        assert CARD.underpaint == version("underpaint")
    except ModuleNotFoundError:
        assert CARD.underpaint == "unknown"
