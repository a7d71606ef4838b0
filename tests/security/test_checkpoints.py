"""Checkpoints from elsewhere run nothing, fill no memory and choose no names."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from checkpoints import make_checkpoint

from matseg_runtime.source.open import open_source
from matseg_shared.errors import DatasetError, ModelError, UsageError
from matseg_trainer.data.folder import load_array
from matseg_trainer.predict import checkpoint as checkpoint_module
from matseg_trainer.predict.checkpoint import load_checkpoint, save_checkpoint
from matseg_trainer.predict.checkpoint_header import read_training


def zipped(path: Path, content: bytes) -> Path:
    """A checkpoint whose description is this pickle."""
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", content)
        archive.writestr("archive/version", "3\n")
    return path


class Touch:
    """An object that makes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {self.path}",)


@pytest.mark.parametrize("read", [read_training, load_checkpoint])
def test_nothing_in_a_checkpoint_is_run(read: Any, tmp_path: Path) -> None:
    content = pickle.dumps({"matseg_checkpoint": 1, "training": Touch(tmp_path / "owned")}, protocol=2)
    with pytest.raises(ModelError):
        read(zipped(tmp_path / "x.pth", content))
    assert not (tmp_path / "owned").exists()


def test_arrays_are_not_unpickled(tmp_path: Path) -> None:
    hostile = np.empty((8, 8), object)
    hostile[:] = Touch(tmp_path / "owned")
    np.save(tmp_path / "a.npy", hostile, allow_pickle=True)
    with pytest.raises(DatasetError):
        load_array(tmp_path / "a.npy", 2)
    with pytest.raises(UsageError):
        open_source(str(tmp_path / "a.npy"))
    assert not (tmp_path / "owned").exists()


def test_the_description_is_read_without_torch_and_from_earlier_checkpoints_with_it(tmp_path: Path) -> None:
    checkpoint = make_checkpoint("unet")
    path = tmp_path / "x.pth"
    save_checkpoint(path, checkpoint)
    code = f"""import sys
from pathlib import Path
from matseg_trainer.predict.checkpoint_header import read_training
print(read_training(Path({str(path)!r})).version, "torch" in sys.modules)"""
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert said.split() == [checkpoint.training.version, "False"]
    torch.save(torch.load(path, weights_only=True), path)  # as earlier versions wrote it
    assert read_training(path) == checkpoint.training
    assert load_checkpoint(path).training == checkpoint.training


def test_the_same_checkpoint_is_the_same_file(tmp_path: Path) -> None:
    checkpoint = make_checkpoint("unet")
    for name in ("a.pth", "b.pth"):
        save_checkpoint(tmp_path / name, checkpoint)
    assert (tmp_path / "a.pth").read_bytes() == (tmp_path / "b.pth").read_bytes()


def test_lists_within_lists_within_lists_are_counted(tmp_path: Path) -> None:
    """Forty lists, each twice in the next: a trillion values once they are written as text."""
    nested: list[Any] = []
    for _ in range(40):
        nested = [nested, nested]
    checkpoint = make_checkpoint("unet")
    training = checkpoint.training.model_copy(update={"metrics": {"bomb": nested}})
    document = {
        "matseg_checkpoint": 1,
        "training": {**checkpoint.training.model_dump(mode="json"), "metrics": training.metrics},
    }
    torch.save(document, tmp_path / "x.pth")
    for read in (read_training, load_checkpoint):
        with pytest.raises(ModelError):
            read(tmp_path / "x.pth")


@pytest.mark.parametrize("field", ["dataset", "version"])
def test_a_checkpoint_cannot_choose_where_its_export_goes(field: str, tmp_path: Path) -> None:
    checkpoint = make_checkpoint("unet")
    path = tmp_path / "x.pth"
    save_checkpoint(path, checkpoint)
    document = torch.load(path, weights_only=True)
    document["training"][field] = "../escaped"
    torch.save(document, path)
    for read in (read_training, load_checkpoint):
        with pytest.raises(ModelError, match="its description is not valid"):
            read(path)


def test_a_description_makes_no_room_for_a_network_that_is_not_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Width 1024 is a network of 32 GB; the weights beside it have 30 kB."""
    path = tmp_path / "x.pth"
    save_checkpoint(path, make_checkpoint("unet"))
    document = torch.load(path, weights_only=True)
    document["training"]["config"]["width"] = 1024
    torch.save(document, path)
    devices: list[str] = []
    build = checkpoint_module.build_network

    def noted(*arguments: Any, **options: Any) -> Any:
        devices.append(torch.get_default_device().type)
        assert devices[-1] == "meta", "memory is asked for"
        return build(*arguments, **options)

    monkeypatch.setattr(checkpoint_module, "build_network", noted)
    with pytest.raises(ModelError, match=r"its weights do not fit its description .*expected 1024x"):
        load_checkpoint(path)
    assert devices == ["meta"]
