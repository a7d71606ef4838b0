"""Training in several processes started by `torchrun`: NCCL between GPUs, Gloo between CPU processes.

On CPUs each process normalises its own part of a batch, as torch's SyncBatchNorm needs GPUs.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor, nn

_TIMEOUT = timedelta(hours=2)
"""Processes wait for the main one, while it makes the label arrays of a large set, at most this long."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DistributedContext:
    """The processes that train one network together."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    """This process among those on its machine."""

    @property
    def is_main(self) -> bool:
        """True for the process that prints and writes."""
        return self.rank == 0

    def share(self, items: list[int]) -> list[int]:
        """This process's part of a list; the parts of all processes are the list."""
        return items[self.rank :: self.size]

    def sum(self, values: Tensor) -> Tensor:
        """Sum of a tensor over several processes, the same everywhere."""
        values = values.clone()
        dist.all_reduce(values)
        return values

    def share_statistics(self, network: nn.Module) -> None:
        """Give every process the batch norm statistics of the first, whose network is kept."""
        if self.size > 1:
            for buffer in network.buffers():
                dist.broadcast(buffer, 0)

    @contextmanager
    def main_first(self) -> Iterator[None]:
        """Let the main process go through a block before the others, which then find the files that it has made."""
        if not self.is_main:
            self.barrier()
        yield
        if self.is_main:
            self.barrier()

    def barrier(self) -> None:
        """Wait for all processes."""
        if self.size > 1:
            dist.barrier()


@contextmanager
def join_processes(*, gpu: bool) -> Iterator[DistributedContext]:
    """Join the processes that torchrun started, or be the only one."""
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1:
        yield DistributedContext()
        return
    cuda = gpu and torch.cuda.is_available()
    local_rank = int(os.environ.get("LOCAL_RANK", "0"))
    if cuda:
        torch.cuda.set_device(local_rank)
    dist.init_process_group("nccl" if cuda else "gloo", timeout=_TIMEOUT)
    try:
        yield DistributedContext(rank=dist.get_rank(), size=size, local_rank=local_rank)
    finally:
        dist.destroy_process_group()
