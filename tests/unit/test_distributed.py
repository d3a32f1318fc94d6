"""What the processes of one training tell each other; two of them, connected by gloo."""

import multiprocessing
from pathlib import Path

import pytest
import torch
from torch import distributed, nn

from underpaint_workers.distributed import Group

COUNTED = torch.arange(72).view(4, 2, 3, 3)


def member(rank: int, file: Path) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, float, float]:
    """Joins a group of two and has it add up what is 1 in the first process and 2 in the second."""
    distributed.init_process_group("gloo", init_method=f"file://{file}", rank=rank, world_size=2)
    try:
        group = Group.current()
        assert (group.rank, group.size, group.is_first) == (rank, 2, rank == 0)
        layer, frozen = nn.BatchNorm2d(3), nn.BatchNorm2d(3).eval().requires_grad_(False)
        convolution = nn.Conv2d(2, 4, 3)
        module = nn.Sequential(convolution, layer, frozen)
        value = rank + 1.0
        # As gradients of a net in channels_last are.
        convolution.weight.grad = (value * COUNTED).to(memory_format=torch.channels_last)
        for statistic in (layer.running_mean, frozen.running_mean):
            assert statistic is not None
            statistic.fill_(value)
        total = group.add_up(module, value)
        assert convolution.bias is not None
        assert convolution.bias.grad is None
        assert layer.running_mean is not None
        assert frozen.running_mean is not None
        return convolution.weight.grad, layer.running_mean, frozen.running_mean, total, group.agree(value)
    finally:
        distributed.destroy_process_group()


def other_member(file: Path) -> None:
    torch.set_num_threads(1)
    member(1, file)


def test_gradients_are_added_up_and_statistics_that_learn_are_averaged(tmp_path: Path) -> None:
    other = multiprocessing.get_context("fork").Process(target=other_member, args=(tmp_path / "store",))
    other.start()
    gradient, learning, frozen, loss, agreed = member(0, tmp_path / "store")
    other.join(20)
    assert other.exitcode == 0
    assert torch.equal(gradient, 3.0 * COUNTED)
    assert learning.tolist() == [1.5, 1.5, 1.5]
    assert frozen.tolist() == [1, 1, 1]
    assert (loss, agreed) == (3, 1)


def test_a_process_by_itself_is_a_group_of_one() -> None:
    group = Group.current()
    assert (group, group.is_first) == (Group(0, 1), True)
    assert (group.add_up(nn.Linear(1, 1), 2.0), group.agree(3.0)) == (2, 3)


@pytest.mark.parametrize(("size", "shares"), [(1, [5]), (2, [3, 2]), (5, [1, 1, 1, 1, 1])])
def test_a_batch_is_divided_without_remainder(size: int, shares: list[int]) -> None:
    batch = torch.arange(5)
    parts = [Group(rank, size).part(batch) for rank in range(size)]
    assert [len(part) for part in parts] == shares
    assert torch.equal(torch.cat(parts), batch)
