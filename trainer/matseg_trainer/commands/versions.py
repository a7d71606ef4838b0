"""Versions of what decides results, for bug reports; torch is not imported."""

from __future__ import annotations

import importlib.metadata
import platform
from dataclasses import dataclass

from matseg_runtime.inference.providers import (
    EXECUTION_PROVIDERS,
    Provider,
    installed_runtimes,
    library_problem,
    load_onnxruntime,
)
from matseg_shared.errors import UnsupportedError
from matseg_shared.installation import install_command

_PROVIDERS: tuple[Provider, ...] = ("cpu", "cuda", "tensorrt", "openvino")


@dataclass(frozen=True, slots=True, kw_only=True)
class VersionsSummary:
    """`matseg --version`."""

    matseg: str
    python: str
    platform: str
    onnxruntime: dict[str, str]
    """Version by distribution; there should be one of them."""
    torch: str | None
    """None where it is not installed: there a model can be run, but not trained."""
    numpy: str
    providers: dict[str, str | None]
    """Those that onnxruntime was built with, each with the reason why it does not load here, or None."""
    problem: str | None
    """Why onnxruntime itself cannot be used."""

    @classmethod
    def here(cls) -> VersionsSummary:
        """Of this installation."""
        providers: dict[str, str | None] = {}
        problem = None
        try:
            runtime = load_onnxruntime()
            offered = runtime.get_available_providers()
            providers = {
                name: library_problem(name, runtime)
                for name in _PROVIDERS
                if EXECUTION_PROVIDERS[name] in offered
            }
        except UnsupportedError as error:
            problem = str(error)
        return cls(
            matseg=importlib.metadata.version("matseg"),
            python=platform.python_version(),
            platform=platform.platform(),
            onnxruntime={name: importlib.metadata.version(name) for name in installed_runtimes()},
            torch=_version("torch"),
            numpy=importlib.metadata.version("numpy"),
            providers=providers,
            problem=problem,
        )

    def lines(self) -> list[str]:
        """For a person."""
        runtimes = ", ".join(f"{version} ({name})" for name, version in self.onnxruntime.items())
        providers = ", ".join(
            name if reason is None else f"{name} (does not load: {reason})"
            for name, reason in self.providers.items()
        )
        rows = (
            ("matseg", self.matseg),
            ("python", f"{self.python} on {self.platform}"),
            ("numpy", self.numpy),
            ("onnxruntime", runtimes or f"not installed: {install_command('cpu')} to run models"),
            ("providers", providers or self.problem or "none"),
            ("torch", self.torch or f"not installed: {install_command('train')} to train"),
        )
        return [f"{name:<12} {value}" for name, value in rows]


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None
