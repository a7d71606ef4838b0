"""Proposals for labelling: images with the prediction as a first label, laid out as the trainer's data sets are.

```
<OUT>_uncertain/train/images/     the slices or crops, pixels as they were; with the neighbours that the model sees
               /train/labels/     the prediction, with the data set's own label values, to be corrected
               /maps/             where the model is unsure
               /classes.toml      what the label values mean
               /index.json        scores and places
```
"""

from __future__ import annotations

import hashlib
import io
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from matseg_runtime.inference.session import Session
from matseg_runtime.inference.tiles import segment_image
from matseg_runtime.source.base import Slice, Source
from matseg_runtime.source.transform import Absent, Transform, join_converted
from matseg_runtime.suggest.choose import Chosen
from matseg_runtime.suggest.index import INDEX_NAME, UncertainIndex, UncertainItem, read_index
from matseg_runtime.suggest.uncertainty import FULL, LEAST_CONFIDENCE, NEIGHBOURHOOD, unsureness
from matseg_shared.contract.classes import CLASSES_NAME, UNLABELLED, LabelValue, Legend, write_legend
from matseg_shared.contract.metadata import ClassInfo
from matseg_shared.errors import ImageError
from matseg_shared.images.context import context_names
from matseg_shared.images.png import write_label_png
from matseg_shared.images.read import PixelArray
from matseg_shared.images.tiff import write_channels
from matseg_shared.system.files import atomic_write, output_errors, temporary_beside, write_text
from matseg_shared.system.names import shortened

_IMAGES, _LABELS, _MAPS = "train/images", "train/labels", "maps"
_LARGEST_INDEX = 255


@dataclass(frozen=True, slots=True, kw_only=True)
class Proposals:
    """The result of proposing slices for labelling."""

    folder: Path | None
    """None: there are none."""
    count: int = 0
    warning: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Proposer:
    """Writes proposals of one run into a folder."""

    folder: Path
    source: Source
    session: Session
    transform: Transform
    """The one of the run."""
    tile: tuple[int, int]
    """(rows, columns) of the largest tile."""
    batch: int
    output: Path
    """The labels of the run."""
    asked: int
    """Number of proposals that were asked for."""
    crop: int | None
    """Edge of crops in pixels; None: whole slices."""
    spacing: int
    """Slices between two proposals, at least."""

    def propose(self, chosen: Sequence[Chosen]) -> Proposals:
        """Write the folder, unless it is there already with the same proposals; never over labels somebody worked on.

        Raises:
            OutputError: it cannot be written.
        """
        folder = self.folder
        before = read_index(folder) if folder.exists() else None
        places = [(self._name(choice), choice.box) for choice in chosen]
        if before is not None and before.proposes(self.session.model.sha256, places):
            return Proposals(folder=folder, count=len(before.items))
        if folder.exists() and (before is None or _touched(folder, before)):
            return Proposals(
                folder=None,
                warning=f"{folder}: holds other proposals whose labels somebody has worked on, or something else; "
                "nothing was changed there; move it away and run the same command again",
            )
        fresh = temporary_beside(folder)  # half of the folder must not look like the whole
        items: list[UncertainItem] = []
        failures: list[str] = []
        try:
            for choice in chosen:
                try:
                    items.append(self._write_item(fresh, choice))
                except ImageError as error:
                    failures.append(str(error))
            legend = Legend.of(self.session.model.metadata.classes)
            if any(choice.record.no_data for choice in chosen):
                legend = replace(legend, unlabelled=(_blank(legend.classes),))
            write_legend(fresh / CLASSES_NAME, legend)
            write_text(fresh / INDEX_NAME, self._index(items).model_dump_json(indent=1) + "\n")
            with output_errors(folder):
                if folder.exists():
                    shutil.rmtree(folder)
                fresh.rename(folder)
        finally:
            shutil.rmtree(fresh, ignore_errors=True)
        warning = f"{len(failures)} uncertain slices could not be copied: {failures[0]}" if failures else None
        return Proposals(folder=folder, count=len(items), warning=warning)

    def _index(self, items: Sequence[UncertainItem]) -> UncertainIndex:
        return UncertainIndex(
            model_name=self.session.model.metadata.name,
            model_sha256=self.session.model.sha256,
            input=self.source.location,
            output=str(self.output),
            asked=self.asked,
            crop=self.crop,
            spacing=self.spacing,
            least_confidence=LEAST_CONFIDENCE,
            neighbourhood=NEIGHBOURHOOD,
            window=None if self.transform.window is None else str(self.transform.window),
            items=tuple(items),
        )

    def _name(self, chosen: Chosen) -> str:
        """Stem of its files."""
        # a slice of a volume has the volume's name in its own; an image alone could be called as a training image
        name = chosen.record.name
        if self.source.volume is None:
            name = f"{self.source.beside.name}_{name}"
        return shortened(name if chosen.box is None else f"{name}_x{chosen.box.x0}_y{chosen.box.y0}")

    def _write_item(self, folder: Path, chosen: Chosen) -> UncertainItem:
        record, name, metadata = chosen.record, self._name(chosen), self.session.model.metadata
        context = metadata.input.context  # slices that the model sees on either side
        around = (
            self.source.neighbours(record.index, context) if context else (self.source.slices[record.index],)
        )
        stored, absences, images = zip(*map(self._read, around), strict=True)
        if self.source.current_identity(record.index) != record.identity:
            raise ImageError(record.where, "has changed since it was labelled")
        absent = absences[context]
        image = join_converted(images, absences, metadata.input.mean)
        # again, because the probabilities of all slices would fill the disk
        found = segment_image(self.session, image, tile=self.tile, batch=self.batch, probabilities=True)
        assert found.probabilities is not None, "they were asked for"
        place = ... if chosen.box is None else chosen.box.slices()
        suffix, content = self._image(chosen, stored, image)
        most = 1 - 1 / len(found.probabilities)  # of a pixel for which all classes are equally probable
        doubt = np.minimum(np.rint(unsureness(found.probabilities) / most), FULL).astype(np.uint8)
        if absent is not None:
            found.labels[absent], doubt[absent] = UNLABELLED, 0
        label = _label_bytes(found.labels[place], metadata.classes, _blank(metadata.classes))
        item = UncertainItem(
            name=name,
            slice=record.name,
            position=self.source.first + record.index,
            where=record.where,
            box=chosen.box,
            score=chosen.score,
            unsureness=chosen.unsureness,
            image=f"{_IMAGES}/{name}{suffix}",
            label=f"{_LABELS}/{name}.png",
            map=f"{_MAPS}/{name}.png",
            label_sha256=hashlib.sha256(label).hexdigest(),
        )
        for file, written in ((item.image, content), (item.label, label), (item.map, _png(doubt[place]))):
            with atomic_write(folder / file) as stream:
                stream.write(written)
        return item

    def _read(self, item: Slice) -> tuple[PixelArray, Absent | None, PixelArray]:
        """A slice as it is stored, where it is no sample, and as the model takes it."""
        stored = self.source.read(item.index, item.index + 1)[0]
        absent = self.transform.absent(stored, item)
        return stored, absent, self.transform.convert(stored, item.where, absent)

    def _image(
        self, chosen: Chosen, seen: Sequence[PixelArray], mapped: NDArray[np.generic]
    ) -> tuple[str, bytes]:
        """Suffix and content of the file that shows it; a whole image file is copied as it is, but for neighbours."""
        file, context = Path(chosen.record.where), len(seen) // 2
        is_whole = chosen.box is None and self.transform.window is None and not context
        stored = np.concatenate([np.atleast_3d(one) for one in seen], axis=-1) if context else seen[0]
        if self.source.volume is None and is_whole and file.is_file():
            return file.suffix.lower(), file.read_bytes()
        pixels = stored
        if self.transform.window is not None:
            pixels = mapped[0] if len(mapped) == 1 else np.moveaxis(mapped, 0, -1)
        if chosen.box is not None:
            pixels = pixels[chosen.box.slices()]
        stream = io.BytesIO()
        if context:
            write_channels(stream, pixels, context_names(pixels.shape[-1], context))
            return ".tif", stream.getvalue()
        # PNG for what any annotation program opens; TIFF for what PNGs cannot hold
        is_colour = pixels.shape[2:] == (3,)
        if self.session.model.metadata.input.dtype == "uint8" and (pixels.ndim == 2 or is_colour):
            return ".png", _png(pixels)
        import tifffile

        tifffile.imwrite(
            stream,
            pixels,
            photometric="rgb" if is_colour else "minisblack",
            planarconfig="contig" if pixels.ndim == 3 else None,
            metadata=None,
        )
        return ".tif", stream.getvalue()


