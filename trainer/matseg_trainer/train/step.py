"""One pass over a batch: forward, loss, backward, update."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from matseg_shared.contract.metadata import InputInfo
from matseg_trainer.config.versions import VersionConfig
from matseg_trainer.data.dataset import Batch
from matseg_trainer.data.examples import IGNORED
from matseg_trainer.evaluate.metrics import ConfusionMatrix, segmentation_metrics
from matseg_trainer.networks.base import SegmentationNetwork, decide, normalise
from matseg_trainer.train.device import ComputeChoice
from matseg_trainer.train.distributed import DistributedContext
from matseg_trainer.train.log import SplitScore
from matseg_trainer.train.losses import soft_dice, weighted_cross_entropy


class RunningScore:
    """Loss and confusion matrix of the pixels seen so far, summed on a device and fetched from it now and then."""

    loss_sum: float
    """Weighted cross-entropy, in nats, as last fetched."""
    weight_sum: float
    matrix: ConfusionMatrix

    def __init__(self, *, n_class: int, device: torch.device | None = None) -> None:
        self.n_class = n_class
        self.loss_sum = self.weight_sum = 0.0
        self.matrix = np.zeros((n_class, n_class), np.int64)
        self._sums = torch.zeros(2 + n_class**2, dtype=torch.float64, device=device)

    def add(self, logits: Tensor, labels: Tensor, loss_sum: Tensor, weight_sum: Tensor) -> None:
        """Count a batch, without waiting for the device: logits (N, K, ...), labels (N, ...), and two scalars."""
        self._sums[:2] += torch.stack([loss_sum.detach(), weight_sum])
        beyond = self.n_class**2
        pairs = (labels * self.n_class + decide(logits)).masked_fill(labels == IGNORED, beyond).flatten()
        counts = torch.zeros(beyond + 1, dtype=torch.int64, device=pairs.device)
        self._sums[2:] += counts.scatter_add_(0, pairs, torch.ones_like(pairs))[:beyond]

    def fetch(self) -> None:
        """Wait for the device, and bring the figures up to date."""
        values = self._sums.cpu().numpy()
        self.loss_sum, self.weight_sum = map(float, values[:2])
        self.matrix = values[2:].reshape(self.n_class, self.n_class).astype(np.int64)

    def gathered(self, context: DistributedContext) -> RunningScore:
        """The sum over all processes, fetched."""
        if context.size > 1:
            self._sums = context.sum(self._sums)
        self.fetch()
        return self

    def summary(self) -> SplitScore:
        """The figures of these counts."""
        metrics = segmentation_metrics(self.matrix)
        iou = tuple(None if math.isnan(value) else value for value in metrics.iou)
        return SplitScore(loss=self.loss, accuracy=metrics.accuracy, mean_iou=metrics.mean_iou, iou=iou)

    @property
    def loss(self) -> float:
        """Mean cross-entropy over all labelled pixels, weighted by class where the version balances; 0 of none."""
        return self.loss_sum / self.weight_sum if self.weight_sum else 0.0


class _LossInputs(nn.Module):
    """A network's training view as a module of its own, since DistributedDataParallel wraps `forward` only."""

    def __init__(self, network: SegmentationNetwork) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor, labels: Tensor, pixels: Tensor) -> tuple[Tensor, Tensor]:
        return self.network.loss_inputs(images, labels, pixels)


class TrainStep:
    """A network with its optimiser on one device."""

    def __init__(
        self,
        network: SegmentationNetwork,
        config: VersionConfig,
        input_info: InputInfo,
        compute: ComputeChoice,
        context: DistributedContext,
        class_weights: Tensor | None,
    ) -> None:
        self._compute = compute
        self._context = context
        self._dice = config.loss == "dice"
        self._mean, self._std = (
            torch.tensor(values, dtype=torch.float32, device=compute.device)
            for values in (input_info.mean, input_info.std)
        )
        self.weights = None if class_weights is None else class_weights.to(compute.device)
        self.network = network.to(compute.device)
        self._is_frozen = config.encoder is not None and config.encoder_lr == 0
        if self._is_frozen:
            self.network.encoder.requires_grad_(False)
        self.network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self._module: nn.Module = _LossInputs(self.network)
        if context.size > 1:
            # torch has none for CPUs: there each process keeps its own statistics
            if compute.device.type == "cuda":
                self._module = nn.SyncBatchNorm.convert_sync_batchnorm(self._module)
            self._module = DistributedDataParallel(self._module)
        self.optimizer = _optimizer(self.network, config)
        self.scaler = torch.amp.GradScaler(
            compute.device.type, enabled=compute.autocast == torch.float16 and compute.device.type == "cuda"
        )

    def train(self) -> None:
        """Set the network to training; the statistics of a frozen encoder stay as they are."""
        self.network.train()
        if self._is_frozen:
            self.network.encoder.eval()

    def step(self, batch: Batch, score: RunningScore) -> None:
        """Update the weights once and count the batch's pixels in `score`."""
        device = self._compute.device
        raw, labels, pixels = (part.to(device, non_blocking=True) for part in batch)
        images = normalise(raw, self._mean, self._std).contiguous(memory_format=torch.channels_last)
        with torch.autocast(
            device.type, dtype=self._compute.autocast, enabled=self._compute.autocast is not None
        ):
            logits, wanted = self._module(images, labels, pixels)
        loss, local = self._loss(logits, wanted)
        self.optimizer.zero_grad(set_to_none=True)
        self.scaler.scale(loss).backward()
        self.scaler.step(self.optimizer)
        self.scaler.update()
        score.add(logits.detach(), wanted, *local)

    def _loss(self, logits: Tensor, labels: Tensor) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """The loss, and (sum of the weighted cross-entropy, sum of the weights) of this process.

        DistributedDataParallel averages gradients over processes, and each may have another number of pixels: what is a
        mean over the pixels of all is therefore this process's sum, times the processes, over what all of them have.
        """
        local = weighted_cross_entropy(logits, labels, self.weights)
        processes = self._context.size
        everywhere = local[1].double()
        if processes > 1:
            everywhere = self._context.sum(everywhere)
        loss = local[0] * (processes / everywhere.clamp(min=1e-12)).float()
        if self._dice:
            loss = loss + soft_dice(logits, labels, None if processes == 1 else self._context.total)
        return loss, local


def _optimizer(network: SegmentationNetwork, config: VersionConfig) -> torch.optim.Optimizer:
    """With a pretrained encoder as a group of its own behind the rest, which has its own learning rate."""
    encoder = [] if config.encoder is None else list(network.encoder.parameters())
    inside = set(map(id, encoder))
    groups: list[dict[str, Any]] = [
        {"params": [item for item in network.parameters() if id(item) not in inside]}
    ]
    if encoder and config.encoder_lr:
        groups.append({"params": encoder, "lr": config.lr * config.encoder_lr})
    if config.optimizer == "Adam":
        return torch.optim.Adam(groups, lr=config.lr, weight_decay=config.weight_decay)
    return torch.optim.SGD(groups, lr=config.lr, momentum=config.momentum, weight_decay=config.weight_decay)
