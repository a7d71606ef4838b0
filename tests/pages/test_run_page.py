"""The page of a run, whatever became of the files."""

from __future__ import annotations

import itertools
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from html_pages import HOSTILE_CLASS, HOSTILE_STEM, noise, page_data, write_slices
from PIL import Image

from matseg_runtime.ledger import Ledger, Part
from matseg_runtime.page.choose import MOST, choose_slices
from matseg_runtime.records import SliceRecord
from matseg_shared.installation import install_command
from matseg_shared.pages import page as page_module

Call = Callable[..., tuple[int, str]]


def test_a_run_ends_with_its_page(labelled: Path) -> None:
    page = page_data(labelled / "report.html")["page"]
    assert [item["name"] for item in page["slices"]] == [HOSTILE_STEM, "s0", "s1", "s3", "s4"]
    assert all(item["image"] and item["labels"] and not item["problems"] for item in page["slices"])
    text = (labelled / "report.html").read_text(encoding="utf-8")
    assert "z_broken" in text  # excluded, with the reason
    assert "notes.txt" in text  # skipped
    assert "No voxel size is known, so amounts are in pixels." in text
    written = json.loads((labelled / "report.json").read_text(encoding="utf-8"))
    assert written["page"] == str(labelled / "report.html")


def test_a_run_that_is_replaced_at_its_end_has_no_page(
    tmp_path: Path, run: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    labels = tmp_path / "labels"

    def replaced() -> bool:  # by another run with --overwrite, after the labels and before the page
        (labels / "report.json").unlink()
        return True

    monkeypatch.setattr("matseg_runtime.page.build.is_installed", replaced)
    code, text = run(write_slices(tmp_path / "scan"), "-o", labels)
    assert code == 4, text
    assert "its report is no longer there; something else deletes or replaces this output" in text
    assert not (labels / "report.html").exists()


def test_every_warning_stands_above_the_labels(labelled: Path, report: Call) -> None:
    """Whatever words are in it: names of files are, and drift is what a reader has to know first."""
    document = json.loads((labelled / "report.json").read_text(encoding="utf-8"))
    document["warnings"] = [
        "the intensities differ (drift 0.95 of 1)",
        "1 images, drift/s1.png first, have changed",
    ]
    (labelled / "report.json").write_text(json.dumps(document), encoding="utf-8")
    assert report(labelled)[0] == 0
    head = (labelled / "report.html").read_text(encoding="utf-8").split('id="slices"')[0]
    for text in document["warnings"]:
        assert text in head


def test_names_cannot_leave_their_place(labelled: Path) -> None:
    text = (labelled / "report.html").read_text(encoding="utf-8")
    assert HOSTILE_STEM not in text
    assert HOSTILE_CLASS not in text
    assert "&lt;img src=x onerror=hacked=1&gt;" in text or "\\u003cimg src=x" in text


def test_pages_can_be_declined(tmp_path: Path, run: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    scan = write_slices(tmp_path / "scan")
    assert "report:" not in run(scan, "-o", tmp_path / "a", page="--no-report")[1]
    assert not (tmp_path / "a" / "report.html").exists()
    monkeypatch.setattr("matseg_runtime.page.build.is_installed", lambda: False)
    _, said = run(scan, "-o", tmp_path / "b")
    assert install_command("report") in said
    assert f"matseg-report {tmp_path / 'b'}" in said
    assert not (tmp_path / "b" / "report.html").exists()


def test_a_page_can_be_made_later_elsewhere(tmp_path: Path, run: Call, report: Call) -> None:
    scan = write_slices(tmp_path / "scan")
    run(scan, "-o", tmp_path / "labels", page="--no-report")
    shutil.copytree(tmp_path / "labels", tmp_path / "elsewhere" / "labels")
    scan.rename(tmp_path / "moved")
    code, said = report(tmp_path / "elsewhere" / "labels", "--input", tmp_path / "moved", "--json")
    assert code == 0, said
    made = json.loads(said)
    assert made["page"] == str(tmp_path / "elsewhere" / "labels" / "report.html")
    # whoever moves files keeps their times, or is told that they are others
    assert all(item["image"] for item in page_data(Path(made["page"]))["page"]["slices"])


@pytest.mark.parametrize("name", ["labels.tif", "labels.zarr", "labels.nrrd"])
@pytest.mark.parametrize(("axis", "count"), [(0, 4), (1, 6)])
def test_volumes_have_pages_too(
    tmp_path: Path, run: Call, report: Call, name: str, axis: int, count: int
) -> None:
    volume = tmp_path / "scan.npy"
    np.save(volume, np.stack([noise((6, 52), 255, seed) for seed in range(4)]))
    code, said = run(volume, "-o", tmp_path / name, "--axis", axis)
    assert code == 0, said
    page = tmp_path / f"{name}.matseg" / "report.html"
    assert f"report: {page}" in said
    slices = page_data(page)["page"]["slices"]
    assert len(slices) == count
    assert all(item["image"] and item["labels"] and not item["problems"] for item in slices)
    page.unlink()
    assert report(tmp_path / name)[0] == 0
    assert page.is_file()


@pytest.mark.parametrize("options", [(), ("--crop-bottom", 5)])
def test_pictures_that_the_run_takes_are_those_of_the_files(
    tmp_path: Path, run: Call, report: Call, monkeypatch: pytest.MonkeyPatch, options: tuple[object, ...]
) -> None:
    out = tmp_path / "labels"
    with monkeypatch.context() as patched:  # nothing is read for the page

        def read_again(*_: object) -> None:
            raise AssertionError

        patched.setattr("matseg_runtime.page.slices._Reader._read_labels", read_again)
        code, said = run(write_slices(tmp_path / "scan"), "-o", out, *options)
    assert code == 4, said
    taken = page_data(out / "report.html")
    assert report(out)[0] == 0
    assert page_data(out / "report.html") == taken
    again = run(tmp_path / "scan", "-o", tmp_path / "limited", "--memory", "2GB", *options)
    assert again[0] == 4, again[1]
    assert page_data(tmp_path / "limited" / "report.html") == taken


def test_a_page_of_plain_pixels_is_made_later(tmp_path: Path, run: Call, report: Call) -> None:
    volume, out = tmp_path / "scan.raw", tmp_path / "labels.mhd"
    volume.write_bytes(np.stack([noise((40, 52), 255, seed) for seed in range(4)]).tobytes())
    code, said = run(volume, "-o", out, "--raw", "4x40x52,uint8", page="--no-report")
    assert code == 0, said
    assert report(out)[0] == 0
    slices = page_data(tmp_path / "labels.mhd.matseg" / "report.html")["page"]["slices"]
    assert all(item["image"] and item["labels"] and not item["problems"] for item in slices)


def test_what_is_gone_is_said_in_its_place(labelled: Path, report: Call) -> None:
    scan = labelled.parent / "scan"
    (labelled / "s0.png").unlink()
    Image.fromarray(np.zeros((40, 52), np.uint8)).save(labelled / "s1.png")
    (scan / "s3.png").write_bytes((scan / "s3.png").read_bytes()[:60])
    (scan / "s4.png").unlink()
    assert report(labelled)[0] == 0
    problems = {
        item["name"]: item["problems"] for item in page_data(labelled / "report.html")["page"]["slices"]
    }
    assert "there is no such file" in problems["s0"][0]
    assert "have changed since the run counted them" in problems["s1"][0]
    assert any("its image" in text for text in problems["s3"])
    assert "no longer in" in problems["s4"][0]
    assert problems[HOSTILE_STEM] == []
    assert (
        "4 of the 5 slices shown here are missing or have changed" in (labelled / "report.html").read_text()
    )


def test_without_input_ledger_and_origin_there_is_still_a_page(labelled: Path, report: Call) -> None:
    shutil.rmtree(labelled.parent / "scan")
    assert report(labelled)[0] == 0
    text = (labelled / "report.html").read_text(encoding="utf-8")
    assert "there are labels without slices" in text
    assert all(item["labels"] for item in page_data(labelled / "report.html")["page"]["slices"])
    shutil.rmtree(labelled / ".matseg")
    assert report(labelled)[0] == 0
    text = (labelled / "report.html").read_text(encoding="utf-8")
    assert "there is no record of the slices any more" in text
    assert "The training histogram is not known here" in text


def test_what_is_no_run_is_refused_in_a_sentence(tmp_path: Path, labelled: Path, report: Call) -> None:
    for path in (tmp_path / "nothing", tmp_path / "scan", labelled / "phase_fractions.csv"):
        code, said = report(path)
        assert code == 2, said
        assert str(path) in said
        assert "matseg-run" in said
    (labelled / "report.json").write_text('{"model": 3}')
    code, said = report(labelled)
    assert code == 2
    assert "expected a report that matseg-run wrote" in said


def records(count: int) -> list[SliceRecord]:
    """A stack whose second class grows and shrinks, with one slice that stands out."""
    found = []
    for index in range(count):
        share = 700 if index == 137 % count else int(100 + 50 * np.sin(index / 100))
        found.append(
            SliceRecord(
                name=f"n{index:05}",
                index=index,
                where=f"n{index:05}.png",
                identity="",
                shape=(500, 500),
                counts=(250_000 - share, share, 0),
                drift=0.9 if index == 1203 % count else 0.1,
            )
        )
    return found


@pytest.mark.parametrize("count", [0, 1, 2, 39, 40, 41, 2000])
def test_chosen_slices_are_spread_and_hold_the_extremes(count: int) -> None:
    choices = choose_slices(records(count), ["a", "b", "c"])
    positions = [choice.record.index for choice in choices]
    assert positions == sorted(set(positions))
    assert len(positions) == count if count <= MOST else 24 <= len(positions) <= MOST
    if count == 2000:
        assert {0, 137, 1203, 1999} <= set(positions)
        reasons = {choice.record.index: choice.reasons for choice in choices}
        assert "most b" in reasons[137]
        assert max(b - a for a, b in itertools.pairwise(positions)) <= 90


def test_a_page_of_2000_slices_is_light(tmp_path: Path, run: Call, report: Call) -> None:
    """Pictures and labels of pure noise, which is the most that a page can have to carry."""
    scan = tmp_path / "scan"
    scan.mkdir()
    Image.fromarray(noise((40, 52), 255, 0)).save(scan / "n00000.png")
    labels = tmp_path / "labels"
    assert run(scan, "-o", labels, page="--no-report")[0] == 0
    stack = records(2000)
    for choice in choose_slices(stack, ["matrix", HOSTILE_CLASS, "pore"]):
        Image.fromarray(noise((500, 500), 255, choice.record.index)).save(
            scan / choice.record.where, compress_level=0
        )
        Image.fromarray(noise((500, 500), 3, 1)).save(labels / choice.record.where, compress_level=1)
    for path in (labels / ".matseg").glob("done-*"):
        path.unlink()
    ledger = Ledger(labels / ".matseg", Part())
    path = labels / ".matseg" / "done-1-of-1.jsonl"
    path.write_text("".join(json.dumps({"done": [item.model_dump(mode="json")]}) + "\n" for item in stack))
    ledger.reload()
    assert len(ledger.done) == 2000
    (labels / "phase_fractions.csv").unlink()  # which knows of one slice, and the others for gone
    code, said = report(labels, "--json")
    assert code == 0, said
    assert 2_000_000 < json.loads(said)["bytes"] < 15_000_000
    page = page_data(labels / "report.html")
    assert len(page["charts"][0]["series"][0]["y"]) == 2000
    assert all(item["image"] and item["labels"] for item in page["page"]["slices"])


def test_the_library_comes_from_the_installed_package() -> None:
    import base64
    import gzip

    script = gzip.decompress(base64.b64decode(page_module.packed_library())).decode()
    assert "plotly.js" in script[:200]


def test_a_report_and_a_model_of_other_classes_are_not_mixed(labelled: Path, report: Call) -> None:
    path = labelled / "report.json"
    document = json.loads(path.read_text(encoding="utf-8"))
    del document["phase_fractions"][0]
    path.write_text(json.dumps(document), encoding="utf-8")
    code, said = report(labelled)
    assert code == 2, said
    assert "tells of 2 classes" in said
    assert "they do not belong together" in said


def test_measurements_that_are_none_are_said_to_be_missing(labelled: Path, report: Call) -> None:
    item = {"name": "pore", "regions": 1, "regions_at_edge": 0, "diameter": None, "boundary_per_area": 0.1}
    document = {
        "unit": "um",
        "connectivity": 8,
        "classes": [item | {"specific_surface": 0.1, "histogram": [{"from": 0}]}],
    }
    (labelled / "quantities.json").write_text(json.dumps(document), encoding="utf-8")
    assert report(labelled)[0] == 0
    text = (labelled / "report.html").read_text(encoding="utf-8")
    assert "cannot be read as the measurements of the regions" in text
