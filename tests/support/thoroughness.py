"""Share of what could be tried that is tried."""

from __future__ import annotations

import os
import random

import pytest

THOROUGH = bool(os.environ.get("MATSEG_THOROUGH"))
"""`make thorough`: all of it."""

slow = pytest.mark.skipif(not THOROUGH, reason="takes long: make thorough")
"""Marks what the suite leaves out for its time."""


def chosen(count: int, at_most: int, seed: str) -> list[int]:
    """Some of `count` numbers, always the same, spread over all of them; all of them when asked to be thorough."""
    if THOROUGH or count <= at_most:
        return list(range(count))
    dice = random.Random(seed)
    width = count / at_most
    return [int(width * number + dice.random() * width) for number in range(at_most)]
