"""Distillation: an accurate model tells a faster one what it sees, on labelled images and on raw ones.

Its probabilities are computed once per image, on the whole of it; views of the image take theirs from there
(Hinton et al. 2015, arXiv:1503.02531; on unlabelled images as in Xie et al. 2020, arXiv:1911.04252).
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from matseg_runtime.inference.session import Session
from matseg_shared.contract.metadata import ClassInfo, InputInfo, TeacherInfo
from matseg_shared.errors import DatasetError, UsageError
from matseg_shared.images.read import PixelArray, check_dtype, list_images, read_image, to_channels
from matseg_trainer.data.augment import IGNORED
from matseg_trainer.data.dataset import LabelledImage
from matseg_trainer.predict.checkpoint import find_checkpoint, load_checkpoint
from matseg_trainer.predict.predictor import Predictor
from matseg_trainer.workspace import Workspace


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Teacher:
    """A trained model, and the raw images it labels besides those of the data set."""

    name: str
    sha256: str
    """Of its file."""
    predictor: Predictor
    unlabelled: tuple[Path, ...] = ()

    @classmethod
    def load(
        cls, workspace: Workspace, choice: str, device: torch.device, unlabelled: Path | None = None
    ) -> Teacher:
        """Read what `--teacher` and `--unlabelled` name.

        Args:
            workspace: where names are looked for.
            choice: `<dataset>_<version>`, a checkpoint in `saved/`, or the path of a `.pth` or `.onnx` file.
            device: where a checkpoint computes.
            unlabelled: folder of raw images.

        Raises:
            ModelError: there is no such model, or it is damaged.
            DatasetError: the folder holds no images.
        """
        if choice.endswith(".onnx"):
            path = Path(choice)
            session = Session.open(path)
            predictor, sha256 = Predictor.of_session(session), session.model.sha256
        else:
            path = find_checkpoint(workspace, choice, "--teacher")
            sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
            predictor = Predictor.of_checkpoint(load_checkpoint(path), device)
        return cls(
            name=path.stem,
            sha256=sha256,
            predictor=predictor,
            unlabelled=() if unlabelled is None else _images_of(unlabelled),
        )

    @property
    def info(self) -> TeacherInfo:
        """What the new checkpoint says of it."""
        digest = hashlib.sha256()
        for path in self.unlabelled:
            digest.update(path.name.encode() + b"\0" + path.read_bytes())
        return TeacherInfo(
            name=self.name,
            sha256=self.sha256,
            unlabelled=len(self.unlabelled),
            unlabelled_sha256=digest.hexdigest() if self.unlabelled else None,
        )

    def require_same(self, classes: Sequence[ClassInfo], info: InputInfo) -> None:
        """Refuse a teacher that speaks of other classes or sees other images.

        Raises:
            UsageError: saying what differs.
        """
        theirs, ours = ([item.name for item in found] for found in (self.predictor.classes, classes))
        if theirs != ours:
            raise UsageError(
                f"--teacher {self.name}: expected a model of the classes {', '.join(ours)}, found "
                f"{', '.join(theirs)}; name a model that was trained on the same classes"
            )
        kind = (self.predictor.input.channels, self.predictor.input.dtype)
        if kind != (info.channels, info.dtype):
            raise UsageError(
                f"--teacher {self.name}: expected a model for images of {info.channels} channel(s) and {info.dtype}, "
                f"found one for {kind[0]} and {kind[1]}; name a model that was trained on such images"
            )


def _images_of(folder: Path) -> tuple[Path, ...]:
    if not folder.is_dir():
        raise DatasetError(f"{folder}: expected a folder of raw images (--unlabelled), found no folder")
    images, _ = list_images(folder)
    if not images:
        raise DatasetError(f"{folder}: expected raw images (--unlabelled), found none")
    return tuple(images)


class TaughtImages(Sequence[LabelledImage]):
    """The labelled images of a training, then the raw ones, all with a teacher's probabilities.

    They are computed when an image is first asked for, and kept: 2 bytes per pixel and class.
    """

    def __init__(self, labelled: Sequence[LabelledImage], teacher: Teacher, info: InputInfo) -> None:
        self._labelled, self._teacher, self._input = labelled, teacher, info
        self._soft: dict[int, NDArray[np.float16]] = {}

    def __len__(self) -> int:
        return len(self._labelled) + len(self._teacher.unlabelled)

    def __getitem__(self, index: Any) -> Any:
        if not 0 <= index < len(self):
            raise IndexError(index)
        image = self._image(index)
        if index not in self._soft:
            self._soft[index] = self._teacher.predictor.predict(image.pixels)[1].astype(np.float16)
        return LabelledImage(
            stem=image.stem, pixels=image.pixels, labels=image.labels, soft=self._soft[index]
        )

    def _image(self, index: int) -> LabelledImage:
        if index < len(self._labelled):
            return self._labelled[index]
        path = self._teacher.unlabelled[index - len(self._labelled)]
        pixels: PixelArray = to_channels(read_image(path), self._input.channels, path)
        check_dtype(pixels, self._input.dtype, path)
        labels = np.full(pixels.shape[1:], IGNORED, np.uint8)
        return LabelledImage(stem=path.stem, pixels=pixels, labels=labels)


def teacher_changes(started: TeacherInfo | None, given: TeacherInfo | None) -> list[str]:
    """What keeps a training from being resumed, in words."""
    if started == given:
        return []

    def words(info: TeacherInfo | None) -> str:
        if info is None:
            return "none"
        return f"{info.name} ({info.sha256[:12]}) with {info.unlabelled} unlabelled images"

    return [f"teacher: was {words(started)}, now {words(given)}"]
