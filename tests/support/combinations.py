"""Random combinations of inputs, models and options of matseg-run, and what must come of each, computed apart.

The oracle is plain numpy and one onnxruntime call per whole slice; everything else that a run says is computed from
the labels that lie on the disk, and compared.
"""

from __future__ import annotations

import random
from collections.abc import Sequence, Set
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import onnx
import onnx_models
import tifffile
import zarr
from numpy.typing import NDArray
from PIL import Image

from matseg_shared.contract.metadata import ClassInfo
from matseg_shared.contract.onnx_properties import encode

KINDS = ("png", "tiffs", "stack", "ome-tiff", "zarr2", "zarr3", "ome-zarr2", "ome-zarr3", "hdf5", "npy")
VOXEL = (2.0, 0.5, 0.5)
"""(z, y, x) in micrometres, of the inputs that can tell."""
UNLABELLED = 255
_OME = ("ome-zarr2", "ome-zarr3")
_FOLDERS = ("png", "tiffs")
_UNNAMED = ("npy", "hdf5", "zarr2", "zarr3", "stack", "ome-tiff")
"""Formats in which a length of 1 says that there is no such axis."""
_BRIGHTEST = {"uint8": 255, "uint16": 65535, "float32": 1.0}
_TIE = 1e-3


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One combination; everything follows from its seed."""

    seed: int
    kind: str
    stored: str
    """dtype of the input."""
    dtype: str
    """Settings of the model."""
    channels: int
    n_class: int
    shapes: tuple[tuple[int, int], ...]
    """(H, W) per image of a folder; else one, of a volume's z slices."""
    depth: int
    axis: int
    start: int
    stop: int
    """Range of the slices that are taken, along `axis`."""
    level: int
    broken: int | None
    """Image of a folder that is cut off."""
    late: frozenset[int]
    """Images of a folder that come after the first run."""
    output: str
    """Name relative to the case's folder; `label` instead, for labels within the image."""
    probabilities: bool
    connectivity: int | None
    """With --quantify."""
    asked: tuple[float, float, float] | None
    """--voxel-size."""
    options: tuple[str, ...]
    """Options of every run."""
    measures: tuple[str, ...]
    """Options of the last run, and of some before."""
    measured: tuple[bool, ...]
    """Per run, whether it has those, too."""
    replaces: bool
    """True where a job with other options went before, which the first run overwrites."""
    loses: bool
    """True where somebody deletes a label image after the first run."""
    free: tuple[tuple[str, ...], ...]
    """Options of one run each that make no difference to the labels; the last one completes the output."""
    images: tuple[NDArray[Any], ...] = field(repr=False)
    """As stored: (H, W[, 3]) per image of a folder, or one (Z, Y, X[, 3])."""

    @property
    def is_folder(self) -> bool:
        return self.kind in _FOLDERS

    @property
    def slices(self) -> tuple[NDArray[Any], ...]:
        """(H, W[, 3]) pixels as they are stored, in order."""
        if self.is_folder:
            return self.images
        volume = self.images[0]
        if self.level:
            volume = volume[:, ::2, ::2]
        return tuple(np.moveaxis(volume, self.axis, 0)[self.start : self.stop])

    @property
    def voxel(self) -> tuple[float | None, float, float] | None:
        """(step, row, column) in micrometres, as slices show it."""
        known = {"png": None, "zarr2": None, "zarr3": None, "npy": None, "tiffs": (None, *VOXEL[1:])}.get(
            self.kind, VOXEL
        )
        if self.kind == "hdf5" and self.channels == 3:
            known = None
        if self.level:
            known = (VOXEL[0], 2 * VOXEL[1], 2 * VOXEL[2])
        if self.asked is not None:
            known = self.asked
        if known is None or known[0] is None:
            return known
        edges = list(known)
        step = edges.pop(self.axis)
        return step, edges[0], edges[1]


