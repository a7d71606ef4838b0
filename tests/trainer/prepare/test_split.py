"""Labelled images are shared out whole, each to one split, repeatably."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result
from PIL import Image

from matseg_trainer.commands.prep import main

CONFIG = "[rock.default]\nn_class = 2\n"


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A workspace beside a folder of nine labelled images."""
    (tmp_path / "config.toml").write_text(CONFIG, encoding="utf-8")
    for kind in ("images", "labels"):
        (tmp_path / "scan" / kind).mkdir(parents=True)
    for number in range(9):
        Image.fromarray(np.full((8, 8), number, np.uint8)).save(
            tmp_path / "scan" / "images" / f"s{number}.png"
        )
        Image.fromarray(np.eye(8, dtype=np.uint8)).save(tmp_path / "scan" / "labels" / f"s{number}_L.png")
    return tmp_path


def run(place: Path, *words: str) -> Result:
    return CliRunner().invoke(main, ["split", str(place / "scan"), *words, "--workspace", str(place)])


def stems(dataset: Path, split: str) -> set[str]:
    images = {path.stem for path in (dataset / split / "images").iterdir()}
    assert {path.stem for path in (dataset / split / "labels").iterdir()} == {f"{stem}_L" for stem in images}
    return images


def test_each_image_goes_to_one_split(place: Path) -> None:
    assert run(place, "rock", "--validate", "2", "--test", "3").exit_code == 0
    parts = [stems(place / "data" / "rock", split) for split in ("train", "validate", "test")]
    assert [len(part) for part in parts] == [4, 2, 3]
    assert set.union(*parts) == {f"s{number}" for number in range(9)}


def test_a_seed_repeats_and_another_does_not(place: Path) -> None:
    for name, seed in (("a", "1"), ("b", "1"), ("c", "2")):
        assert run(place, name, "--seed", seed).exit_code == 0
    tests = [stems(place / "data" / name, "test") for name in "abc"]
    assert tests[0] == tests[1] != tests[2]


def test_the_document_counts_images(place: Path) -> None:
    document = json.loads(run(place, "rock", "--json").stdout)
    assert Path(document["dataset"]) == place / "data" / "rock"
    assert document["images"] == {"train": 5, "validate": 2, "test": 2}


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("--validate", "5", "--test", "4"), "found 0, 5 and 4"),
        (("--validate", "8", "--test", "1"), "found 0, 8 and 1"),
    ],
)
def test_something_must_be_left_to_train_with(place: Path, words: tuple[str, ...], told: str) -> None:
    result = run(place, "rock", *words)
    assert result.exit_code == 2
    assert told in " ".join(result.output.split())
    assert not (place / "data").exists() or not list((place / "data").iterdir())


def test_images_without_labels_are_named(place: Path) -> None:
    (place / "scan" / "labels" / "s3_L.png").unlink()
    result = run(place, "rock")
    assert result.exit_code == 2
    assert "no label image for s3.png" in " ".join(result.output.split())


def test_a_data_set_is_not_replaced_unasked(place: Path) -> None:
    assert run(place, "rock").exit_code == 0
    before = stems(place / "data" / "rock", "test")
    refused = run(place, "rock", "--seed", "3")
    assert refused.exit_code == 2
    assert "--overwrite" in refused.output
    assert stems(place / "data" / "rock", "test") == before
    assert run(place, "rock", "--seed", "3", "--overwrite").exit_code == 0


def test_folders_that_are_missing_are_named(tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_text(CONFIG, encoding="utf-8")
    result = CliRunner().invoke(main, ["split", str(tmp_path / "none"), "rock", "--workspace", str(tmp_path)])
    assert result.exit_code == 2
    assert "expected a folder of images" in " ".join(result.output.split())
