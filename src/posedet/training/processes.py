"""Several processes that train one network: `torchrun`, on one machine or many."""

import os
from typing import NamedTuple

from torch import Tensor
from torch import distributed as dist


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
            dist.init_process_group("nccl" if device.startswith("cuda") else "gloo")
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


ALONE = Processes(0, 1)
