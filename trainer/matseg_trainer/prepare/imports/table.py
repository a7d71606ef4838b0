"""The classes of an import, and which value stands for each in label images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from matseg_shared.contract.classes import UNLABELLED, read_legend
from matseg_shared.contract.metadata import ClassInfo
from matseg_shared.errors import DatasetError, UsageError, problems_of
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
    outside: str | None
    """The class of what lies outside of all shapes; None: nobody said, or there is nothing outside."""
    in_colours: bool
    """Label images have the classes' colours as their palette, else they are grey, as those that are there."""

    @property
    def palette(self) -> list[Colour]:
        """RGB of each value up to 255."""
        colours = {self.indices[item.name]: item.colour for item in self.classes}
        return [colours.get(value, _GREY) for value in range(256)]


def import_table(export: Export, request: ImportRequest, present: Path | None) -> ImportTable:
    """The classes of an export in its order, behind that of what lies outside; or those that a data set has already.

    Args:
        export: has the names.
        request: says which of them are no classes, and what lies outside.
        present: the data set's `classes.toml`; None: there is none.

    Raises:
        UsageError: options name what the export does not have.
        DatasetError: there are too few or too many classes, one has no name that a class can have, or not those of the
            data set; or the data set's table has values that an import cannot write.
    """
    outside: str | None = request.outside or _BACKGROUND
    unlabelled, options = export.unlabelled, "--outside or --unlabelled"
    if export.kind == "values":  # which are all classes but for those that the reader took
        if request.outside is not None:
            raise UsageError(
                f"--outside applies to shapes and masks that leave something out, not to {export.tool}; say with "
                "--unlabelled which value means that nobody labelled a pixel"
            )
        outside, options = None, "--class NAME=VALUE"
    else:
        if unknown := [name for name in request.unlabelled if name not in export.classes]:
            raise UsageError(
                f"--unlabelled {unknown[0]}: expected a class of {request.source}, which has "
                f"{shorten(export.classes)}; what lies outside of them is left unlabelled with --outside unlabelled"
            )
        unlabelled = unlabelled | set(request.unlabelled)
        outside = None if outside == _UNLABELLED_WORD else outside
    names = [name for name in export.classes if name not in unlabelled]
    if outside is not None and outside not in names:
        names.insert(0, outside)
    if present is None:
        blank, classes, others = UNLABELLED, _new_classes(names, outside, export, request), []
    else:
        blank, classes = _present_classes(names, request, present, options)
        folders = (present.parent / split / "labels" for split in SPLITS)
        others = [label for folder in folders for label in sorted(folder.glob("*.*"))]
    values = {item.name: item.label_value for item in classes if isinstance(item.label_value, int)}
    indices = values | dict.fromkeys(unlabelled, blank) | {OUTSIDE: values.get(outside or OUTSIDE, blank)}
    return ImportTable(
        classes=classes,
        indices=indices,
        blank=blank,
        outside=outside,
        in_colours=not others or read_stored(others[0]).palette is not None,
    )


def _new_classes(
    names: Sequence[str], outside: str | None, export: Export, request: ImportRequest
) -> tuple[ClassInfo, ...]:
    if not 2 <= len(names) <= _MOST_CLASSES:
        more = (
            "are they names of single particles? One name per phase is needed"
            if len(names) > 2
            else "a network needs something to tell it from: label a second phase, or let what lies outside be one "
            "with --outside background"
        )
        found = shorten(names) if names else "none"
        raise DatasetError(
            f"{request.source}: expected 2 to {_MOST_CLASSES} classes, found {len(names)} ({found}); {more}"
        )
    colours = zip(names, default_colours(len(names)), strict=True)
    try:
        return tuple(
            ClassInfo(
                index=index,
                name=name,
                colour=export.colours.get(OUTSIDE if name == outside else name, colour),
                label_value=index,
            )
            for index, (name, colour) in enumerate(colours)
        )
    except ValidationError as error:
        raise DatasetError(f"{request.source}: {problems_of(error)[0]}; rename the class") from error


def _present_classes(
    names: Sequence[str], request: ImportRequest, path: Path, options: str
) -> tuple[int, tuple[ClassInfo, ...]]:
    """The value of unlabelled pixels that a table states, else the largest that is no class; and its classes."""
    legend = read_legend(path)
    if legend.has_colours or not legend.numbers <= set(range(256)):
        raise DatasetError(
            f"{path}: expected label values from 0 to 255 to add label images with, found others; import it as a data "
            "set of its own"
        )
    known = [item.name for item in legend.classes]
    if strange := [name for name in names if name not in known]:
        raise DatasetError(
            f"{path}: expected classes among {shorten(known)}, found {shorten(strange)} as well in {request.source}; "
            f"rename it, say {options} as for the other splits, or import it as a data set of its own"
        )
    stated = [value for value in legend.unlabelled if isinstance(value, int)]
    free = max(set(range(256)) - legend.numbers, default=UNLABELLED)
    return next(iter(stated), free), legend.classes
