"""A plan follows from the data alone, and says why; what cannot be planned for is said in a sentence."""

from __future__ import annotations

import dataclasses
import json
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import Result
from labelled_sets import SmallSet

from matseg_trainer.config.load import load_config
from matseg_trainer.prepare import plan
from matseg_trainer.prepare.facts import DataFacts
from matseg_trainer.prepare.plan import STEPS, held_out, make_plan
from matseg_trainer.prepare.structures import Structure, measure_structures

Prep = Callable[..., Result]


def discs(seed: int, *, size: int = 64, classes: int = 2) -> tuple[np.ndarray, np.ndarray]:
    """An image of blobs in noise and its labels, (size, size) uint8."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:size, :size]
    labels = np.zeros((size, size), np.uint8)
    for number in range(6):
        cy, cx = rng.uniform(0, size, 2)
        labels[(y - cy) ** 2 + (x - cx) ** 2 < 36] = 1 + number % (classes - 1)
    image = 150 - 60 * (labels > 0) + rng.normal(0, 15, labels.shape)
    return image.clip(0, 255).astype(np.uint8), labels


def fill(small: SmallSet, count: int, split: str = "train", **shape: int) -> None:
    for number in range(count):
        image, labels = discs(number, **shape)
        small.add(split, f"s{number}", labels, image=image)


def facts(count: int = 10, **changes: Any) -> DataFacts:
    found = DataFacts(
        stems=tuple(f"s{number}" for number in range(count)),
        shapes=((512, 600),) * count,
        channels=1,
        names=("matrix", "pore"),
        counts=np.full((count, 2), [200_000, 50_000]),
        structures=(
            Structure(thickness=50, extent=None, largest=None),
            Structure(thickness=9, extent=40, largest=90),
        ),
        direction=0.0,
        validation=2,
    )
    return dataclasses.replace(found, **changes)


def planned(found: DataFacts) -> dict[str, Any]:
    return {item.key: item.value for item in make_plan(found)}


def test_each_rule_answers_to_what_was_found() -> None:
    usual = planned(facts())
    assert (usual["crop"], usual["batch_size"], usual["oversample_classes"], usual["aug"]) == (
        256,
        4,
        0.0,
        "turns",
    )
    assert usual["checkpoint"] == "last"
    assert "validation_images" not in usual
    assert planned(facts(validation=5))["checkpoint"] == "best"
    assert planned(facts(counts=np.full((10, 2), [200_000, 10_000])))["oversample_classes"] == 0.5
    assert planned(facts(direction=0.5))["aug"] is False
    long = Structure(thickness=3, extent=300, largest=400)
    assert planned(facts(structures=(long, long)))["crop"] == 384
    assert planned(facts(shapes=((150, 600),) * 10))["crop"] == 144
    assert planned(facts(shapes=((150, 600),) * 10))["batch_size"] == 8


def test_strokes_do_not_tell_how_large_structures_are(small: SmallSet, prep: Prep) -> None:
    few = facts(
        counts=np.full((10, 2), 50_000), structures=(Structure(thickness=9, extent=190, largest=5000),) * 2
    )
    of_ten = planned(few)
    assert [of_ten[key] for key in ("model", "crop", "batch_size")] == ["unet", 64, 16]
    many = dataclasses.replace(
        few, stems=(*few.stems, "t0", "t1"), shapes=few.shapes[:1] * 12, counts=np.full((12, 2), 50_000)
    )
    reasons = {item.key: (item.value, item.reason) for item in make_plan(many)}
    told = "strokes do not tell how large the structures are"
    assert (reasons["scale"], reasons["crop"]) == ((1, told), (256, told))
    image, labels = discs(0)
    labels[np.random.default_rng(0).random(labels.shape) < 0.9] = 255
    small.add("train", "s0", labels, image=image)
    small.add("train", "s1", labels, image=image)
    name = small.root.name
    assert prep("labels", name, "train", "--classes", "2", "--unlabelled", "255").exit_code == 0
    result = prep("config", name)
    assert result.exit_code == 0, result.output
    assert "class 0" in result.output
    assert "thick" not in result.output


@pytest.mark.parametrize(("labelled", "total"), [(1e4, STEPS[0]), (1e6, 800), (1e8, STEPS[1])])
def test_more_labels_are_trained_on_for_longer(labelled: float, total: int) -> None:
    found = planned(facts(counts=np.full((10, 2), int(labelled / 20))))
    assert found["epoch"] * found["steps"] == total


def test_larger_crops_take_fewer_steps() -> None:
    long = Structure(thickness=3, extent=900, largest=900)
    found = planned(
        facts(structures=(long,) * 2, shapes=((2000, 2000),) * 10, counts=np.full((10, 2), 10**7))
    )
    assert (found["scale"], found["crop"]) == (1, 512)
    assert found["epoch"] * found["steps"] * 4 * 512**2 <= 1.02 * plan.MOST_PIXELS


@pytest.mark.parametrize(
    ("thickness", "largest", "scale"), [(9, 900, 1), (9, 1100, 2), (9, 5000, 2), (20, 2000, 2), (20, 2100, 4)]
)
def test_large_coarse_regions_are_seen_at_a_lower_resolution(
    thickness: int, largest: int, scale: int
) -> None:
    coarse = Structure(thickness=thickness, extent=200, largest=largest)
    size = {"shapes": ((3000, 3000),) * 10, "counts": np.full((10, 2), 4_500_000)}
    found = planned(facts(structures=(coarse,) * 2, **size))
    assert (found["scale"], found["crop"] % (16 * scale)) == (scale, 0)


@pytest.mark.parametrize(
    ("is_there", "extents", "network"),
    [
        (False, (None, 200), "unet"),
        (True, (None, 200), "effunet"),
        (True, (None, plan.FINE + 1), "effunet"),
        (True, (None, plan.FINE), "unet"),
        (True, (plan.FINE, 300, 20), "unet"),
        (True, (None, None, 20), "effunet"),
        (True, (plan.FINE + 1, 300, 20), "effunet"),
        (True, (None, None), "effunet"),
    ],
)
def test_the_pretrained_encoder_is_taken_where_it_is_installed_and_structures_are_not_fine(
    is_there: bool, extents: tuple[int | None, ...], network: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plan, "has_encoder", lambda: is_there)
    structures = tuple(Structure(thickness=9, extent=extent, largest=extent) for extent in extents)
    counts = np.full((10, len(extents)), 100_000)
    names = ("matrix", "grain", "crack")[: len(extents)]
    found = planned(facts(structures=structures, counts=counts, names=names))
    deep = network == "effunet"
    assert (found["model"], "encoder" in found, "width" in found) == (network, deep, not deep)


def test_held_out_images_are_spread_and_leave_every_class_to_train_on() -> None:
    assert held_out(facts(10)) == ("s2", "s7")
    assert held_out(facts(3)) == ("s1",)
    counts = np.full((10, 2), [5, 0])
    counts[2, 1] = 5  # the only one with a pore
    assert held_out(facts(10, counts=counts)) == ("s1", "s7")
    assert held_out(facts(1)) == ()
    assert held_out(facts(2, counts=np.array([[5, 0], [0, 5]]))) == ()
    assert planned(facts(1, validation=0))["validation_images"] == []


def test_structures_of_known_size() -> None:
    labels = np.zeros((200, 300), np.uint8)
    labels[20:60, 30:110] = 1  # 40 thick, 80 long
    labels[100:105, :] = 2  # a crack through the whole image
    labels[150:157, 50:120] = 2
    matrix, block, crack = measure_structures([labels], 3)
    assert (block.thickness, block.extent, block.largest) == (39, 80, 80)
    assert (crack.thickness, crack.extent) == (5, 70)
    assert matrix.extent is None or matrix.extent < 300
    assert (
        measure_structures([np.zeros((50, 50), np.uint8)], 2)
        == (Structure(thickness=None, extent=None, largest=None),) * 2
    )


def test_a_version_is_written_with_a_reason_for_each_choice(
    workspace: Path, small: SmallSet, prep: Prep
) -> None:
    fill(small, 5)
    result = prep("config", "steel")
    assert result.exit_code == 0, result.output
    text = (workspace / "config.toml").read_text(encoding="utf-8")
    keys = [line for line in text.splitlines() if " = " in line]
    assert all("  # " in line for line in keys)
    assert len(keys) > 12
    version = load_config(workspace / "config.toml").version("steel", "auto")
    assert (version.n_class, version.crop, version.validation_images) == (2, 64, ("s2",))
    assert "s2" in result.output
    assert "next: matseg-train steel" in result.output
    again = prep("config", "steel")
    assert (again.exit_code, "give --overwrite" in again.output) == (2, True)
    assert prep("config", "steel", "--overwrite").exit_code == 0
    assert (workspace / "config.toml").read_text(encoding="utf-8") == text


def test_the_json_document_has_values_and_reasons(small: SmallSet, prep: Prep) -> None:
    fill(small, 3)
    result = prep("config", "steel", "--json")
    document = json.loads(result.stdout)
    assert document["version"]["n_class"] == 2
    assert document["version"].keys() == document["reasons"].keys()


def test_what_the_defaults_say_of_the_data_counts(workspace: Path, small: SmallSet, prep: Prep) -> None:
    """The bar below the pictures has labels of a third class, which no pixel of the sample has."""
    for number in range(3):
        image, labels = discs(number)
        labels[56:] = 2
        small.add("train", f"s{number}", labels, image=image)
    text = "[steel.default]\nn_class = 3\ncrop_bottom = 8\n"
    (workspace / "config.toml").write_text(text, encoding="utf-8")
    result = prep("config", "steel", "--json")
    assert result.exit_code == 0, result.output
    reasons = json.loads(result.stdout)["reasons"]
    assert "class 2 0.00%" in reasons["n_class"]


@pytest.mark.parametrize("is_directed", [False, True])
def test_images_that_look_alike_only_upright_are_not_turned(
    small: SmallSet, prep: Prep, *, is_directed: bool
) -> None:
    rows = np.arange(64)[:, np.newaxis]
    for number in range(4):
        rng = np.random.default_rng(number)
        labels = np.broadcast_to((rows + 3 * number) // 8 % 2, (64, 64)).astype(np.uint8)
        if number % 2 and not is_directed:
            labels = labels.T
        small.add(
            "train",
            f"s{number}",
            labels,
            image=(90 * labels + rng.integers(0, 60, labels.shape)).astype(np.uint8),
        )
    version = json.loads(prep("config", "steel", "--json").stdout)["version"]
    assert version["aug"] == (False if is_directed else "turns")


def test_one_image_is_planned_for_without_validation(small: SmallSet, prep: Prep) -> None:
    fill(small, 1)
    result = prep("config", "steel")
    assert result.exit_code == 0, result.output
    assert "no image can be spared to measure it" in result.output


@pytest.mark.parametrize(
    ("image", "label", "words"),
    [
        (
            None,
            np.zeros((40, 40), np.uint8),
            "expected label images of two to 20 classes, found one value alone",
        ),
        (
            np.full((40, 40), 7, np.uint8),
            np.eye(40, dtype=np.uint8),
            "found one and the same value in all their pixels",
        ),
        (
            None,
            np.repeat(np.arange(40, dtype=np.uint8), 40).reshape(40, 40),
            "found 40 values that are common",
        ),
    ],
)
def test_nothing_is_planned_where_nothing_can_be_learned(
    workspace: Path, small: SmallSet, prep: Prep, image: np.ndarray | None, label: np.ndarray, words: str
) -> None:
    for number in range(2):
        small.add("train", f"s{number}", label, image=image)
    result = prep("config", "steel")
    assert result.exit_code == 2
    assert words in result.output
    assert not (workspace / "config.toml").exists()


def test_labels_of_one_class_of_those_in_the_class_table(small: SmallSet, prep: Prep) -> None:
    fill(small, 2)
    assert prep("labels", "steel", "train", "--classes", "2").exit_code == 0
    for path in (small.root / "train" / "labels_npy").glob("*.npy"):
        np.save(path, np.ones((64, 64), np.uint8))
    for path in (small.root / "train" / "labels").iterdir():
        path.unlink()
    result = prep("config", "steel")
    assert result.exit_code == 2
    assert "expected labels of two classes at least, found 'class 1' alone" in result.output


def test_there_is_no_data_set_of_that_name(workspace: Path, small: SmallSet, prep: Prep) -> None:
    fill(small, 2)
    result = prep("config", "steal")
    assert result.exit_code == 2
    assert "did you mean 'steel'" in result.output
    assert not (workspace / "config.toml").exists()


def test_classes_are_counted_in_label_images_where_nothing_says_them(
    workspace: Path, small: SmallSet, prep: Prep
) -> None:
    fill(small, 3, classes=3)
    assert prep("config", "steel").exit_code == 0
    document = tomllib.loads((workspace / "config.toml").read_text(encoding="utf-8"))
    assert document["steel"]["auto"]["n_class"] == 3


def test_labels_whose_names_are_not_the_images_are_told_with_a_remedy(small: SmallSet, prep: Prep) -> None:
    image, labels = discs(1)
    small.add("train", "s1", labels, image=image, mark="_labels")
    for result in (prep("config", "steel"), prep("labels", "steel", "train"), prep("check", "steel")):
        assert result.exit_code == 2, result.output
        assert "no label image for s1.png" in result.output
        assert "matseg-prep import IMAGES NAME --labels LABELS" in result.output
    assert "1 problem(s)" in result.output


def test_the_labels_command_and_the_check_count_classes_too(
    workspace: Path, small: SmallSet, prep: Prep
) -> None:
    fill(small, 2, classes=3)
    found = prep("check", "steel")
    assert found.exit_code == 0, found.output
    assert "2: " in found.output
    assert "add --unlabelled 0 to matseg-prep labels, and remove classes.toml before" in found.output
    (small.root / "classes.toml").unlink()
    result = prep("labels", "steel", "train", "--unlabelled", "0")
    assert result.exit_code == 0, result.output
    assert set(np.unique(small.array("train", "s0"))) == {0, 1, 255}
    assert not (workspace / "config.toml").exists()


def test_labels_that_number_particles_are_told_with_a_remedy(small: SmallSet, prep: Prep) -> None:
    label = np.repeat(np.arange(40, dtype=np.uint8), 40).reshape(40, 40)
    small.add("train", "s1", label)
    result = prep("check", "steel")
    assert result.exit_code == 2
    assert "found 40 values that are common" in result.output
    assert "--class matrix=0 --class particle=rest" in result.output
    words = ("--class", "matrix=0", "--class", "particle=rest")
    assert prep("labels", "steel", "train", *words).exit_code == 0
    assert prep("check", "steel").exit_code == 0


def test_commands_in_messages_can_be_typed_as_they_stand(workspace: Path, prep: Prep) -> None:
    spaced = SmallSet(workspace / "data" / "Stahl Größe 2")
    label = np.repeat(np.arange(40, dtype=np.uint8), 40).reshape(40, 40)
    spaced.add("train", "Probe 1 (Rückseite)", label)
    assert "`matseg-prep labels 'Stahl Größe 2' train --class" in prep("config", "Stahl Größe 2").output


def test_reasons_are_true_of_images_of_several_sizes() -> None:
    reasons = {item.key: item.reason for item in make_plan(facts(shapes=((150, 600), (90, 600)) * 5))}
    assert "half of the images have at most 120 rows or columns" in reasons["crop"]
    reasons = {item.key: item.reason for item in make_plan(facts(counts=np.full((10, 2), [300, 45])))}
    assert "3,400 pixels are labelled" in reasons["steps"]


def test_what_is_unlabelled_may_be_said_after_the_plan_was_made(small: SmallSet, prep: Prep) -> None:
    fill(small, 2, classes=3)
    assert prep("config", "steel").exit_code == 0
    (small.root / "classes.toml").unlink()
    result = prep("labels", "steel", "train", "--unlabelled", "0", "--overwrite")
    assert result.exit_code == 0, result.output
    assert set(np.unique(small.array("train", "s0"))) == {0, 1, 255}
    assert "class 2" not in (small.root / "classes.toml").read_text(encoding="utf-8")
    assert prep("config", "steel", "--overwrite").exit_code == 0
    assert json.loads(prep("config", "steel", "--overwrite", "--json").stdout)["version"]["n_class"] == 2
