"""The output that a path stands for, and the sink that writes it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from matseg_runtime.sink.base import LabelInfo, LabelVolume, Sink
from matseg_runtime.sink.images import LEDGER_NAME, ImageFormat, ImageSink
from matseg_runtime.sink.volume import VolumeSink, side_folder
from matseg_runtime.source.base import Source, Spacing
from matseg_runtime.source.folder import PROBABILITIES_SUFFIX
from matseg_runtime.source.open import require_text, split_location
from matseg_runtime.units import VoxelSize, ome_unit
from matseg_shared.contract.metadata import ModelMetadata
from matseg_shared.errors import UsageError

if TYPE_CHECKING:
    from matseg_runtime.sink.label_group import ImageGroup
    from matseg_runtime.sink.votes import StoredVotes

OutputFormat = Literal["png", "tiff", "tiff-stack", "zarr", "metaimage", "nrrd", "mrc", "nifti"]
_VOLUMES: dict[str, OutputFormat] = {
    ".zarr": "zarr",
    ".tif": "tiff-stack",
    ".tiff": "tiff-stack",
    ".mhd": "metaimage",
    ".mha": "metaimage",
    ".nrrd": "nrrd",
    ".mrc": "mrc",
    ".nii": "nifti",
}
_NOT_WRITTEN = frozenset(
    {
        ".h5",
        ".hdf5",
        ".npy",
        ".png",
        ".nhdr",
        ".raw",
        ".vgi",
        ".vol",
        ".gz",
        ".am",
        ".czi",
        ".txm",
        ".dm4",
    }
)
"""Suffixes of which nobody means a folder."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OutputOptions:
    """Path and form of the labels."""

    path: Path | None = None
    """`.zarr`, `.mhd`, `.nrrd`, `.mrc`, `.nii`: a volume; `.tif`: a stack; else a folder. None: beside the input."""
    label: str | None = None
    """Write into the group of the OME-Zarr input itself, as `labels/<label>`; instead of `path`."""
    image_format: ImageFormat = "png"
    """Format of the images in a folder."""
    probabilities: bool = False
    pyramid: bool = False
    """Zarr: add levels of lower resolution."""
    shards: bool = False
    """Zarr: one file per layer of chunks."""
    overwrite: bool = False
    disagreement: Path | None = None
    """A volume that says where the axes of a consensus disagree; None: none."""
    votes: int | None = None
    """The zarr takes the votes of a pass instead of labels, for a decision along this spatial axis."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OutputTarget:
    """Path of an output and its form."""

    path: Path
    format: OutputFormat
    image: ImageGroup | None = None
    """The OME-Zarr image that it becomes a part of."""

    @property
    def is_volume(self) -> bool:
        """True where one output holds all slices."""
        return self.format in _VOLUMES.values()

    @property
    def keeps_axes(self) -> bool:
        """True where labels lie along the axes of the input, and not slice after slice."""
        return self.is_volume and self.format != "tiff-stack"

    @property
    def ledger_folder(self) -> Path:
        """The folder of its ledger."""
        return side_folder(self.path) if self.is_volume else self.path / LEDGER_NAME


def output_format(options: OutputOptions) -> OutputFormat:
    """The format of an output, by the suffix of its name.

    Raises:
        UsageError: there is no such format, an option does not apply to it, or no path has such a name.
    """
    if options.label is not None:  # with as many levels as the image has
        given = {"-o": options.path, "--pyramid": options.pyramid, "--probabilities": options.probabilities}
        if option := next((name for name, value in given.items() if value), None):
            raise UsageError(
                f"--label {options.label}: cannot be combined with {option}; leave one of them out"
            )
        return "zarr"
    found: OutputFormat = options.image_format
    where = ""
    if options.path is not None:  # else its name is the model's, which decides no format
        require_text(str(options.path))
        where, suffix = f"{options.path}: ", options.path.suffix.lower()
        if suffix in _NOT_WRITTEN:
            raise UsageError(
                f"{where}outputs are a folder, a TIFF stack (.tif) or a volume (.zarr, .mhd, .nrrd, .mrc, .nii), not "
                f"{suffix}"
            )
        found = _VOLUMES.get(suffix, found)
    if found != "zarr" and (options.pyramid or options.shards):
        raise UsageError(
            f"{where}--pyramid and --shards apply to zarr outputs only; name one with -o labels.zarr"
        )
    if options.probabilities and found not in ("png", "tiff", "zarr"):
        what = "a TIFF stack" if found == "tiff-stack" else "a volume of another format"
        raise UsageError(f"{where}--probabilities applies to folders and zarr outputs, not to {what}")
    return found


def choose_target(source: Source, options: OutputOptions, metadata: ModelMetadata) -> OutputTarget:
    """The place where the labels of an input go.

    Raises:
        UsageError: the output overlaps the input, or an option does not apply to it.
    """
    format_ = output_format(options)
    if options.label is not None:
        return _place_in_image(source, options, options.label)
    path = options.path or source.beside.with_name(f"{source.beside.name}_predictions") / metadata.name
    if format_ == "tiff" and options.probabilities:
        _refuse_one_name_for_two(source)
    _refuse_overlap(source, path)
    _check_disagreement(source, options, path)
    return OutputTarget(path=path, format=format_)


def _check_disagreement(source: Source, options: OutputOptions, labels: Path) -> None:
    path = options.disagreement
    if path is None:
        return
    if output_format(OutputOptions(path=path)) not in _VOLUMES.values():
        raise UsageError(
            f"--disagreement {path}: expected a volume, such as {path}.zarr or .tif, .mhd, .nrrd, .mrc, .nii"
        )
    if path.resolve() == labels.resolve():
        raise UsageError(f"--disagreement {path}: is where the labels go; choose another name")
    _refuse_overlap(source, path)


def _refuse_one_name_for_two(source: Source) -> None:
    """Labels of an image that is called as the probabilities of another."""
    names = {item.name.casefold(): item.name for item in source.slices}
    for name in names.values():
        file = f"{name}{PROBABILITIES_SUFFIX}"
        if (other := names.get(Path(file).stem.casefold())) is not None:
            raise UsageError(
                f"{source.location}: the labels of {other} and the probabilities of {name} would both be written to "
                f"{file}; take --format png, or rename one of the images"
            )


def _place_in_image(source: Source, options: OutputOptions, label: str) -> OutputTarget:
    from matseg_runtime.sink.label_group import ImageGroup, check_label_name

    image = ImageGroup.open(*split_location(source.location))
    _check_disagreement(source, options, image.label_path(label))
    levels = image.multiscale.levels
    found = source.volume
    depth = 1 if found is None or len(found.shape) == 2 else found.shape[found.axis]
    if found is None or found.shape != levels[0].shape or len(source.slices) != depth:
        raise UsageError(
            f"{source.location}: --label labels the whole image at its finest level, {levels[0].shape} voxels; leave "
            "--range and --level out, or write a label image of its own with -o labels.zarr"
        )
    if options.shards and image.multiscale.zarr_format == 2:
        raise UsageError(
            f"{source.location}: is stored as zarr version 2, which knows no shards; leave --shards out"
        )
    return OutputTarget(path=image.label_path(check_label_name(label)), format="zarr", image=image)


def label_volume(
    source: Source, first: tuple[int, int], voxel: VoxelSize | None = None, *, given: bool = False
) -> LabelVolume:
    """The shape of an output volume, and where it lies.

    Args:
        source: the input.
        first: (H, W) of the slices of a folder.
        voxel: None: not known.
        given: the user says so, whose word goes before the input's own.
    """
    found = source.volume
    if found is None:
        return LabelVolume(shape=(len(source.slices), *first), axis=0, spacing=_edges(voxel, 0))
    own, axis, shape = found.spacing, found.axis, list(found.shape)
    if len(shape) == 2:  # as a volume of one slice
        shape.insert(0, 1)
        if own is not None:
            scale, translation = (own.scale[0], *own.scale), (0.0, *own.translation)
            own = Spacing(scale=scale, translation=translation, units=(None, *own.units))
    shape[axis] = len(source.slices)
    spacing = _edges(voxel, axis) if own is None or given else own
    start = list(spacing.translation)
    if own is not None and given:  # where the input begins is kept in voxels, whatever one of them measures
        sizes = zip(own.translation, own.scale, spacing.scale, strict=True)
        start = [there / edge * wanted if edge else 0.0 for there, edge, wanted in sizes]
    directions = None if own is None else own.directions
    along = [float(place == axis) for place in range(3)] if directions is None else directions[axis]
    start = [
        there + spacing.scale[axis] * found.start * part for there, part in zip(start, along, strict=True)
    ]
    spacing = replace(spacing, translation=tuple(start), directions=directions)
    return LabelVolume(shape=(shape[0], shape[1], shape[2]), axis=axis, spacing=spacing)


def _edges(voxel: VoxelSize | None, axis: int) -> Spacing:
    """The spacing of a volume that begins at nought, and whose slices are cut along `axis`.

    Where the step between slices is not known, viewers get a cube, without a unit; where nothing is, a cube of 1.
    """
    if voxel is None:
        return Spacing(scale=(1.0,) * 3, translation=(0.0,) * 3)
    unit = ome_unit(voxel.unit)
    scale = [voxel.row, voxel.column]
    units: list[str | None] = [unit, unit]
    scale.insert(axis, voxel.row if voxel.step is None else voxel.step)
    units.insert(axis, None if voxel.step is None else unit)
    return Spacing(scale=tuple(scale), translation=(0.0,) * 3, units=tuple(units))


def open_sink(
    target: OutputTarget, options: OutputOptions, info: LabelInfo, volume: LabelVolume, block: int
) -> Sink:
    """The sink for an output, of which nothing is written yet; `block` slices are written together."""
    labels = _open_labels(target, options, info, volume, block)
    if options.disagreement is None:
        return labels
    from matseg_runtime.sink.disagreement import DisagreementSink, disagreement_info

    other = OutputOptions(path=options.disagreement)
    place = OutputTarget(path=options.disagreement, format=output_format(other))
    beside = _open_labels(place, other, disagreement_info(info), volume, block)
    assert isinstance(beside, VolumeSink), "its name was checked"
    return DisagreementSink(labels, beside)


def pass_path(ledger_folder: Path, axis: int) -> Path:
    """The place of a pass's votes, in the ledger's folder of the output that they decide on."""
    return ledger_folder / f"axis-{axis}.zarr"


def stored_votes(target: OutputTarget, source: Source, axes: Sequence[int]) -> tuple[StoredVotes, ...]:
    """Votes that passes along some axes have left for an output."""
    if not axes or source.volume is None:
        return ()
    from matseg_runtime.sink.votes import StoredVotes

    folder, axis = target.ledger_folder, source.volume.axis
    return tuple(StoredVotes(path=pass_path(folder, own), own=own, axis=axis) for own in axes)


def _open_labels(
    target: OutputTarget, options: OutputOptions, info: LabelInfo, volume: LabelVolume, block: int
) -> Sink:
    path, format_ = target.path, target.format
    if format_ == "tiff-stack":
        from matseg_runtime.sink.stack import StackSink

        return StackSink(path, volume, info)
    if format_ == "png" or format_ == "tiff":
        return ImageSink(path, info, format_, options.probabilities)
    if format_ != "zarr":
        from matseg_runtime.sink.header import HeaderSink

        return HeaderSink(path, volume, info, format_)
    from matseg_runtime.sink.label_group import LabelGroupSink
    from matseg_runtime.sink.multiscale import alone
    from matseg_runtime.sink.zarr import ZarrSink

    if target.image is not None:
        levels = target.image.multiscale
        return LabelGroupSink(path, volume, info, levels, block, options.shards, image=target.image)
    levels = alone(volume, pyramid=options.pyramid)
    if options.votes is not None:
        from matseg_runtime.sink.votes import VoteSink

        return VoteSink(path, volume, info, levels, block, across=options.votes)
    return ZarrSink(path, volume, info, levels, block, options.shards, options.probabilities)


def _refuse_overlap(source: Source, output: Path) -> None:
    location = split_location(source.location)[0]
    if "://" in location:
        return
    given, out = Path(location).resolve(), output.resolve()
    if out == given or out.is_relative_to(given):
        raise UsageError(
            f"{output}: the output would lie inside the input {source.location}, and become part of it; choose a "
            "place outside with -o"
        )
    if given.is_relative_to(out) and output.suffix:
        raise UsageError(
            f"{output}: the input {source.location} lies inside of it; choose another output with -o"
        )
