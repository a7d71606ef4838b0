"""Random combinations of inputs, models and options: right labels, and figures that agree with them and each other."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
import tifffile
import zarr
from click.testing import CliRunner, Result
from combinations import (
    UNLABELLED,
    Case,
    class_names,
    make_case,
    oracle,
    save_images,
    save_input,
    save_model,
    unlike,
)
from folders import snapshot
from numpy.typing import NDArray
from PIL import Image
from tables import rows_of
from thoroughness import THOROUGH

from matseg_runtime.cli.quantify import quantify_main
from matseg_runtime.cli.run import run_main
from matseg_runtime.page.record import find_run, read_run
from matseg_runtime.run.plan import Planner

SEEDS = range(1500) if THOROUGH else [*range(24), 306, 351]
"""The last two measure labels from the disk that are cut along another axis."""
_OF_A_RUN = ("report", ".lock", "origin.json", "done-")
_IN_METRES = {"um": 1e-6, "cm": 1e-2}


@dataclass(frozen=True, slots=True, kw_only=True)
class Done:
    """A case whose last run has ended."""

    case: Case
    folder: Path
    source: Path
    last: Result

    @property
    def out(self) -> Path:
        if self.case.output == "label":
            return self.folder / "scan.zarr" / "labels" / "phases"
        return self.folder / self.case.output

    @property
    def side(self) -> Path:
        """Folder of report and tables."""
        if self.case.output == "out":
            return self.out
        name = "scan.zarr.phases" if self.case.output == "label" else self.case.output
        return self.folder / f"{name}.matseg"

    @property
    def report(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads((self.side / "report.json").read_text(encoding="utf-8"))
        return found


@pytest.mark.parametrize("seed", SEEDS)
def test_whatever_is_combined_labels_are_right_and_all_figures_are_theirs(seed: int, tmp_path: Path) -> None:
    done = _carry_out(make_case(seed), tmp_path)
    labels = list(_labels_of(done))
    _require_right_labels(done, labels)
    _require_right_probabilities(done)
    _require_right_counts(done, labels)
    _require_right_place(done)
    _require_right_regions(done, labels)
    _require_nothing_to_do(done)


def _carry_out(case: Case, folder: Path) -> Done:
    """All runs of a case, in order; each ends as it must and touches nothing but its output.

    Images that come late are there for the last one.
    """
    source, model = save_input(case, folder), save_model(case, folder)
    place = () if case.output == "label" else ("-o", folder / case.output)
    result: Result | None = None
    before = snapshot(folder)
    if case.replaces:
        _run(model, source, *place, *_other_options(case))
    for number, free in enumerate(case.free):
        last = number == len(case.free) - 1
        if last:
            save_images(case, source, case.late)
            before |= {
                name: content for name, content in snapshot(folder).items() if name.startswith("scan/")
            }
        more = ("--overwrite",) * (case.replaces and number == 0)
        measures = case.measures if case.measured[number] else ()
        result = _run(model, source, *place, *case.options, *measures, *free, *more)
        assert result.exit_code == (4 if "excluded" in result.stderr + result.stdout else 0), result.output
        if case.loses and not last:
            for path in sorted(folder.glob("out/s*.*"))[:1]:
                path.unlink()
    assert result is not None
    after = snapshot(folder)
    assert {name: after[name] for name in before} == before, "the input has changed"
    ours = ("out", "scan.zarr.phases", "scan.zarr.labels.lock", "scan.zarr/labels/")
    assert [name for name in after if name not in before and not name.startswith(ours)] == []
    assert [name for name in after if "partial" in name or ".matseg-" in name] == []
    return Done(case=case, folder=folder, source=source, last=result)


def _other_options(case: Case) -> tuple[str, ...]:
    """Options of another job with the same output."""
    flipped = [option for option in case.options if option not in ("--no-skip-constant", "--format", "tiff")]
    if case.output == "out" and "tiff" not in case.options:
        flipped += ["--format", "tiff"]
    if "--no-skip-constant" not in case.options:
        flipped += ["--no-skip-constant"]
    return (*flipped, "--quantify", "--uncertain", "1")


def _run(*arguments: object) -> Result:
    """In this process, with units of two slices where slices share a chunk; other exceptions are raised."""
    with mock.patch.object(
        Planner, "_preferred_depth", lambda planner: 2 if planner.constraints.chunked_output else 1
    ):
        result = CliRunner().invoke(
            run_main, ["--provider", "cpu", "--threads", "1", *(str(item) for item in arguments)]
        )
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def _labels_of(done: Done) -> Iterator[NDArray[np.uint8] | None]:
    """(H, W) of each slice as the disk holds it; None where it has none."""
    case = done.case
    if case.output == "out":
        suffix = ".tif" if "tiff" in case.options else ".png"
        files = sorted(
            (path for path in done.out.iterdir() if path.suffix == suffix), key=lambda path: path.name
        )
        files = [path for path in files if not path.stem.endswith("_probabilities")]
        found = {path.stem: path for path in files}
        for name in _names_of_outputs(done):
            path = found.pop(name, None)
            yield None if path is None else _image(path)
        assert not found, "labels of nothing"
        return
    for labels in _volume(done):
        yield None if (labels == UNLABELLED).all() else labels


def _names_of_outputs(done: Done) -> list[str]:
    case = done.case
    if case.is_folder:
        return [f"s{number}" for number in range(case.depth)]
    whole = _depth(case)
    return ["scan"] if whole == 1 else [f"scan_{number:04d}" for number in range(case.start, case.stop)]


def _depth(case: Case) -> int:
    """Slices of the whole input along the case's axis."""
    shape = case.images[0].shape
    return -(-shape[case.axis] // 2) if case.level and case.axis else shape[case.axis]


def _image(path: Path) -> NDArray[np.uint8]:
    return tifffile.imread(path) if path.suffix == ".tif" else np.asarray(Image.open(path))


def _volume(done: Done) -> NDArray[np.uint8]:
    """(slices, H, W), whatever axis they are cut along."""
    if done.case.output == "out.tif":
        with tifffile.TiffFile(done.out) as tiff:
            return np.stack([page.asarray() for page in tiff.pages])
    version: Any = 2 if done.case.output == "label" and done.case.kind.endswith("2") else 3
    array = zarr.open_array(str(done.out / "0"), mode="r", zarr_format=version)
    return np.moveaxis(np.asarray(array[:]), done.case.axis, 0)


def _require_right_labels(done: Done, labels: list[NDArray[np.uint8] | None]) -> None:
    case = done.case
    assert len(labels) == len(case.slices)
    for number, (found, pixels) in enumerate(zip(labels, case.slices, strict=True)):
        if number == case.broken:
            assert found is None
            continue
        assert found is not None, number
        assert found.shape == pixels.shape[:2]
        assert unlike(found, case, pixels) == 0, number


def _require_right_probabilities(done: Done) -> None:
    case = done.case
    if not case.probabilities:
        return
    if case.output == "out.zarr":
        array = zarr.open_array(str(done.out / "probabilities"), mode="r")
        assert array.shape[1:] == zarr.open_array(str(done.out / "0"), mode="r").shape
        chances = np.moveaxis(np.asarray(array[:]), case.axis + 1, 0)
    for number, (name, pixels) in enumerate(zip(_names_of_outputs(done), case.slices, strict=True)):
        if number == case.broken:
            continue
        separate = done.out / f"{name}_probabilities.tif"
        found = tifffile.imread(separate) if case.output == "out" else chances[number]
        expected = oracle(case, pixels)[1] * 255
        assert np.abs(found.reshape(expected.shape) - expected).max() <= 0.5 + 1e-2


def _require_right_counts(done: Done, labels: list[NDArray[np.uint8] | None]) -> None:
    case, report = done.case, done.report
    counts = [
        None if found is None else np.bincount(found.ravel(), minlength=case.n_class) for found in labels
    ]
    there = [count for count in counts if count is not None]
    total = np.sum(there, axis=0)
    names = class_names(case.n_class)
    for told in (
        report["phase_fractions"],
        [asdict(item) for item in _page_record(done).report.phase_fractions],
    ):
        assert [item["name"] for item in told] == names
        assert [item["pixels"] for item in told] == total.tolist()
        np.testing.assert_allclose([item["fraction"] for item in told], total / total.sum())
    assert (report["slices"], len(report["excluded"])) == (len(labels), len(labels) - len(there))
    assert report["complete"] == (len(there) == len(labels))
    assert report["labelled"] + report["labelled_before"] == len(there)
    rows = rows_of(done.side / "phase_fractions.csv")
    assert len(rows) == len(there) + 1
    for row, count in zip(rows, [*there, total], strict=True):
        assert [int(row[f"{name} (pixels)"]) for name in names] == count.tolist()
        np.testing.assert_allclose([float(row[name]) for name in names], count / count.sum(), atol=1e-6)
    assert [record.counts for record in _page_record(done).slices] == [tuple(c.tolist()) for c in there]
    places = [number for number, found in enumerate(labels) if found is not None]
    assert [record.index for record in _page_record(done).slices] == places


def _page_record(done: Done) -> Any:
    places = find_run(done.out)
    assert places is not None
    return read_run(places)


def _require_right_place(done: Done) -> None:
    """Voxel size in the report, and in what carries it; OME-Zarr transformations are whole."""
    case, told = done.case, done.report["voxel_size"]
    if case.voxel is None:
        assert told is None
    else:
        metres = [None if edge is None else edge * 1e-6 for edge in case.voxel]
        found = [told["step"], told["row"], told["column"]]
        assert [edge if edge is None else edge * _IN_METRES[told["unit"]] for edge in found] == [
            edge if edge is None else pytest.approx(edge) for edge in metres
        ]
    if case.output in ("out.zarr", "label"):
        _require_right_transformations(done)


def _require_right_transformations(done: Done) -> None:
    case = done.case
    version: Any = 2 if case.output == "label" and case.kind.endswith("2") else 3
    group = zarr.open_group(str(done.out), mode="r", zarr_format=version)
    attributes = group.attrs.asdict()
    image = attributes.get("ome", attributes)["multiscales"][0]
    finest = group[image["datasets"][0]["path"]].shape
    first = _steps(image["datasets"][0])
    for dataset in image["datasets"]:
        shape, (scale, translation) = group[dataset["path"]].shape, _steps(dataset)
        assert len(image["axes"]) == len(shape) == len(scale) == len(translation)
        assert translation == first[1], "every n-th voxel from the first on"
        steps = [round(a / b) for a, b in zip(scale, first[0], strict=True)]
        assert [-(-length // step) for length, step in zip(finest, steps, strict=True)] == list(shape)
        sampled = np.asarray(group["0"][:])[tuple(slice(None, None, step) for step in steps)]
        np.testing.assert_array_equal(group[dataset["path"]][:], sampled)
    if case.voxel is not None and case.voxel[0] is not None and case.output == "out.zarr":
        edges = [case.voxel[1], case.voxel[2]]
        edges.insert(case.axis, case.voxel[0])
        assert first[0] == pytest.approx(edges)
        assert {axis["unit"] for axis in image["axes"]} == {"micrometer"}
    if case.asked is None and case.output == "out.zarr":
        begin = [10.0, 0.0, 1.0] if case.kind.startswith("ome-zarr") else [0.0] * 3
        begin[case.axis] += case.start * first[0][case.axis]
        assert first[1] == pytest.approx(begin)


def _steps(dataset: dict[str, Any]) -> tuple[list[float], list[float]]:
    steps = dataset["coordinateTransformations"]
    scale = steps[0]["scale"]
    return scale, steps[1]["translation"] if len(steps) > 1 else [0.0] * len(scale)


def _require_right_regions(done: Done, labels: list[NDArray[np.uint8] | None]) -> None:
    case = done.case
    if case.connectivity is None:
        assert not (done.side / "quantities.json").exists(), "of another job"
        return
    there = [(number, found) for number, found in enumerate(labels) if found is not None]
    tables = {name: (done.side / name).read_bytes() for name in ("quantities.csv", "region_sizes.csv")}
    summary = json.loads((done.side / "quantities.json").read_text(encoding="utf-8"))
    assert (summary["slices"], summary["connectivity"]) == (len(there), case.connectivity)
    structure = np.ones((3, 3)) if case.connectivity == 8 else None
    voxel = done.report["voxel_size"]
    area = 1.0 if voxel is None else voxel["row"] * voxel["column"]
    for item in summary["classes"]:
        masks = [found == item["value"] for _, found in there]
        pixels = sum(int(mask.sum()) for mask in masks)
        assert item["pixels"] == pixels
        assert item["area"] == pytest.approx(pixels * area)
        if voxel is not None and voxel["step"] is not None:
            assert item["volume"] == pytest.approx(pixels * area * voxel["step"])
        if pixels and case.n_class <= 12:
            assert item["regions"] == sum(_regions(mask, structure) for mask in masks)
    rows = [row for row in rows_of(done.side / "quantities.csv") if row["slice"] != "total"]
    assert sorted({int(row["position"]) for row in rows}) == [case.start + number for number, _ in there]
    again = CliRunner().invoke(
        quantify_main, [str(done.out), "--connectivity", str(case.connectivity), "-o", str(done.folder / "q")]
    )
    assert again.exit_code == 0, again.output
    assert (done.folder / "q" / "region_sizes.csv").read_bytes() == tables["region_sizes.csv"]
    measured = json.loads((done.folder / "q" / "quantities.json").read_text(encoding="utf-8"))
    assert measured["classes"] == summary["classes"]


def _regions(mask: NDArray[np.bool_], structure: NDArray[Any] | None) -> int:
    from scipy import ndimage

    return int(ndimage.label(mask, structure)[1])


def _require_nothing_to_do(done: Done) -> None:
    """The same command once more changes nothing but what tells of the run."""
    case = done.case
    keep = lambda: {  # noqa: E731
        name: content
        for name, content in snapshot(done.folder).items()
        if not any(part in Path(name).name for part in _OF_A_RUN)
    }
    before = keep()
    place = () if case.output == "label" else ("-o", done.folder / case.output)
    again = _run(done.folder / "alloy_v1.onnx", done.source, *place, *case.options, *case.measures)
    assert again.exit_code == done.last.exit_code, again.output
    assert f"0 of {len(case.slices)} slices labelled" in again.output
    assert keep() == before
