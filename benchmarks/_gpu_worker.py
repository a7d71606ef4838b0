"""One measurement of gpu.py in a process of its own: `python _gpu_worker.py '{"kind": "session", ...}'`.

Each finished row is one line of JSON, so that those measured before a failure, or before time was up, count. A process
of its own gives its memory back, and leaves behind no CUDA context that an error has broken.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from _profile import grey_image
from numpy.typing import NDArray

from matseg_runtime.inference.providers import (
    Provider,
    exact_options,
    load_gpu_libraries,
    load_onnxruntime,
    provider_list,
)
from matseg_shared.contract.metadata import INPUT_NAME, LABELS_NAME

Label = Callable[[NDArray[Any]], NDArray[np.uint8]]

_LEFT_BYTES = 256 * 2**20
"""Memory of a GPU that a job finds free which is to find too little."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """A measurement."""

    kind: str
    """`models`, `session`, `ways`, `train`, or `full` (refusals of a GPU without memory)."""
    folder: str
    """Holds models, and labels of the CPU."""
    size: int
    """Edge of the input in pixels, a multiple of the stride."""
    network: str
    precision: str = "fp32"
    provider: Provider = "cpu"
    seconds: float = 1.0
    """Seconds of calls that are timed, at least."""
    batch: int = 1
    width: int = 0
    reference: bool = False
    """Its labels are kept, for all others to be compared with; of the CPU."""
    way: str = ""
    """Precision of a training (`fp32`, `bf16`, `fp16`), then `compile` or `contiguous`; of models `files`, or none."""

    def file(self, precision: str | None = None) -> Path:
        """The graph, without metadata."""
        return Path(self.folder) / f"{self.network}_{precision or self.precision}.onnx"

    @property
    def cpu_labels(self) -> Path:
        """Labels that the CPU gives to the same image: of the same graph in int8, of fp32 otherwise."""
        precision = "int8" if self.precision == "int8" else "fp32"
        return Path(self.folder) / f"{self.network}_{precision}_{self.size}.npy"


def say(**row: Any) -> None:
    """One line of JSON."""
    sys.stdout.write(json.dumps(row) + "\n")
    sys.stdout.flush()


def make_models(job: Job) -> None:
    """Write the graphs in fp32, fp16 and int8, with random weights; as whole model files too where `way` says so."""
    import onnx
    from _full_width import Files, make, phantom_crops
    from _workload import wrapped

    from matseg_trainer.export.half import to_half
    from matseg_trainer.networks.halo import measure_halo
    from matseg_trainer.networks.registry import build_network

    make(Files(folder=Path(job.folder), name=job.network, width=job.width), job.size)
    fp32 = onnx.load(job.file("fp32"))
    onnx.save(to_half(fp32, list(phantom_crops()[:, None])), job.file("fp16"))
    if job.way == "files":
        network = build_network(job.network, in_channels=1, n_class=2, width=job.width).eval()
        halo = measure_halo(network, 1)
        for precision in ("fp32", "fp16", "int8"):
            target = Path(job.folder) / f"run_{job.network}_{precision}.onnx"
            wrapped(onnx.load(job.file(precision)), target, precision, network.stride, halo)
    say(made=True)


def measure_session(job: Job) -> None:
    """A graph on a provider, as matseg-run calls it."""
    image = np.repeat(grey_image(job.size), job.batch, axis=0)
    with _memory(job) as taken:
        started = time.perf_counter()
        session = _session(job)
        label = _bound(session) if job.provider != "cpu" else _plain(session)
        labels = label(image)
        first = time.perf_counter() - started
        milliseconds = _timed(lambda: label(image), job.seconds) / job.batch
    row = {"milliseconds": milliseconds, "first": first, "memory": taken(), "size": job.size}
    if job.reference:
        np.save(job.cpu_labels, labels)
    elif job.cpu_labels.exists():
        row["unlike"] = int((labels[:1] != np.load(job.cpu_labels)).sum())
    if job.provider == "cuda":  # TensorRT would build its engine once more
        row["note"] = _parts_on_the_cpu(job)
    say(**row)


def measure_ways(job: Job) -> None:
    """Ways that might be better, each against the way of matseg-run, which is the first."""
    image = grey_image(job.size)
    on_gpu = job.provider != "cpu"
    ways: dict[str, tuple[dict[str, str], Callable[[Any], Label], int]] = {
        "as matseg-run does": ({}, _bound, 1),
        "without I/O binding": ({}, _plain, 1),
        "two calls at a time": ({}, _bound, 2),
        "labels stay on the GPU, copied from pinned memory": ({}, _pinned, 1),
        "kernels by exhaustive search": ({"cudnn_conv_algo_search": "EXHAUSTIVE"}, _bound, 1),
        "TF32": ({"use_tf32": "1"}, _bound, 1),
        "channels last (prefer_nhwc)": ({"prefer_nhwc": "1"}, _bound, 1),
        "CUDA graph": ({"enable_cuda_graph": "1"}, _pinned, 1),
    }
    for name, (options, make, calls) in ways.items():
        if options and not on_gpu:
            say(what=name, left_out="an option of the CUDA provider")
            continue
        try:
            label = make(_session(job, options))
            labels = label(image)
            with ThreadPoolExecutor(calls) as pool:
                images = [image] * (4 * calls)
                milliseconds = _timed(lambda: list(pool.map(label, images)), job.seconds) / len(images)  # noqa: B023
        except Exception as error:  # each way is worth a row of its own
            say(what=name, left_out=_reason(error))
            continue
        row: dict[str, Any] = {"what": name, "milliseconds": milliseconds, "size": job.size}
        if job.cpu_labels.exists():
            row["unlike"] = int((labels != np.load(job.cpu_labels)).sum())
        say(**row)


def measure_training(job: Job) -> None:
    """Steps of a training as matseg-train takes them; one process of several says what it costs."""
    import torch

    kind, *more = job.way.split()
    if "contiguous" in more:
        torch.channels_last = torch.contiguous_format  # which the step asks for by name
    from matseg_trainer.config.versions import VersionConfig
    from matseg_trainer.data.dataset import Batch
    from matseg_trainer.networks.registry import build_network
    from matseg_trainer.train.device import choose_compute
    from matseg_trainer.train.distributed import join_processes
    from matseg_trainer.train.step import RunningScore, TrainStep

    on_gpu = job.provider != "cpu"
    with join_processes(gpu=on_gpu) as context:
        compute = choose_compute(gpu=on_gpu, amp=kind, local_rank=context.local_rank)
        config = VersionConfig(
            model=job.network, n_class=3, crop=job.size, batch_size=job.batch, width=job.width or None, lr=1e-3,
            optimizer="AdamW", epoch=1,
        )  # fmt: skip
        network = build_network(job.network, in_channels=1, n_class=3, **config.architecture)
        step = TrainStep(network, config, _Grey(), compute, context, None)  # type: ignore[arg-type]
        if "compile" in more:
            step._module = torch.compile(step._module)  # type: ignore[assignment]
        step.train()
        rng, shape = np.random.default_rng(context.rank), (job.batch // context.size, job.size, job.size)
        batch = Batch(
            images=torch.from_numpy(rng.integers(0, 256, (shape[0], 1, *shape[1:]), dtype=np.uint8)),
            labels=torch.from_numpy(rng.integers(0, 3, shape)),
            pixels=torch.from_numpy(rng.integers(0, job.size**2, (shape[0], 2048))),
        )
        score = RunningScore(n_class=3, device=compute.device)

        def one_step() -> None:
            step.step(batch, score)
            score.fetch()  # waits for a GPU

        with _memory(job) as taken:
            started = time.perf_counter()
            one_step()
            first = time.perf_counter() - started
            one_step()
            steps = 8 if context.size > 1 else None  # as many everywhere: they wait for each other
            milliseconds = _timed(one_step, job.seconds, steps)
        if context.is_main:
            say(milliseconds=milliseconds, first=first, memory=taken(), pixels=job.batch * job.size**2)


class _Grey:
    """Pixels as a step takes them from the metadata."""

    mean, std = (128.0,), (40.0,)


def measure_full(job: Job) -> None:
    """A job on a GPU whose memory another one has: what is said, and the exit code."""
    from _workload import matseg_run_command

    if job.provider == "cpu":
        say(left_out="needs a GPU")
        return
    import subprocess

    import torch

    free, _ = torch.cuda.mem_get_info()
    other = torch.empty(free - _LEFT_BYTES, dtype=torch.uint8, device="cuda")
    model = Path(job.folder) / f"run_{job.network}_fp32.onnx"
    command = [matseg_run_command().replace("matseg-run", "matseg-verify"), model, "--provider", job.provider]
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True, check=False)
    say(note=f"exit code {done.returncode}: {(done.stderr or done.stdout).strip()}", memory=other.nbytes)


def _session(job: Job, options: dict[str, str] | None = None, *, gpu_only: bool = False) -> Any:
    runtime = load_onnxruntime()
    load_gpu_libraries(job.provider, runtime)
    settings = exact_options(runtime)
    settings.log_severity_level = 4
    settings.use_deterministic_compute = job.provider != "cpu"
    if gpu_only:
        settings.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
    chosen = provider_list(job.provider)
    chosen[-1][1].update(options or {})
    session = runtime.InferenceSession(job.file().read_bytes(), settings, providers=chosen, enable_fallback=0)
    if session.get_providers()[0] != chosen[0][0]:
        raise RuntimeError(f"onnxruntime took {session.get_providers()[0]} for {chosen[0][0]}")
    return session


def _parts_on_the_cpu(job: Job) -> str:
    """A word on whether the provider has all operators of the graph."""
    try:
        _session(job, gpu_only=True)
    except Exception:
        return "some operators run on the CPU"
    return "all operators run on the GPU"


def _plain(session: Any) -> Label:
    return lambda image: session.run([LABELS_NAME], {INPUT_NAME: image})[0]  # type: ignore[no-any-return]


def _bound(session: Any) -> Label:
    from matseg_runtime.inference.session import run_bound

    return lambda image: run_bound(session, (LABELS_NAME,), image)[0]  # type: ignore[no-any-return]


def _pinned(session: Any) -> Label:
    """Buffers that are made once, the host's pinned where there is a GPU; the same for every call, as a graph needs."""
    import torch

    device = "cuda" if session.get_providers()[0] != "CPUExecutionProvider" else "cpu"
    buffers: dict[tuple[int, ...], tuple[Any, ...]] = {}

    def label(image: NDArray[Any]) -> NDArray[np.uint8]:
        if image.shape not in buffers:
            shape = (image.shape[0], *image.shape[2:])
            kinds = {"dtype": torch.uint8, "pin_memory": device == "cuda"}
            host, back = torch.empty(image.shape, **kinds), torch.empty(shape, **kinds)
            there = torch.empty(image.shape, dtype=torch.uint8, device=device)
            found = torch.empty(shape, dtype=torch.uint8, device=device)
            binding = session.io_binding()
            for bind, name, tensor in (
                (binding.bind_input, INPUT_NAME, there),
                (binding.bind_output, LABELS_NAME, found),
            ):
                bind(name, device, 0, np.uint8, tuple(tensor.shape), tensor.data_ptr())
            buffers[image.shape] = host, there, found, back, binding
        host, there, found, back, binding = buffers[image.shape]
        host.copy_(torch.from_numpy(image))
        there.copy_(host, non_blocking=True)
        if device == "cuda":
            torch.cuda.synchronize()
        session.run_with_iobinding(binding)
        back.copy_(found)
        return back.numpy().copy()  # type: ignore[no-any-return]

    return label


