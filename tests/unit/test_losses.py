import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional

from underpaint_workers.losses import Loss, class_shares, class_weights, lovasz_softmax, soft_dice


def maps(seed: int, classes: int = 4, unlabelled: float = 0.1) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(0, classes, (2, 16, 16), generator=generator)
    return torch.where(torch.rand(ids.shape, generator=generator) < unlabelled, 255, ids)


def sure_of(ids: Tensor, classes: int = 4) -> Tensor:
    """Probabilities 0 or 1, (N, C, H, W), of what `ids` say."""
    return functional.one_hot(ids.where(ids != 255, 0), classes).movedim(-1, 1).float()


def jaccards(predicted: Tensor, truth: Tensor) -> list[float]:
    """IoU of each class present, by counting."""
    labelled = truth != 255
    predicted, truth = predicted[labelled], truth[labelled]
    return [
        float(((predicted == c) & (truth == c)).sum() / ((predicted == c) | (truth == c)).sum())
        for c in set(truth.tolist())
    ]


EACH = {"cross-entropy": Loss(), "lovasz": Loss(lovasz=1.0), "dice": Loss(dice=1.0)}


@pytest.mark.parametrize("name", EACH)
def test_perfect_predictions_cost_nothing_and_wrong_ones_much(name: str) -> None:
    ids = maps(0)
    wrong = (ids.where(ids != 255, 0) + 1) % 4
    assert EACH[name](sure_of(ids) * 50, ids) < 1e-6
    assert EACH[name](sure_of(wrong) * 50, ids) > (50 if name == "lovasz" else 0.99)


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 10**6), st.integers(2, 5))
def test_lovasz_of_hard_predictions_is_one_minus_iou(seed: int, classes: int) -> None:
    predicted, truth = maps(seed, classes, unlabelled=0), maps(seed + 1, classes)
    expected = 1 - np.mean(jaccards(predicted, truth))
    assert float(lovasz_softmax(sure_of(predicted, classes), truth)) == pytest.approx(expected, abs=1e-5)


def test_lovasz_between_the_corners_is_the_hull_of_the_jaccard_loss() -> None:
    """By hand: one class on two pixels of three, errors 0.8, 0.5 (both missed in part) and 0.1 (added in part)."""
    probability = torch.tensor([0.2, 0.1, 0.5])
    truth = torch.tensor([[[0, 255, 0]]])
    only_class_0 = torch.stack([probability, 1 - probability])[None, :, None]
    assert float(lovasz_softmax(only_class_0, truth)) == pytest.approx(0.8 * 0.5 + 0.5 * 0.5)
    truth = torch.tensor([[[0, 1, 0]]])
    class_0 = 0.8 * 1 / 2 + 0.5 * 1 / 2 + 0.1 * 0  # Jaccard losses 1/2, 1, 1
    class_1 = 0.8 * 1 / 2 + 0.5 * (2 / 3 - 1 / 2) + 0.1 * 1 / 3  # Jaccard losses 1/2, 2/3, 1
    assert float(lovasz_softmax(only_class_0, truth)) == pytest.approx((class_0 + class_1) / 2)


def test_dice_of_hard_predictions_is_one_minus_dice() -> None:
    predicted, truth = maps(3, unlabelled=0), maps(4)
    expected = 1 - np.mean([2 * iou / (1 + iou) for iou in jaccards(predicted, truth)])
    assert float(soft_dice(sure_of(predicted), truth)) == pytest.approx(expected, abs=1e-5)


def test_cross_entropy_agrees_with_torch_where_nothing_is_smoothed() -> None:
    logits, ids, weight = torch.randn(2, 4, 16, 16), maps(5), torch.tensor([0.5, 1.0, 2.0, 4.0])
    expected = functional.cross_entropy(logits, ids, weight, ignore_index=255)
    assert Loss(weight)(logits, ids) == pytest.approx(expected)
    expected = functional.cross_entropy(logits, ids, ignore_index=255, label_smoothing=0.1)
    assert Loss(smoothing=0.1)(logits, ids) == pytest.approx(expected)


