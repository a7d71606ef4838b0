"""A data set on disk, and the errors when it is something else."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import click
import numpy as np
import pytest
from click.testing import CliRunner

from matseg_shared.contract.classes import Legend, read_classes, read_legend, write_classes, write_legend
from matseg_shared.contract.metadata import ClassInfo
from matseg_shared.errors import DatasetError, UsageError
from matseg_trainer.data.folder import Dataset, load_array
from matseg_trainer.workspace import Workspace, workspace_option


@pytest.fixture
def dataset(tmp_path: Path) -> Dataset:
    """Images a9 and a10 with arrays; their content does not matter here."""
    for name in ("images/a10.png", "images/a9.tif", "labels/a9_L.png", "labels/a10.bmp"):
        path = tmp_path / "data" / "steel" / "train" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)
    root = tmp_path / "data" / "steel"
    (root / "train" / "labels_npy").mkdir()
    for stem in ("a9", "a10"):
        np.save(root / "train" / "labels_npy" / f"{stem}.npy", np.zeros((2, 2), np.uint8))
    return Dataset.open(root)


def test_samples_are_in_natural_order(dataset):
    assert [sample.stem for sample in dataset.samples("train")] == ["a9", "a10"]
    assert dataset.samples("train")[0].labels == dataset.root / "train" / "labels_npy" / "a9.npy"
    assert dataset.unlabelled("train") == ()
    assert dataset.name == "steel"
    assert dataset.splits == ("train",)


def test_images_without_arrays_are_named(dataset):
    (dataset.root / "train" / "labels_npy" / "a9.npy").unlink()
    assert [path.name for path in dataset.unlabelled("train")] == ["a9.tif"]
    with pytest.raises(DatasetError, match=r"a9\.tif; run `matseg-prep labels steel train`"):
        dataset.samples("train")


def test_label_images_are_found_by_stem(dataset):
    pairing = dataset.pairing("train")
    assert [pair.labels.name for pair in pairing.pairs] == ["a9_L.png", "a10.bmp"]
    assert pairing.labels_alone == pairing.problems == ()


def test_an_image_may_end_in_the_mark(dataset):
    train = dataset.root / "train"
    (train / "images" / "a9_L.png").write_text("an image of its own")
    (train / "labels" / "a9_L_L.png").write_text("its label")
    pairing = dataset.pairing("train")
    found = {pair.image.name: pair.labels.name for pair in pairing.pairs}
    assert found["a9_L.png"] in ("a9_L.png", "a9_L_L.png")
    assert pairing.problems  # a9_L.png could be either's: said, not guessed
    (train / "labels" / "a9_L.png").rename(train / "labels" / "a9.png")
    found = {pair.image.name: pair.labels.name for pair in dataset.pairing("train").pairs}
    assert found["a9.tif"] == "a9.png"
    assert found["a9_L.png"] == "a9_L_L.png"


def test_two_images_of_one_stem(dataset):
    (dataset.root / "train" / "images" / "a9.png").write_text("x")
    with pytest.raises(DatasetError, match=r"a9\.png and a9\.tif"):
        dataset.images("train")


def test_a_missing_data_set_shows_the_layout(dataset):
    with pytest.raises(DatasetError, match=r"(?s)did you mean 'steel'.*steal/train/images/.*labels"):
        Dataset.open(dataset.root.parent / "steal")


def test_the_published_set_has_its_address(dataset):
    with pytest.raises(DatasetError, match=r"(?s)10\.18126/M2RM08.*10\.18126/M2W93J"):
        Dataset.open(dataset.root.parent / "tomography")
    with pytest.raises(DatasetError) as caught:
        Dataset.open(dataset.root.parent / "other")
    assert "doi" not in str(caught.value)


def test_images_of_train_that_are_held_out_are_the_split_validate(dataset):
    held = Dataset.open(dataset.root, ["a10"])
    assert [image.stem for image in held.images("train")] == ["a9"]
    assert [sample.stem for sample in held.samples("validate")] == ["a10"]
    assert held.folder("validate", "labels") == dataset.root / "train" / "labels"
    found = held.pairing("validate")
    assert ([pair.labels.name for pair in found.pairs], found.labels_alone) == (["a10.bmp"], ())
    assert held.fingerprint(["train", "validate"]) != dataset.fingerprint(["train"])
    (dataset.root / "train" / "labels_npy" / "a10.npy").unlink()
    with pytest.raises(DatasetError, match="matseg-prep labels steel train`"):
        held.samples("validate")


def test_where_images_are_named_train_and_validate_are_one_pool(dataset):
    train, validate = dataset.root / "train", dataset.root / "validate"
    for kind in ("images", "labels", "labels_npy"):
        (validate / kind).mkdir(parents=True)
        for path in [*(train / kind).glob("a10*")]:
            path.rename(validate / kind / path.name)
    held = Dataset.open(dataset.root, ["a9"])
    assert [image.parent.parent.name for image in held.images("train")] == ["validate"]
    assert [image.parent.parent.name for image in held.images("validate")] == ["train"]
    assert [pair.labels.parent.parent.name for pair in held.pairing("train").pairs] == ["validate"]
    assert held.pairing("train").labels_alone == ()
    pool = Dataset.open(dataset.root, ())
    assert [sample.stem for sample in pool.samples("train")] == ["a9", "a10"]
    assert pool.folders("train", "test") == ("train", "validate", "test")


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (["a9", "a11"], r"found none of a11; did you mean 'a10'\?"),
        (["a9", "a10"], "an image to train on, found that"),
    ],
)
def test_images_that_cannot_be_held_out(dataset, names, words):
    with pytest.raises(DatasetError, match=words):
        Dataset.open(dataset.root, names).images("train")


@pytest.mark.parametrize("split", ["validate", "", ".", "..", "train/images"])
def test_a_missing_split(dataset, split):
    with pytest.raises(DatasetError, match="steel has train"):
        dataset.samples(split)


def test_a_linked_data_set_has_the_name_of_the_link(dataset):
    link = dataset.root.with_name("iron")
    try:
        link.symlink_to(dataset.root, target_is_directory=True)
    except OSError:
        pytest.skip("this system lets no links be made")
    assert Dataset.open(link).name == "iron"


def test_the_fingerprint_sees_every_change(dataset):
    prints = [dataset.fingerprint(["train"])]
    assert prints[0] == dataset.fingerprint(["train"])
    array = dataset.root / "train" / "labels_npy" / "a9.npy"
    np.save(array, np.ones((2, 2), np.uint8))
    prints.append(dataset.fingerprint(["train"]))
    image = dataset.root / "train" / "images" / "a9.tif"
    image.write_text("changed")
    prints.append(dataset.fingerprint(["train"]))
    image.rename(image.with_name("a8.tif"))
    array.rename(array.with_name("a8.npy"))
    prints.append(dataset.fingerprint(["train"]))
    assert len(set(prints)) == 4
    assert all(len(text) == 64 for text in prints)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (np.full((2, 2), 2), "from 0 to 1, found 2"),
        (np.full((2, 2), -1), "found -1"),
        (np.zeros((2, 2, 1), np.uint8), r"shape \(2, 2, 1\)"),
        (np.zeros((2, 2)), "dtype float64"),
        (np.zeros((0, 2), np.uint8), r"shape \(0, 2\)"),
        (b"not an array", "damaged"),
        (b"", "damaged"),
        (np.array([[{}]], dtype=object), "damaged"),
        (None, "no such label array"),
    ],
)
def test_bad_arrays(tmp_path, content, words):
    path = tmp_path / "a.npy"
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content is not None:
        np.save(path, content, allow_pickle=True)
    with pytest.raises(DatasetError, match=words) as caught:
        load_array(path, 2)
    assert "a.npy" in str(caught.value)


def test_good_arrays_become_uint8(tmp_path):
    np.save(tmp_path / "a.npy", np.array([[0, 3]], np.int64))
    array = load_array(tmp_path / "a.npy", 4)
    assert array.dtype == np.uint8
    assert array.tolist() == [[0, 3]]


def test_class_tables_survive_writing(tmp_path):
    classes = (
        ClassInfo(index=0, name='Ferrit "α"', colour=(0, 1, 2), label_value=(1, 2, 3)),
        ClassInfo(index=1, name="back\\slash 😀", colour=(255, 255, 255), label_value=(255, 0, 0)),
    )
    write_classes(tmp_path / "classes.toml", classes)
    assert read_classes(tmp_path / "classes.toml") == classes


def test_255_in_an_array_needs_the_word_of_the_class_table(tmp_path):
    np.save(tmp_path / "a.npy", np.array([[0, 1, 255]], np.uint8))
    assert load_array(tmp_path / "a.npy", 2, unlabelled=True).tolist() == [[0, 1, 255]]
    with pytest.raises(DatasetError, match=r"255 is no class; if it means unlabelled.*--unlabelled 255"):
        load_array(tmp_path / "a.npy", 2)
    np.save(tmp_path / "a.npy", np.array([[0, 2, 255]], np.uint8))
    with pytest.raises(DatasetError, match="from 0 to 1, found 2 as well"):
        load_array(tmp_path / "a.npy", 2, unlabelled=True)
    np.save(tmp_path / "a.npy", np.full((2, 2), 255, np.uint8))
    with pytest.raises(DatasetError, match=r"a\.npy: expected labels, found no labelled pixel"):
        load_array(tmp_path / "a.npy", 2, unlabelled=True)


@pytest.mark.parametrize(
    ("first", "values", "unlabelled"),
    [
        ((0, 1), ((0,), (1,)), (255,)),
        ((0, 1), ((0, 4), (1, 2, 3)), (255, -1)),
        ((0, 7), ((), (7,)), ()),
        (((0, 0, 255), (255, 0, 0)), (((0, 0, 255), (9, 9, 9)), ((255, 0, 0),)), ((0, 0, 0),)),
        (((1, 1, 1), (1, 2, 3)), ((), ((1, 2, 3), (4, 5, 6))), ((7, 8, 9), (0, 0, 0))),
    ],
    ids=["one each", "several", "rest", "colours", "rest among colours"],
)
def test_what_stands_for_classes_survives_writing(tmp_path, first, values, unlabelled):
    classes = tuple(
        ClassInfo(index=index, name=f"c{index}", colour=(0, 0, index), label_value=value)
        for index, value in enumerate(first)
    )
    legend = Legend(classes=classes, values=values, unlabelled=unlabelled)
    write_legend(tmp_path / "classes.toml", legend)
    assert read_legend(tmp_path / "classes.toml") == legend


def test_every_problem_of_label_values_is_listed(tmp_path):
    head = "[[class]]\ncolour=[0,0,0]\n"
    (tmp_path / "classes.toml").write_text(
        f"{head}name='a'\nlabel_value='others'\n{head}name='b'\nlabel_value=[1, 2]\n"
        f"{head}name='c'\nlabel_value='rest'\n{head}name='d'\nlabel_value='rest'\n"
        "[unlabelled]\nlabel_value=2\nlabel=3\n"
    )
    with pytest.raises(DatasetError) as caught:
        read_legend(tmp_path / "classes.toml")
    for words in (
        "4 problem(s)",
        "class 0.label_value: expected a whole number",
        "class 3.label_value: 'rest' stands for class 2 already",
        "unlabelled: unknown key 'label'",
        "unlabelled.label_value: 2 stands for class 1 already",
    ):
        assert words in str(caught.value)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[[class]]\nname='a'\ncolour=[0,0,0]\nlabel_value=0\n[unlabelled]\nlabel_value='rest'", "not named"),
        (
            "[[class]]\nname='a'\ncolour=[0,0,0]\nlabel_value=0\n[unlabelled]\nlabel_value=[]",
            "expected a whole number",
        ),
        ("", "one table"),
        ("[class]\nname = 'x'", "one table"),
        ("[[class]]\nname = 'x'\n[other]", "one table"),
        ("[[class", "TOML"),
        ("class = [1]", "class 0"),
        ("[[class]]\nname = 'a'\ncolour = [0, 0]\nlabel_value = 0", "class 0.colour"),
        ("[[class]]\nname='a'\ncolour=[0,0,0]\nlabel_value=0\n" * 2, "stands for class 0 already"),
        (
            "[[class]]\nname='a'\ncolour=[0,0,0]\nlabel_value=0\n"
            "[[class]]\nname='b'\ncolour=[0,0,0]\nlabel_value=[1,1,1]",
            "found both",
        ),
        (
            "".join(f"[[class]]\nname='{i}'\ncolour=[0,0,0]\nlabel_value={i}\n" for i in range(256)),
            "class 255.index",
        ),
    ],
)
def test_bad_class_tables(tmp_path, text, words):
    path = tmp_path / "classes.toml"
    path.write_text(text)
    with pytest.raises(DatasetError, match=words) as caught:
        read_classes(path)
    assert "classes.toml" in str(caught.value)


def test_a_workspace_is_found(tmp_path, monkeypatch):
    (tmp_path / "other").mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MATSEG_WORKSPACE", raising=False)
    assert Workspace.find().root.resolve() == tmp_path.resolve()
    monkeypatch.setenv("MATSEG_WORKSPACE", str(tmp_path / "other"))
    assert Workspace.find().root == tmp_path / "other"
    assert Workspace.find(tmp_path).data == tmp_path / "data"
    monkeypatch.setenv("MATSEG_WORKSPACE", str(tmp_path / "nowhere"))
    with pytest.raises(UsageError, match=r"nowhere.*MATSEG_WORKSPACE"):
        Workspace.find()
    with pytest.raises(UsageError, match="--workspace"):
        Workspace.find(tmp_path / "nowhere")


def test_the_workspace_option(tmp_path):
    @click.command()
    @workspace_option
    def command(workspace: Path | None) -> None:
        click.echo(repr(Workspace.find(workspace).root == tmp_path))

    assert CliRunner().invoke(command, ["--workspace", str(tmp_path)]).output == "True\n"


def test_help_imports_nothing_heavy():
    code = (
        "import sys\nimport matseg_trainer.commands.prep\n"
        "heavy = {'torch', 'numpy', 'pydantic', 'PIL', 'zarr', 'scipy', 'onnxruntime', 'matplotlib', 'rich'}\n"
        "heavy &= set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
