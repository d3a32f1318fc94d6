import pytest

from underpaint_workers.evaluation import Metrics
from underpaint_workers.gate import ENOUGH_PAINTINGS, MARGIN, decide


def scored(miou: float, paintings: int = ENOUGH_PAINTINGS) -> Metrics:
    return Metrics(miou=miou, accuracy=0.9, per_class={}, confusion=[], paintings=paintings)


@pytest.mark.parametrize("champion", [None, scored(0.9)])
def test_without_validation_paintings_it_is_promoted_untested(champion: Metrics | None) -> None:
    for challenger in (None, scored(0.0, paintings=0)):
        decision = decide(champion, challenger, new_classes=False)
        assert decision.promote
        assert "Promoted untested" in decision.reason


def test_the_first_one_is_promoted() -> None:
    decision = decide(None, scored(0.1234), new_classes=False)
    assert decision.promote
    assert "first champion" in decision.reason
    assert "mIoU 0.123 on 5 validation paintings" in decision.reason


def test_new_classes_are_worth_a_fall() -> None:
    decision = decide(scored(0.6), scored(0.2), new_classes=True)
    assert decision.promote
    assert "some of the project's classes" in decision.reason
    assert "0.200" in decision.reason
    assert "0.600" in decision.reason


@pytest.mark.parametrize(("challenger", "promote"), [(0.5, True), (0.51, True), (0.4999, False), (float("nan"), False)])
def test_with_enough_paintings_it_must_not_fall(challenger: float, promote: bool) -> None:
    decision = decide(scored(0.5), scored(challenger), new_classes=False)
    assert decision.promote == promote
    assert decision.reason.startswith("Promoted" if promote else "Not promoted")


@pytest.mark.parametrize(
    ("challenger", "promote"), [(0.5, True), (0.5 - MARGIN * 0.9, True), (0.5 - MARGIN * 1.1, False)]
)
def test_with_few_paintings_a_small_fall_is_let_pass(challenger: float, promote: bool) -> None:
    decision = decide(scored(0.5, 1), scored(challenger, 1), new_classes=False)
    assert decision.promote == promote
    assert f"fewer than {ENOUGH_PAINTINGS} validation paintings" in decision.reason
    assert "on 1 validation painting," in decision.reason
