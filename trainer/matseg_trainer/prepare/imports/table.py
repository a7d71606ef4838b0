"""The classes of an import, and which value stands for each in label images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from matseg_shared.contract.classes import UNLABELLED, Legend, read_legend
from matseg_shared.contract.metadata import ClassInfo, problems_of
from matseg_shared.errors import DatasetError, UsageError
from matseg_shared.images.palette import Colour, default_colours
from matseg_shared.images.read import read_stored
from matseg_trainer.data.folder import SPLITS, shorten
from matseg_trainer.prepare.imports.base import OUTSIDE, Export, ImportRequest

_UNLABELLED_WORD = "unlabelled"
_BACKGROUND = "background"
_GREY: Colour = (128, 128, 128)
_MOST_CLASSES = 255


@dataclass(frozen=True, slots=True, kw_only=True)
class ImportTable:
    """Classes of the data set, and what names of the export become in its label images."""

    classes: tuple[ClassInfo, ...]
    indices: Mapping[str, int]
    blank: int
    """Value of pixels that nobody labelled."""
    in_colours: bool = True
    """Label images have the classes' colours as their palette, else they are grey, as those that are there."""

    @property
    def values(self) -> list[int]:
        """Of the classes in label images."""
        return [item.label_value for item in self.classes if isinstance(item.label_value, int)]

    @property
    def palette(self) -> list[Colour]:
        """RGB of each value up to 255."""
        colours = [_GREY] * 256
        for value, item in zip(self.values, self.classes, strict=True):
            colours[value] = item.colour
        return colours


def outside_class(export: Export, request: ImportRequest) -> str | None:
    """The class of what lies outside of all shapes; None: nobody said, or there is nothing outside.

    Raises:
        UsageError: such a class is asked for where there is nothing outside.
    """
    if request.outside is not None and export.kind == "values":
        raise UsageError(
            f"--outside applies to shapes and masks that leave something out, not to {export.tool}; say with "
            "--unlabelled which value means that nobody labelled a pixel"
        )
    word = request.outside or _BACKGROUND
    return word if export.kind != "values" and word != _UNLABELLED_WORD else None


def _unlabelled(export: Export, request: ImportRequest) -> frozenset[str]:
    """Names of the export that are no class."""
    if export.kind == "values":
        return export.unlabelled  # values, which the reader took
    unknown = [name for name in request.unlabelled if name not in export.classes]
    if unknown:
        raise UsageError(
            f"--unlabelled {unknown[0]}: expected a class of {request.source}, which has "
            f"{shorten(export.classes)}; what lies outside of them is left unlabelled with --outside unlabelled"
        )
    return export.unlabelled | set(request.unlabelled)


def new_table(export: Export, request: ImportRequest) -> ImportTable:
    """The classes of the export in its order, behind that of what lies outside.

    Raises:
        DatasetError: there are too few or too many, or one has no name that a class can have.
    """
    outside, unlabelled = outside_class(export, request), _unlabelled(export, request)
    names = [name for name in export.classes if name not in unlabelled]
    if outside is not None and outside not in names:
        names.insert(0, outside)
    if not 2 <= len(names) <= _MOST_CLASSES:
        more = "; are they names of single particles? One name per phase is needed" if len(names) > 2 else ""
        more = more or (
            "; a network needs something to tell it from: label a second phase, or let what lies outside be one with "
            "--outside background"
        )
        found = shorten(names) if names else "none"
        raise DatasetError(
            f"{request.source}: expected 2 to {_MOST_CLASSES} classes, found {len(names)} ({found}){more}"
        )
    try:
        classes = tuple(
            ClassInfo(
                index=index,
                name=name,
                colour=export.colours.get(OUTSIDE if name == outside else name, colour),
                label_value=index,
            )
            for index, (name, colour) in enumerate(zip(names, default_colours(len(names)), strict=True))
        )
    except ValidationError as error:
        raise DatasetError(f"{request.source}: {problems_of(error)[0]}; rename the class") from error
    return ImportTable(
        classes=classes, indices=_indices(classes, outside, unlabelled, UNLABELLED), blank=UNLABELLED
    )


def present_table(export: Export, request: ImportRequest, path: Path) -> ImportTable:
    """The classes that the data set has already.

    Raises:
        DatasetError: the export has others, or the table's values are none that an import can write.
    """
    outside, unlabelled = outside_class(export, request), _unlabelled(export, request)
    legend = read_legend(path)
    classes, blank = legend.classes, _blank(legend)
    if legend.has_colours or not legend.numbers <= set(range(256)):
        raise DatasetError(
            f"{path}: expected label values from 0 to 255 to add label images with, found others; import it as a data "
            "set of its own"
        )
    names = [item.name for item in classes]
    wanted = [name for name in (*export.classes, *([outside] if outside else [])) if name not in unlabelled]
    if strange := [name for name in wanted if name not in names]:
        raise DatasetError(
            f"{path}: expected classes among {shorten(names)}, found {shorten(strange)} as well in {request.source}; "
            "rename it, say --outside or --unlabelled as for the other splits, or import it as a data set of its own"
        )
    others = [label for split in SPLITS for label in sorted((path.parent / split / "labels").glob("*.*"))]
    return ImportTable(
        classes=classes,
        indices=_indices(classes, outside, unlabelled, blank),
        blank=blank,
        in_colours=bool(others) and read_stored(others[0]).palette is not None,
    )


def _blank(legend: Legend) -> int:
    """The value of unlabelled pixels that a class table states, else the largest that is no class."""
    stated = [value for value in legend.unlabelled if isinstance(value, int)]
    return next(iter(stated), max(set(range(256)) - legend.numbers, default=UNLABELLED))


def _indices(
    classes: Sequence[ClassInfo], outside: str | None, unlabelled: frozenset[str], blank: int
) -> dict[str, int]:
    known = {item.name: item.label_value for item in classes if isinstance(item.label_value, int)}
    known |= dict.fromkeys(unlabelled, blank)
    return known | {OUTSIDE: blank if outside is None else known[outside]}
