"""Speed of a model on an image on this machine: needs the model file only, and is the same work for all models."""

from __future__ import annotations

import platform
import statistics
import time
from pathlib import Path

from matseg_runtime.inference.session import Session
from matseg_runtime.inference.tiles import segment_image
from matseg_runtime.inference.timing import mirrored_sample
from models_zoo.build.figures import Speed

_EDGE = 1024
"""Edge of the image in pixels: a multiple of all networks' strides."""
_WARM_UP = 2
_FEWEST_CALLS = 7
_SECONDS = 3.0


def measure_speed(session: Session) -> Speed:
    """Label an image again and again, for three seconds and at least seven times.

    The image is the self-test's, mirrored until it is large enough.
    """
    image = mirrored_sample(session, _EDGE)
    for _ in range(_WARM_UP):
        segment_image(session, image)
    times: list[float] = []
    computed = time.process_time()
    while len(times) < _FEWEST_CALLS or sum(times) < _SECONDS:
        started = time.perf_counter()
        segment_image(session, image)
        times.append(time.perf_counter() - started)
    return Speed(
        edge=_EDGE,
        median=statistics.median(times),
        fastest=min(times),
        slowest=max(times),
        calls=len(times),
        provider=session.provider,
        threads=session.threads,
        cores=(time.process_time() - computed) / sum(times),
        processor=processor_name(),
        onnxruntime=session.runtime_version,
    )


def processor_name() -> str:
    """Name of the processor, from the system."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    for line in lines:
        key, _, value = line.partition(":")
        if key.strip().lower() == "model name":
            return value.strip()
    return platform.processor() or platform.machine()
