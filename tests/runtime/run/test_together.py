"""Options that meet: each is tested by itself elsewhere, here are pairs of them that once went wrong together."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import onnx_models
import pytest
import tifffile
import zarr
from click.testing import CliRunner, Result
from folders import snapshot
from numpy.typing import NDArray
from PIL import Image
from tables import rows_of

from matseg_runtime.cli.quantify import quantify_main
from matseg_runtime.page.record import find_run, read_run
from matseg_runtime.sink.images import ImageSink
from matseg_runtime.source.transform import Window
from matseg_shared.images.read import read_image

Run = Callable[..., Result]
VOLUME = onnx_models.random_pixels((6, 40, 52), "uint8", 1)


def write_folder(folder: Path, images: NDArray[Any]) -> Path:
    """PNGs s0.png, s1.png, ..."""
    folder.mkdir()
    for number, image in enumerate(images):
        Image.fromarray(image).save(folder / f"s{number}.png")
    return folder


def labels_of(path: Path) -> NDArray[np.uint8]:
    """Labels of a volume."""
    return np.asarray(
        zarr.open_array(str(path / "0"))[:] if path.suffix == ".zarr" else tifffile.imread(path)
    )


def test_a_window_that_differs_in_the_seventh_digit_is_another_job(
    run: Run, model: Path, tmp_path: Path
) -> None:
    np.save(tmp_path / "scan.npy", VOLUME.astype(np.float32) * 1000)
    command = (model, tmp_path / "scan.npy", "-o", tmp_path / "out", "--window")
    assert run(*command, "0,255000.4").exit_code == 0
    again = run(*command, "0,255000.3")
    assert again.exit_code == 2, "half of the labels would be of another window"
    assert "window: 0,255000.4 then, 0,255000.3 now" in again.output
    assert run(*command, "0.0,2.550004e5").exit_code == 0, "the same numbers are the same job"


@pytest.mark.parametrize(("text", "shown"), [("0,4095", "0,4095"), ("-0.001,4e-3", "-0.001,0.004")])
def test_a_window_is_shown_as_short_as_before(text: str, shown: str) -> None:
    assert str(Window.parse(text)) == shown


def test_a_voxel_size_that_differs_in_the_seventh_digit_is_another_job(
    run: Run, model: Path, tmp_path: Path
) -> None:
    np.save(tmp_path / "scan.npy", VOLUME)
    command = (model, tmp_path / "scan.npy", "-o", tmp_path / "a.tif", "--voxel-size")
    assert run(*command, "0.6500001um").exit_code == 0
    assert run(*command, "0.6500002um").exit_code == 2


@pytest.mark.parametrize("name", ["labels.zarr", "labels.tif"])
def test_a_first_slice_that_is_mended_to_another_size_costs_the_others_nothing(
    run: Run, model: Path, tmp_path: Path, name: str
) -> None:
    folder = write_folder(tmp_path / "scan", VOLUME[:3])
    whole = (folder / "s0.png").read_bytes()
    (folder / "s0.png").write_bytes(whole[: len(whole) // 2])
    command = (model, folder, "-o", tmp_path / name)
    assert run(*command).exit_code == 4
    before = labels_of(tmp_path / name)
    assert (before[0] == 255).all()
    Image.fromarray(onnx_models.random_pixels((60, 70), "uint8", 3)).save(folder / "s0.png")
    again = run(*command)
    assert again.exit_code == 4
    assert "s0.png: expected 40 x 52 pixels, as this volume's slices have, found 60 x 70" in again.output
    np.testing.assert_array_equal(labels_of(tmp_path / name), before)
    (folder / "s0.png").write_bytes(whole)
    assert run(*command).exit_code == 0
    after = labels_of(tmp_path / name)
    np.testing.assert_array_equal(after[1:], before[1:])
    assert (after[0] != 255).all()


def test_slices_have_the_places_they_have_now_when_images_came_between_runs(
    run: Run, model: Path, tmp_path: Path
) -> None:
    folder, out = tmp_path / "scan", tmp_path / "out"
    folder.mkdir()
    for name in "bd":
        Image.fromarray(VOLUME["abcd".index(name)]).save(folder / f"{name}.png")
    assert run(model, folder, "-o", out, "--quantify", "--uncertain", 2).exit_code == 0
    for name in "ac":
        Image.fromarray(VOLUME["abcd".index(name)]).save(folder / f"{name}.png")
    result = run(model, folder, "-o", out, "--quantify", "--uncertain", 4)
    assert result.exit_code == 0
    assert "warning" not in result.output, "no image has changed"
    for table in ("quantities.csv", "uncertainty.csv"):
        found = {(row["slice"], row["position"]) for row in rows_of(out / table) if row["slice"] != "total"}
        assert found == {("a", "0"), ("b", "1"), ("c", "2"), ("d", "3")}
    index = json.loads((tmp_path / "out_uncertain" / "index.json").read_text())
    assert sorted(item["slice"] for item in index["items"]) == ["a", "b", "c", "d"]
    for item in index["items"]:
        proposal = np.asarray(Image.open(tmp_path / "out_uncertain" / item["label"]))
        np.testing.assert_array_equal(proposal, np.asarray(Image.open(out / f"{item['slice']}.png")))
    places = find_run(out)
    assert places is not None
    assert [(item.name, item.index) for item in read_run(places).slices] == list(
        zip("abcd", range(4), strict=True)
    )


def test_overwrite_leaves_nothing_of_a_job_that_had_another_format(
    run: Run, model: Path, tmp_path: Path
) -> None:
    folder, out = write_folder(tmp_path / "scan", VOLUME[:3]), tmp_path / "out"
    (tmp_path / "out").mkdir()
    (out / "notes.txt").write_text("mine")
    (out / "s1.tif").write_text("mine, too")
    first = ("--quantify", "--uncertain", 1, "--probabilities", "--overwrite")
    assert run(model, folder, "-o", out, *first).exit_code == 0
    assert (out / "s1.tif").read_text() == "mine, too"
    (out / "s1.tif").unlink()
    (out / "report.html").write_text("of the first job")
    assert run(model, folder, "-o", out, "--format", "tiff", "--overwrite").exit_code == 0
    kept = {"notes.txt", ".matseg", "report.json", "phase_fractions.csv"}
    assert {path.name for path in out.iterdir()} == kept | {"s0.tif", "s1.tif", "s2.tif"}


@pytest.mark.parametrize("again", [("--quantify",), ()])
def test_tables_never_tell_of_fewer_slices_than_there_are(
    run: Run, model: Path, tmp_path: Path, again: tuple[str, ...]
) -> None:
    folder, out = write_folder(tmp_path / "scan", VOLUME[:3]), tmp_path / "out"
    assert run(model, folder, "-o", out, "--quantify", "--uncertain", 1).exit_code == 0
    tables = {name: (out / name).read_bytes() for name in ("quantities.csv", "uncertainty.csv")}
    assert run(model, folder, "-o", out).exit_code == 0
    assert {name: (out / name).read_bytes() for name in tables} == tables, "nothing was labelled"
    Image.fromarray(VOLUME[3]).save(folder / "s3.png")
    result = run(model, folder, "-o", out, *again)
    assert result.exit_code == 0
    text = " ".join(result.output.split())
    assert "uncertainty.csv told of fewer slices, or of other labels, than there are now" in text
    assert not (out / "uncertainty.csv").exists()
    assert (out / "quantities.csv").exists() == bool(again)
    if not again:
        assert "with --quantify and --uncertain" in text
        assert run(model, folder, "-o", out, "--quantify").exit_code == 0
    assert {row["slice"] for row in rows_of(out / "quantities.csv")} == {"s0", "s1", "s2", "s3", "total"}


def test_labels_and_probabilities_never_share_a_file(run: Run, model: Path, tmp_path: Path) -> None:
    folder, out = tmp_path / "scan", tmp_path / "out"
    folder.mkdir()
    for number, name in enumerate(("a", "A_Probabilities")):
        Image.fromarray(VOLUME[number]).save(folder / f"{name}.png")
    result = run(model, folder, "-o", out, "--format", "tiff", "--probabilities")
    assert result.exit_code == 2
    assert "labels of A_Probabilities and the probabilities of a would both" in " ".join(
        result.output.split()
    )
    assert not out.exists()
    assert run(model, folder, "-o", out, "--probabilities").exit_code == 0


def test_a_dry_run_says_what_the_run_would(run: Run, model: Path, tmp_path: Path) -> None:
    folder, out = write_folder(tmp_path / "scan", VOLUME), tmp_path / "out"
    command = (model, folder, "-o", out)
    assert run(*command).exit_code == 0
    other = run(*command, "--no-skip-constant", "--dry-run")
    assert other.exit_code == 2
    assert other.output == run(*command, "--no-skip-constant").output
    both = run(*command, "--watch", "--finish", "--dry-run")
    assert both.exit_code == 2
    assert both.output == run(*command, "--watch", "--finish").output
    (out / "s1.png").unlink()
    before = snapshot(tmp_path)
    assert "done before: 5 of 6 slices" in run(*command, "--dry-run").output
    assert "done before" not in run(*command, "--dry-run", "--uncertain", 2).output, "none has been scored"
    assert "done before" not in run(*command, "--dry-run", "--overwrite").output
    assert snapshot(tmp_path) == before
    assert "1 of 6 slices labelled in this run, 5 before" in run(*command).output


def test_a_part_counts_what_it_has_done_itself(run: Run, model: Path, tmp_path: Path) -> None:
    folder, out = write_folder(tmp_path / "scan", VOLUME), tmp_path / "out"
    (folder / "s0.png").write_bytes((folder / "s0.png").read_bytes()[:60])
    command = (model, folder, "-o", out, "--json", "--part")
    write, inner = ImageSink.write, []

    def with_another_part_at_the_same_time(sink: ImageSink, *arguments: Any) -> Any:
        if not inner:
            inner.append(None)
            inner.append(run(*command, "2/2"))
        return write(sink, *arguments)

    with mock.patch.object(ImageSink, "write", with_another_part_at_the_same_time):
        first = run(*command, "1/2")
    assert [json.loads(result.stdout)["labelled"] for result in (first, inner[1])] == [2, 3]
    assert json.loads(first.stdout)["pixels"] == 2 * 40 * 52
    alone = run(model, folder, "-o", tmp_path / "alone", "--part", "1/2")
    assert "3 slices are left to others" in alone.output, "s0 was excluded, and is left to nobody"
    assert "1 of 6 slices labelled" not in alone.output


@pytest.mark.parametrize("shape", [(1, 70), (70, 1), (1, 1)])
def test_slices_one_pixel_high_or_wide_are_proposed_through_a_window(
    run: Run, tmp_path: Path, shape: tuple[int, int]
) -> None:
    model = onnx_models.save_model(tmp_path / "deep_v1.onnx", dtype="uint16", name="deep_v1")
    folder = write_folder(tmp_path / "scan", onnx_models.random_pixels((3, *shape), "uint8", 1))
    options = ("--window", "0,255", "--accept-intensities", "--uncertain", 2)
    result = run(model, folder, "-o", tmp_path / "out", *options)
    assert result.exit_code == 0, result.output
    images = sorted((tmp_path / "out_uncertain" / "train" / "images").iterdir())
    assert [read_image(path).shape for path in images] == [shape, shape], "as the trainer reads them"


def test_labels_cut_along_another_axis_are_measured_by_the_edges_of_their_volume(
    run: Run, model: Path, tmp_path: Path
) -> None:
    """Three numbers are z, y, x, whichever axis the run cut along; a coarser level has larger voxels."""
    np.save(tmp_path / "scan.npy", onnx_models.random_pixels((6, 70, 72), "uint8", 1))
    labels = tmp_path / "labels.zarr"
    options = ("--axis", 1, "--range", "2:9", "--pyramid", "--voxel-size", "3,2,1um", "--quantify")
    assert run(model, tmp_path / "scan.npy", "-o", labels, *options, "--uncertain", 1).exit_code == 0
    own = json.loads((tmp_path / "labels.zarr.matseg" / "quantities.json").read_text())

    def measured(*arguments: object) -> dict[str, Any]:
        command = [str(item) for item in (labels, *arguments, "-o", tmp_path / "q", "--json")]
        result = CliRunner().invoke(quantify_main, command)
        assert result.exit_code == 0, result.output
        found: dict[str, Any] = json.loads(result.stdout)
        return found

    sizes = lambda summary: [summary["voxel_size"][name] for name in ("step", "row", "column")]  # noqa: E731
    assert sizes(own) == sizes(measured()) == sizes(measured("--voxel-size", "3,2,1um")) == [2, 3, 1]
    assert measured("--voxel-size", "3,2,1um")["classes"] == own["classes"]
    assert sizes(measured("--level", 1)) == [4, 6, 2]
    assert sizes(measured("--axis", 2)) == [1, 3, 2]
    for table in ("quantities.csv", "uncertainty.csv"):
        rows = [row for row in rows_of(tmp_path / "labels.zarr.matseg" / table) if row["position"]]
        assert sorted({(row["slice"], row["position"]) for row in rows}) == [
            (f"scan_000{number}", str(number)) for number in range(2, 9)
        ]
    index = json.loads((tmp_path / "labels_uncertain" / "index.json").read_text())
    assert [item["slice"] for item in index["items"]] == [f"scan_000{index['items'][0]['position']}"]
    measured("--range", "1:3")
    assert {row["position"] for row in rows_of(tmp_path / "q" / "quantities.csv")} == {"1", "2", ""}


def test_a_page_tells_of_the_images_that_its_figures_are_of(run: Run, model: Path, tmp_path: Path) -> None:
    folder, out = write_folder(tmp_path / "scan", VOLUME[:5]), tmp_path / "out"
    (folder / "s4.png").write_bytes((folder / "s4.png").read_bytes()[:60])
    assert run(model, folder, "-o", out, "--quantify").exit_code == 4
    for name in ("s1.png", "s4.png"):
        (folder / name).unlink()
    assert run(model, folder, "-o", out, "--quantify").exit_code == 0
    places = find_run(out)
    assert places is not None
    record = read_run(places)
    assert [(item.name, item.index) for item in record.slices] == [("s0", 0), ("s2", 1), ("s3", 2)]
    assert record.excluded == ()
    totals = np.sum([item.counts for item in record.slices], axis=0)
    assert [item.pixels for item in record.report.phase_fractions] == totals.tolist()
    assert {row["slice"] for row in rows_of(out / "quantities.csv")} == {"s0", "s2", "s3", "total"}


def test_a_window_stays_with_the_dtype_that_it_was_given_for(run: Run, tmp_path: Path) -> None:
    """Images that come later and sort first do not turn the meaning of the others' window."""
    model = onnx_models.save_model(tmp_path / "real_v1.onnx", dtype="float32", name="real_v1")
    folder, out = tmp_path / "scan", tmp_path / "out"
    folder.mkdir()
    for number, name in enumerate("bc"):
        tifffile.imwrite(folder / f"{name}.tif", VOLUME[number])
    command = (model, folder, "-o", out, "--window", "0,255")
    assert run(*command).exit_code == 0
    tifffile.imwrite(folder / "a.tif", VOLUME[2].astype(np.uint16) * 257)
    tifffile.imwrite(folder / "d.tif", VOLUME[3])
    again = run(*command)
    assert again.exit_code == 4
    assert "a.tif: has uint16 pixels, the other slices uint8, and one --window cannot" in again.output
    assert "1 of 4 slices labelled in this run, 2 before" in again.output
    assert not (out / "a.png").exists()
    for name in "bcd":
        (folder / f"{name}.tif").unlink()
    other = run(*command, "--accept-intensities")
    assert other.exit_code == 2
    assert "stored dtype: uint8 then, uint16 now" in " ".join(other.output.split())


