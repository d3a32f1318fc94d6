import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from underpaint_workers.evaluation import metrics_of
from underpaint_workers.gate import CLASS_MARGIN, DRAWS, ENOUGH_PAINTINGS, MARGIN, Confusions, _bootstrap, decide

CLASSES = ("sky", "water", "boat")


def painted(*rights: tuple[float, ...], pixels: tuple[int, ...] = (10_000, 10_000, 0)) -> Confusions:
    """Confusions of paintings in which these shares (0–1) of each class's pixels are right, the rest are no class."""
    confusions = np.zeros((len(rights), len(CLASSES), len(CLASSES) + 1), np.int64)
    for painting, shares in zip(confusions, rights, strict=True):
        for index, share in enumerate(shares):
            right = round(share * pixels[index])
            painting[index, index], painting[index, -1] = right, pixels[index] - right
    return confusions


def even(miou: float, paintings: int = ENOUGH_PAINTINGS) -> Confusions:
    return painted(*[(miou, miou)] * paintings)


@pytest.mark.parametrize("champion", [None, even(0.9)])
def test_without_validation_paintings_it_is_promoted_untested(champion: Confusions | None) -> None:
    for challenger in (None, even(0.0, paintings=0)):
        decision = decide(champion, challenger, CLASSES)
        assert decision.promote
        assert "Promoted untested" in decision.reason
        assert (decision.gain, decision.interval) == (None, None)


def test_the_first_one_is_promoted() -> None:
    decision = decide(None, even(0.1234), CLASSES)
    assert decision.promote
    assert "first champion" in decision.reason
    assert "mIoU 0.123 on 5 validation paintings" in decision.reason


def test_a_gain_that_all_paintings_show_is_credible_however_small() -> None:
    serving = painted((0.1, 0.2), (0.9, 0.8), (0.5, 0.5), (0.3, 0.9), (0.7, 0.1))
    better = painted((0.12, 0.22), (0.92, 0.82), (0.52, 0.52), (0.32, 0.92), (0.72, 0.12))
    decision = decide(serving, better, CLASSES)
    assert decision.promote
    assert "a credible gain of 0.020 (80% interval +0.020 to +0.020)" in decision.reason
    assert decision.gain == pytest.approx(0.02)
    back = decide(better, serving, CLASSES)
    assert not back.promote
    assert "a credible fall of 0.020" in back.reason
    assert back.falls == pytest.approx({"sky": 0.02, "water": 0.02})


def test_a_gain_that_one_painting_makes_may_be_chance() -> None:
    serving = painted(*[(0.5, 0.5)] * 6)
    lucky = painted((0.9, 0.9), *[(0.48, 0.48)] * 5)
    decision = decide(serving, lucky, CLASSES)
    assert not decision.promote
    assert decision.gain == pytest.approx(0.05)
    assert "a gain of 0.050 that may be chance" in decision.reason
    assert decision.interval is not None
    assert decision.interval[0] < 0 < decision.interval[1]
    unlucky = decide(lucky, serving, CLASSES)
    assert not unlucky.promote
    assert "a fall of 0.050 that may be chance" in unlucky.reason


def test_what_does_not_differ_is_no_gain() -> None:
    decision = decide(even(0.5), even(0.5), CLASSES)
    assert not decision.promote
    assert "no gain" in decision.reason


def test_new_classes_are_worth_a_fall_and_are_named() -> None:
    decision = decide(even(0.6), even(0.55), CLASSES, new_classes=["boat", "bridge"])
    assert decision.promote
    assert "cannot name boat, bridge" in decision.reason
    assert "0.550" in decision.reason
    assert "0.600" in decision.reason


