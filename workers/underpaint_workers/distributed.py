"""What the processes that train one net together tell each other.

Each has all of the paintings and draws the same batches; of a batch, each takes a part through its own copy of the net.
Their gradients are added up once a step, which keeps the copies equal. DistributedDataParallel does that while it works
the gradients out, and could not begin again with half of a part for want of memory.

The normalisation of a BatchNorm that learns is by what each process sees, as it is by the parts of a batch where memory
is short.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, distributed, nn
from torch.nn.modules.batchnorm import _BatchNorm


@dataclass(frozen=True)
class Group:
    """The processes that train one net, and which of them this is; by itself, a process is a group of one."""

    rank: int = 0
    size: int = 1

    @classmethod
    def current(cls) -> "Group":
        """The group that this process has joined."""
        if not distributed.is_available() or not distributed.is_initialized():
            return cls()
        return cls(distributed.get_rank(), distributed.get_world_size())

    @property
    def is_first(self) -> bool:
        """Whether this process is the one that evaluates, and tells of what the group does."""
        return self.rank == 0

    def part(self, batch: Tensor) -> Tensor:
        """This process's part of a batch (N, …); none is empty where there are no more processes than N."""
        return batch.tensor_split(self.size)[self.rank]

    def agree(self, value: float) -> float:
        """The first process's value, for all of them."""
        if self.size == 1:
            return value
        told = torch.tensor(value, dtype=torch.float64)
        distributed.broadcast(told, 0)
        return told.item()

    def add_up(self, module: nn.Module, loss: float) -> float:
        """The sum of all losses, and in `module` the sums of all gradients and the means of BatchNorm's statistics."""
        if self.size == 1:
            return loss
        gradients = [each.grad for each in module.parameters() if each.grad is not None]
        statistics = [
            each.div_(self.size)
            for layer in module.modules()
            if isinstance(layer, _BatchNorm) and layer.training
            for each in (layer.running_mean, layer.running_var)
            if each is not None
        ]
        everything = [*gradients, *statistics]
        sums = torch.cat([each.flatten() for each in everything] + [everything[0].new_tensor([loss])])
        distributed.all_reduce(sums)
        *parts, total = torch.split(sums, [each.numel() for each in everything] + [1])
        for each, part in zip(everything, parts, strict=True):
            each.copy_(part.view_as(each))
        return float(total)
