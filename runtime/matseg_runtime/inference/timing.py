"""Several model files side by side on this machine: how fast each is, and how far their labels differ."""

from __future__ import annotations

import itertools
import math
import statistics
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from functools import partial

import numpy as np

from matseg_runtime.inference.session import Labels, Session
from matseg_runtime.inference.tiles import segment_image
from matseg_runtime.source.base import SourceOptions
from matseg_runtime.source.open import open_source
from matseg_runtime.source.transform import Transform, join_converted, not_numbers
from matseg_shared.contract.metadata import ModelMetadata
from matseg_shared.errors import UsageError
from matseg_shared.images.read import PixelArray

ROUNDS = 5
SLICES = 6
"""Read of an input, evenly spread."""
EDGE = 1024
"""Edge in pixels of the image that is labelled without an input; a multiple of all networks' strides."""
_TILE = 2048
"""Edge in pixels of the largest tile."""
_LEAST = 0.5
"""Seconds of one turn, at least."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Timed:
    """Time of one model, and its labels beside those of the first."""

    milliseconds: tuple[float, ...]
    """A slice, one entry per round."""
    pixels: int
    """Pixels of all images, each labelled once."""
    unlike: int
    """Pixels of them with another label than the first model gives."""

    @property
    def median(self) -> float:
        """Milliseconds a slice."""
        return statistics.median(self.milliseconds)


def require_alike(models: Mapping[str, ModelMetadata]) -> None:
    """Refuse with a UsageError models, by name, that are not for the same input and classes."""
    told = {}
    for name, model in models.items():
        info, classes = model.input, ", ".join(item.name for item in model.classes)
        taken = f"{info.channels} channel(s) of {info.dtype}, {info.context} slices on either side"
        told[name] = {"input": taken, "classes": classes}
    first, *others = told
    for other in others:
        for what, expected in told[first].items():
            if (found := told[other][what]) != expected:
                raise UsageError(
                    f"{other}: expected the {what} of {first} ({expected}), found {found}; compare files for the same "
                    "images and classes"
                )


def mirrored_sample(session: Session, edge: int) -> PixelArray:
    """(C, edge, edge) pixels of the self-test's image, mirrored until it is large enough.

    The time of a convolution does not depend on what it sees.
    """
    sample = session.model.self_test.image[0]
    missing = [(0, max(0, edge - length)) for length in sample.shape[1:]]
    pixels: PixelArray = np.pad(sample, [(0, 0), *missing], mode="symmetric")[:, :edge, :edge]
    return pixels


def read_sample(location: str, model: ModelMetadata) -> list[PixelArray]:
    """Some slices of an input, (C, H, W) each, as the model takes them.

    Raises:
        UsageError: the input cannot be opened, or has too few slices for the model.
        ImageError: one of these slices cannot be read, or is nothing for the model.
    """
    info, context = model.input, model.input.context
    transform = Transform(info=info.of_slice)
    options = SourceOptions(channels=info.picked, taken=info.of_slice.channels)
    with closing(open_source(location, options)) as source:
        places = range(context, len(source.slices) - context)
        if not places:
            raise UsageError(
                f"{location}: expected at least {2 * context + 1} slice(s), found {len(source.slices)}; name an input "
                "with more"
            )
        images = []
        for place in dict.fromkeys(np.linspace(places[0], places[-1], SLICES).round().astype(int).tolist()):
            some = source.slices[place - context : place + context + 1]
            read = [pixels for pixels, _ in source.read_unchanged(some)]
            absent = [not_numbers(pixels) for pixels in read]
            converted = [
                transform.convert(pixels, item.where, gone)
                for pixels, item, gone in zip(read, some, absent, strict=True)
            ]
            images.append(join_converted(converted, absent, info.mean))
    return images


def time_side_by_side(
    sessions: Sequence[Session],
    images: Sequence[PixelArray],
    *,
    streams: int,
    advance: Callable[[], None] = lambda: None,
) -> list[Timed]:
    """Label images with each model in turn, round after round: A B C A B C ...

    Args:
        sessions: open models.
        images: (C, H, W) each; before the first round each model labels all of them, to compare and to warm up.
        streams: calls at a time on providers that compute on the CPU; on GPUs there is one on each.
        advance: is told of every turn.
    """
    expected: list[Labels] = []
    unlike: list[int] = []
    counts: list[int] = []
    times: list[list[float]] = [[] for _ in sessions]
    for session in sessions:
        started = time.perf_counter()
        found = [_label(session, image) for image in images]
        wanted = _LEAST * len(images) / (time.perf_counter() - started)
        expected = expected or found
        unlike.append(sum(int((one != other).sum()) for one, other in zip(found, expected, strict=True)))
        calls = _calls(session, streams)
        counts.append(max(math.ceil(wanted / calls), 1) * calls)
    for _ in range(ROUNDS):
        for session, count, entries in zip(sessions, counts, times, strict=True):
            with ThreadPoolExecutor(_calls(session, streams)) as pool:
                started = time.perf_counter()
                repeated = itertools.islice(itertools.cycle(images), count)
                deque(pool.map(partial(_label, session), repeated), maxlen=0)  # waits for all, and keeps none
                entries.append((time.perf_counter() - started) / count * 1e3)
            advance()
    pixels = sum(labels.size for labels in expected)
    return [
        Timed(milliseconds=tuple(entries), pixels=pixels, unlike=wrong)
        for entries, wrong in zip(times, unlike, strict=True)
    ]


def _calls(session: Session, streams: int) -> int:
    return streams if session.provider == "cpu" else max(1, len(session.devices))


def _label(session: Session, image: PixelArray) -> Labels:
    return segment_image(session, image, tile=(_TILE, _TILE)).labels
