"""Learning rates over a training."""

from __future__ import annotations

import math
from typing import Any

from torch.optim import Optimizer
from torch.optim.lr_scheduler import ReduceLROnPlateau

from matseg_trainer.config.versions import VersionConfig

PLATEAU_FACTOR = 0.1
"""The user guide's."""
POLYNOMIAL_POWER = 0.9
"""Chen et al. 2017 (arXiv:1606.00915)."""


class LearningRate:
    """Sets the learning rate of an optimiser, before each step and after each epoch."""

    def __init__(self, optimizer: Optimizer, config: VersionConfig, steps_per_epoch: int) -> None:
        self._optimizer = optimizer
        self._config = config
        self._starts = [group["lr"] for group in optimizer.param_groups]
        self._steps = steps_per_epoch * config.epoch
        self._plateau = ReduceLROnPlateau(
            optimizer, factor=PLATEAU_FACTOR, patience=config.effective_patience
        )

    @property
    def now(self) -> float:
        """The current learning rate."""
        return float(self._optimizer.param_groups[0]["lr"])

    def before_step(self, step: int) -> None:
        """Warm-up, cosine and polynomial schedules; `step` counts from 0 over the whole training."""
        config, left = self._config, 1 - step / self._steps
        if config.schedule == "plateau" and step >= config.warmup:
            return
        share = 1.0
        if config.schedule == "cosine":
            share = (1 + math.cos(math.pi * (1 - left))) / 2
        elif config.schedule == "polynomial":
            share = left**POLYNOMIAL_POWER
        if step < config.warmup:
            share *= (step + 1) / config.warmup
        for group, start in zip(self._optimizer.param_groups, self._starts, strict=True):
            group["lr"] = start * share

    def after_epoch(self, validation_loss: float) -> None:
        """The guide's: a tenth of the rate after `patience` epochs without a better validation loss."""
        if self._config.schedule == "plateau":
            self._plateau.step(validation_loss)

    def state(self) -> dict[str, Any]:
        """Plain values for a checkpoint."""
        return {"num_bad_epochs": self._plateau.num_bad_epochs, "best": float(self._plateau.best)}

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from `state()`; the rate itself is in the optimiser's own state."""
        self._plateau.num_bad_epochs = state["num_bad_epochs"]
        self._plateau.best = state["best"]
