"""An evaluation of a model made for the purpose: what it writes can be read again and leads to every file."""

from __future__ import annotations

import csv
import dataclasses
import io
import shutil
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from discs import unlabel
from PIL import Image
from rich.console import Console

from matseg_shared.contract.classes import UNLABELLED, write_classes
from matseg_shared.contract.metadata import Histogram, InputInfo
from matseg_shared.errors import DatasetError, MetadataError, ModelError
from matseg_shared.pages.page import is_installed
from matseg_trainer.commands.evaluate import evaluate_main
from matseg_trainer.data.folder import Dataset
from matseg_trainer.evaluate import console
from matseg_trainer.evaluate.document import BOUNDARY_TOLERANCE, EvaluationDocument, read_evaluation
from matseg_trainer.evaluate.run import (
    EvaluationOutputs,
    EvaluationRequest,
    Predictor,
    evaluate,
    relative_path,
)
from matseg_trainer.pages.evaluation import write_evaluation_page
from matseg_trainer.workspace import Workspace


def threshold(pixels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Dark is a disc."""
    dark = 1 / (1 + np.exp((pixels[0].astype(np.float32) - 120) / 8))
    probabilities = np.stack([1 - dark, dark])
    return probabilities.argmax(axis=0).astype(np.uint8), probabilities


def predictor(dataset: Dataset, predict=threshold) -> Predictor:
    histogram = Histogram(low=0, high=256, counts=(1,))
    return Predictor(
        classes=dataset.classes,
        input=InputInfo(channels=1, dtype="uint8", mean=(120,), std=(30,), histogram=histogram),
        predict=predict,
    )


def outputs_in(workspace: Path, *, overlays: bool) -> EvaluationOutputs:
    split = workspace / "data" / "discs" / "test"
    return EvaluationOutputs(
        predictions=split / "predictions" / "v1_unet",
        overlays=split / "overlays" / "v1_unet" if overlays else None,
        metrics=workspace / "log" / "discs_v1_test.json",
        table=workspace / "log" / "discs_v1_test_images.csv",
        confusion=workspace / "plots" / "confusion.png",
        reliability=workspace / "plots" / "reliability.png",
    )


def run(
    workspace: Path, *, overlays: bool = True, predict=threshold
) -> tuple[EvaluationDocument, EvaluationOutputs]:
    dataset = Dataset.open(workspace / "data" / "discs")
    outputs = outputs_in(workspace, overlays=overlays)
    request = EvaluationRequest(name="discs_v1", split="test", model=workspace / "saved" / "discs_v1.pth")
    return evaluate(dataset, request, predictor(dataset, predict), outputs, lambda *_: None), outputs


def test_the_document_leads_to_every_file_and_comes_back_as_written(workspace: Path) -> None:
    document, outputs = run(workspace)
    assert read_evaluation(outputs.metrics) == document
    assert document.model == "../saved/discs_v1.pth"
    assert document.boundary_tolerance == BOUNDARY_TOLERANCE
    log = outputs.metrics.parent
    for image in document.images:
        for path in (image.image, image.label, image.array, image.prediction, image.overlay):
            assert path is not None
            assert "\\" not in path
            assert (log / path).is_file(), path
        labels = np.load(log / image.array)
        predicted = np.asarray(Image.open(log / image.prediction))
        wrong = labels != predicted
        assert wrong.sum() == image.disagreement.wrong_pixels > 0
        region = image.disagreement.largest_region
        assert region is not None
        assert labels[region.y, region.x] == region.labelled
        assert predicted[region.y, region.x] == region.predicted
    pooled = np.sum([image.confusion_matrix for image in document.images], axis=0)
    assert pooled.tolist() == [list(row) for row in document.confusion_matrix]
    assert sum(item.pixels for item in document.reliability) == document.pixels == pooled.sum()
    rows = list(csv.DictReader(io.StringIO(outputs.table.read_text(encoding="utf-8"))))
    assert [row["image"] for row in rows] == [image.stem for image in document.worst_first]
    for picture in (outputs.confusion, outputs.reliability):
        with Image.open(picture) as opened:
            assert min(opened.size) > 300


def test_label_arrays_alone_suffice(workspace: Path) -> None:
    for path in (workspace / "data" / "discs" / "test" / "labels").iterdir():
        path.unlink()
    document, _ = run(workspace, overlays=False)
    assert all(image.label is None and image.overlay is None for image in document.images)


def test_images_without_a_boundary_are_left_out_of_the_displacement_and_shown_as_dashes(
    workspace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for path in (workspace / "data" / "discs" / "test" / "labels_npy").iterdir():
        np.save(path, np.zeros_like(np.load(path)))

    def nothing(pixels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        shape = pixels.shape[1:]
        return np.zeros(shape, np.uint8), np.stack([np.ones(shape, np.float32), np.zeros(shape, np.float32)])

    document, outputs = run(workspace, predict=nothing)
    assert document.boundary.displacement is document.iou[1] is document.spread.boundary_f1 is None
    assert document.images[0].disagreement.reason == "no wrong pixel"
    console.print_evaluation(document, outputs)
    printed = capsys.readouterr().out
    assert "nan" not in printed.lower()
    assert "│ disc   │       - │" in printed


def test_the_tables_fit_80_columns(
    workspace: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    document, outputs = run(workspace)
    long = document.classes[1].model_copy(update={"name": "proeutectoid grain boundary network of cementite"})
    document = document.model_copy(update={"classes": (document.classes[0], long)})
    terminal = Console(width=80, highlight=False)
    monkeypatch.setattr(console, "console", lambda: terminal)
    console.print_evaluation(document, outputs)
    printed = capsys.readouterr().out
    assert "…" not in printed
    tables = [line for line in printed.splitlines() if line.startswith(("│", "┏", "└"))]
    assert len(tables) > 10
    assert max(map(len, tables)) <= 80
    for words in ("displaced px", "calibration error", "taken for", "reliability.png"):
        assert words in printed


def test_probabilities_that_are_no_numbers_are_refused(workspace: Path) -> None:
    def broken(pixels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        labels, probabilities = threshold(pixels)
        probabilities[0, 0, 0] = np.nan
        return labels, probabilities

    with pytest.raises(
        ModelError, match=r"discs_v1.pth: gives probabilities that are not finite on .*slice0.png"
    ):
        run(workspace, predict=broken)
    assert not (workspace / "log" / "discs_v1_test.json").exists()


def test_classes_in_another_order_are_refused_and_renamed_ones_are_not(workspace: Path) -> None:
    """The figures would be those of other classes, without a word."""
    before = run(workspace)[0]
    dataset = Dataset.open(workspace / "data" / "discs")
    matrix, disc = dataset.classes

    def with_names(first: str, second: str) -> EvaluationDocument:
        classes = (matrix.model_copy(update={"name": first}), disc.model_copy(update={"name": second}))
        model = dataclasses.replace(predictor(dataset), classes=classes)
        request = EvaluationRequest(name="discs_v1", split="test", model=workspace / "saved" / "discs_v1.pth")
        return evaluate(dataset, request, model, outputs_in(workspace, overlays=False), lambda *_: None)

    assert with_names("melt", "grain").iou == before.iou
    for names in (("disc", "matrix"), ("disc", "grain"), ("melt", "matrix")):
        with pytest.raises(DatasetError, match=rf"model's order, {names[0]}, {names[1]}, found matrix, disc"):
            with_names(*names)


def other_dataset(workspace: Path, *names: str) -> Dataset:
    """The discs with their classes the other way round, as a data set of its own."""
    dataset = Dataset.open(workspace / "data" / "discs")
    other = Dataset(workspace / "data" / "other")
    shutil.copytree(dataset.root, other.root)
    for sample in other.samples("test"):
        np.save(sample.labels, 1 - np.load(sample.labels))
    matrix, disc = dataset.classes
    classes = (
        disc.model_copy(update={"index": 0, "name": names[0]}),
        matrix.model_copy(update={"index": 1, "name": names[1]}),
    )
    write_classes(other.classes_path, classes)
    return other


def test_another_data_set_has_its_classes_matched_by_name(workspace: Path) -> None:
    before, _ = run(workspace)
    model = predictor(Dataset.open(workspace / "data" / "discs"))
    other = other_dataset(workspace, "disc", "matrix")
    place = Workspace(workspace)
    request = EvaluationRequest(
        name="discs_v1", split="test", dataset="other", model=workspace / "saved" / "discs_v1.pth"
    )
    outputs = EvaluationOutputs.of(place, other, request, "unet", exported=False, overlays=True)
    found = evaluate(other, request, model, outputs, lambda *_: None)
    assert (found.iou, found.confusion_matrix) == (before.iou, before.confusion_matrix)
    assert found.title == "discs_v1 on other, test"
    assert read_evaluation(workspace / "log" / "discs_v1_on_other_test.json") == found
    log = outputs.metrics.parent
    for image in found.images:
        assert image.overlay is not None
        assert image.overlay.startswith("../data/other/test/overlays/discs_v1_unet/")
        wrong = found.load_labels(image, log) != np.asarray(Image.open(log / image.prediction))
        assert wrong.sum() == image.disagreement.wrong_pixels
    if is_installed():
        page = write_evaluation_page(outputs.metrics).read_text(encoding="utf-8")
        assert "have changed since the evaluation" not in page


def test_a_class_of_another_data_set_that_the_model_does_not_know_is_named(workspace: Path) -> None:
    model = predictor(Dataset.open(workspace / "data" / "discs"))
    other = other_dataset(workspace, "pore", "matrix")
    request = EvaluationRequest(name="discs_v1", split="test", dataset="other", model=workspace / "m.pth")
    with pytest.raises(
        DatasetError, match=r"classes\.toml: expected classes of the model, matrix, disc, found pore;"
    ):
        evaluate(other, request, model, outputs_in(workspace, overlays=False), lambda *_: None)


@pytest.mark.parametrize("text", ["nan", "inf"])
def test_a_tolerance_that_is_no_number_of_pixels(workspace: Path, text: str) -> None:
    arguments = ["discs", "v1", "--tolerance", text, "--workspace", str(workspace)]
    result = CliRunner().invoke(evaluate_main, arguments)
    assert result.exit_code == 2
    assert f"Invalid value for '--tolerance': {text} is not a finite number" in result.output


def test_a_document_that_is_none_is_named_with_every_problem(tmp_path: Path) -> None:
    path = tmp_path / "e.json"
    with pytest.raises(MetadataError, match=r"e\.json: expected an evaluation, found no file"):
        read_evaluation(path)
    path.write_text('{"name": "x", "pixels": -1}', encoding="utf-8")
    with pytest.raises(MetadataError, match="run matseg-evaluate again") as caught:
        read_evaluation(path)
    assert {"pixels", "split", "images"} <= {problem.where for problem in caught.value.problems}


def test_a_relative_path_leads_from_the_folder_to_the_file_and_links_stay_links(tmp_path: Path) -> None:
    real = tmp_path / "elsewhere" / "set"
    real.mkdir(parents=True)
    (real / "a.png").write_bytes(b"")
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "set").symlink_to(real, target_is_directory=True)
    log = tmp_path / "log"
    log.mkdir()
    linked = tmp_path / "data" / "set" / "a.png"
    assert relative_path(linked, log) == "../data/set/a.png"
    assert (log / relative_path(linked, log)).samefile(real / "a.png")
    assert relative_path(log / "e.json", log) == "e.json"
    assert relative_path(log, log) == "."


def test_a_partly_labelled_split_is_measured_where_it_is_labelled(
    workspace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    unlabel(workspace / "data" / "discs")
    document, outputs = run(workspace)
    arrays = [np.load(outputs.metrics.parent / image.array) for image in document.images]
    known = sum(int((labels != UNLABELLED).sum()) for labels in arrays)
    assert document.pixels == known == sum(item.pixels for item in document.reliability)
    assert document.unlabelled == sum(labels.size for labels in arrays) - known
    assert read_evaluation(outputs.metrics) == document
    for image in document.images:
        predicted = np.asarray(Image.open(outputs.metrics.parent / image.prediction))
        assert set(np.unique(predicted)) == {0, 1}, "predictions stay full"
    console.print_evaluation(document, outputs)
    assert "of their pixels labelled" in " ".join(capsys.readouterr().out.split())
    if is_installed():
        page = write_evaluation_page(outputs.metrics).read_text(encoding="utf-8")
        assert "have changed since the evaluation" not in page
        assert "% of all)" in page
        assert "what nobody labelled is hatched" in page


def test_an_image_without_any_label_is_named(workspace: Path) -> None:
    unlabel(workspace / "data" / "discs")
    path = workspace / "data" / "discs" / "test" / "labels_npy" / "slice1.npy"
    np.save(path, np.full_like(np.load(path), UNLABELLED))
    with pytest.raises(DatasetError, match=r"slice1\.npy: expected labels, found no labelled pixel"):
        run(workspace)
    assert not (workspace / "log" / "discs_v1_test.json").exists()