@contextmanager
def _memory(job: Job) -> Iterator[Callable[[], int | None]]:
    """Bytes of the GPU that were taken since; None where nothing tells."""
    if job.provider == "cpu":
        yield lambda: None
        return
    import torch

    if not torch.cuda.is_available():  # of another CUDA, or of none
        yield lambda: None
        return
    before = torch.cuda.mem_get_info()[0]
    yield lambda: before - torch.cuda.mem_get_info()[0]


def _timed(call: Callable[[], object], seconds: float, count: int | None = None) -> float:
    """Median of a call's milliseconds, over so many calls, or at least three and so many seconds."""
    times: list[float] = []
    while len(times) < (count or 3) or (count is None and sum(times) < seconds):
        started = time.perf_counter()
        call()
        times.append(time.perf_counter() - started)
    return statistics.median(times) * 1e3


def _reason(error: Exception) -> str:
    from matseg_runtime.inference.providers import failure

    return failure((str(error).strip() or type(error).__name__).splitlines()[0])


def main(arguments: Sequence[str]) -> None:
    """Measure, or say why not."""
    job = Job(**json.loads(arguments[0]))
    measure = {
        "models": make_models,
        "session": measure_session,
        "ways": measure_ways,
        "train": measure_training,
        "full": measure_full,
    }[job.kind]
    try:
        measure(job)
    except Exception as error:  # whatever CUDA, torch and onnxruntime raise becomes a row
        say(left_out=_reason(error))


if __name__ == "__main__":
    main(sys.argv[1:])
