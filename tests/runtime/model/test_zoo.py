"""`zoo:NAME` finds the very file of the index, on this machine only, and says what to fetch where there is none."""

from __future__ import annotations

import hashlib
import io
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from matseg_runtime.cli.model import inspect_main, verify_main
from matseg_runtime.model import zoo
from matseg_runtime.model.file import choose_model, read_model
from matseg_runtime.model.zoo import ZooIndex, ZooModel, read_index
from matseg_shared.console.plain_console import PlainConsole
from matseg_shared.errors import ModelError, UsageError


@pytest.fixture
def user_zoo(tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A user's folder without models, and an index of two; no checkout, no variable."""
    content = model.read_bytes()
    common = {"dataset": "alloy", "version": "v1", "network": "unet", "precision": "fp32", "channels": 1}
    index = ZooIndex(
        models=tuple(
            ZooModel(
                **common,
                name=name,
                summary=f"phases of {name}",
                classes=("phase 0", "phase 1", "phase 2"),
                dtype="uint8",
                bytes=len(content),
                sha256=hashlib.sha256(content).hexdigest(),
            )
            for name in ("alloy", "alloy-fast")
        )
    )
    folder = tmp_path / "user" / "models_zoo"
    monkeypatch.setattr(zoo, "read_index", lambda: index)
    monkeypatch.setattr(zoo, "user_folder", lambda: folder)
    monkeypatch.setattr(zoo, "checkout_root", lambda: None)
    monkeypatch.delenv(zoo.ZOO_VARIABLE, raising=False)
    return folder


def put(folder: Path, model: Path) -> Path:
    """Copy the model to where a zoo has `alloy`."""
    path = folder / "alloy" / "model.onnx"
    path.parent.mkdir(parents=True)
    shutil.copyfile(model, path)
    return path


def call(command: Callable[..., object], *arguments: str) -> Result:
    return CliRunner().invoke(command, list(arguments))  # type: ignore[arg-type]


def test_all_three_commands_take_a_name(
    user_zoo: Path, model: Path, slices: Path, run: Callable[..., Result], tmp_path: Path
) -> None:
    put(user_zoo, model)
    assert "alloy_v1" in call(inspect_main, "zoo:alloy").output
    assert "passed on cpu" in call(verify_main, "zoo:alloy", "--provider", "cpu").output
    for argument, out in (("zoo:alloy", "by_name"), (model, "by_path")):
        result = run(argument, slices, "-o", tmp_path / out, "--provider", "cpu")
        assert result.exit_code == 0, result.output
    for number in range(1, 7):
        name = f"s{number}.png"
        assert (tmp_path / "by_name" / name).read_bytes() == (tmp_path / "by_path" / name).read_bytes()


def test_what_to_fetch_is_named(
    user_zoo: Path, slices: Path, run: Callable[..., Result], model: Path
) -> None:
    result = run("zoo:alloy", slices)
    assert result.exit_code == 2
    for text in (
        "models_zoo/alloy/model.onnx",
        hashlib.sha256(model.read_bytes()).hexdigest(),
        str(user_zoo / "alloy" / "model.onnx"),
        "MATSEG_ZOO",
    ):
        assert text in result.stderr
    assert "Traceback" not in result.output
    assert len(result.stderr.splitlines()) == 1


def test_another_file_is_refused_wherever_it_stands(user_zoo: Path, model: Path) -> None:
    path = put(user_zoo, model)
    path.write_bytes(model.read_bytes() + b"\0")
    found = hashlib.sha256(path.read_bytes()).hexdigest()
    with pytest.raises(ModelError, match=f"expected the model zoo:alloy .* found another file .*{found}"):
        read_model(*choose_model("zoo:alloy"))
    table = call(inspect_main, "zoo:").output
    assert "another file" in table


def test_places_are_searched_in_order(
    user_zoo: Path, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    inside_user = put(user_zoo, model)
    assert choose_model("zoo:alloy")[0] == inside_user
    checkout = tmp_path / "checkout"
    monkeypatch.setattr(zoo, "checkout_root", lambda: checkout)
    assert choose_model("zoo:alloy")[0] == inside_user
    inside_checkout = put(checkout / "models_zoo", model)
    assert choose_model("zoo:alloy")[0] == inside_checkout
    monkeypatch.setenv(zoo.ZOO_VARIABLE, str(tmp_path))
    assert choose_model("zoo:alloy")[0] == inside_checkout
    named = put(tmp_path, model)
    assert choose_model("zoo:alloy")[0] == named


def test_a_variable_without_a_folder_is_told(
    user_zoo: Path, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(user_zoo, model)
    monkeypatch.setenv(zoo.ZOO_VARIABLE, str(tmp_path / "nowhere"))
    with pytest.raises(
        UsageError, match="nowhere: expected the folder of a models zoo that MATSEG_ZOO names"
    ):
        choose_model("zoo:alloy")[0]


@pytest.mark.usefixtures("user_zoo")
@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("zoo:", "the zoo has alloy, alloy-fast"),
        ("zoo:Aloy", "did you mean zoo:alloy?"),
        ("zoo:quartz", "there is no such model in the zoo; the zoo has alloy, alloy-fast"),
        ("zoo:../alloy", "there is no such model in the zoo"),
    ],
)
def test_unknown_names_list_the_zoo(name: str, text: str) -> None:
    result = call(verify_main, name)
    assert result.exit_code == 2
    assert text in result.stderr
    assert "Traceback" not in result.output


def test_inspect_lists_the_zoo(user_zoo: Path, model: Path) -> None:
    put(user_zoo, model)
    result = call(inspect_main, "zoo:")
    assert result.exit_code == 0
    assert "zoo:alloy-fast" in result.output
    assert "phases of alloy-fast" in result.output
    assert f"in {user_zoo}: alloy\n" in result.output
    document = json.loads(call(inspect_main, "zoo:", "--json").stdout)
    assert [item["name"] for item in document["models"]] == ["alloy", "alloy-fast"]


def test_names_and_digests_are_shown_whole_on_a_terminal_of_80_columns(
    model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown = io.StringIO()
    console = PlainConsole(file=shown, width=80, force_terminal=True)
    monkeypatch.setattr("matseg_runtime.cli.model.console", lambda: console)
    for name in ("zoo:", str(model)):
        assert call(inspect_main, name).exit_code == 0
    text = re.sub(r"\x1b\[[0-9;]*m", "", shown.getvalue())
    assert "…" not in text
    assert all(f"zoo:{item.name} " in text for item in zoo.read_index().models)
    pieces = re.findall(r"[0-9a-f]{11,}", text)
    assert hashlib.sha256(model.read_bytes()).hexdigest() in "".join(pieces)


@pytest.mark.usefixtures("user_zoo")
def test_paths_are_left_alone(tmp_path: Path) -> None:
    assert choose_model(tmp_path / "zoo:x")[0] == tmp_path / "zoo:x"
    assert choose_model("./zoo:alloy")[0] == Path("./zoo:alloy")


def test_the_index_of_the_installation_is_read() -> None:
    index = read_index()
    names = [item.name for item in index.models]
    assert names == sorted(set(names))
