"""Options of a run, as the user gave them."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path

from matseg_runtime.inference.providers import Devices, ProviderChoice
from matseg_runtime.ledger import Part
from matseg_runtime.measure.measurer import MeasureOptions
from matseg_runtime.model.trust import Trust
from matseg_runtime.sink.target import OutputOptions
from matseg_runtime.source.base import SourceOptions
from matseg_runtime.source.transform import NoDataOptions, Window
from matseg_runtime.source.watch import WatchOptions
from matseg_runtime.units import VoxelSize
from matseg_shared.errors import UsageError


@dataclass(frozen=True, slots=True, kw_only=True)
class Consensus:
    """Passes along several axes, and a decision on each voxel: the class of the mean probability."""

    axes: tuple[int, ...]
    """Two or three spatial axes, ascending; the decision is made slice by slice along the first."""
    stored: tuple[int, ...] = ()
    """Axes whose passes are on the disk when it is made; the network is asked along the others."""

    @classmethod
    def parse(cls, text: str) -> Consensus:
        """Read `0,2` or `0,1,2`, or raise a UsageError."""
        axes = tuple(sorted(set(text.split(","))))
        if not re.fullmatch(r"[012](,[012])+", text) or len(axes) != text.count(",") + 1:
            raise UsageError(
                f"--consensus {text}: expected two or three axes such as 0,2, or nothing behind it for all three; "
                "write it behind MODEL and INPUT"
            )
        return cls(axes=tuple(int(axis) for axis in axes))

    def __str__(self) -> str:
        return ",".join(map(str, self.axes))


@dataclass(frozen=True, slots=True, kw_only=True)
class RunOptions:
    """One call of matseg-run."""

    model: Path
    input: str
    trust: Trust | None = None
    """Demands on the model file; None: those of the site."""
    source: SourceOptions = field(default_factory=SourceOptions)
    output: OutputOptions = field(default_factory=OutputOptions)
    provider: ProviderChoice = "auto"
    devices: Devices | None = None
    """That the user named; None: the first of the provider."""
    threads: int | None = None
    tile: int | None = None
    """Edge length of the largest tile in pixels; None: as large as memory allows."""
    batch: int = 1
    memory: int | None = None
    """Bytes this process may take in all, and as many of each GPU; None: some of what is free, and any."""
    no_data: NoDataOptions = field(default_factory=NoDataOptions)
    window: Window | None = None
    accept_intensities: bool = False
    """Go on where the intensities are of another scale than the training set's."""
    skip_constant: bool = True
    """Ask the network once for what is constant over tile and halo, not every time."""
    consensus: Consensus | None = None
    """None: one pass along one axis."""
    part: Part = field(default_factory=Part)
    watch: WatchOptions | None = None
    """Wait for more images in a folder; None: take what is there."""
    dask: str | None = None
    """Address or scheduler file of the cluster to label on; None: this process."""
    voxel: VoxelSize | None = None
    """Goes before what the input and the model say."""
    measure: MeasureOptions = field(default_factory=MeasureOptions)
    """Measurements on the way."""
    uncertain_spacing: int | None = None
    """Slices between two that are proposed for labelling; None: so that they are spread over half of the stack."""
    finish: bool = False
    """Label nothing, only complete an output whose parts are done."""


def parse_range(text: str) -> tuple[int | None, int | None]:
    """First slice and the one after the last of `START:STOP`; either may be left out.

    Raises:
        UsageError: no range.
    """
    match = re.fullmatch(r"(\d*):(\d*)", text)
    if match is None:
        raise UsageError(
            f"--range {text}: expected START:STOP with slice numbers from 0, such as --range 100:200"
        )
    start, stop = (int(part) if part else None for part in match.groups())
    return start, stop
