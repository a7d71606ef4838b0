"""Training in several processes started by `torchrun`: NCCL between GPUs, Gloo between CPU processes."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.distributed.nn.functional import all_reduce


@dataclass(frozen=True, slots=True, kw_only=True)
class DistributedContext:
    """The processes that train one network together."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    """This process among those on its machine."""

    @property
    def is_main(self) -> bool:
        """Whether this process prints and writes."""
        return self.rank == 0

    def share(self, items: list[int]) -> list[int]:
        """This process's part of a list; the parts of all processes are the list."""
        return items[self.rank :: self.size]

    def sum(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """Sum of an array over all processes, the same everywhere."""
        if self.size == 1:
            return values
        device = "cuda" if dist.get_backend() == "nccl" else "cpu"
        tensor = torch.from_numpy(np.ascontiguousarray(values, dtype=np.float64)).to(device)
        dist.all_reduce(tensor)
        result: NDArray[np.float64] = tensor.cpu().numpy()
        return result

    def total(self, values: Tensor) -> Tensor:
        """Sum of a tensor over all processes, through which gradients go back to each."""
        result: Tensor = all_reduce(values)
        return result

    def barrier(self) -> None:
        """Wait for all processes."""
        if self.size > 1:
            dist.barrier()


@contextmanager
def join_world(*, gpu: bool) -> Iterator[DistributedContext]:
    """Join the processes that torchrun started, or be the only one."""
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1:
        yield DistributedContext()
        return
    cuda = gpu and torch.cuda.is_available()
    local_rank = int(os.environ.get("LOCAL_RANK", "0"))
    if cuda:
        torch.cuda.set_device(local_rank)
    dist.init_process_group("nccl" if cuda else "gloo")
    try:
        yield DistributedContext(rank=dist.get_rank(), size=size, local_rank=local_rank)
    finally:
        dist.destroy_process_group()


def synchronise_batch_norm(network: nn.Module, device: torch.device) -> nn.Module:
    """Let batch norm see the whole batch instead of one process's part, so that the result does not depend on them."""
    if device.type == "cuda":
        converted: nn.Module = nn.SyncBatchNorm.convert_sync_batchnorm(network)
        return converted
    for module in network.modules():
        if type(module) is nn.BatchNorm2d:
            module.__class__ = _GlooBatchNorm2d
    return network


def count_in_batch_norm(network: nn.Module, *, counted: bool) -> None:
    """Whether what this process is about to see takes part in the statistics of all.

    On CPUs only: torch's SyncBatchNorm knows no such thing, so on GPUs the copy of a sample that a process without one
    of its own looks at counts as a sample more.
    """
    for module in network.modules():
        if isinstance(module, _GlooBatchNorm2d):
            module.is_counted = counted


class _GlooBatchNorm2d(nn.BatchNorm2d):
    """Batch norm over all processes on CPUs, where torch's own SyncBatchNorm needs GPUs; same state dict."""

    is_counted = True
    """See `count_in_batch_norm`."""

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return super().forward(x)
        values = x.float()
        channels = values.shape[1]
        count = values.new_full((1,), values.numel() / channels)
        sums = torch.cat([values.sum((0, 2, 3)), values.square().sum((0, 2, 3)), count])
        sums = all_reduce(sums if self.is_counted else sums * 0)
        total = sums[-1]
        mean = sums[:channels] / total
        variance = (sums[channels:-1] / total - mean.square()).clamp_min(0)
        with torch.no_grad():
            assert self.running_mean is not None
            assert self.running_var is not None
            assert self.num_batches_tracked is not None
            assert self.momentum is not None
            self.num_batches_tracked.add_(1)
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.lerp_(variance * total / (total - 1), self.momentum)
        scale = self.weight * torch.rsqrt(variance + self.eps)
        shift = self.bias - mean * scale
        normalised: Tensor = values * scale.view(1, -1, 1, 1) + shift.view(1, -1, 1, 1)
        return normalised.to(x.dtype)
