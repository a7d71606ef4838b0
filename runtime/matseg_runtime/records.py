"""Records of a ledger: the job, its slices, and what was measured on each.

Measurements are whole numbers: they add up exactly, whoever measured which slice, in any order.
"""

from __future__ import annotations

import hashlib
import re
from typing import Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    SerializerFunctionWrapHandler,
    ValidationInfo,
    field_validator,
    model_serializer,
)

_NOT_IN_THE_FIRST_JOBS = ("axes", "channels", "channel_files", "no_data", "consensus")
_NAMES_DIGEST = re.compile(r"\d+ slices, names [0-9a-f]{64}")

Connectivity = Literal[4, 8]
"""Pixels of one class that belong together: those that share an edge (4), or also those that share a corner (8)."""


class Record(BaseModel):
    """Base of what a ledger holds."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())


class ClassRegions(Record):
    """One class in one slice."""

    value: int
    """Value of the class in the labels."""
    pixels: int
    regions: int
    """Connected regions, those at the edge included."""
    at_edge: int = 0
    """Regions that the edge of the slice (or of its labelled part) cuts off, whose size is therefore not known."""
    crossings: tuple[int, int, int, int]
    """Neighbouring pixels of which one is of the class and the other of another: along rows, along columns, along
    the falling and along the rising diagonals."""
    sizes: tuple[tuple[int, int], ...] = ()
    """(area in pixels, number of regions that have it) of the regions that are not at the edge; ascending."""


class SliceRegions(Record):
    """All classes of one slice."""

    connectivity: Connectivity
    pairs: tuple[int, int, int, int]
    """Pairs of labelled neighbouring pixels, in the directions of `ClassRegions.crossings`."""
    classes: tuple[ClassRegions, ...]
    """Those that occur, by ascending value."""


class CropScore(Record):
    """One square of a slice, and how unsure the model is in it."""

    y: int
    x: int
    """Upper-left corner in pixels."""
    doubtful: int
    """Pixels in doubtful places."""
    unsureness: int
    """Sum over its pixels, in 255ths."""


class SliceUncertainty(Record):
    """Uncertainty of a model on one slice; `uncertainty` says what that means."""

    doubtful: int
    """Pixels in doubtful places."""
    unsureness: int
    """Sum over all pixels, in 255ths."""
    edge: int | None = None
    """Edge of the crops in pixels; None: crops were not asked for."""
    most: int = 0
    """So many crops were asked for; there may be fewer."""
    crops: tuple[CropScore, ...] = ()
    """That do not overlap, the most uncertain first."""


class JobKey(Record):
    """Everything that decides the bytes of the outputs."""

    ledger_version: Literal[1] = 1
    model_name: str
    model_sha256: str
    input_kind: str
    input_name: str
    input_content: str
    """Identity of a volume's content; for a folder that goes into a volume, the digest of its slices' names."""
    output_format: str
    tile: tuple[int, int] | None
    """(rows, columns) in pixels; None: whole slices."""
    unit: int
    """Slices that are written together."""
    provider: str
    window: str | None = None
    stored_dtype: str | None = None
    """That the window is for; None: there is no window."""
    axis: int | None = None
    slices: str | None = None
    """`START:STOP` when not all slices of the input."""
    level: int | None = None
    axes: str | None = None
    """As the user says what each axis is; None: as the file says, or by their lengths."""
    channels: str | None = None
    """That the user has chosen; None: as the model was trained."""
    channel_files: str | None = None
    """Pattern of files of one channel each."""
    probabilities: bool = False
    skip_constant: bool = True
    layout: str | None = None
    """Chunks and shards of a chunked output."""
    no_data: str | None = None
    """Pixels that are no sample beside what the input and the model say; None: the user names none."""
    consensus: str | None = None
    """Axes whose mean probability decides, and the volume of where they disagree; None: one pass."""

    @field_validator("input_content")
    @classmethod
    def _names_as_digest(cls, content: str, info: ValidationInfo) -> str:
        """Take the names themselves, one a line, as jobs of earlier versions hold them: they may be 500,000."""
        if info.data.get("input_kind") != "folder" or not content or _NAMES_DIGEST.fullmatch(content):
            return content
        names = content.split("\n")
        return f"{len(names)} slices, names {hashlib.sha256(content.encode()).hexdigest()}"

    @model_serializer(mode="wrap")
    def _only_what_is_used(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Leave out later fields that a job does not use: its outputs have the bytes that earlier versions gave."""
        values: dict[str, Any] = dump(self)
        unused = [name for name in _NOT_IN_THE_FIRST_JOBS if getattr(self, name) is None]
        return {name: value for name, value in values.items() if name not in unused}

    def differences(self, other: JobKey) -> list[str]:
        """One phrase per field that differs; `self` is the earlier job."""
        return [
            f"{name.replace('_', ' ')}: {_shown(old)} then, {_shown(new)} now"
            for name in type(self).model_fields
            if (old := getattr(self, name)) != (new := getattr(other, name))
        ]


class SliceRecord(Record):
    """One slice that is labelled and durable."""

    name: str
    index: int
    where: str
    identity: str
    """Identity of the input file, when it was read."""
    shape: tuple[int, int]
    """(H, W) in pixels."""
    counts: tuple[int, ...]
    """Pixels per class."""
    bytes: int = 0
    """Size of the files that hold its output, to notice when one was cut or replaced; 0: not known."""
    drift: float = 0.0
    """Distance of its intensities from the training set's, 0 to 1."""
    constant: int = 0
    """Pixels in constant regions, for which the network was not asked again."""
    clipped: int = 0
    """Pixels beyond the window."""
    no_data: int = 0
    """Pixels that are no sample and have no label."""
    rows_cut: int = 0
    """Rows at the foot among them, such as a bar of data."""
    neighbours: str | None = None
    """Digest of the names and identities of the images that it was seen with; None: none, or slices of one volume."""
    regions: SliceRegions | None = None
    """None: not asked for."""
    uncertainty: SliceUncertainty | None = None
    """None: not asked for."""
    disagreement: int | None = None
    """Pixels for which not all axes of a consensus have the same class; None: there is one axis."""


class ExcludedSlice(Record):
    """One slice that could not be read."""

    name: str
    index: int = -1
    """Position in the input; -1: not noted, as in reports of earlier versions."""
    where: str
    reason: str


def _shown(value: object) -> str:
    text = "none" if value is None else str(value)
    return text if len(text) <= 40 else f"{text[:28]}..."
