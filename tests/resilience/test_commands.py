"""Outputs of the other commands are whole or not there, and a failure can be run again."""

from __future__ import annotations

import errno
import io
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import numpy as np
import onnx_models
import pytest
from click.testing import CliRunner, Result
from crashing_disk import CrashingDisk, Loss, PowerCut
from folders import snapshot
from label_exports import HEIGHT, WIDTH, coco, rectangle, save
from PIL import Image
from small_disks import mounted
from thoroughness import chosen

from matseg_shared.errors import OutputError
from matseg_shared.images.png import write_label_png
from matseg_shared.system.files import TEMPORARY_PREFIX, atomic_write

pytestmark = pytest.mark.skipif(
    sys.platform != "linux", reason="follows open files through /proc, and mounts disks"
)

CONFIG = """
[discs.default]
n_class = 2
size = [48, 64]

[discs.v1]
model = "unet"
width = 4
batch_size = 2
crop = 32
epoch = 2
amp = "fp32"
"""


def call(command: click.Command, *arguments: object) -> Result:
    result = CliRunner().invoke(command, [str(item) for item in arguments])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def make_workspace(root: Path) -> Path:
    """Images and label images, not prepared yet."""
    (root / "config.toml").parent.mkdir(parents=True, exist_ok=True)
    (root / "config.toml").write_text(CONFIG, encoding="utf-8")
    for split, count in (("train", 2), ("validate", 1)):
        for number in range(count):
            image = onnx_models.random_pixels((48, 64), "uint8", number + 10 * (split == "train"))
            for kind, pixels in (("images", image), ("labels", (image > 128).astype(np.uint8) * 255)):
                path = root / "data" / "discs" / split / kind / f"s{number}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(pixels).save(path)
    return root


def finished(folder: Path) -> dict[str, bytes]:
    """Without what a killed process may leave, whose names say so, and what tells the time."""
    return {
        name: content
        for name, content in snapshot(folder).items()
        if TEMPORARY_PREFIX not in name and not name.endswith(("quantities.json", ".html"))
    }


def labels_of(root: Path, *more: str) -> Result:
    from matseg_trainer.commands.prep import main

    return call(main, "labels", "discs", "train", "validate", "--workspace", root, *more)


def crops_of(root: Path, *more: str) -> Result:
    from matseg_trainer.commands.prep import main

    return call(main, "crop", "discs", 16, 6, 3, "-r", "crops", "--workspace", root, *more)


def import_of(root: Path, *more: str) -> Result:
    from matseg_trainer.commands.prep import main

    return call(main, "import", root / "drawn" / "a.json", "imported", "--workspace", root, *more)


def quantities_of(root: Path, *_: str) -> Result:
    from matseg_runtime.cli.quantify import quantify_main

    folder = root / "data" / "discs" / "train" / "labels"
    return call(quantify_main, folder, "-o", root / "tables", "--workers", 1)


COMMANDS: dict[str, tuple[Callable[..., Result], str]] = {
    "labels": (labels_of, "--append"),
    "crop": (crops_of, "--overwrite"),
    "import": (import_of, "--overwrite"),
    "quantify": (quantities_of, ""),
}


@pytest.mark.parametrize("name", COMMANDS)
@pytest.mark.parametrize("fault", ["ENOSPC", "EIO", "power"])
def test_a_command_that_fails_is_run_again(name: str, fault: str, folder: Path) -> None:
    command, again = COMMANDS[name]

    def prepared(place: Path) -> Path:
        make_workspace(place)
        if name == "crop":
            assert labels_of(place).exit_code == 0
        if name == "import":
            picture = {"id": 1, "file_name": "a.png", "width": WIDTH, "height": HEIGHT}
            coco(place / "drawn" / "a.json", [{"segmentation": [rectangle(5, 5, 20, 20)]}], images=[picture])
            save(place / "drawn" / "a.png", onnx_models.random_pixels((HEIGHT, WIDTH), "uint8", 1))
        return place

    whole_folder = prepared(folder / "whole")
    disk = CrashingDisk(root=whole_folder)
    with disk.failing():
        assert command(whole_folder).exit_code == 0
    whole = finished(whole_folder)
    for step in chosen(len(disk.steps), 3, f"{name} {fault}"):
        place = prepared(folder / f"step{step}")
        number = getattr(errno, fault, 0)
        error = OSError(number, os.strerror(number)) if number else PowerCut()
        broken = CrashingDisk(root=place, fail_at=step, fault=error)
        try:
            with broken.failing():
                result = command(place)
        except PowerCut:
            broken.crash(Loss.EVERYTHING)
        else:
            assert result.exit_code == 1, (broken.steps[step], result.output)
            assert "unexpected" not in result.output, (broken.steps[step], result.output)
            assert "cannot be written" in result.output, (broken.steps[step], result.output)
        found = finished(place)
        assert [path for path, content in found.items() if content != whole.get(path)] == [], broken.steps[
            step
        ]
        result = command(place)
        if result.exit_code == 2:
            assert again in result.output
            result = command(place, again)
        assert result.exit_code == 0, (broken.steps[step], result.output)
        assert finished(place) == whole, broken.steps[step]


