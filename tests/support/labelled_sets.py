"""Small data sets in a temporary workspace, and the real ones where they are at hand."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result
from PIL import Image

from matseg_trainer.commands.prep import main

REAL_DATA = Path(__file__).resolve().parents[2].parent / "shared" / "data"


class SmallSet:
    """A data set under construction."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def add(
        self, split: str, stem: str, label: object, *, mark: str = "_L", image: object | None = None
    ) -> None:
        """One pair; `label` and `image` are Pillow images or arrays."""
        label = label if isinstance(label, Image.Image) else Image.fromarray(np.asarray(label))
        if image is None:
            image = np.random.default_rng(len(stem)).integers(0, 256, label.size[::-1], dtype=np.uint8)
        image = image if isinstance(image, Image.Image) else Image.fromarray(np.asarray(image))
        for kind, name, picture in (("images", stem, image), ("labels", stem + mark, label)):
            path = self.root / split / kind / f"{name}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            picture.save(path)

    def array(self, split: str, stem: str) -> np.ndarray:
        return np.load(self.root / split / "labels_npy" / f"{stem}.npy")

    def files(self) -> dict[str, bytes]:
        """Everything in it, to see that nothing was written."""
        return {
            str(path.relative_to(self.root)): path.read_bytes()
            for path in sorted(self.root.rglob("*"))
            if path.is_file()
        }


@pytest.fixture
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.delenv("MATSEG_WORKSPACE", raising=False)
    (tmp_path / "data").mkdir()
    return tmp_path


@pytest.fixture
def small(workspace: Path) -> SmallSet:
    return SmallSet(workspace / "data" / "steel")


@pytest.fixture
def prep(workspace: Path) -> Callable[..., Result]:
    """`matseg-prep` with these words, in the temporary workspace."""

    def run(*words: object, given: str | None = None) -> Result:
        return CliRunner().invoke(main, [*map(str, words), "--workspace", str(workspace)], input=given)

    return run


@pytest.fixture
def real(workspace: Path) -> Callable[[str], Path]:
    """Copies a real data set into the workspace."""

    def copy(name: str) -> Path:
        if not (REAL_DATA / name).is_dir():
            pytest.skip(f"the real data set {name} is not beside the project (shared/data/{name})")
        target = workspace / "data" / name
        if (REAL_DATA / name / "images").is_dir():  # not split yet
            target = target / "train"
        shutil.copytree(REAL_DATA / name, target)
        return workspace / "data" / name

    return copy
