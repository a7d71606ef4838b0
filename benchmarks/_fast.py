"""The network for deployment: given files, or a patchunet trained for a minute through the commands a user types."""

from __future__ import annotations

import subprocess
import sysconfig
from collections.abc import Sequence
from pathlib import Path

from matseg_runtime.inference.session import Session
from matseg_shared.errors import UnsupportedError, UsageError

_CONFIG = """
[bench.default]
n_class = 2

[bench.v1]
model = "patchunet"
width = {width}
crop = {crop}
crops_per_image = 4
batch_size = 8
lr = 0.003
schedule = "cosine"
epoch = {epochs}
weight_decay = 0
aug = true
shuffle = true
"""


def fast_models(given: Sequence[Path], folder: Path, *, quick: bool) -> dict[str, Path]:
    """Model files by their precision.

    Args:
        given: files of matseg-export; none: train one.
        folder: for the training's workspace.
        quick: a narrow network, hardly trained.

    Raises:
        UsageError: two files of one precision.
        UnsupportedError: a command failed; with what it said.
    """
    if not given:
        return _trained(folder / "workspace", quick=quick)
    models: dict[str, Path] = {}
    for path in given:
        precision = Session.open(path, provider="cpu", threads=1).model.metadata.export.precision
        if precision in models:
            raise UsageError(
                f"{path}: expected one file per precision, found {precision} in {models[precision].name} too; "
                "leave one of them out"
            )
        models[precision] = path
    return models


def _trained(workspace: Path, *, quick: bool) -> dict[str, Path]:
    workspace.mkdir()
    settings = {"width": 4, "crop": 64, "epochs": 4} if quick else {"width": 32, "crop": 128, "epochs": 20}
    (workspace / "config.toml").write_text(_CONFIG.format(**settings), encoding="utf-8")
    run_command(workspace, "matseg-prep", "demo", "bench")
    run_command(workspace, "matseg-prep", "labels", "bench", "train", "validate", "test")
    run_command(workspace, "matseg-train", "bench", "v1")
    models = {}
    for precision in ("fp32", "int8"):
        models[precision] = workspace / f"patchunet{settings['width']}_{precision}.onnx"
        run_command(
            workspace, "matseg-export", "bench", "v1", "--precision", precision, "-o", str(models[precision])
        )
    return models


def run_command(workspace: Path, name: str, *arguments: str) -> None:
    """Run one of the commands in a workspace to its end, or raise UnsupportedError with what it said."""
    program = Path(sysconfig.get_path("scripts")) / name
    done = subprocess.run(
        [str(program), *arguments], cwd=workspace, capture_output=True, text=True, check=False
    )
    if done.returncode:
        said = done.stderr.strip() or done.stdout.strip()
        raise UnsupportedError(f"{name} {' '.join(arguments)}: ended with {done.returncode}: {said}")
