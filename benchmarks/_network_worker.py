"""One contestant of networks.py or engines.py in a process of its own: `python _network_worker.py '{"way": ..., ...}'`.

It says `{"ready": seconds}` when it has labelled a slice, and then for every line `N` on its standard input labels N
slices and answers `{"seconds": ...}`. Before that, where the job has images, it labels those into a file. Between its
turns it waits; what it cannot do it says as `{"left_out": reason}`.
"""

from __future__ import annotations

import json
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from _full_width import N_CLASS, naive_pixelnet
from _profile import grey_image
from numpy.typing import NDArray

from matseg_runtime.inference.providers import exact_options
from matseg_shared.contract.metadata import INPUT_NAME, LABELS_NAME

if TYPE_CHECKING:
    import torch

Label = Callable[[NDArray[Any]], object]
"""Labels one (1, 1, H, W) image."""

_SLOW = 2.0
"""Seconds a slice from which on a small image is warm-up enough."""
STRIDE = 32
"""Every network's, at most."""
_SMALL = 3
"""Part of the edge that the first, small image has."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """A case to run."""

    way: str
    """`eager`, `bf16`, `compile`, `aot`, `naive` (torch), `session` (onnxruntime) or `openvino`."""
    file: str
    """Weights, or an ONNX file; for torch an ONNX file in fp32 that has everything else about the network, too."""
    size: int
    """Edge of the input, a multiple of the stride."""
    threads: int
    streams: int = 1
    """Calls at the same time, each on `threads` threads."""
    network: str = ""
    width: int = 0
    mean: float = 0.0
    std: float = 1.0
    precision: str = "f32"
    """OpenVINO's `INFERENCE_PRECISION_HINT`."""
    images: str = ""
    """Arrays (1, 1, H, W) to label (.npz), H and W multiples of the stride; "": none."""
    labels: str = ""
    """File for their labels (.npz), under the same names."""


def label_with_torch(job: Job) -> Label:
    """Whole images through the torch network, as the guide's apply does: pixels in, labels out."""
    import torch

    from matseg_trainer.networks.base import normalise
    from matseg_trainer.networks.registry import build_network
    from matseg_trainer.predict.exported import load_exported

    torch.set_num_threads(job.threads)
    mean, std = (job.mean,), (job.std,)
    if job.file.endswith(".onnx"):
        checkpoint = load_exported(job.file)[1]
        network, (mean, std) = checkpoint.network().eval(), (checkpoint.input.mean, checkpoint.input.std)
    else:
        network = build_network(job.network, in_channels=1, n_class=N_CLASS, width=job.width).eval()
        network.load_state_dict(torch.load(job.file, weights_only=True))
    forward: Callable[[torch.Tensor], torch.Tensor] = network
    if job.way == "compile":
        forward = torch.compile(network)
    elif job.way == "aot":
        forward = compiled_ahead(network, job)
    elif job.way == "naive":
        forward = lambda images: naive_pixelnet(network, images)  # noqa: E731

    def label(image: NDArray[Any]) -> object:
        half = torch.autocast("cpu", dtype=torch.bfloat16, enabled=job.way == "bf16")
        with torch.inference_mode(), half:
            pixels = normalise(torch.from_numpy(image), mean, std)
            return forward(pixels).argmax(dim=1).to(torch.uint8).numpy()

    return label


def compiled_ahead(network: torch.nn.Module, job: Job) -> Callable[[torch.Tensor], torch.Tensor]:
    """The network as a package of AOTInductor for any size; made once, beside the model file."""
    import torch

    package = Path(job.file).with_suffix(".pt2")
    if not package.is_file():
        edges = {axis: STRIDE * torch.export.Dim(name, min=2, max=64) for axis, name in ((2, "h"), (3, "w"))}
        with torch.inference_mode():
            image = torch.zeros(1, 1, 8 * STRIDE, 8 * STRIDE)
            program = torch.export.export(network, (image,), dynamic_shapes=(edges,))
            torch._inductor.aoti_compile_and_package(program, package_path=str(package))
    return torch._inductor.aoti_load_package(str(package))  # type: ignore[no-any-return]


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


def label_with_openvino(job: Job) -> Label:
    """OpenVINO by itself, with a request of its own for every thread that calls."""
    import openvino

    settings = {
        "INFERENCE_NUM_THREADS": job.threads * job.streams,
        "NUM_STREAMS": job.streams,
        "INFERENCE_PRECISION_HINT": job.precision,
    }
    core = openvino.Core()
    if job.precision == "bf16" and "BF16" not in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        raise ValueError("this processor has no bf16")
    compiled = core.compile_model(job.file, "CPU", settings)
    own = threading.local()

    def label(image: NDArray[Any]) -> object:
        if not hasattr(own, "request"):
            own.request = compiled.create_infer_request()
        return own.request.infer([image])[compiled.output(LABELS_NAME)].copy()

    return label


def label_images(label: Label, job: Job) -> None:
    """Label the job's images into its file, unless it is there."""
    if Path(job.labels).is_file():
        return
    with np.load(job.images) as images:
        np.savez(job.labels, **{name: np.asarray(label(images[name])) for name in images.files})


def warm_up(label: Label, job: Job) -> float:
    """Label a small image and, where that is quick, whole ones; about how many seconds one takes."""
    small = max(job.size // _SMALL // STRIDE, 1) * STRIDE
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
        ways = {"session": label_with_onnxruntime, "openvino": label_with_openvino}
        label = ways.get(job.way, label_with_torch)(job)
        if job.images:
            label_images(label, job)
        serve(label, job)
    except (
        Exception
    ) as error:  # torch and its compiler raise whatever they like; the reason goes into the report
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        say(left_out=f"{type(error).__name__}: {reason}")


if __name__ == "__main__":
    main()