@pytest.mark.parametrize("new_classes", [(), ("boat",)])
def test_a_class_that_falls_too_far_is_refused_whatever_the_others_gain(new_classes: tuple[str, ...]) -> None:
    serving = painted(*[(0.2, 0.7)] * 6)
    worse_at_water = painted(*[(0.9, 0.5)] * 6)
    decision = decide(serving, worse_at_water, CLASSES, new_classes=new_classes)
    assert not decision.promote
    assert "water falls by 0.200, and 0.1 is the most that passes" in decision.reason
    assert "sky" not in decision.reason
    assert decision.falls == pytest.approx({"water": 0.2})
    assert decide(serving, worse_at_water, CLASSES, class_margin=0.21).promote


def test_a_fall_within_the_margin_passes() -> None:
    gain = decide(painted(*[(0.2, 0.7)] * 6), painted(*[(0.9, 0.7 - CLASS_MARGIN + 0.01)] * 6), CLASSES)
    assert gain.promote
    assert gain.falls == pytest.approx({"water": CLASS_MARGIN - 0.01})


@pytest.mark.parametrize(
    ("boats", "refused"),
    [([1000] * 6, True), ([30] * 6, False), ([3000, *[0] * 5], False)],
    ids=["enough pixels", "too few pixels", "in one painting only"],
)
def test_only_a_class_with_enough_pixels_counts(boats: list[int], refused: bool) -> None:
    def sailing(share: float, rest: float) -> Confusions:
        return np.concatenate([painted((rest, rest, share), pixels=(10_000, 10_000, number)) for number in boats])

    decision = decide(sailing(0.9, 0.3), sailing(0.5, 0.9), CLASSES)
    assert decision.promote != refused
    assert ("boat" in decision.falls) == refused


def test_a_class_that_one_painting_of_many_makes_fall_is_no_reason() -> None:
    serving = painted(*[(0.5, 0.5)] * 6)
    decision = decide(serving, painted((0.9, 0.0), *[(0.9, 0.51)] * 5), CLASSES, class_margin=0.05)
    assert decision.falls["water"] > 0.05
    assert decision.promote


@pytest.mark.parametrize(
    ("challenger", "promote"), [(0.5, True), (0.5 - MARGIN * 0.9, True), (0.5 - MARGIN * 1.1, False)]
)
def test_with_few_paintings_a_small_fall_is_let_pass_and_it_says_so(challenger: float, promote: bool) -> None:
    decision = decide(even(0.5, 1), even(challenger, 1), CLASSES)
    assert decision.promote == promote
    assert decision.reason.startswith("Promoted" if promote else "Not promoted")
    assert f"fewer than {ENOUGH_PAINTINGS} can't tell a gain from chance" in decision.reason
    assert "on 1 validation painting," in decision.reason
    assert decision.interval is None
    assert decide(even(0.5, 1), even(0.2, 1), CLASSES, new_classes=["boat"]).promote


@settings(deadline=None, max_examples=25)
@given(st.integers(0, 2**32), st.integers(ENOUGH_PAINTINGS, 12))
def test_the_bootstrap_agrees_with_its_definition(seed: int, paintings: int) -> None:
    random = np.random.default_rng(seed)
    serving, challenger = random.integers(0, 50, (2, paintings, 3, 4)) * random.integers(0, 2, (2, paintings, 3, 1))
    gains, _ = _bootstrap(serving, challenger, "abc")
    times = np.random.default_rng(list(b"abc")).multinomial(paintings, [1 / paintings] * paintings, DRAWS)
    for draw in range(0, DRAWS, 400):
        drawn = np.repeat(np.arange(paintings), times[draw])
        after, before = (metrics_of(each[drawn].sum(axis=0), CLASSES, 1).miou for each in (challenger, serving))
        assert gains[draw] == pytest.approx(after - before)


def test_equal_input_and_seed_decide_alike() -> None:
    random = np.random.default_rng(0)
    serving, challenger = random.integers(1, 1000, (2, 8, 3, 4))
    first, again, other = (decide(serving, challenger, CLASSES, seed=seed) for seed in ("a", "a", "b"))
    assert first == again
    assert other.gain == first.gain
    assert other.interval != first.interval
