"""Names from files, folders and models become names of outputs: within the output folder, and nowhere else."""

from __future__ import annotations

import copy
import json
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import ome_images
import onnx_models
import pytest
from click.testing import CliRunner, Result
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from matseg_runtime.cli.model import inspect_main
from matseg_runtime.cli.run import run_main
from matseg_runtime.records import SliceRecord
from matseg_runtime.sink.base import LabelInfo
from matseg_runtime.sink.images import ImageSink
from matseg_runtime.source.watch import WatchOptions, WatchSource
from matseg_shared.console.command import console
from matseg_shared.contract.onnx_properties import DOCUMENT_KEY, decode, encode
from matseg_shared.errors import MetadataError, OutputError
from matseg_shared.system.names import LONGEST_NAME, name_problem, portable_name_problem, printable, shortened

GRAPH = onnx_models.build_graph()
SELF_TEST = onnx_models.self_test_of(GRAPH, 1, "uint8")
ANY_BYTES = pytest.mark.skipif(sys.platform != "linux", reason="names are any bytes on Linux only")


def run(*arguments: object) -> Result:
    return CliRunner().invoke(run_main, [str(argument) for argument in arguments])


def model_with(path: Path, change: Callable[[dict[str, Any]], None]) -> Path:
    """A model file whose document was changed by hand, as only somebody else's program would."""
    properties = encode(onnx_models.build_metadata(), SELF_TEST)
    document = json.loads(properties[DOCUMENT_KEY])
    change(document)
    return onnx_models.save(
        copy.deepcopy(GRAPH), {**properties, DOCUMENT_KEY: json.dumps(document)}, path / "m.onnx"
    )


def put(folder: Path, *names: str | bytes) -> Path:
    """A folder of grey PNGs of those names, whatever bytes they are."""
    folder.mkdir()
    for number, name in enumerate(names):
        path = os.path.join(os.fsencode(folder), os.fsencode(name))  # noqa: PTH118 (pathlib takes no bytes)
        with open(path, "wb") as stream:  # noqa: PTH123
            Image.fromarray(onnx_models.random_pixels((40, 52), "uint8", number)).save(stream, "PNG")
    return folder


NO_NAMES = (
    "../../escaped",
    "..",
    "/escaped",
    "a/b",
    "a\\b",
    "C:escaped",
    "C:\\escaped",
    "a\0b",
    "a\x1b[2Jb",
    "a\nb",
    "NUL",
    "com1.v2",
    "ends with a dot.",
    " begins",
    "x" * 238,
    "é" * 119,
    "what?",
)


