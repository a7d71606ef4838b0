"""A model loaded on one execution provider, with threads that this process really has."""

from __future__ import annotations

import re
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from queue import SimpleQueue
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from matseg_runtime.inference import nvidia, providers
from matseg_runtime.inference.providers import Devices, Provider, ProviderChoice
from matseg_runtime.model.file import Model, ModelFile, check_graph, read_model
from matseg_runtime.model.trust import Trust
from matseg_shared.contract.metadata import INPUT_NAME, LABELS_NAME, PROBABILITIES_NAME, ModelMetadata
from matseg_shared.errors import MatsegError, ModelError, ProviderError
from matseg_shared.system.machine import available_cpus

Labels = NDArray[np.uint8]
Probabilities = NDArray[np.float32]

TIE_MARGINS = {"fp32": 1e-3, "fp16": 0.03, "int8": 0.0}
"""Distance of the two best probabilities below which rounding may decide the label.

fp16 rounds to three digits, and an int8 graph is exact arithmetic.
"""
ENSEMBLE_TIE_MARGIN = 1e-5
"""The same for int8 files that average several networks: integers as each may be, the mean is one of floats."""

_ROOM_ON_GPU = (
    "use a smaller --tile or --batch, name another GPU with --device, or wait until other jobs there are done"
)
_UNREADABLE = ("InvalidProtobuf", "InvalidArgument", "NoModel", "NoSuchFile")
_NOTHING_BUT_FATAL = 4
"""Severity from which onnxruntime logs: its errors are raised too, and told in a sentence."""