def test_smoothing_is_spread_evenly_whatever_classes_weigh() -> None:
    """The best prediction for a pixel is its smoothed label; torch's own would lean to the heavy class."""
    loss = Loss(torch.tensor([0.1, 1.0, 10.0]), smoothing=0.3)
    logits = torch.tensor([0.8, 0.1, 0.1]).log().view(1, 3, 1, 1).requires_grad_()
    loss(logits, torch.tensor([[[0]]])).backward()
    assert logits.grad is not None
    assert torch.allclose(logits.grad, torch.zeros_like(logits), atol=1e-6)


def test_the_sum_is_weighted() -> None:
    logits, ids = torch.randn(2, 4, 16, 16), maps(6)
    plain = float(Loss()(logits, ids))
    half = logits[..., ::2, ::2].softmax(1)
    expected = (
        plain + 0.5 * float(lovasz_softmax(half, ids[..., ::2, ::2])) + 2 * float(soft_dice(logits.softmax(1), ids))
    )
    assert float(Loss(lovasz=0.5, dice=2.0)(logits, ids.byte())) == pytest.approx(expected, rel=1e-5)


def test_half_precision_is_summed_in_full() -> None:
    logits, ids = torch.randn(2, 4, 16, 16), maps(7)
    loss = Loss(lovasz=1.0, dice=1.0)
    assert loss(logits.bfloat16(), ids).dtype == torch.float32
    assert float(loss(logits.bfloat16(), ids)) == pytest.approx(float(loss(logits, ids)), rel=0.02)


def unlabelled_but_for_odd_pixels() -> Tensor:
    ids = torch.full((2, 16, 16), 255)
    ids[:, 1::2, 1::2] = 2
    return ids


@pytest.mark.parametrize(
    ("ids", "costs"), [(torch.full((2, 16, 16), 255), False), (unlabelled_but_for_odd_pixels(), True)]
)
def test_few_or_no_labels_give_a_finite_loss_and_gradient(ids: Tensor, costs: bool) -> None:
    logits = (torch.randn(2, 4, 16, 16) * 200).requires_grad_()  # some probabilities underflow
    loss = Loss(torch.ones(4), smoothing=0.1, lovasz=1.0, dice=1.0)(logits, ids)
    loss.backward()
    assert logits.grad is not None
    assert torch.isfinite(logits.grad).all()
    assert math.isfinite(loss.item())
    assert (loss.item() > 0) == costs
    assert bool(logits.grad.any()) == costs


@pytest.mark.parametrize("name", EACH)
def test_descent_learns(name: str) -> None:
    ids = maps(8)
    logits = torch.zeros(2, 4, 16, 16, requires_grad=True)
    optimizer = torch.optim.Adam([logits], lr=0.2)
    for _ in range(40):
        optimizer.zero_grad()
        EACH[name](logits, ids).backward()
        optimizer.step()
    assert (logits.argmax(1) == ids)[ids != 255].float().mean() > 0.95


def test_rare_classes_weigh_more_by_a_power_of_their_share() -> None:
    ids = torch.zeros(10, 10, dtype=torch.uint8)
    ids[0] = 1
    ids[1] = 255
    for power in (0.0, 0.5, 1.0):
        weight = class_weights(class_shares([ids, ids], 3), power)
        assert weight[1] / weight[0] == pytest.approx(8**power)
        assert (weight * torch.tensor([80, 10, 0]) / 90).sum() == pytest.approx(1)
        assert weight[2] / weight[1] == pytest.approx((10 / 90 / 1e-3) ** power, rel=1e-5)
    assert class_shares([ids], 3).tolist() == pytest.approx([80 / 90, 10 / 90, 0])
    assert torch.equal(class_weights(class_shares([torch.full((3, 3), 255, dtype=torch.uint8)], 3)), torch.ones(3))
    assert class_weights(class_shares([ids], 3)).dtype == torch.float32