def test_tables_stay_where_a_slice_is_excluded_again(run: Run, model: Path, tmp_path: Path) -> None:
    folder, out = write_folder(tmp_path / "scan", VOLUME[:3]), tmp_path / "labels.tif"
    (folder / "s1.png").write_bytes(b"no image")
    command = (model, folder, "-o", out)
    assert run(*command, "--quantify", "--uncertain", 1).exit_code == 4
    side = tmp_path / "labels.tif.matseg"
    before = {name: (side / name).read_bytes() for name in ("quantities.csv", "uncertainty.csv")}
    again = run(*command)
    assert again.exit_code == 4
    assert "removed" not in again.output
    assert "another format (cannot identify image file); save it again" in again.output
    assert {name: (side / name).read_bytes() for name in before} == before


def test_label_images_are_measured_whatever_lies_beside_them(run: Run, model: Path, tmp_path: Path) -> None:
    folder, out = write_folder(tmp_path / "scan", VOLUME[:3]), tmp_path / "out"
    out.mkdir()
    for number, suffix in enumerate((".jpg", ".bmp")):
        Image.fromarray(VOLUME[3]).save(out / f"s{number}{suffix}")
    assert run(model, folder, "-o", out, "--overwrite").exit_code == 0
    result = run(model, folder, "-o", out, "--quantify")
    assert result.exit_code == 0, result.output
    assert run(model, folder, "-o", tmp_path / "alone", "--quantify").exit_code == 0
    names = ("quantities.csv", "region_sizes.csv")
    assert [(out / name).read_bytes() for name in names] == [
        (tmp_path / "alone" / name).read_bytes() for name in names
    ]
