from collections import Counter

import numpy as np
import pytest
import torch
from torch import Tensor

from underpaint_workers.augmentation import Augmentation
from underpaint_workers.sampling import Sampler


def item(value: int, rare: int | None = None) -> tuple[Tensor, Tensor]:
    """A painting of one colour, of class 0 all over but for a few pixels of the class `rare`, in a corner."""
    class_map = torch.zeros(48, 64, dtype=torch.uint8)
    if rare is not None:
        class_map[40:44, 58:62] = rare
    return torch.full((3, 48, 64), value, dtype=torch.uint8), class_map


def sampler(items: list[tuple[Tensor, Tensor]], rare: float) -> Sampler:
    return Sampler(items, 4, Augmentation.off(32), rare, np.random.default_rng(0))


def test_passes_show_each_painting_once_in_random_order() -> None:
    drawn = sampler([(image[:, :, :48], ids[:, :48]) for image, ids in map(item, range(5))], rare=0.0)
    passes = [[int(drawn.draw()[0][0, 16, 16]) for _ in range(5)] for _ in range(6)]
    assert all(sorted(each) == list(range(5)) for each in passes)
    assert len({tuple(each) for each in passes}) > 1


def test_rare_crops_hold_the_rare_class_and_others_only_by_chance() -> None:
    items = [item(10, rare=3), *(item(20) for _ in range(9))]
    augment = Augmentation(32, scales=(2.0, 2.0))
    always = Sampler(items, 4, augment, 1.0, np.random.default_rng(0))
    held = [3 in always.draw()[1] for _ in range(200)]
    # Class 0 has share 0.9995 and weight 1, class 3 weight 1000**0.5: 97 % of the draws ask for it.
    assert np.mean(held) > 0.9
    never = Sampler(items, 4, augment, 0.0, np.random.default_rng(0))
    assert np.mean([3 in never.draw()[1] for _ in range(200)]) < 0.1


def test_classes_are_drawn_by_the_inverse_root_of_their_share() -> None:
    class_map = torch.zeros(40, 40, dtype=torch.uint8)
    class_map[:4] = 1
    class_map[0, :5] = 255
    drawn = sampler([(torch.zeros(3, 40, 40, dtype=torch.uint8), class_map)], rare=1.0)
    asked: Counter[int] = Counter()
    for _ in range(3000):
        index, pixel = drawn._choose()
        assert index == 0
        assert pixel is not None
        asked[int(class_map[pixel])] += 1
    assert set(asked) == {0, 1}
    assert asked[1] / asked[0] == pytest.approx((1440 / 155) ** 0.5, rel=0.15)


def test_equal_generators_draw_equal_batches() -> None:
    items = [item(value, rare=value % 3 + 1) for value in range(6)]
    one, two, other = (
        Sampler(items, 4, Augmentation(32), 0.5, np.random.default_rng(seed)).batch(6) for seed in (1, 1, 2)
    )
    assert one[0].shape == (6, 3, 32, 32)
    assert one[1].shape == (6, 32, 32)
    assert one[0].dtype == one[1].dtype == torch.uint8
    assert torch.equal(one[0], two[0])
    assert torch.equal(one[1], two[1])
    assert not torch.equal(one[0], other[0])


def test_a_share_of_a_batch_is_drawn_by_others() -> None:
    paintings, others = sampler([item(1)], rare=0.0), sampler([item(2)], rare=0.0)
    for share in (0.0, 0.25, 1.0):
        images, _ = paintings.batch(400, others, share)
        assert (images[:, 0, 16, 16] == 2).float().mean().item() == pytest.approx(share, abs=0.06)
    assert (paintings.batch(8)[0][:, 0, 16, 16] == 1).all()


def test_paintings_without_labels_are_shown_in_passes() -> None:
    image, class_map = item(5)
    drawn = sampler([(image, torch.full_like(class_map, 255))], rare=1.0)
    assert (drawn.draw()[1] == 255).all()


def test_nothing_to_draw_from_says_so() -> None:
    with pytest.raises(ValueError, match="accept some labels first"):
        sampler([], rare=0.5)
