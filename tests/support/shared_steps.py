"""One optimiser step of a small network, by one process or by several that share the batch and import this."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import torch
import torch.distributed as dist

from matseg_shared.contract.metadata import Histogram, InputInfo
from matseg_trainer.config.versions import VersionConfig
from matseg_trainer.data.dataset import Batch
from matseg_trainer.data.examples import IGNORED
from matseg_trainer.networks.registry import build_network
from matseg_trainer.train.device import choose_compute
from matseg_trainer.train.distributed import DistributedContext
from matseg_trainer.train.step import RunningScore, TrainStep

Case = tuple[str, int]
"""Loss, samples in the batch."""
CASES: tuple[Case, ...] = (
    ("cross_entropy", 2),
    ("cross_entropy", 4),
    ("dice", 2),
    ("dice", 4),
    ("dice", 3),
)


def changes(case: Case, context: DistributedContext) -> dict[str, torch.Tensor]:
    """By how much a step with rate 1 changes each weight, with batch norm as in evaluation."""
    loss, count = case
    config = VersionConfig.model_validate(
        {
            "model": "unet",
            "n_class": 3,
            "width": 2,
            "loss": loss,
            "optimizer": "SGD",
            "lr": 1.0,
            "momentum": 0.0,
        }
        | {"weight_decay": 0.0}
    )
    info = InputInfo(
        channels=1,
        dtype="uint8",
        mean=(100.0,),
        std=(50.0,),
        histogram=Histogram(low=0, high=255, counts=(1,)),
    )
    torch.manual_seed(0)
    network = build_network("unet", in_channels=1, n_class=3, width=2)
    weights = torch.tensor([0.5, 1.0, 1.5])
    stepper = TrainStep(network, config, info, choose_compute(gpu=False, amp="fp32"), context, weights)
    network.eval()
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    mine = context.share(list(range(count)))
    images, labels, pixels = (part[mine or [0]] for part in _batch(count))
    batch = Batch(images, labels if mine else torch.full_like(labels, IGNORED), pixels)
    stepper.step(batch, RunningScore(n_class=3))
    return {name: (tensor - before[name]).double() for name, tensor in network.state_dict().items()}


def _batch(count: int) -> Batch:
    """Samples of which the second has few labels; all have padding. Three have no labels at all."""
    generator = torch.Generator().manual_seed(1)
    labels = torch.randint(0, 3, (count, 64, 64), generator=generator)
    labels[:, 60:] = IGNORED
    labels[1, 20:] = IGNORED
    if count == 3:
        labels[:] = IGNORED
    return Batch(
        images=torch.randint(0, 256, (count, 1, 64, 64), generator=generator, dtype=torch.uint8),
        labels=labels,
        pixels=torch.zeros(count, 1, dtype=torch.int64),
    )


def together(rank: int, size: int, folder: Path) -> None:
    """Work of one of several processes: all cases; the first one notes what came out."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder / 'meeting'}", rank=rank, world_size=size)
    found = [changes(case, DistributedContext(rank=rank, size=size)) for case in CASES]
    if rank == 0:
        torch.save(found, folder / "changes.pt")
    dist.barrier()
    dist.destroy_process_group()


def alone() -> Iterator[tuple[Case, dict[str, torch.Tensor]]]:
    """The same cases by this process."""
    for case in CASES:
        yield case, changes(case, DistributedContext())
