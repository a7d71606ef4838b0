"""Jobs of matseg-run that take a tenth of a second, one for each sink, and what they leave."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import nrrd
import numpy as np
import onnx_models
import tifffile
import zarr
from click.testing import CliRunner, Result
from folders import snapshot
from numpy.typing import NDArray
from PIL import Image

from matseg_runtime.cli.run import run_main
from matseg_runtime.ledger import Ledger, Part, read_key
from matseg_runtime.run.plan import Planner

SLICES = 6
_TIMES = ("report", ".lock", "done-", "job.json", "origin.json")
"""Parts of the names of files that tell when, where or how often something ran."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SmallJob:
    """One kind of output, with the input that it is made from."""

    name: str
    source: str
    """`folder` of PNGs, or `image.zarr`, an OME-Zarr with two levels."""
    output: str
    """Relative to the folder of a job."""
    options: tuple[str, ...] = ()

    def side(self, folder: Path) -> Path:
        """Folder of the ledger."""
        if self.output.startswith("image.zarr"):
            return folder / "image.zarr.phases.matseg"
        return (
            folder / self.output / ".matseg" if "." not in self.output else folder / f"{self.output}.matseg"
        )


JOBS = (
    SmallJob(name="png", source="folder", output="out"),
    SmallJob(name="tiff", source="folder", output="out", options=("--format", "tiff", "--probabilities")),
    SmallJob(name="stack", source="folder", output="out.tif"),
    SmallJob(name="nrrd", source="image.zarr", output="out.nrrd", options=("--axis", "1")),
    SmallJob(name="zarr", source="image.zarr", output="out.zarr", options=("--pyramid", "--probabilities")),
    SmallJob(name="shards", source="image.zarr", output="out.zarr", options=("--shards", "--axis", "1")),
    SmallJob(
        name="label", source="image.zarr", output="image.zarr/labels/phases", options=("--label", "phases")
    ),
    SmallJob(
        name="consensus",
        source="image.zarr",
        output="out.zarr",
        options=("--consensus", "0,1", "--disagreement", "{folder}/doubt.tif"),
    ),
)


def make_inputs(folder: Path) -> Path:
    """The inputs of all jobs, and their model."""
    folder.mkdir(parents=True, exist_ok=True)
    onnx_models.save_model(folder / "alloy_v1.onnx", width=2)
    onnx_models.save_model(folder / "other_v1.onnx", width=2, seed=1, name="other_v1")
    volume = onnx_models.random_pixels((SLICES, 68, 70), "uint8", 1)
    (folder / "folder").mkdir()
    for number, image in enumerate(volume):
        Image.fromarray(image).save(folder / "folder" / f"s{number}.png")
    group = zarr.create_group(str(folder / "image.zarr"))
    for level in range(2):
        pixels = volume[:, :: 2**level, :: 2**level]
        array = group.create_array(
            str(level), shape=pixels.shape, chunks=(2, 40, 40), dtype="uint8", dimension_names=("z", "y", "x")
        )
        array[:] = pixels
    scales = [{"type": "scale", "scale": [1, 2**level, 2**level]} for level in range(2)]
    image = {
        "axes": [{"name": name, "type": "space"} for name in "zyx"],
        "datasets": [
            {"path": str(n), "coordinateTransformations": [scale]} for n, scale in enumerate(scales)
        ],
    }
    group.attrs["ome"] = {"version": "0.5", "multiscales": [image]}
    return folder