def tie_margin(metadata: ModelMetadata) -> float:
    """Distance of the two best probabilities of a model below which rounding may decide the label."""
    return max(TIE_MARGINS[metadata.export.precision], ENSEMBLE_TIE_MARGIN if metadata.ensemble else 0.0)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Segmentation:
    """The labels that a model gives to one image, or to one tile."""

    labels: Labels
    """(H, W) uint8 class indices."""
    probabilities: Probabilities | None = None
    """(K, H, W) float32, when asked for."""
    constant: int = 0
    """Pixels whose label is that of a constant tile, for which the network was not asked again."""
    votes: Labels | None = None
    """(K - 1, H, W) uint8 of a pass along one axis of several, instead of probabilities; see `votes`."""
    disagreement: Labels | None = None
    """(H, W) uint8 number of such passes whose own class is another than the label."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SelfTestResult:
    """Result of the embedded self-test on one provider."""

    provider: Provider
    pixels: int
    mismatches: int
    """Pixels with another label than at export that no rounding explains."""
    ties: int
    """Pixels with another label whose two best probabilities were nearly equal at export."""
    seconds: float

    @property
    def passed(self) -> bool:
        """True when the provider gives the labels of the export."""
        return self.mismatches == 0


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Session:
    """A model that is ready to run; `predict` may be called from several threads at a time."""

    model: Model
    provider: Provider
    reason: str
    """Reason for this provider, for the user."""
    threads: int
    """Threads of one call of `predict`."""
    runtime_version: str
    _session: Any
    devices: tuple[str, ...] = ()
    """GPUs that share the calls, as in `cuda:0 NVIDIA A100`; empty: the CPU computes."""
    _idle: SimpleQueue[tuple[str, Any]] | None = None
    """GPUs that have nothing to do, each with its session; None: all calls go to one session."""

    @classmethod
    def open(
        cls,
        model: Path | ModelFile,
        *,
        provider: ProviderChoice = "auto",
        threads: int | None = None,
        streams: int = 1,
        trust: Trust | None = None,
        devices: Devices | None = None,
        memory: int | None = None,
    ) -> Session:
        """Load a model file on the provider asked for, or fail.

        Args:
            model: a file that matseg-export wrote, or what `read_model` made of it.
            provider: `auto` takes the first of cuda and cpu that works, and says why.
            threads: for all streams together; None: all cores this process may use.
            streams: calls of `predict` that run at a time on the CPU; the threads are shared out between them.
            trust: what a file that is read here must prove; None: what the site asks for.
            devices: those that a user named; of several GPUs each call goes to one that has nothing to do.
            memory: bytes that may be taken of each GPU; None: any.

        Raises:
            ModelError: the file cannot be used, or does not prove what it must.
            UsageError: the lists that it is measured by cannot be used, or provider and devices do not go together.
            ProviderError: the provider cannot be had here.
            UnsupportedError: onnxruntime is missing or installed twice, or there is no such device.
        """
        file = model if isinstance(model, ModelFile) else read_model(model, trust)
        runtime = providers.load_onnxruntime()
        threads = threads or available_cpus()
        if devices is not None:
            provider = devices.provider(provider)
            devices.require()
        gpus = (devices.gpus if devices is not None else ()) or (0,)
        make = partial(_create_on, runtime, file, threads=threads, streams=streams, memory=memory)
        session, chosen, reason = _create(runtime, provider, partial(make, gpu=gpus[0]))
        check_graph(file.model, session)
        names = _gpu_names(gpus) if chosen in providers.ON_GPU else ()
        idle: SimpleQueue[tuple[str, Any]] | None = None
        if len(gpus) > 1:
            idle = SimpleQueue()
            others = [make(chosen, gpu=gpu) for gpu in gpus[1:]]
            for each in zip(names, (session, *others), strict=True):
                idle.put(each)
        return cls(
            model=file.model,
            provider=chosen,
            reason=reason,
            threads=_threads_per_call(chosen, threads, streams),
            runtime_version=runtime.__version__,
            devices=names,
            _session=session,
            _idle=idle,
        )

    @property
    def place(self) -> str:
        """Provider and GPUs, for a person."""
        return ", ".join((self.provider, *self.devices))

    @property
    def fixed_shapes(self) -> bool:
        """True when each new input shape costs this provider time or memory."""
        return self.provider != "cpu"

    def predict(self, batch: NDArray[Any]) -> Labels:
        """Class indices of a batch.

        Args:
            batch: (N, C, H, W) raw pixels in the model's dtype; H and W multiples of its stride.

        Returns:
            (N, H, W) uint8.
        """
        labels: Labels = self._run((LABELS_NAME,), batch)[0]
        return labels

    def predict_with_probabilities(self, batch: NDArray[Any]) -> tuple[Labels, Probabilities]:
        """As `predict`, with (N, K, H, W) float32 class probabilities too."""
        labels, probabilities = self._run((LABELS_NAME, PROBABILITIES_NAME), batch)
        return labels, np.asarray(probabilities, dtype=np.float32)

    def release_memory(self) -> None:
        """Give back what calls on the CPU have taken, which onnxruntime keeps for the next."""
        if self.provider in providers.ON_GPU:
            return
        options = providers.load_onnxruntime().RunOptions()
        options.add_run_config_entry("memory.enable_memory_arena_shrinkage", "cpu:0")
        options.log_severity_level = _NOTHING_BUT_FATAL
        self._session.run([LABELS_NAME], {INPUT_NAME: self.model.self_test.image[:1]}, options)

    def self_test(self) -> SelfTestResult:
        """Replay the self-test that travels in the model file; of several GPUs the worst result counts."""
        results = [self._replayed() for _ in self.devices or (self.provider,)]  # calls go round
        return max(results, key=lambda result: result.mismatches)

    def _replayed(self) -> SelfTestResult:
        test = self.model.self_test
        started = time.perf_counter()
        labels = self.predict(test.image)
        seconds = time.perf_counter() - started
        wrong = labels != test.labels
        ties = int((wrong & (test.margin < tie_margin(self.model.metadata))).sum())
        return SelfTestResult(
            provider=self.provider,
            pixels=wrong.size,
            mismatches=int(wrong.sum()) - ties,
            ties=ties,
            seconds=seconds,
        )

    def require_self_test(self) -> SelfTestResult:
        """Replay the self-test and refuse to go on when it fails.

        Raises:
            ProviderError: the provider gives other labels than the export did.
        """
        result = self.self_test()
        self.require_passed(result)
        return result

    def require_passed(self, result: SelfTestResult) -> None:
        """Raise what `require_self_test` does, for a result at hand."""
        if not result.passed:
            raise ProviderError(
                f"{self.model.path}: its self-test fails on the provider {self.provider}: {result.mismatches} of "
                f"{result.pixels} pixels get another label than at export; results from here would be wrong; use "
                "another provider, another version of onnxruntime, or (for int8) the fp32 export"
            )

    def _run(self, names: Sequence[str], batch: NDArray[Any]) -> Sequence[Any]:
        with self._idle_session() as (device, session):
            try:
                if self.provider in providers.ON_GPU:
                    outputs = run_bound(session, names, batch)
                else:
                    outputs = session.run(list(names), {INPUT_NAME: batch})
            except (MemoryError, MatsegError):
                raise
            except Exception as error:  # onnxruntime's exceptions have no common base of their own
                raise _run_error(self.model.path, device, batch, error) from error
        count, _, height, width = batch.shape
        shapes = {
            LABELS_NAME: (count, height, width),
            PROBABILITIES_NAME: (count, len(self.model.metadata.classes), height, width),
        }
        for name, found in zip(names, outputs, strict=True):
            if found.shape != shapes[name]:  # a graph may declare free lengths and give others
                raise ModelError(
                    f"{self.model.path}: its network gives {name} of shape {found.shape}, expected {shapes[name]}; the "
                    "file is damaged or not of matseg-export; export the checkpoint again"
                )
        return outputs

    @contextmanager
    def _idle_session(self) -> Iterator[tuple[str, Any]]:
        """The session for a call, and where it computes."""
        if self._idle is None:
            yield self.devices[0] if self.devices else f"provider {self.provider}", self._session
            return
        found = self._idle.get()
        try:
            yield found
        finally:
            self._idle.put(found)


def _gpu_names(gpus: Sequence[int]) -> tuple[str, ...]:
    """`cuda:0 NVIDIA A100` of each, or its number alone where the driver does not say more."""
    driver = nvidia.find_driver()
    known = dict(enumerate(() if driver is None else driver.gpus))
    return tuple(f"cuda:{gpu} {known.get(gpu, '')}".strip() for gpu in gpus)


def run_bound(session: Any, names: Sequence[str], batch: NDArray[Any]) -> Sequence[Any]:
    """One copy to the device and one back for each output asked for."""
    binding = session.io_binding()
    binding.bind_cpu_input(INPUT_NAME, np.ascontiguousarray(batch))
    for name in names:
        binding.bind_output(name, "cpu")
    session.run_with_iobinding(binding)
    outputs: Sequence[Any] = binding.copy_outputs_to_cpu()
    return outputs


def _run_error(path: Path, device: str, batch: NDArray[Any], error: Exception) -> MatsegError:
    shape = " x ".join(str(length) for length in batch.shape)
    text = providers.failure(_first_line(error))
    if _is_out_of_memory(text):
        remedy = _ROOM_ON_GPU if device.startswith("cuda") else "use a smaller --tile or --batch"
        return ProviderError(
            f"{path}: a batch of {shape} does not fit into the memory of {device}; {remedy} ({text})"
        )
    if "no kernel image" in text:
        text += "; the extra for another CUDA may have code for this GPU: docs/facility.md lists which"
    return ProviderError(f"{path}: {device} failed on a batch of {shape}: {text}")


def _is_out_of_memory(text: str) -> bool:
    return (
        re.search(r"out of memory|available memory|failed to alloc|bad.alloc|alloc_failed", text.lower())
        is not None
    )


def _create(
    runtime: ModuleType, choice: ProviderChoice, make: Callable[[Provider], Any]
) -> tuple[Any, Provider, str]:
    """The first provider of the choice that really comes up, and the reason for it."""
    refusals: list[str] = []
    for provider, reason in providers.candidates(choice, runtime):
        try:
            session = make(provider)
        except ProviderError as error:
            if choice != "auto" or provider == "cpu":
                raise
            refusals.append(str(error).split(";", 1)[0])
        else:
            return session, provider, "; ".join([reason, *refusals])
    raise ProviderError(
        f"onnxruntime {runtime.__version__} offers none of the providers that matseg can use; "
        "install it again: pip install --force-reinstall onnxruntime"
    )


def _threads_per_call(provider: Provider, threads: int, streams: int) -> int:
    return max(1, threads // streams) if provider == "cpu" else threads


def _create_on(
    runtime: ModuleType,
    file: ModelFile,
    provider: Provider,
    *,
    threads: int,
    streams: int,
    gpu: int,
    memory: int | None,
) -> Any:
    providers.load_gpu_libraries(provider, runtime)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of a provider that is missing; checked below, in our words
            session = runtime.InferenceSession(
                file.content,
                _session_options(runtime, provider, _threads_per_call(provider, threads, streams)),
                providers=providers.provider_list(provider, gpu, memory),
                enable_fallback=0,  # which tries the CPU, and prints so where our JSON belongs
                read_config_from_model=0,  # a variable could ask for it
            )
    except Exception as error:
        raise _creation_error(runtime, file.model.path, provider, gpu, error) from error
    session.disable_fallback()
    if session.get_providers()[:1] != [providers.EXECUTION_PROVIDERS[provider]]:
        raise providers.not_available(provider, runtime, "onnxruntime could not start it on this machine")
    return session


def _creation_error(
    runtime: ModuleType, path: Path, provider: Provider, gpu: int, error: Exception
) -> MatsegError:
    kind, text = type(error).__name__, _first_line(error)
    if kind in _UNREADABLE:
        return ModelError(
            f"{path}: expected an ONNX model written by matseg-export, found a damaged file or another format "
            f"({text}); copy or export it again"
        )
    if provider == "cpu":
        return ModelError(f"{path}: onnxruntime {runtime.__version__} cannot load this model: {text}")
    if provider in providers.ON_GPU and _is_out_of_memory(text := providers.failure(text)):
        return ProviderError(
            f"{path}: the model does not fit into the memory of cuda:{gpu}; {_ROOM_ON_GPU} ({text})"
        )
    return providers.not_available(provider, runtime, text)


def _session_options(runtime: ModuleType, provider: Provider, threads: int) -> Any:
    options = providers.exact_options(runtime)
    options.use_deterministic_compute = provider in providers.ON_GPU
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = _NOTHING_BUT_FATAL
    # bytes can be of both of the formats that onnxruntime reads; those that were looked through are ONNX
    options.add_session_config_entry("session.load_model_format", "ONNX")
    # threads that spin while they wait take the time of those that read and write
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return options


def _first_line(error: Exception) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)