@pytest.mark.parametrize("name", NO_NAMES)
def test_a_model_cannot_choose_where_its_labels_go(name: str, tmp_path: Path, slices: Path) -> None:
    """Unless the user says -o, they go into a folder with the model's name."""
    model = model_with(tmp_path, lambda document: document.update(name=name))
    before = set(tmp_path.rglob("*"))
    for result in (
        run(model, slices),
        run(model, slices, "-o", tmp_path / "out"),
        CliRunner().invoke(inspect_main, [str(model)]),
    ):
        assert result.exit_code == 2
        assert "name: expected a name for files and folders, found" in result.stderr
        assert "\x1b" not in result.stderr
    assert set(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("name", ["alloy_v1", "Al-Cu (2020), 5 %_v1.5", "Gefüge_v2", "合金_v1", "x" * 237])
def test_names_of_all_languages_are_names(name: str) -> None:
    document = json.loads(encode(onnx_models.build_metadata(), SELF_TEST)[DOCUMENT_KEY]) | {"name": name}
    assert decode({DOCUMENT_KEY: json.dumps(document)}, "m.onnx").name == name


def test_a_models_name_decides_no_format(tmp_path: Path, slices: Path) -> None:
    """`x.zarr` would have made a volume of a folder of images of two sizes."""
    result = run(model_with(tmp_path, lambda document: document.update(name="x.zarr")), slices)
    assert result.exit_code == 0, result.output
    assert (tmp_path / "scan_predictions" / "x.zarr" / "s1.png").is_file()


def test_class_names_act_on_no_terminal(tmp_path: Path) -> None:
    """Titles of windows, colours, cursors: whatever ESC begins."""

    def hostile(document: dict[str, Any]) -> None:
        document["classes"][0]["name"] = "\x1b]0;owned\x07"

    result = CliRunner().invoke(inspect_main, [str(model_with(tmp_path, hostile))])
    assert result.exit_code == 2
    assert "classes.0.name: expected a name on one line without control characters" in result.stderr
    assert "\x1b" not in result.output


def test_class_names_with_brackets_are_shown_as_they_are(tmp_path: Path) -> None:
    """`[alpha]` is markup to the library that draws tables: it swallowed it, and `[/x]` was an unexpected error."""
    names = ["[/x]", "Ti [alpha]", "[red]hot[/red]"]

    def brackets(document: dict[str, Any]) -> None:
        for item, name in zip(document["classes"], names, strict=True):
            item["name"] = name

    result = CliRunner().invoke(inspect_main, [str(model_with(tmp_path, brackets))])
    assert result.exit_code == 0, result.output
    for name in names:
        assert name in result.output


@ANY_BYTES
@pytest.mark.parametrize(
    ("name", "text"),
    [
        (b"Prob\xe9.png", "it is not written in UTF-8"),
        (b"a\x1b[31mb.png", "it holds control characters"),
        (b"two\nlines.png", "it holds control characters"),
        (b"y" * 238 + b".png", "it has 238 bytes"),
    ],
)
def test_images_whose_names_cannot_be_recorded_are_named_before_any_work(
    name: bytes, text: str, tmp_path: Path, model: Path
) -> None:
    result = run(model, put(tmp_path / "raw", "a.png", name), "-o", tmp_path / "out")
    assert result.exit_code == 2
    assert text in result.stderr
    assert "rename it" in result.stderr
    assert "\x1b" not in result.stderr
    assert not (tmp_path / "out").exists()


@ANY_BYTES
def test_other_files_with_such_names_are_skipped_and_reported(tmp_path: Path, model: Path) -> None:
    raw = put(tmp_path / "raw", "a.png")
    open(os.fsencode(raw) + b"/n\xe9\x1bx.txt", "w").close()  # noqa: PTH123
    result = run(model, raw, "-o", tmp_path / "out", "--json", "--report")
    assert result.exit_code == 0, result.output
    assert "\x1b" not in result.output
    assert (tmp_path / "out" / "report.html").is_file()
    skipped = json.loads((tmp_path / "out" / "report.json").read_text(encoding="utf-8"))["skipped"]
    assert skipped[0]["path"].endswith("n\\udce9\x1bx.txt")
    assert json.loads(result.stdout)["skipped"] == skipped


@ANY_BYTES
def test_paths_that_are_no_text_are_refused(tmp_path: Path, model: Path, slices: Path) -> None:
    odd = Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xe9"))
    shutil.copytree(slices, odd)
    for arguments in ((model, odd), (model, slices, "-o", odd / "out"), (model, odd, "--watch")):
        result = run(*arguments)
        assert result.exit_code == 2
        assert "expected a path in UTF-8" in result.stderr


@ANY_BYTES
def test_a_watched_folder_goes_on_without_them(tmp_path: Path) -> None:
    source = WatchSource(
        put(tmp_path / "raw", b"Prob\xe9.png", "a.png"), WatchOptions(idle_seconds=0.2, poll_seconds=0.01)
    )
    assert [item.name for item in source.arrivals()] == ["a"]
    assert "not written in UTF-8" in source.skipped[-1].reason


def test_the_longest_name_leaves_room_for_every_ending(tmp_path: Path, model: Path) -> None:
    raw = put(tmp_path / ("r" * 200), "z" * LONGEST_NAME + ".png", "b.png")
    result = run(model, raw, "-o", tmp_path / "out", "--probabilities", "--uncertain", "2")
    assert result.exit_code == 0, result.output
    assert len(list((tmp_path / "out").glob("*_probabilities.tif"))) == 2
    assert len(list((tmp_path / "out_uncertain" / "train" / "images").iterdir())) == 2


def test_an_array_with_such_a_name_is_refused_before_any_work(tmp_path: Path, model: Path) -> None:
    path = tmp_path / f"{'v' * 235}.npy"
    np.save(path, onnx_models.random_pixels((4, 40, 40), "uint8"))
    result = run(model, path, "-o", tmp_path / "out")
    assert result.exit_code == 2
    assert "bytes, more than the 237" in result.stderr


@pytest.mark.parametrize("label", ["../x", "..", "a/b", "NUL", "x.", "C:x", "", ".hidden", "a" * 300])
def test_label_names_stay_in_their_image(label: str, tmp_path: Path, model: Path) -> None:
    image = ome_images.make_image(tmp_path / "image.zarr", "0.5")
    result = run(model, image, "--label", label)
    assert result.exit_code == 2
    assert "expected a name of letters" in result.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["image.zarr"]


def test_labels_do_not_follow_a_link_out_of_their_image(tmp_path: Path, model: Path) -> None:
    """A zarr is a folder, and one from elsewhere may bring a link along where labels belong."""
    image = ome_images.make_image(tmp_path / "image.zarr", "0.5")
    other = tmp_path / "precious"
    other.mkdir()
    try:
        (image / "labels").symlink_to(other)
    except OSError:
        pytest.skip("this system lets its users make no links")
    result = run(model, image, "--label", "phases")
    assert result.exit_code == 2
    assert "there is a link on the way" in result.stderr
    assert list(other.iterdir()) == []


def test_nothing_that_is_printed_acts_on_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    """In lines and in tables, with markup of our own or without."""
    from rich.table import Table

    out = console()
    table = Table("na\x1b[31mme", title="ti\x9btle")
    table.add_row("ro\x07w")
    out.print("li\x1b]0;owned\x07ne :warning:", markup=False)
    out.print("[bold]da\x1b[2Jta[/bold]")
    out.print(table)
    shown = capsys.readouterr().out
    assert not set(shown) & set("\x1b\x07\x9b")
    for text in (
        r"na\x1b[31mme",
        r"ti\x9btle",
        r"ro\x07w",
        r"li\x1b]0;owned\x07ne :warning:",
        r"da\x1b[2Jta",
    ):
        assert text in shown


def test_the_sink_itself_writes_nothing_elsewhere(tmp_path: Path) -> None:
    sink = ImageSink(tmp_path / "out", LabelInfo(metadata=onnx_models.build_metadata(), provenance="{}"))
    with pytest.raises(OutputError, match="cannot be the name of labels"):
        sink.file_of("../escaped")


def test_a_ledger_from_elsewhere_deletes_nothing_elsewhere(tmp_path: Path, model: Path, slices: Path) -> None:
    """`--overwrite` deletes what the ledger says was written; its lines are a file's content like any other."""
    out, other = tmp_path / "out", tmp_path / "precious.png"
    other.write_bytes(b"x")
    assert run(model, slices, "-o", out).exit_code == 0
    ledger = out / ".matseg" / "done-1-of-1.jsonl"
    names = ("../precious", str(tmp_path / "precious"), "nul\0", "..")
    with ledger.open("a", encoding="utf-8") as stream:
        for name in names:
            record = SliceRecord(
                name=name, index=9, where="x", identity="x", shape=(1, 1), counts=(1,), bytes=1
            )
            stream.write(json.dumps({"done": [record.model_dump(mode="json")]}) + "\n")
    assert run(model, slices, "-o", out, "--overwrite").exit_code == 0
    assert other.read_bytes() == b"x"


def test_links_among_images_are_followed_and_links_among_outputs_are_replaced(
    tmp_path: Path, model: Path, slices: Path
) -> None:
    """A folder of links is how scans are put together; through a link in the output nothing is written elsewhere."""
    raw, out, precious = tmp_path / "raw", tmp_path / "out", tmp_path / "precious"
    raw.mkdir()
    out.mkdir()
    precious.write_bytes(b"x")
    try:
        (raw / "a.png").symlink_to(slices / "s1.png")
        (out / "a.png").symlink_to(precious)
    except OSError:
        pytest.skip("this system lets its users make no links")
    assert run(model, raw, "-o", out, "--overwrite").exit_code == 0
    assert precious.read_bytes() == b"x"
    assert not (out / "a.png").is_symlink()
    with Image.open(out / "a.png") as labels:
        assert labels.size == (52, 40)


@given(st.text(max_size=300))
def test_what_passes_is_one_part_of_a_path(name: str) -> None:
    if name_problem(name) is None:
        assert Path("folder", name).parent == Path("folder")
        assert Path("folder", name).name == name
        assert len(name.encode()) <= LONGEST_NAME
    if portable_name_problem(name) is None:
        assert not set(name) & set('<>:"/\\|?*')


@given(st.text())
def test_what_is_printed_acts_on_nothing(text: str) -> None:
    shown = printable(text)
    assert all(mark in "\n\t" or mark.isprintable() or ord(mark) > 0x9F for mark in shown)
    shown.encode()


@given(st.text(alphabet=st.characters(exclude_categories=["Cs"]), max_size=400))
def test_shortened_names_keep_their_end(name: str) -> None:
    short = shortened(name)
    assert len(short.encode()) <= LONGEST_NAME
    assert name.endswith(short)


def test_problems_with_names_are_listed_with_all_others() -> None:
    properties = encode(onnx_models.build_metadata(), SELF_TEST)
    document = json.loads(properties[DOCUMENT_KEY]) | {"name": "../x", "classes": []}
    with pytest.raises(MetadataError) as caught:
        decode({DOCUMENT_KEY: json.dumps(document)}, "m.onnx")
    assert {problem.where for problem in caught.value.problems} == {"name", "classes"}


def test_a_range_without_a_width_is_no_range() -> None:
    """Its bins were infinite, which numpy warned of in the middle of a run."""
    properties = encode(onnx_models.build_metadata(), SELF_TEST)
    document = json.loads(properties[DOCUMENT_KEY])
    document["input"]["histogram"].update(low=-1e308, high=1e308)
    with pytest.raises(MetadataError, match="no number for the distance between its edges"):
        decode({DOCUMENT_KEY: json.dumps(document)}, "m.onnx")


@pytest.mark.parametrize("field", ["dataset", "version", "network"])
def test_folders_of_predictions_are_named_after_what_is_a_name(field: str) -> None:
    """`matseg-evaluate --model` writes to `predictions/<version>_<network>_onnx`, as the file has it."""
    document = json.loads(encode(onnx_models.build_metadata(), SELF_TEST)[DOCUMENT_KEY])
    document["training"][field] = "x/../../../../escaped"
    with pytest.raises(
        MetadataError, match=f"training.{field}: expected a name for files and folders, found"
    ):
        decode({DOCUMENT_KEY: json.dumps(document)}, "m.onnx")