def make_case(seed: int) -> Case:
    """The combination of that number."""
    dice = random.Random(seed)
    kind = dice.choice(KINDS)
    dtype, stored = _dtypes(dice, kind)
    channels = dice.choice([1, 1, 1, 3]) if kind not in ("stack", "ome-tiff", *_OME) else 1
    depth = dice.choice([1, 2, 5, 6, 7])
    is_folder = kind in _FOLDERS
    output = dice.choice(
        ["out", "out", "out.tif", "out.zarr", "out.zarr", "label" if kind in _OME else "out.zarr"]
    )
    edges = [1, 5, 17, 33, 40, 61, 70][kind in _UNNAMED :]
    one = (dice.choice(edges), dice.choice(edges))
    alike = not is_folder or output != "out"
    shapes = (one,) * (depth if is_folder else 1)
    if not alike:
        shapes = tuple((dice.choice(edges), dice.choice(edges)) for _ in range(depth))
    axis = 0
    if not is_folder and kind not in ("stack", "ome-tiff") and channels == 1 and depth > 1:
        axis = dice.choice([0, 0, 1, 2])
    level = dice.choice([0, 1]) if kind in _OME and output != "label" and min(one) > 1 else 0
    shown = tuple(-(-length // 2) for length in one) if level else one
    length = (depth, *shown)[axis]
    start, stop = 0, length
    if not is_folder and output != "label" and dice.random() < 0.4:
        start = dice.randrange(length)
        stop = dice.randrange(start + 1, length + 1)
    broken = dice.randrange(depth) if kind == "png" and depth > 2 and dice.random() < 0.4 else None
    late: frozenset[int] = frozenset()
    if is_folder and output == "out" and depth > 2 and dice.random() < 0.4:
        late = frozenset(dice.sample(range(depth), depth // 2))
    probabilities = output in ("out", "out.zarr") and dice.random() < 0.4
    connectivity = dice.choice([None, 4, 8])
    asked = dice.choice([None, None, (3.0, 1.5, 0.75)])
    options = _options(dice, kind, output, axis, level, (start, stop, length))
    if kind in _OME and kind == "ome-zarr2" and output == "label":
        options = tuple(option for option in options if option != "--shards")
    options += ("--probabilities",) * probabilities + _window(dtype, stored)
    options += () if asked is None else ("--voxel-size", "3,1.5,0.75um")
    measures: tuple[str, ...] = ()
    if connectivity is not None:
        measures += ("--quantify", "--connectivity", str(connectivity))
    if dice.random() < 0.25:
        measures += ("--uncertain", str(dice.choice([1, 3])))
        measures += dice.choice([(), ("--uncertain-crop", "16"), ("--uncertain-spacing", "1")])
    runs = _runs(
        dice,
        may_watch=is_folder and output == "out",
        until=depth - len(late),
        may_finish=broken is None and not late,
    )
    scored_before = "--uncertain" in measures and "--finish" in runs[-1]  # which scores nothing itself
    return Case(
        seed=seed,
        kind=kind,
        stored=stored,
        dtype=dtype,
        channels=channels,
        n_class=dice.choice([2, 3, 12, 200]),
        shapes=shapes,
        depth=depth,
        axis=axis,
        start=start,
        stop=stop,
        level=level,
        broken=broken,
        late=late,
        output=output,
        probabilities=probabilities,
        connectivity=connectivity,
        asked=asked,
        options=options,
        free=runs,
        measures=measures,
        measured=(*(dice.random() < 0.5 or scored_before for _ in runs[1:]), True),
        replaces=dice.random() < 0.15,
        loses=output == "out" and dice.random() < 0.2 and "--finish" not in runs[-1],
        images=_images(dice, seed, shapes, None if is_folder else depth, channels, stored),
    )


def _dtypes(dice: random.Random, kind: str) -> tuple[str, str]:
    dtype = dice.choice(["uint8", "uint8", "uint16", "float32"])
    stored = dtype
    if dice.random() < 0.3:
        stored = dice.choice(["uint8", "uint16", "float32"])
    if kind == "png":
        stored = "uint8"
    return dtype, stored


def _window(dtype: str, stored: str) -> tuple[str, ...]:
    return () if dtype == stored else ("--window", f"0,{_BRIGHTEST[stored]}")


def _options(
    dice: random.Random, kind: str, output: str, axis: int, level: int, taken: tuple[int, int, int]
) -> tuple[str, ...]:
    start, stop, length = taken
    options: list[str] = ["--accept-intensities"]
    if axis or (kind not in _FOLDERS and dice.random() < 0.2):
        options += ["--axis", str(axis)]
    if level:
        options += ["--level", str(level)]
    if (start, stop) != (0, length):
        options += ["--range", f"{start or ''}:{'' if stop == length else stop}"]
    if output == "out" and dice.random() < 0.5:
        options += ["--format", "tiff"]
    if output == "out.zarr" and dice.random() < 0.5:
        options += ["--pyramid"]
    if output in ("out.zarr", "label") and dice.random() < 0.4:
        options += ["--shards"]
    if output == "label":
        options += ["--label", "phases"]
    if dice.random() < 0.3:
        options += ["--no-skip-constant"]
    if dice.random() < 0.4:
        options += ["--tile", "48"]
    return tuple(options)


def _runs(
    dice: random.Random, *, may_watch: bool, until: int, may_finish: bool
) -> tuple[tuple[str, ...], ...]:
    """Parts in any order, or a watch, then one run that finds what is left, or nothing."""
    free = lambda: dice.choice(  # noqa: E731
        [(), ("--batch", "2"), ("--batch", "3", "--memory", "4GB"), ("--threads", "2"), ("--memory", "6GB")]
    )
    total = dice.choice([0, 0, 2, 3, 9])
    parts = [("--part", f"{number}/{total}") for number in range(1, total + 1)]
    dice.shuffle(parts)
    if total and dice.random() < 0.5:
        parts = parts[: dice.randrange(1, total + 1)]  # the rest is left to the last
    runs = [(*part, *free()) for part in parts]
    if may_watch and dice.random() < 0.3:
        runs = [("--watch", "--until", str(until), "--idle", "1")]
    if may_finish and total and len(runs) == total and dice.random() < 0.5:
        return (*runs, ("--finish",))
    return (*runs, (*free(),))


def _images(
    dice: random.Random,
    seed: int,
    shapes: Sequence[tuple[int, int]],
    depth: int | None,
    channels: int,
    stored: str,
) -> tuple[NDArray[Any], ...]:
    colours = (3,) if channels == 3 else ()
    whole = [(*(() if depth is None else (depth,)), *shape) for shape in shapes]
    found = []
    for number, shape in enumerate(whole):
        if channels == 3:
            planes = [onnx_models.random_pixels(shape, stored, 97 * seed + 3 * number + c) for c in range(3)]
            image = np.stack(planes, axis=-1)
        else:
            image = onnx_models.random_pixels(shape, stored, 97 * seed + number)
        assert image.shape == (*shape, *colours)
        if dice.random() < 0.3:  # what lies outside of the reconstruction, or all of a slice
            image[..., : dice.randrange(shape[-1]) + 1, *(slice(None),) * len(colours)] = dice.choice([0, 1])
        found.append(image)
    return tuple(found)


def save_input(case: Case, folder: Path) -> Path:
    """Write the input; returns its path as a user names it."""
    if case.is_folder:
        (folder / "scan").mkdir()
        (folder / "scan" / "notes.txt").write_text("no image")
        save_images(case, folder / "scan", set(range(case.depth)) - case.late)
        return folder / "scan"
    volume = case.images[0]
    if case.kind == "npy":
        np.save(folder / "scan.npy", volume)
        return folder / "scan.npy"
    if case.kind == "hdf5":
        with h5py.File(folder / "scan.h5", "w") as file:
            data = file.create_dataset("data", data=volume)
            if volume.ndim == 3:
                data.attrs["element_size_um"] = VOXEL
        return folder / "scan.h5"
    if case.kind in ("stack", "ome-tiff"):
        return _save_stack(case, folder)
    return _save_zarr(case, folder / "scan.zarr")


def save_images(case: Case, folder: Path, numbers: Set[int]) -> None:
    """Write some images of a folder."""
    for number in sorted(numbers):
        image = case.images[number]
        path = folder / f"s{number}{'.png' if case.kind == 'png' else '.tif'}"
        if case.kind == "png":
            Image.fromarray(image).save(path)
        else:
            tifffile.imwrite(
                path,
                image,
                photometric="rgb" if image.ndim == 3 else "minisblack",
                resolution=(20_000, 20_000),
                resolutionunit=3,
                metadata=None,
            )
        if number == case.broken:
            path.write_bytes(path.read_bytes()[:50])


def _save_stack(case: Case, folder: Path) -> Path:
    volume = case.images[0]
    if case.kind == "ome-tiff":
        sizes = dict(zip(("PhysicalSizeZ", "PhysicalSizeY", "PhysicalSizeX"), VOXEL, strict=True))
        tifffile.imwrite(
            folder / "scan.ome.tif", volume, photometric="minisblack", metadata={"axes": "ZYX", **sizes}
        )
        return folder / "scan.ome.tif"
    tifffile.imwrite(
        folder / "scan.tif",
        volume,
        photometric="rgb" if volume.ndim == 4 else "minisblack",
        description=f"ImageJ=1.11a\nimages={len(volume)}\nslices={len(volume)}\nunit=um\nspacing={VOXEL[0]}\n",
        resolution=(1 / VOXEL[2], 1 / VOXEL[1]),
        resolutionunit=1,
        metadata=None,
    )
    return folder / "scan.tif"


def _save_zarr(case: Case, path: Path) -> Path:
    volume = case.images[0]
    version: Any = 2 if case.kind.endswith("2") else 3
    chunks = (2, *(max(1, length // 2) for length in volume.shape[1:3]), *volume.shape[3:])
    if case.kind not in _OME:
        zarr.create_array(
            str(path),
            data=volume,
            chunks=tuple(map(min, chunks, volume.shape)),
            zarr_format=version,
            config={"write_empty_chunks": True},
        )
        return path
    group = zarr.create_group(str(path), zarr_format=version)
    datasets = []
    for level in range(2):
        pixels = np.ascontiguousarray(volume[:, :: 2**level, :: 2**level])
        group.create_array(
            str(level),
            data=pixels,
            chunks=tuple(map(min, chunks, pixels.shape)),
            config={"write_empty_chunks": True},
        )
        scale = [VOXEL[0], VOXEL[1] * 2**level, VOXEL[2] * 2**level]
        datasets.append(
            {
                "path": str(level),
                "coordinateTransformations": [
                    {"type": "scale", "scale": scale},
                    {"type": "translation", "translation": [10.0, 0.0, 1.0]},
                ],
            }
        )
    axes = [{"name": name, "type": "space", "unit": "micrometer"} for name in "zyx"]
    image = {"axes": axes, "datasets": datasets}
    if version == 2:
        group.attrs["multiscales"] = [{"version": "0.4", **image}]
    else:
        group.attrs["ome"] = {"version": "0.5", "multiscales": [image]}
    return path


@cache
def _graph(dtype: str, channels: int, n_class: int) -> onnx.ModelProto:
    return onnx_models.build_graph(dtype=dtype, channels=channels, n_class=n_class, width=2, seed=n_class)


def class_names(n_class: int) -> list[str]:
    """In several scripts, with marks that tables and documents have to quote."""
    words = ('grain "α", coarse', "相", "пора <b>", "=1+1", "phase; 5 %")
    return [f"{words[number % len(words)]} {number}" for number in range(n_class)]


def save_model(case: Case, folder: Path) -> Path:
    """Write the case's model."""
    graph = _graph(case.dtype, case.channels, case.n_class)
    metadata = onnx_models.build_metadata(dtype=case.dtype, channels=case.channels, n_class=3)
    classes = tuple(
        ClassInfo(index=index, name=name, colour=(index, 255 - index, 7 * index % 256), label_value=index)
        for index, name in enumerate(class_names(case.n_class))
    )
    metadata = metadata.model_copy(update={"classes": classes})
    test = onnx_models.self_test_of(graph, case.channels, case.dtype)
    copy = onnx.ModelProto()
    copy.CopyFrom(graph)
    return onnx_models.save(copy, encode(metadata, test), folder / "alloy_v1.onnx")


@cache
def _session(dtype: str, channels: int, n_class: int) -> Any:
    import onnxruntime

    return onnxruntime.InferenceSession(
        _graph(dtype, channels, n_class).SerializeToString(), providers=["CPUExecutionProvider"]
    )


def oracle(case: Case, pixels: NDArray[Any]) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """(H, W) labels and (K, H, W) probabilities of a slice as it is stored, in one call."""
    image = _as_the_model_takes_it(case, pixels)
    height, width = pixels.shape[:2]
    stride = onnx_models.STRIDE
    padded = np.pad(image, ((0, 0), (0, -height % stride), (0, -width % stride)), mode="reflect")
    session = _session(case.dtype, case.channels, case.n_class)
    labels, chances = session.run(["labels", "probabilities"], {"image": padded[np.newaxis]})
    return labels[0, :height, :width], chances[0, :, :height, :width]


def _as_the_model_takes_it(case: Case, pixels: NDArray[Any]) -> NDArray[Any]:
    values = pixels
    if case.stored != case.dtype:
        share = np.clip(pixels.astype(np.float64) / _BRIGHTEST[case.stored], 0, 1)
        values = share * _BRIGHTEST[case.dtype]
        values = (values if case.dtype == "float32" else np.rint(values)).astype(case.dtype)
    return np.moveaxis(values, -1, 0) if values.ndim == 3 else values[np.newaxis]


def unlike(found: NDArray[np.uint8], case: Case, pixels: NDArray[Any]) -> int:
    """Pixels that have another label than the oracle's, and are no ties."""
    labels, chances = oracle(case, pixels)
    best = np.sort(chances, axis=0)
    return int(np.count_nonzero((found != labels) & (best[-1] - best[-2] >= _TIE)))
