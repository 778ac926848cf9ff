"""Several processes that train one network: `torchrun`, on one machine or many."""

import os
from collections.abc import Iterable
from typing import Any, NamedTuple, TypeVar

from torch import Tensor
from torch import distributed as dist

ItemT = TypeVar("ItemT")


class Processes(NamedTuple):
    """The rank of this process and the number of processes; 0 and 1 without `torchrun`."""

    rank: int
    world: int

    @classmethod
    def join(cls, device: str) -> "Processes":
        """Join the others when `torchrun` started this process (it sets RANK and WORLD_SIZE)."""
        if "RANK" not in os.environ:
            return cls(0, 1)
        if not dist.is_initialized():
            # Results of evaluations are Python objects, which travel between CPUs.
            dist.init_process_group("cpu:gloo,cuda:nccl" if device.startswith("cuda") else "gloo")
        return cls(dist.get_rank(), dist.get_world_size())

    def share(self, count: Tensor) -> Tensor:
        """What a sum of this process is divided by, so that the mean over all processes is that of the whole batch."""
        if self.world == 1:
            return count
        total = count.detach().clone().float()
        dist.all_reduce(total)
        return total / self.world

    def mean(self, values: Tensor) -> Tensor:
        """The mean over all processes."""
        values = values.detach().clone()
        if self.world > 1:
            dist.all_reduce(values)
        return values / self.world

    def gathered(self, items: list[ItemT]) -> list[ItemT]:
        """The items of all processes in the order of their ranks. Every process waits here for the others."""
        if self.world == 1:
            return items
        parts: list[Any] = [None] * self.world
        dist.all_gather_object(parts, items)
        return [item for part in parts for item in part]

    def take_first(self, tensors: Iterable[Tensor]) -> None:
        """Replace the values of the tensors by those that they have in the first process."""
        if self.world > 1:
            for tensor in tensors:
                dist.broadcast(tensor, 0)


ALONE = Processes(0, 1)