def test_a_training_without_power_goes_on_where_it_was(folder: Path) -> None:
    torch = pytest.importorskip("torch")
    from matseg_trainer.commands.train import train_main

    def trained(place: Path, *more: str) -> Result:
        return call(train_main, "discs", "v1", "--workspace", place, "--seed", 3, *more)

    def outcome(place: Path) -> tuple[Any, Any]:
        text = (place / "log" / "discs_v1.jsonl").read_text(encoding="utf-8")
        log = [json.loads(line) | {"seconds": 0} for line in text.splitlines()]
        return log, torch.load(place / "saved" / "discs_v1.pth", weights_only=True)["weights"]

    def prepared(name: str) -> Path:
        place = make_workspace(folder / name)
        assert labels_of(place).exit_code == 0
        return place

    disk = CrashingDisk(root=prepared("whole"))
    with disk.failing():
        assert trained(disk.root).exit_code == 0
    log, weights = outcome(disk.root)
    for step in chosen(len(disk.steps), 1, "train"):
        for fault in (PowerCut(), OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))):
            place = prepared(f"step{step}{type(fault).__name__}")
            broken = CrashingDisk(root=place, fail_at=step, fault=fault)
            try:
                with broken.failing():
                    result = trained(place)
            except PowerCut:
                broken.crash(Loss.EVERYTHING)
            else:
                assert result.exit_code == 1, (broken.steps[step], result.output)
                assert "no space is left" in result.output, (broken.steps[step], result.output)
            resumable = (place / "saved" / "discs_v1.resume.pth").exists()
            result = trained(place, "--resume" if resumable else "--overwrite")
            assert result.exit_code == 0, (broken.steps[step], result.output)
            found_log, found = outcome(place)
            assert found_log == log, broken.steps[step]
            assert all(torch.equal(found[name], tensor) for name, tensor in weights.items()), broken.steps[
                step
            ]


def _png(stream: Any, pixels: np.ndarray) -> None:
    Image.fromarray(pixels).save(stream, format="PNG")


def _label_png(stream: Any, pixels: np.ndarray) -> None:
    write_label_png(stream, pixels, [(0, 0, 0)] * 256)


def _tiff(stream: Any, pixels: np.ndarray) -> None:
    import tifffile

    tifffile.imwrite(stream, pixels)


def _npy(stream: Any, pixels: np.ndarray) -> None:
    np.save(stream, pixels, allow_pickle=False)


def _torch(stream: Any, pixels: np.ndarray) -> None:
    torch = pytest.importorskip("torch")
    torch.save({"weights": torch.from_numpy(pixels)}, stream)


def _zip(stream: Any, pixels: np.ndarray) -> None:
    import zipfile

    with zipfile.ZipFile(stream, "w") as package:
        package.writestr("pixels", pixels.tobytes())


@pytest.mark.parametrize("kilobytes", [8, 40, 64])
@pytest.mark.parametrize("write", [_png, _label_png, _tiff, _npy, _torch, _zip])
def test_a_full_disk_is_named_whatever_a_writer_makes_of_it(write: Any, kilobytes: int, folder: Path) -> None:
    """torch speaks of positions in its archive, numpy of elements requested and written."""
    pixels = np.random.default_rng(0).integers(0, 256, (400, 400), dtype=np.uint8)
    with mounted(folder, kilobytes) as disk:
        with (
            pytest.raises(OutputError, match="no space is left on that disk"),
            atomic_write(disk / "file") as stream,
        ):
            write(stream, pixels)
        assert list(disk.iterdir()) == []


@pytest.mark.parametrize("write", [_png, _label_png, _tiff, _npy, _torch, _zip])
def test_a_writer_writes_the_same_to_a_file_and_to_memory(write: Any, folder: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (40, 30), dtype=np.uint8)
    memory = io.BytesIO()
    write(memory, pixels)
    with atomic_write(folder / "file") as stream:
        write(stream, pixels)
    assert (folder / "file").read_bytes() == memory.getvalue()
