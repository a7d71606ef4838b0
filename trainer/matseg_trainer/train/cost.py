"""Time that a training will take, told before it starts: what a step costs on this machine, times the steps."""

from __future__ import annotations

import math
import timeit

import numpy as np
import torch

from matseg_trainer.data.dataset import Batch
from matseg_trainer.networks.registry import build_network
from matseg_trainer.predict.tiled import TorchPredictor
from matseg_trainer.train.step import RunningScore, TrainStep
from matseg_trainer.train.training import Training

LONG = 20 * 60
"""Seconds beyond which a word is said on how to shorten a training."""


def expected_seconds(training: Training) -> float:
    """Seconds of all epochs, from a trial step and a trial prediction of a network of its own on empty crops.

    Nothing of the training changes, its random draws included.
    """
    config, compute = training.job.config, training.job.compute
    edges = training.train_statistics.shapes[0] if config.crop is None else (config.crop, config.crop)
    with torch.random.fork_rng():
        network = build_network(
            config.model,
            in_channels=training.input.channels,
            n_class=config.n_class,
            **config.architecture,
        )
    height, width = (math.ceil(edge / network.stride) * network.stride for edge in edges)
    images = np.zeros((config.batch_size, training.input.channels, height, width), training.input.dtype)
    batch = Batch(
        images=torch.from_numpy(images),
        labels=torch.zeros((config.batch_size, height, width), dtype=torch.int64),
        pixels=torch.zeros((config.batch_size, config.pixels_per_image), dtype=torch.int64),
    )
    step = TrainStep(network, config, training.input, compute, training.context, None)
    step.train()
    score = RunningScore(n_class=config.n_class, device=compute.device)

    def one_step() -> None:
        step.step(batch, score)
        score.fetch()  # waits for a GPU

    one_step()  # the first allocates and chooses kernels
    of_step = timeit.timeit(one_step, number=1)
    step.network.eval()
    predictor = TorchPredictor.of(step.network, training.input, compute.device)
    of_pixel = timeit.timeit(lambda: predictor.logits(images[0]), number=1) / (height * width)
    validated = sum(rows * columns for rows, columns in training.validation_statistics.shapes)
    return config.epoch * (training.steps * of_step + validated * of_pixel)


def time_words(seconds: float, device: str) -> str:
    """The same for a person."""
    minutes = max(1, round(seconds / 60))
    words = f"about {minutes} min on this {device}" if seconds >= 45 else f"under a minute on this {device}"
    if seconds > LONG:
        words += "; `epoch`, `steps` and `crop` in config.toml shorten it, or --gpu where there is one"
    return words
