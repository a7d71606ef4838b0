"""Loss terms against what their definitions give on a few pixels."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from matseg_trainer.data.augment import IGNORED
from matseg_trainer.train.losses import soft_dice, weighted_cross_entropy

SURE = 40.0
"""A difference of logits after which probabilities are 0 and 1."""


def logits_of(classes: torch.Tensor, n_class: int = 2) -> torch.Tensor:
    """Logits (N, K, P) that are sure of the classes (N, P)."""
    return SURE * torch.nn.functional.one_hot(classes, n_class).movedim(-1, 1).float()


def test_dice_counts_all_images_together() -> None:
    """As written down pixel by pixel: not the mean of the images' coefficients."""
    generator = torch.Generator().manual_seed(4)
    logits = torch.randn(3, 4, 5, 6, generator=generator)
    labels = torch.randint(0, 4, (3, 5, 6), generator=generator)
    labels[0, :2] = IGNORED
    probabilities = torch.softmax(logits.double(), dim=1).numpy()
    terms = []
    for index in range(4):
        both = either = 0.0
        for (image, y, x), label in np.ndenumerate(labels.numpy()):
            if label != IGNORED:
                both += probabilities[image, index, y, x] * (label == index)
                either += probabilities[image, index, y, x] + (label == index)
        terms.append(1 - (2 * both + 1) / (either + 1))
    assert float(soft_dice(logits, labels)) == pytest.approx(np.mean(terms), rel=1e-5)


def test_right_costs_nothing_and_wrong_everything() -> None:
    labels = torch.tensor([[0, 0, 1, 1, 0, 1, 0, 0] * 100])
    assert float(soft_dice(logits_of(labels), labels)) == pytest.approx(0, abs=1e-3)
    assert float(soft_dice(logits_of(1 - labels), labels)) == pytest.approx(1, abs=1e-2)


def test_unknown_pixels_count_nothing() -> None:
    labels = torch.tensor([[0, 1, 1, 0, 1]])
    wrong_there = torch.tensor([[0, 1, 0, 0, 1]])
    known = labels.clone()
    known[0, 2] = IGNORED
    without = [0, 1, 3, 4]
    expected = soft_dice(logits_of(wrong_there[:, without]), labels[:, without])
    assert float(soft_dice(logits_of(wrong_there), known)) == pytest.approx(float(expected))
    nothing = torch.full_like(labels, IGNORED)
    assert math.isfinite(float(soft_dice(logits_of(labels), nothing)))


def test_dice_of_hard_decisions() -> None:
    labels, found = torch.tensor([[0] * 600 + [1] * 400]), torch.tensor([[0] * 800 + [1] * 200])
    dice = [2 * 600 / 1400, 2 * 200 / 600]
    assert float(soft_dice(logits_of(found), labels)) == pytest.approx(1 - sum(dice) / 2, abs=2e-3)


def test_gradients_point_to_the_labels() -> None:
    labels = torch.tensor([[0, 1, 1, 0]])
    logits = torch.zeros(1, 2, 4, requires_grad=True)
    soft_dice(logits, labels).backward()
    assert logits.grad is not None
    assert (logits.grad.argmin(dim=1) == labels).all()


@pytest.mark.parametrize("weights", [None, torch.tensor([0.5, 2.0])])
def test_nothing_labelled_costs_nothing(weights: torch.Tensor | None) -> None:
    labels = torch.full((2, 5), IGNORED)
    logits = torch.randn(2, 2, 5, requires_grad=True)
    loss, weight = weighted_cross_entropy(logits, labels, weights)
    dice = soft_dice(logits, labels)
    (loss + dice).backward()
    assert (loss.item(), weight.item(), dice.item()) == (0, 0, 0)
    assert logits.grad is not None
    assert not logits.grad.any()
