"""One pass over a batch: forward, loss, backward, update."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.distributed.nn.functional import all_reduce
from torch.nn.parallel import DistributedDataParallel
from torch.optim.swa_utils import AveragedModel

from matseg_shared.contract.metadata import InputInfo
from matseg_trainer.config.versions import VersionConfig
from matseg_trainer.data.dataset import Batch
from matseg_trainer.data.examples import IGNORED
from matseg_trainer.evaluate.metrics import segmentation_metrics
from matseg_trainer.networks.base import SegmentationNetwork, decide, normalise
from matseg_trainer.train.device import ComputeChoice
from matseg_trainer.train.distributed import DistributedContext
from matseg_trainer.train.log import SplitScore
from matseg_trainer.train.losses import focal_loss, soft_dice, tversky, weighted_cross_entropy


class RunningScore:
    """Loss and confusion matrix of the pixels seen so far, summed on a device and fetched from it now and then."""

    loss_sum: float
    """Weighted cross-entropy, in nats, as last fetched."""

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
        return SplitScore.model_validate({"loss": self.loss, **asdict(segmentation_metrics(self.matrix))})

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
        self._config = config
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
        self.average: AveragedModel | None = None
        """The network whose weights are the exponential average, where the version asks for it."""
        if config.ema:
            self.average = AveragedModel(self.network, avg_fn=_towards(config.ema), use_buffers=True)
        self.optimizer = _optimizer(self.network, config)
        self.scaler = torch.amp.GradScaler(
            compute.device.type, enabled=compute.autocast == torch.float16 and compute.device.type == "cuda"
        )

    def train(self) -> None:
        """Set the network to training; the statistics of a frozen encoder stay as they are."""
        self.network.train()
        if self._is_frozen:
            self.network.encoder.eval()

    @property
    def kept(self) -> SegmentationNetwork:
        """The network that is validated and kept: the average, or the one that is trained."""
        if self.average is None:
            return self.network
        network = self.average.module
        assert isinstance(network, SegmentationNetwork)
        return network

    def step(self, batch: Batch, score: RunningScore, *, number: int = 0, batches: int = 1) -> None:
        """Learn from a batch, and count its pixels in `score`.

        Weights are updated once for each `accumulate` batches, and at the end of an epoch.

        Args:
            batch: of one process.
            score: is added to.
            number: of the batch in its epoch, from 0.
            batches: of the epoch.
        """
        place, first = number % self._config.accumulate, number - number % self._config.accumulate
        together = min(self._config.accumulate, batches - first)
        device = self._compute.device
        raw, labels, pixels = (part.to(device, non_blocking=True) for part in batch)
        images = normalise(raw, self._mean, self._std).contiguous(memory_format=torch.channels_last)
        with torch.autocast(
            device.type, dtype=self._compute.autocast, enabled=self._compute.autocast is not None
        ):
            logits, wanted = self._module(images, labels, pixels)
        loss, local = self._loss(logits, wanted)
        if place == 0:
            self.optimizer.zero_grad(set_to_none=True)
        self.scaler.scale(loss / together if together > 1 else loss).backward()
        if place == together - 1:
            self._update()
        score.add(logits.detach(), wanted, *local)

    def _update(self) -> None:
        if self._config.clip_gradient is not None:
            self.scaler.unscale_(self.optimizer)
            nn.utils.clip_grad_norm_(self.network.parameters(), self._config.clip_gradient)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        if self.average is not None:
            self.average.update_parameters(self.network)

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
        # the sum over all processes, through which gradients go back to each
        kind, over_processes = self._config.loss, None if processes == 1 else all_reduce
        each = focal_loss(logits, labels, self.weights) if kind == "focal" else local[0]
        loss = each * (processes / everywhere.clamp(min=1e-12)).float()
        if kind == "dice":
            loss = loss + soft_dice(logits, labels, over_processes)
        elif kind == "tversky":
            loss = loss + tversky(logits, labels, over_processes)
        return loss, local


def _towards(decay: float) -> Callable[[Tensor, Tensor, Tensor | int], Tensor]:
    """One step of an exponential average; its decay grows to what is asked, so that the first weights are forgotten."""

    def average(mean: Tensor, new: Tensor, updates: Tensor | int) -> Tensor:
        share = 1 - torch.as_tensor((1 + updates) / (10 + updates)).clamp(max=decay)
        return mean + (new - mean) * share if mean.is_floating_point() else new

    return average


def _optimizer(network: SegmentationNetwork, config: VersionConfig) -> torch.optim.Optimizer:
    """With a pretrained encoder as a group of its own behind the rest, which has its own learning rate."""
    encoder = [] if config.encoder is None else list(network.encoder.parameters())
    inside = set(map(id, encoder))
    groups: list[dict[str, Any]] = [
        {"params": [item for item in network.parameters() if id(item) not in inside]}
    ]
    if encoder and config.encoder_lr:
        groups.append({"params": encoder, "lr": config.lr * config.encoder_lr})
    if config.optimizer in ("Adam", "AdamW"):
        kind = torch.optim.Adam if config.optimizer == "Adam" else torch.optim.AdamW
        return kind(groups, lr=config.lr, weight_decay=config.weight_decay)
    return torch.optim.SGD(groups, lr=config.lr, momentum=config.momentum, weight_decay=config.weight_decay)
