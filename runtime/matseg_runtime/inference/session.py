"""A model loaded on one execution provider, with threads that this process really has."""

from __future__ import annotations

import time
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from matseg_runtime.inference import providers
from matseg_runtime.inference.providers import Provider, ProviderChoice
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

_UNREADABLE = ("InvalidProtobuf", "InvalidArgument", "NoModel", "NoSuchFile")
_DEVICE_PROVIDERS = ("cuda", "tensorrt")
_ERRORS_ONLY = 3


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

    @classmethod
    def open(
        cls,
        model: Path | ModelFile,
        *,
        provider: ProviderChoice = "auto",
        threads: int | None = None,
        streams: int = 1,
        trust: Trust | None = None,
    ) -> Session:
        """Load a model file on the provider asked for, or fail.

        Args:
            model: a file that matseg-export wrote, or what `read_model` made of it.
            provider: `auto` takes the first of cuda, openvino and cpu that works, and says why.
            threads: for all streams together; None: all cores this process may use.
            streams: calls of `predict` that run at a time on cpu and openvino; the threads are shared out between them.
            trust: what a file that is read here must prove; None: what the site asks for.

        Raises:
            ModelError: the file cannot be used, or does not prove what it must.
            UsageError: the lists that it is measured by cannot be used.
            ProviderError: the provider cannot be had here.
            UnsupportedError: onnxruntime is missing or installed twice.
        """
        file = model if isinstance(model, ModelFile) else read_model(model, trust)
        runtime = providers.load_onnxruntime()
        threads = threads or available_cpus()
        session, chosen, reason = _create(runtime, file, provider, threads, streams)
        check_graph(file.model, session)
        return cls(
            model=file.model,
            provider=chosen,
            reason=reason,
            threads=_threads_per_call(chosen, threads, streams),
            runtime_version=runtime.__version__,
            _session=session,
        )

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

    def self_test(self) -> SelfTestResult:
        """Replay the self-test that travels in the model file."""
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

    def require_self_test(self, accepted: float = 0.0) -> SelfTestResult:
        """Replay the self-test and refuse to go on when it fails.

        Args:
            accepted: share of the pixels, 0 to 1, that may have another label than at export.

        Raises:
            ProviderError: the provider gives other labels than the export did.
        """
        result = self.self_test()
        self.require_passed(result, accepted)
        return result

    def require_passed(self, result: SelfTestResult, accepted: float = 0.0) -> None:
        """Raise what `require_self_test` does, for a result at hand."""
        if result.mismatches <= accepted * result.pixels:
            return
        advice = "use another provider, another version of onnxruntime, or (for int8) the fp32 export"
        if self.provider == "openvino" and self.model.metadata.export.precision == "int8":
            advice += (
                "; OpenVINO rounds int8 in its own way, which `matseg-run --accept-difference PERCENT` takes"
            )
        raise ProviderError(
            f"{self.model.path}: its self-test fails on the provider {self.provider}: {result.mismatches} of "
            f"{result.pixels} pixels get another label than at export; results from here would be wrong; {advice}"
        )

    def _run(self, names: Sequence[str], batch: NDArray[Any]) -> Sequence[Any]:
        try:
            if self.provider in _DEVICE_PROVIDERS:
                outputs = self._run_bound(names, batch)
            else:
                outputs = self._session.run(list(names), {INPUT_NAME: batch})
        except (MemoryError, MatsegError):
            raise
        except Exception as error:  # onnxruntime's exceptions have no common base of their own
            raise _run_error(self, batch, error) from error
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

    def _run_bound(self, names: Sequence[str], batch: NDArray[Any]) -> Sequence[Any]:
        """One copy to the device and one back for each output asked for."""
        binding = self._session.io_binding()
        binding.bind_cpu_input(INPUT_NAME, np.ascontiguousarray(batch))
        for name in names:
            binding.bind_output(name, "cpu")
        self._session.run_with_iobinding(binding)
        outputs: Sequence[Any] = binding.copy_outputs_to_cpu()
        return outputs


def _run_error(session: Session, batch: NDArray[Any], error: Exception) -> MatsegError:
    shape = " x ".join(str(length) for length in batch.shape)
    where, text = f"{session.model.path}: ", _first_line(error)
    if any(word in text.lower() for word in ("alloc", "out of memory")):
        return ProviderError(
            f"{where}a batch of {shape} does not fit into the memory of provider {session.provider}; use a smaller "
            f"--tile or --batch ({text})"
        )
    return ProviderError(f"{where}provider {session.provider} failed on a batch of {shape}: {text}")


def _create(
    runtime: ModuleType, file: ModelFile, choice: ProviderChoice, threads: int, streams: int
) -> tuple[Any, Provider, str]:
    """The first provider of the choice that really comes up, and the reason for it."""
    refusals: list[str] = []
    for provider, reason in providers.candidates(choice, runtime):
        try:
            session = _create_on(runtime, file, provider, threads, streams)
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
    return max(1, threads // streams) if provider in providers.COMPUTE_ON_CPU else threads


def _create_on(runtime: ModuleType, file: ModelFile, provider: Provider, threads: int, streams: int) -> Any:
    if provider in _DEVICE_PROVIDERS and hasattr(runtime, "preload_dlls"):
        runtime.preload_dlls()  # CUDA and cuDNN from the pip packages of the extra, where they are installed
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of a provider that is missing; checked below, in our words
            session = runtime.InferenceSession(
                file.content,
                _session_options(runtime, _threads_per_call(provider, threads, streams)),
                providers=providers.provider_list(provider, threads, streams),
                enable_fallback=0,  # which tries the CPU, and prints so where our JSON belongs
                read_config_from_model=0,  # a variable could ask for it
            )
    except Exception as error:
        raise _creation_error(runtime, file.model.path, provider, error) from error
    session.disable_fallback()
    if session.get_providers()[:1] != [providers.EXECUTION_PROVIDERS[provider]]:
        raise providers.not_available(provider, runtime, "onnxruntime could not start it on this machine")
    return session


def _creation_error(runtime: ModuleType, path: Path, provider: Provider, error: Exception) -> MatsegError:
    kind, text = type(error).__name__, _first_line(error)
    if kind in _UNREADABLE:
        return ModelError(
            f"{path}: expected an ONNX model written by matseg-export, found a damaged file or another format "
            f"({text}); copy or export it again"
        )
    if provider == "cpu":
        return ModelError(f"{path}: onnxruntime {runtime.__version__} cannot load this model: {text}")
    return providers.not_available(provider, runtime, text)


def _session_options(runtime: ModuleType, threads: int) -> Any:
    options = providers.exact_options(runtime)
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = _ERRORS_ONLY
    # bytes can be of both of the formats that onnxruntime reads; those that were looked through are ONNX
    options.add_session_config_entry("session.load_model_format", "ONNX")
    # threads that spin while they wait take the time of those that read and write
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return options


def _first_line(error: Exception) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)
