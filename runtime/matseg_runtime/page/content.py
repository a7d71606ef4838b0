"""The words and numbers of a run's page."""

from __future__ import annotations

import statistics
from dataclasses import dataclass

from matseg_runtime.measure.phase_fractions import DRIFT_WARNING
from matseg_runtime.measure.tables import RegionSummary
from matseg_runtime.measure.tables_3d import VolumeSummary
from matseg_runtime.page.choose import fraction
from matseg_runtime.page.measures import Proposals
from matseg_runtime.page.record import RunRecord
from matseg_runtime.page.slices import Pictures
from matseg_runtime.run.finalize import drift_warning
from matseg_runtime.units import VoxelSize, voxel_of_model
from matseg_shared.images.palette import Colour
from matseg_shared.pages.page import Fact, count
from matseg_shared.pages.pictures import visible_colours


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassRow:
    """One class over all slices."""

    name: str
    colour: Colour
    fraction: float
    amount: str
    """Pixels, area or volume, with its unit."""
    lowest: float | None
    middle: float | None
    highest: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class RunContent:
    """Everything that the template shows."""

    record: RunRecord
    pictures: Pictures
    missing: tuple[str, ...]
    """Parts that the page cannot show, and why."""
    measures: RegionSummary | None
    volume: VolumeSummary | None
    proposals: Proposals | None
    fraction_charts: tuple[str, ...]
    intensity_charts: tuple[str, ...]
    listed: int = 200
    """The most excluded slices, and entries skipped, that are listed."""

    @property
    def voxel(self) -> VoxelSize | None:
        """As the run found it; else as the model knows it from its training images."""
        if self.record.report.voxel_size is not None:
            return self.record.report.voxel_size
        size = None if self.record.manifest is None else self.record.manifest.model.pixel_size
        return None if size is None else voxel_of_model(size)

    @property
    def voxel_text(self) -> str:
        """The size of the pixels in words."""
        voxel = self.voxel
        if voxel is None:
            return "No voxel size is known, so amounts are in pixels."
        step = "" if voxel.step is None else f", slices {voxel.step:g} {voxel.unit} apart"
        origin = f" ({voxel.origin} says so)" if voxel.origin else ""
        return f"Pixels of {voxel.row:g} × {voxel.column:g} {voxel.unit}{step}{origin}."

    @property
    def amount_title(self) -> str:
        """Heading of the amounts of the classes."""
        if self.voxel is None:
            return "pixels"
        return f"area ({self.voxel.unit}²)" if self.voxel.step is None else f"volume ({self.voxel.unit}³)"

    @property
    def classes(self) -> tuple[ClassRow, ...]:
        """A row per class."""
        rows, colours = [], visible_colours([item.colour for item in self.record.classes])
        totals = self.record.report.phase_fractions
        for item, colour, total in zip(self.record.classes, colours, totals, strict=True):
            shares = [fraction(entry, item.index) for entry in self.record.slices]
            rows.append(
                ClassRow(
                    name=item.name,
                    colour=colour,
                    fraction=total.fraction,
                    amount=self._amount(total.pixels),
                    lowest=min(shares, default=None),
                    middle=statistics.median(shares) if shares else None,
                    highest=max(shares, default=None),
                )
            )
        return tuple(rows)

    def _amount(self, pixels: int) -> str:
        voxel = self.voxel
        if voxel is None:
            return count(pixels)
        if voxel.step is None:
            return f"{pixels * voxel.area:.5g} {voxel.unit}²"
        return f"{pixels * voxel.area * voxel.step:.5g} {voxel.unit}³"

    @property
    def tiles(self) -> tuple[Fact, ...]:
        """The figures at the top."""
        record, report = self.record, self.record.report
        labelled = report.labelled + report.labelled_before
        before = (
            f"{count(report.labelled_before)} of them before the last run" if report.labelled_before else ""
        )
        named = "each named below" if record.excluded else "every input could be read"
        rarest = sorted(report.phase_fractions, key=lambda item: item.fraction)
        tiles = [
            Fact(name="slices labelled", value=f"{count(labelled)} of {count(report.slices)}", note=before),
            Fact(name="excluded", value=count(len(record.excluded)), note=named),
            *(
                Fact(
                    name=item.name,
                    value=f"{item.fraction:.2%}",
                    note="of the pixels with data" if report.no_data_pixels else "of all pixels",
                )
                for item in rarest[: 3 if len(rarest) > 2 else 1]
            ),
        ]
        if report.no_data_pixels:
            share = f"{report.no_data_pixels / report.all_pixels:.2%}"
            note = f"{count(report.no_data_pixels)} pixels, label 255, in no fraction"
            tiles.append(Fact(name="no data", value=share, note=note))
        if report.disagreeing_pixels is not None:
            share = f"{report.disagreeing_pixels / max(1, report.all_pixels - report.no_data_pixels):.2%}"
            axes = (report.provenance.consensus or "").partition(", disagreement")[0]
            note = f"slices along axes {axes} do not all give the class of the mean probability"
            tiles.append(Fact(name="axes disagree", value=share, note=note))
        if report.stages is not None:
            speed = f"{report.megapixels_per_second:.2f}"
            note = f"{report.stages.seconds:.1f} s; {report.stages.bottleneck} was the slowest stage"
            tiles.append(Fact(name="Mpixel/s", value=speed, note=note))
        if record.slices:
            middle = f"{statistics.median(item.drift for item in record.slices):.2f}"
            tiles.append(Fact(name="drift", value=middle, note="0 as the training set, 1 nothing in common"))
        return tuple(tiles)

    @property
    def shown_text(self) -> str:
        """Sentence on the slices shown, and how."""
        shown, there = len(self.pictures.slices), len(self.record.slices)
        text = f"{shown} of {count(there)} slices"
        if shown < there:
            text += ", evenly spread, with those that stand out"
        text += (
            f"; shown at up to {self.pictures.edge} pixels, labels by the class that covers most of a pixel."
        )
        if self.pictures.window is not None:
            text += f" Intensities {self.pictures.window} run from black to white in all of them."
        return text

    @property
    def drift_warning(self) -> str | None:
        """A warning where slices look different from the training set."""
        return drift_warning(self.record.slices, DRIFT_WARNING)

    @property
    def drift_text(self) -> str:
        """Sentence on how like the training set's the intensities are; "" where nothing is known of the slices."""
        if not self.record.slices:
            return ""
        drifts = sorted(item.drift for item in self.record.slices)
        return (
            f"The intensities are like those of the training set: drift {drifts[len(drifts) // 2]:.2f} in the median "
            f"slice, {drifts[-1]:.2f} at most, {DRIFT_WARNING:g} would be a warning."
        )

    @property
    def provenance(self) -> tuple[Fact, ...]:
        """Table of how the labels came about."""
        report, manifest = self.record.report, self.record.manifest
        key = report.provenance
        tile = "whole slices" if key.tile is None else f"{key.tile[0]} × {key.tile[1]} pixels"
        facts = [
            Fact(name="model", value=report.model, code=True),
            Fact(name="model SHA-256", value=key.model_sha256, code=True),
            Fact(name="input", value=report.input if manifest is None else manifest.input, code=True),
            Fact(name="input kind", value=key.input_kind),
            Fact(name="provider", value=report.place, note=report.provider_reason),
            Fact(name="threads", value=str(report.threads)),
            Fact(name="tiles", value=tile, note=f"{key.unit} slice(s) written together"),
            Fact(name="started", value=readable(report.started)),
            Fact(name="finished", value=readable(report.finished)),
            Fact(
                name="machine",
                value=report.platform,
                note="" if manifest is None else f"{manifest.machine}, {manifest.cores} cores",
            ),
            *(
                Fact(name=name, value=str(getattr(key, name)))
                for name in ("window", "no_data", "axis", "consensus", "slices", "level", "layout")
                if getattr(key, name) is not None
            ),
        ]
        if key.input_content:
            facts.append(Fact(name="input identity", value=key.input_content[:200], code=True))
        facts += [Fact(name=f"{name} version", value=value) for name, value in key.versions.items()]
        if manifest is not None:
            model, training = manifest.model, manifest.model.training
            kept = ", ".join(f"version {one.version}, epoch {one.epoch}" for one in model.trainings)
            facts += [
                Fact(name="trained on", value=training.dataset, note=kept),
                Fact(name="network", value=model.network, note=model.export.precision),
                Fact(name="training data SHA-256", value=training.fingerprint, code=True),
            ]
        return tuple(facts)


def readable(moment: str) -> str:
    """ISO 8601 for a person."""
    return moment.replace("T", " ").replace("+00:00", " UTC")