def fresh_folder(inputs: Path, folder: Path) -> Path:
    """A folder for one job, with a copy of the image that labels are added to; outputs of earlier jobs are deleted."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    fill_folder(inputs, folder)
    return folder


def fill_folder(inputs: Path, folder: Path) -> None:
    """The same, of a folder that is empty."""
    shutil.copytree(inputs / "image.zarr", folder / "image.zarr")


def command(job: SmallJob, inputs: Path, folder: Path, *more: object, model: str = "alloy_v1") -> list[str]:
    """The arguments of matseg-run."""
    root = inputs if job.source == "folder" else folder
    place = () if "--label" in job.options else ("-o", folder / job.output)
    options = [option.format(folder=folder) for option in job.options]
    arguments = [inputs / f"{model}.onnx", root / job.source, *place, *options]
    return [str(item) for item in (*arguments, "--provider", "cpu", "--threads", 1, *more)]


def run(job: SmallJob, inputs: Path, folder: Path, *more: object, model: str = "alloy_v1") -> Result:
    """Run it here; anything but the command's own exit is raised."""
    with mock.patch.object(Planner, "_preferred_depth", _small_depth):
        result = CliRunner().invoke(run_main, command(job, inputs, folder, *more, model=model))
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def _small_depth(planner: Planner) -> int:
    """So that six slices are three blocks of a zarr, and the votes of a pass two."""
    if planner.constraints.votes == 0:
        return 35
    return 2 if planner.constraints.chunked_output else 1


def results(folder: Path) -> dict[str, bytes]:
    """All files, that of the image included, but the ledger and what tells the time of a run."""
    return {
        name: content
        for name, content in snapshot(folder).items()
        if not any(part in Path(name).name for part in _TIMES)
    }


def wrong_under_final_names(job: SmallJob, folder: Path, clean: Mapping[str, bytes]) -> list[str]:
    """Files that a reader would take for results and that are not those of an undisturbed run."""
    found = results(folder)
    wrong = [
        name
        for name, content in found.items()
        if ".matseg/" not in name and ".matseg-" not in name and content != clean.get(name)
    ]
    if job.source == "image.zarr" and (folder / job.output).exists():
        wrong += [name for name in clean if name.startswith(f"{job.output}/") and name not in found]
    # the list of the image's labels names them only when they are there
    return [name for name in wrong if name != "image.zarr/labels/zarr.json"]


def not_what_was_done(job: SmallJob, folder: Path, clean: Mapping[str, bytes]) -> list[str]:
    """Slices that the ledger calls done and whose labels are not those of an undisturbed run."""
    if read_key(job.side(folder)) is None:
        return []  # units without a job count for nothing
    ledger = Ledger(job.side(folder), Part())
    ledger.reload()
    if not ledger.done:
        return []
    if job.output == "out":
        names = [name for name in clean if Path(name).suffix in (".png", ".tif")]
        found = results(folder)
        return [
            name
            for name in names
            if Path(name).stem.partition("_")[0] in ledger.done and found.get(name) != clean[name]
        ]
    place = job.side(folder) / "partial"
    if not place.exists():
        place = folder / job.output
    if not place.exists():
        return list(ledger.done)
    labels, expected = open_labels(place), clean_labels(job, clean)
    return [
        record.name
        for record in ledger.done.values()
        if not np.array_equal(_slice(job, labels, record.index), _slice(job, expected, record.index))
    ]


def _slice(job: SmallJob, labels: Any, index: int) -> NDArray[np.uint8]:
    """(H, W), without touching the others, which may be damaged as long as nobody calls them done."""
    return np.asarray(labels[:, index] if "--axis" in job.options else labels[index])


def open_labels(path: Path) -> Any:
    """(Z, Y, X) of a volume under whatever name."""
    if path.is_dir():
        return zarr.open_array(str(path), path="0", mode="r")
    with path.open("rb") as stream:
        is_nrrd = stream.read(4) == b"NRRD"
    return nrrd.read(str(path), index_order="C")[0] if is_nrrd else tifffile.imread(path)


def clean_labels(job: SmallJob, clean: Mapping[str, bytes]) -> NDArray[np.uint8]:
    """The same of the files of an undisturbed run."""
    with tempfile.TemporaryDirectory() as folder:
        for name, content in clean.items():
            if name == job.output or name.startswith(f"{job.output}/"):
                (Path(folder) / name).parent.mkdir(parents=True, exist_ok=True)
                (Path(folder) / name).write_bytes(content)
        return np.asarray(open_labels(Path(folder) / job.output)[:])