def _png(pixels: NDArray[Any]) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, format="PNG")
    return stream.getvalue()


def _blank(classes: Sequence[ClassInfo]) -> LabelValue:
    """Value for no data in label images: the brightest that stands for no class."""
    taken = {item.label_value for item in classes}
    shades = range(_LARGEST_INDEX, -1, -1)
    if isinstance(classes[0].label_value, int):
        return next(shade for shade in shades if shade not in taken)
    return next((shade,) * 3 for shade in shades if (shade,) * 3 not in taken)


def _label_bytes(labels: NDArray[np.uint8], classes: Sequence[ClassInfo], blank: LabelValue) -> bytes:
    """A PNG with the values that stand for the classes in the training set, so that it can join that set.

    Whole numbers are the indices of a palette with the class colours, which an annotator sees.
    """
    values = np.array([item.label_value for item in classes])
    if (labels == UNLABELLED).any():
        labels = np.minimum(labels, len(classes))
        values = np.concatenate([values, [blank]])
    if values.ndim == 2 or values.max() > _LARGEST_INDEX:
        return _png(values.astype(np.uint8 if values.ndim == 2 else np.uint16)[labels])
    colours = dict.fromkeys(range(int(values.max()) + 1), (0, 0, 0))
    colours.update({int(value): item.colour for value, item in zip(values, classes, strict=False)})
    stream = io.BytesIO()
    write_label_png(stream, values.astype(np.uint8)[labels], list(colours.values()))
    return stream.getvalue()


def _touched(folder: Path, index: UncertainIndex) -> bool:
    """True where a label differs from what was written, or is gone."""
    try:
        return any(
            hashlib.sha256((folder / item.label).read_bytes()).hexdigest() != item.label_sha256
            for item in index.items
        )
    except OSError:
        return True
