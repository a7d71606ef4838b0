"""One contestant of networks.py in a process of its own: `python _network_worker.py '{"way": ..., ...}'`.

It says `{"ready": seconds}` when it has labelled a slice, and then for every line `N` on its standard input labels N
slices and answers `{"seconds": ...}`. Between its turns it waits; what it cannot do it says as `{"left_out": reason}`.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from _full_width import N_CLASS, naive_pixelnet
from _profile import grey_image
from numpy.typing import NDArray

from matseg_runtime.inference.providers import exact_options
from matseg_shared.contract.metadata import INPUT_NAME, LABELS_NAME

Label = Callable[[NDArray[Any]], object]
"""Labels one (1, 1, H, W) image."""

_SLOW = 2.0
"""Seconds a slice from which on a small image is warm-up enough."""
_SMALL = 3
"""Part of the edge that the first, small image has."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """A case to run."""

    way: str
    """`eager`, `bf16`, `compile`, `naive` (torch) or `session` (onnxruntime)."""
    file: str
    """Weights, or an ONNX file."""
    size: int
    """Edge of the input, a multiple of the stride."""
    threads: int
    streams: int = 1
    """Calls at the same time, each on `threads` threads."""
    network: str = ""
    width: int = 0
    mean: float = 0.0
    std: float = 1.0


def label_with_torch(job: Job) -> Label:
    """Whole images through the torch network, as the guide's apply does: pixels in, labels out."""
    import torch

    from matseg_trainer.networks.base import normalise
    from matseg_trainer.networks.registry import build_network

    torch.set_num_threads(job.threads)
    network = build_network(job.network, in_channels=1, n_class=N_CLASS, width=job.width).eval()
    network.load_state_dict(torch.load(job.file, weights_only=True))
    forward: Callable[[torch.Tensor], torch.Tensor] = network
    if job.way == "compile":
        forward = torch.compile(network)
    elif job.way == "naive":
        forward = lambda images: naive_pixelnet(network, images)  # noqa: E731

    def label(image: NDArray[Any]) -> object:
        half = torch.autocast("cpu", dtype=torch.bfloat16, enabled=job.way == "bf16")
        with torch.inference_mode(), half:
            pixels = normalise(torch.from_numpy(image), (job.mean,), (job.std,))
            return forward(pixels).argmax(dim=1).to(torch.uint8).numpy()

    return label


def label_with_onnxruntime(job: Job) -> Label:
    """A bare session, asked for labels only."""
    import onnxruntime

    options = exact_options(onnxruntime)
    options.intra_op_num_threads = job.threads
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(job.file, options, providers=["CPUExecutionProvider"])

    def label(image: NDArray[Any]) -> object:
        return session.run([LABELS_NAME], {INPUT_NAME: image})[0]

    return label


def warm_up(label: Label, job: Job) -> float:
    """Label a small image and, where that is quick, whole ones; about how many seconds one takes."""
    small = max(job.size // _SMALL // 32, 1) * 32
    label(grey_image(small))
    started = time.perf_counter()
    label(grey_image(small))
    seconds = (time.perf_counter() - started) * (job.size / small) ** 2
    if seconds < _SLOW or job.way == "compile":  # which compiles anew for another size
        label(grey_image(job.size))
        started = time.perf_counter()
        label(grey_image(job.size))
        seconds = time.perf_counter() - started
    return seconds


def serve(label: Label, job: Job) -> None:
    """Answer turns until there are no more."""
    image = grey_image(job.size)
    with ThreadPoolExecutor(job.streams) as pool:
        say(ready=warm_up(label, job))
        for line in sys.stdin:
            count = int(line)
            started = time.perf_counter()
            list(pool.map(label, [image] * count))
            say(seconds=time.perf_counter() - started)


def say(**answer: float | str) -> None:
    """One line of JSON."""
    sys.stdout.write(json.dumps(answer) + "\n")
    sys.stdout.flush()


def main() -> None:
    """Load, warm up, serve."""
    job = Job(**json.loads(sys.argv[1]))
    if not Path(job.file).is_file():
        say(left_out=f"{job.file} is missing")
        return
    try:
        label = label_with_onnxruntime(job) if job.way == "session" else label_with_torch(job)
        serve(label, job)
    except (
        Exception
    ) as error:  # torch and its compiler raise whatever they like; the reason goes into the report
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        say(left_out=f"{type(error).__name__}: {reason}")


if __name__ == "__main__":
    main()
