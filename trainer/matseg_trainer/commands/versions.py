"""Versions of what decides results, for bug reports; torch is not imported."""

from __future__ import annotations

import importlib.metadata
import platform
from contextlib import suppress
from typing import Any

from matseg_runtime.inference.providers import (
    EXECUTION_PROVIDERS,
    installed_runtimes,
    library_problem,
    load_onnxruntime,
)
from matseg_shared.errors import UnsupportedError
from matseg_shared.installation import install_command


def versions() -> dict[str, Any]:
    """The JSON document of `matseg --version`, as docs/terminal.md has it."""
    providers: dict[str, str | None] = {}
    problem = torch = None
    try:
        runtime = load_onnxruntime()
        offered = runtime.get_available_providers()
        known = EXECUTION_PROVIDERS.items()
        providers = {name: library_problem(name, runtime) for name, engine in known if engine in offered}
    except UnsupportedError as error:
        problem = str(error)
    with suppress(importlib.metadata.PackageNotFoundError):
        torch = importlib.metadata.version("torch")
    return {
        "matseg": importlib.metadata.version("matseg"),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "onnxruntime": {name: importlib.metadata.version(name) for name in installed_runtimes()},
        "torch": torch,
        "numpy": importlib.metadata.version("numpy"),
        "providers": providers,
        "problem": problem,
    }


def version_lines(found: dict[str, Any]) -> list[str]:
    """The same for a person."""
    runtimes = ", ".join(f"{version} ({name})" for name, version in found["onnxruntime"].items())
    providers = ", ".join(
        name if reason is None else f"{name} (does not load: {reason})"
        for name, reason in found["providers"].items()
    )
    rows = (
        ("matseg", found["matseg"]),
        ("python", f"{found['python']} on {found['platform']}"),
        ("numpy", found["numpy"]),
        ("onnxruntime", runtimes or f"not installed: {install_command('cpu')} to run models"),
        ("providers", providers or found["problem"] or "none"),
        ("torch", found["torch"] or f"not installed: {install_command('train')} to train"),
    )
    return [f"{name:<12} {value}" for name, value in rows]
