"""Images with pixels that are no sample, in preparing, training and evaluating: fed as the mean, in no figure."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from click.testing import CliRunner, Result
from labelled_sets import SmallSet
from numpy.typing import NDArray
from PIL import Image

from matseg_runtime.source.transform import NoDataOptions
from matseg_shared.errors import ConfigError, DatasetError
from matseg_trainer.commands.evaluate import evaluate_main
from matseg_trainer.commands.train import train_main
from matseg_trainer.config.load import load_config
from matseg_trainer.data.examples import IGNORED, Examples
from matseg_trainer.data.folder import Dataset
from matseg_trainer.data.statistics import SplitStatistics
from matseg_trainer.predict.checkpoint import Checkpoint, load_checkpoint

EDGE, BAR = 64, 16
CIRCLE = np.hypot(*(np.mgrid[:EDGE, :EDGE] - (EDGE - 1) / 2)) > EDGE / 2
FEI = (
    "[Scan]\r\nPixelWidth=2e-009\r\nPixelHeight=2e-009\r\n"
    f"[Image]\r\nResolutionX={EDGE}\r\nResolutionY={EDGE - BAR}\r\n"
)
TAG = (34682, "s", 0, FEI, True)
STEMS = {"train": ("a", "b"), "validate": ("c",), "test": ("d",)}

Prep = Callable[..., Result]


@pytest.fixture
def made(small: SmallSet) -> Callable[..., SmallSet]:
    """A data set of a split each, whose images `change` makes of (H, W) uint8 pixels."""

    def make(
        change: Callable[[NDArray[np.uint8]], NDArray[Any]], tag: tuple[Any, ...] | None = None
    ) -> SmallSet:
        for number, (split, stem) in enumerate((one, name) for one in STEMS for name in STEMS[one]):
            random = np.random.default_rng(number)
            labels = (np.add.outer(np.arange(EDGE), np.arange(EDGE)) % 32 > 15).astype(np.uint8)
            pixels = (60 + 100 * labels + random.integers(0, 40, labels.shape)).astype(np.uint8)
            small.add(split, stem, labels * 255)
            (small.root / split / "images" / f"{stem}.png").unlink()
            extra = {} if tag is None else {"extratags": [tag]}
            tifffile.imwrite(
                small.root / split / "images" / f"{stem}.tif", change(pixels), metadata=None, **extra
            )
        return small

    return make


def trained(small: SmallSet, *keys: str) -> tuple[Result, Checkpoint]:
    """Train one epoch, with these lines in config.toml."""
    workspace = small.root.parent.parent
    lines = ["[steel.v1]", 'model = "unet"', "n_class = 2", "width = 4", "epoch = 1", "batch_size = 1", *keys]
    (workspace / "config.toml").write_text("\n".join(lines))
    result = CliRunner().invoke(train_main, ["steel", "v1", "--workspace", str(workspace)])
    assert result.exit_code == 0, result.output
    return result, load_checkpoint(workspace / "saved" / "steel_v1.pth")


def evaluated(small: SmallSet) -> dict[str, Any]:
    """The figures on the test image."""
    workspace = small.root.parent.parent
    result = CliRunner().invoke(evaluate_main, ["steel", "v1", "--workspace", str(workspace), "--report"])
    assert result.exit_code == 0, result.output
    found: dict[str, Any] = json.loads((workspace / "log" / "steel_v1_test.json").read_text())
    return found


def without_data(pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
    return np.where(CIRCLE, np.float32(np.nan), pixels.astype(np.float32))


def test_nan_is_no_data_from_labels_to_figures(made: Any, prep: Prep) -> None:
    small = made(without_data)
    result = prep("labels", "steel", "train", "validate", "test", "--classes", 2)
    assert result.exit_code == 0, result.output
    share = f"{CIRCLE.mean():.1%} of its pixels are no data"
    assert f"a.tif: {share}" in " ".join(result.output.split())

    result, checkpoint = trained(small)

    pixels = np.stack([tifffile.imread(small.root / "train" / "images" / f"{stem}.tif") for stem in "ab"])
    assert checkpoint.input.mean[0] == pytest.approx(np.nanmean(pixels), rel=1e-6)
    assert checkpoint.input.std[0] == pytest.approx(np.nanstd(pixels), rel=1e-6)
    assert sum(checkpoint.input.histogram.counts) == 2 * (~CIRCLE).sum()
    assert checkpoint.input.no_data == "mean"
    assert np.isfinite(checkpoint.sample).all()
    told = " ".join(result.output.split())
    assert f"no data {CIRCLE.mean():.2%} of the pixels" in told
    assert "pixels to train" not in told, "every pixel that is sample has its label"
    assert np.sum(evaluated(small)["confusion_matrix"]) == (~CIRCLE).sum()
    (prediction,) = (small.root / "test" / "predictions").rglob("d.png")
    assert np.array_equal(np.asarray(Image.open(prediction)) == 255, CIRCLE)
    (page,) = small.root.parent.parent.rglob("*test*.html")
    assert "have changed since the evaluation" not in page.read_text()
    checked = prep("check", "steel")
    assert checked.exit_code == 0, checked.output
    assert share in " ".join(checked.output.split())
    assert "% labelled" not in checked.output


def test_what_nobody_labelled_and_what_is_no_data_are_counted_apart(made: Any, prep: Prep) -> None:
    small = made(without_data)
    for path in small.root.rglob("labels/*.png"):
        label = np.array(Image.open(path))
        label[: EDGE // 2] = 7
        Image.fromarray(label).save(path)
    assert prep("labels", "steel", *STEMS, "--classes", 2, "--unlabelled", 7).exit_code == 0
    told = " ".join(trained(small)[0].output.split())
    assert "labels 50.00% of the pixels to train, 50.00% of those to validate, no data apart" in told
    assert f"no data {CIRCLE.mean():.2%} of the pixels" in told
    assert evaluated(small)["unlabelled"] == (~CIRCLE[: EDGE // 2]).sum()
    assert "of 50.00% labelled" in " ".join(prep("check", "steel").output.split())


def test_images_are_fed_the_mean_where_there_are_no_data(made: Any, prep: Prep) -> None:
    small = made(without_data)
    prep("labels", "steel", "train", "--classes", 2)
    images = Examples(Dataset.open(small.root).samples("train"), n_class=2)
    statistics = SplitStatistics(images, 2)
    assert statistics.no_data == 2 * CIRCLE.sum()
    assert statistics.class_counts.sum() == 2 * (~CIRCLE).sum()
    images.fill((17.0,))
    for example in images:
        assert (example.labels[CIRCLE] == IGNORED).all()
        assert (example.labels[~CIRCLE] < 2).all()
        assert (example.pixels[0, CIRCLE] == 17).all()


def test_values_and_the_circle_are_no_data_as_the_version_says(made: Any, prep: Prep) -> None:
    small = made(lambda pixels: np.where(CIRCLE, np.uint8(0), pixels))
    prep("labels", "steel", "train", "validate", "test", "--classes", 2)
    for key in ("no_data = 0", 'no_data = "circle"', 'no_data = [0, "circle"]'):
        _, checkpoint = trained(small, key)
        assert checkpoint.input.histogram.low >= 60
        assert np.sum(evaluated(small)["confusion_matrix"]) == (~CIRCLE).sum()
        for file in small.root.parent.parent.glob("saved/*"):
            file.unlink()
        for file in small.root.parent.parent.glob("log/*"):
            file.unlink()


def test_what_is_no_kind_of_no_data_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_text('[s.v1]\nmodel = "unet"\nn_class = 2\nno_data = "ring"\n')
    with pytest.raises(ConfigError, match="expected a value, such as 0"):
        load_config(tmp_path / "config.toml")


def test_a_bar_is_cut_as_the_file_says(made: Any, prep: Prep) -> None:
    def barred(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
        pixels[-BAR:] = 0
        return pixels

    small = made(barred, TAG)
    said = prep("labels", "steel", "train", "validate", "test", "--classes", 2)
    assert f"the lowest {BAR} rows are a data bar, as its file says" in " ".join(said.output.split())
    _, checkpoint = trained(small)
    assert checkpoint.input.histogram.low >= 60
    assert checkpoint.input.crop_bottom == 0
    assert checkpoint.pixel_size is not None
    assert (checkpoint.pixel_size.value, checkpoint.pixel_size.unit) == (pytest.approx(2), "nm")
    assert np.sum(evaluated(small)["confusion_matrix"]) == (EDGE - BAR) * EDGE
    prep("crop", "steel", "-s", 40, "-tr", 4, "-val", 2)


def test_a_bar_is_cut_as_the_version_says_and_the_model_carries_it(made: Any, prep: Prep) -> None:
    small = made(lambda pixels: pixels)
    prep("labels", "steel", "train", "validate", "test", "--classes", 2)
    _, checkpoint = trained(small, "crop_bottom = 20")
    assert checkpoint.input.crop_bottom == 20
    assert np.sum(evaluated(small)["confusion_matrix"]) == (EDGE - 20) * EDGE


def test_examples_know_what_was_said_of_their_bar(made: Any, prep: Prep) -> None:
    small = made(lambda pixels: pixels, TAG)
    prep("labels", "steel", "train", "--classes", 2)
    samples = Dataset.open(small.root).samples("train")
    assert Examples(samples, n_class=2).is_told_of_bar(samples[0])
    options = NoDataOptions(crop_bottom=0)
    assert not any(
        (example.labels == IGNORED).any() for example in Examples(samples, n_class=2, no_data=options)
    )


def test_a_bar_of_which_nothing_tells_is_warned_of(made: Any, prep: Prep) -> None:
    def barred(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
        bar = np.zeros((BAR, EDGE), np.uint8)
        for column in range(5, 60, 12):
            bar[5:11, column : column + 6 : 2] = 255
        return np.vstack([pixels[:-BAR], bar])

    small = made(barred)
    said = prep("labels", "steel", "train", "validate", "test", "--classes", 2)
    assert f"seems to end in a data bar of {BAR} rows" in " ".join(said.output.split())
    result, _ = trained(small)
    assert f"3 images seem to end in a data bar, such as the lowest {BAR} rows of a.tif" in " ".join(
        result.output.split()
    )
    assert f"`crop_bottom = {BAR}`" in " ".join(prep("check", "steel").output.split())


def test_an_image_that_is_labelled_only_where_there_are_no_data_is_named(made: Any, prep: Prep) -> None:
    small = made(without_data)
    assert prep("labels", "steel", *STEMS, "--classes", "2").exit_code == 0
    (small.root / "classes.toml").write_text(
        (small.root / "classes.toml").read_text() + "\n[unlabelled]\nlabel_value = 128\n"
    )
    path = small.root / "train" / "labels_npy" / "b.npy"
    np.save(path, np.where(CIRCLE, np.load(path), IGNORED).astype(np.uint8))
    samples = Dataset.open(small.root).samples("train")
    assert (Examples(samples, n_class=2)[0].labels != IGNORED).any()
    with pytest.raises(DatasetError, match=r"b\.tif: expected labels where the image is data"):
        _ = Examples(samples, n_class=2)[1]
