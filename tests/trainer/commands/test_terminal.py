"""All commands alike: examples that work, quick help, JSON, completion, and `matseg` that knows the way."""

from __future__ import annotations

import dataclasses
import json
import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import click
import numpy as np
import onnx_models
import pytest
from click.shell_completion import ShellComplete
from click.testing import CliRunner, Result
from command_lines import take_line
from discs import write_discs

from matseg_runtime.cli.run import run_main
from matseg_runtime.model.guard import check_model
from matseg_shared.console.completion import ColonBashComplete, completion_script
from matseg_shared.console.help import Command, Group
from matseg_trainer.commands.evaluate import evaluate_main
from matseg_trainer.commands.matseg import commands, main
from matseg_trainer.data.folder import Dataset
from matseg_trainer.evaluate.document import BOUNDARY_TOLERANCE
from matseg_trainer.overview import state

PROJECT = Path(__file__).parents[3]


def all_commands() -> Iterator[tuple[str, click.Command]]:
    """Every command, those of groups too, by the words that are typed."""

    def walk(words: str, command: click.Command) -> Iterator[tuple[str, click.Command]]:
        yield words, command
        if isinstance(command, click.Group) and command is not main:
            for name, inner in command.commands.items():
                yield from walk(f"{words} {name}", inner)

    yield from walk("matseg", main)
    yield from ((f"matseg {name}", command) for name, command in main.commands.items())
    for entry in commands().values():
        yield from walk(entry.name, entry.load())


ALL = dict(all_commands())


def invoke(*words: object) -> Result:
    return CliRunner().invoke(main, [str(word) for word in words])


@pytest.mark.parametrize("name", ALL)
def test_every_command_explains_itself(name: str) -> None:
    command = ALL[name]
    assert isinstance(command, Command | Group)
    assert command.examples or command.hidden
    shown = CliRunner().invoke(command, ["-h"])
    assert shown.exit_code == 0
    explained, _, examples = shown.stdout.partition("\nExamples:\n")
    assert max(map(len, explained.splitlines())) <= 80
    assert bool(examples) == (not command.hidden)


@pytest.mark.parametrize(
    ("name", "line"), [(name, line) for name, command in ALL.items() for line, _ in command.examples]
)
def test_every_example_is_a_line_that_the_command_takes(name: str, line: str) -> None:
    assert name.split()[0] in (line.split()[0], "matseg")
    take_line(line)


def test_the_default_that_help_repeats_is_the_same() -> None:
    option = next(param for param in evaluate_main.params if param.name == "tolerance")
    assert option.default == BOUNDARY_TOLERANCE


def test_earlier_names_of_options_are_taken_with_a_note(workspace: Path) -> None:
    def note(result: Result) -> str:
        assert result.exit_code == 0, result.output
        return result.stderr.splitlines()[0]

    checked = CliRunner().invoke(
        ALL["matseg-prep"], ["check", "discs", "--ceiling", "--json", "--workspace", str(workspace)]
    )
    assert note(checked) == "Note: --ceiling is called --label-agreement now"
    assert json.loads(checked.stdout)["label_agreement"]
    missing = CliRunner().invoke(
        ALL["matseg-train"], ["discs", "v1", "--init=steel.pth", "--workspace", str(workspace)]
    )
    assert missing.exit_code == 2
    assert "Note: --init is called --weights now" in missing.stderr
    assert "steel.pth: expected the checkpoint of --weights" in missing.stderr
    assert "--init" not in CliRunner().invoke(ALL["matseg-train"], ["--help"]).stdout


def test_help_is_quick_because_it_imports_little_and_the_overview_needs_no_torch(workspace: Path) -> None:
    code = (
        "import sys; from matseg_trainer.commands.matseg import main; main(['--help'], standalone_mode=False)\n"
        "heavy = {'torch', 'numpy', 'onnxruntime', 'pydantic', 'rich', 'matplotlib', 'zarr'}\n"
        "assert not heavy & sys.modules.keys(), heavy & sys.modules.keys()\n"
        "try: main(['--json'])\n"
        "except SystemExit as end: assert end.code == 0\n"
        "heavy -= {'numpy', 'pydantic', 'zarr'}\n"
        "assert not heavy & sys.modules.keys(), heavy & sys.modules.keys()\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=workspace
    )
    assert done.returncode == 0, done.stderr
    assert '"matseg-train discs v3"' in done.stdout
    for words in ("prep", "train", "run", "quantify", "verify", "completion", "status"):
        assert f"\n  {words} " in done.stdout


@pytest.mark.parametrize(
    "name", [name for name, command in ALL.items() if not isinstance(command, click.Group)]
)
def test_every_command_with_a_result_has_json(name: str) -> None:
    options = {option for param in ALL[name].params for option in param.opts}
    assert ("--json" in options) == (name != "matseg completion")


def test_a_misspelt_command_gets_a_suggestion() -> None:
    result = invoke("evalute", "--json")
    assert result.exit_code == 2
    assert "Did you mean 'evaluate'?" in json.loads(result.stdout)["error"]["message"]


def test_versions_are_told_without_torch() -> None:
    document = json.loads(invoke("--version", "--json").stdout)
    assert document["python"] == ".".join(map(str, sys.version_info[:3]))
    assert document["providers"]["cpu"] is None
    assert document["problem"] is None
    assert "onnxruntime" in invoke("--version").stdout


# --- completion ----------------------------------------------------------------------------------------------------


def completed(command: click.Command, *words: str) -> list[str]:
    """Words that a shell would offer for the last word."""
    shell = ShellComplete(command, {}, "matseg", "_MATSEG_COMPLETE")
    return [item.value for item in shell.get_completions(list(words[:-1]), words[-1]) if item.type == "plain"]


@pytest.fixture
def there(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder is the workspace."""
    monkeypatch.chdir(workspace)
    return workspace


@pytest.mark.usefixtures("there")
@pytest.mark.parametrize(
    ("line", "offered"),
    [
        ("train ", ["discs"]),
        ("train d", ["discs"]),
        ("train x", []),
        ("train discs ", ["v1", "v2", "v3"]),
        ("export discs v", ["v1", "v2", "v3"]),
        ("evaluate discs v1 --test-folder v", ["validate"]),
        ("prep labels discs ", ["test", "train", "validate"]),
        ("prep labels discs test t", ["train"]),
        ("prep la", ["labels"]),
        ("verify m.onnx --provider t", ["tensorrt"]),
        ("completion ", ["bash", "zsh", "fish"]),
        ("tra", ["train"]),
    ],
)
def test_what_is_offered(line: str, offered: list[str]) -> None:
    assert completed(main, *line.split(" ")) == offered


def test_models_and_the_zoo_are_offered(there: Path) -> None:
    (there / "saved").mkdir()
    for name in ("a.onnx", "b.onnx", "a.pth"):
        (there / "saved" / name).touch()
    assert completed(run_main, "saved/") == ["saved/a.onnx", "saved/b.onnx"]
    assert completed(run_main, "saved/b") == ["saved/b.onnx"]
    index = json.loads(
        (PROJECT / "runtime" / "matseg_runtime" / "zoo_index.json").read_text(encoding="utf-8")
    )
    names = [f"zoo:{item['name']}" for item in index["models"]]
    assert names
    assert completed(run_main, "zoo:") == completed(run_main, "zo") == names
    assert completed(run_main, "nowhere/") == []


def test_a_broken_workspace_is_completed_without_a_word(there: Path) -> None:
    (there / "config.toml").write_text("[discs", encoding="utf-8")
    assert completed(main, "train", "") == ["discs"]
    assert completed(main, "train", "discs", "") == []
    assert completed(main, "train", "--workspace", "nowhere", "") == ["discs"]


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_script_is_for_all_commands(shell: str) -> None:
    script = invoke("completion", shell).stdout
    for name in ("matseg", *(entry.name for entry in commands().values())):
        assert f"_{name.replace('-', '_').upper()}_COMPLETE={shell}_complete" in script


def test_bash_words_are_read_from_the_line(monkeypatch: pytest.MonkeyPatch) -> None:
    shell = ColonBashComplete(main, {}, "matseg", "_MATSEG_COMPLETE")
    for line, expected in (
        ("matseg run zoo:de", (["run"], "zoo:de")),
        ("matseg run 'a b' ", (["run", "a b"], "")),
        ("matseg", ([], "matseg")),
    ):
        monkeypatch.setenv("COMP_LINE", line)
        assert shell.get_completion_args() == expected


@pytest.mark.skipif(shutil.which("bash") is None, reason="there is no bash on this machine")
def test_a_real_bash_completes(there: Path) -> None:
    program = Path(sys.executable).parent / "matseg-verify"
    if not program.exists():
        pytest.skip("matseg-verify is not installed beside this interpreter")
    (there / "model.onnx").touch()
    script = completion_script("bash", {"matseg-verify": ALL["matseg-verify"]})
    driver = (
        "compopt() { :; }\n"
        'try() { COMP_LINE="$1"; COMP_POINT=${#1}; _matseg_verify_completion matseg-verify; echo "${COMPREPLY[*]}"; }\n'
        "try 'matseg-verify mo'\ntry 'matseg-verify zoo:'\ntry 'matseg-verify model.onnx --provider t'\n"
    )
    environment = {**os.environ, "PATH": f"{program.parent}{os.pathsep}{os.environ['PATH']}"}
    done = subprocess.run(
        ["bash", "--norc", "-c", script + driver], capture_output=True, text=True, env=environment, check=True
    )
    first, zoo, last = done.stdout.splitlines()
    assert (first, last) == ("model.onnx", "tensorrt")
    assert zoo.split()
    assert "zoo:" not in zoo, "bash replaces only what stands behind the colon"


TERMINAL_PAGE = (PROJECT / "docs" / "commands.md").read_text(encoding="utf-8")


def require_documented(result: Result) -> None:
    """Require that a command has done its work, and that docs/commands.md names every field of its JSON document."""
    assert result.exit_code == 0, result.output
    document = json.loads(result.stdout)
    assert document
    assert "error" not in document
    assert [name for name in document if f"`{name}`" not in TERMINAL_PAGE] == []


# --- what of the walk is done --------------------------------------------------------------------------------------

WALK_CONFIG = """
[discs.default]
n_class = 2

[discs.v1]
model = "unet"
width = 2
crop = 32
amp = "fp32"
epoch = 1
"""


@pytest.fixture
def step(there: Path) -> Callable[[], str]:
    """Types the command that `matseg` proposes, after a look at what it says."""
    raw = str(there / "data" / "discs" / "test" / "images")

    def take() -> str:
        document = json.loads(invoke("--json").stdout)
        shown = invoke()
        assert shown.exit_code == 0
        if document["next"] is None:
            assert "every step is done" in shown.stdout
            return ""
        assert document["next"] in " ".join(shown.stdout.split())
        words = shlex.split(document["next"])
        words = [raw if word == "FOLDER" else word for word in words]
        result = CliRunner().invoke(ALL[words[0]], [*words[1:], "--json"])
        assert result.exit_code == 0, result.output
        if words[0] in ("matseg-evaluate", "matseg-run"):  # whose documents have pages of their own
            assert result.exit_code == 0, result.output
            assert "error" not in json.loads(result.stdout)
        else:
            require_documented(result)
        return document["next"]

    return take


def test_following_the_next_command_goes_the_whole_way(there: Path, step: Callable[[], str]) -> None:
    (there / "config.toml").write_text(WALK_CONFIG, encoding="utf-8")
    for arrays in (there / "data" / "discs").glob("*/labels_npy"):
        shutil.rmtree(arrays)
    assert invoke().stdout.count(" done ") == 1, "what there is of labels is enough to train"
    assert step() == "matseg-train discs v1"
    assert step() == "matseg-evaluate discs v1 --overlay"
    assert step() == "matseg-export discs v1"
    assert step() == "matseg-run saved/discs_v1.onnx FOLDER"
    assert step() == ""
    assert invoke().stdout.count(" done ") == 5
    model = there / "saved" / "discs_v1.onnx"
    content = model.read_bytes()
    for written, is_stale in ((content, False), (content + b"\x00\x00", True)):
        model.write_bytes(written)
        run = json.loads(invoke("--json").stdout)["datasets"][0]["runs"][0]
        assert (run["slices"], run["is_complete"], run["is_stale"]) == (2, True, is_stale)
    model.write_bytes(content)

    # another hyperparameter, then an image that changed: trained again, and all that follows anew
    (there / "config.toml").write_text(WALK_CONFIG + "lr = 0.002\n", encoding="utf-8")
    assert "discs_v1 was trained with another lr than config.toml now gives" in " ".join(
        invoke().stdout.split()
    )
    assert step() == "matseg-train discs v1 --overwrite"
    assert "old" in invoke().stdout
    array = there / "data" / "discs" / "train" / "labels_npy" / "slice0.npy"
    labels = np.load(array)
    np.save(array, 1 - labels)
    later = (there / "saved" / "discs_v1.pth").stat().st_mtime + 5
    os.utime(array, (later, later))
    assert "trained on other images or labels" in " ".join(invoke().stdout.split())
    np.save(array, labels)  # newer than the checkpoint, but the same
    os.utime(array, (later, later))
    assert step() == "matseg-evaluate discs v1 --overlay"
    assert json.loads(invoke("--json").stdout)["next"] == "matseg-export discs v1 --overwrite"


def test_predictions_of_an_evaluation_are_not_taken_for_changes_of_the_data(
    there: Path, step: Callable[[], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (there / "config.toml").write_text(WALK_CONFIG, encoding="utf-8")
    assert step() == "matseg-train discs v1"
    result = CliRunner().invoke(ALL["matseg-evaluate"], ["discs", "v1", "--test-folder", "validate"])
    assert result.exit_code == 0, result.output

    def read(*_: object) -> str:
        raise AssertionError("nothing that is learned from is newer than the checkpoint")

    monkeypatch.setattr(Dataset, "fingerprint", read)
    assert json.loads(invoke("--json").stdout)["next"] == "matseg-evaluate discs v1 --overlay"


def test_a_folder_that_is_no_workspace_shows_how_to_begin(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert "is no workspace yet" in invoke().stdout
    assert "matseg-prep demo demo" in invoke().stdout
    document = json.loads(invoke("--json").stdout)
    assert (document["is_workspace"], document["datasets"]) == (False, [])
    assert list(tmp_path.iterdir()) == []


def test_images_that_are_not_shared_out_are_sent_to_split_by_matseg_and_by_check(there: Path) -> None:
    whole = there / "data" / "discs" / "train"
    shutil.move(whole, there / "data" / "rock")
    shutil.rmtree(there / "data" / "discs")
    found = json.loads(invoke("--json").stdout)
    assert found["next"] is None, "neither a demo nor training is what comes next"
    for shown in (found["datasets"][0]["hint"], invoke().stdout, check_main("rock")):
        assert "matseg-prep split rock_all rock" in " ".join(shown.split())
    shutil.move(there / "data" / "rock", there / "rock_all")
    result = CliRunner().invoke(
        ALL["matseg-prep"], ["split", "rock_all", "rock", "--validate", "1", "--test", "1"]
    )
    assert result.exit_code == 0, result.output
    assert [item["name"] for item in json.loads(invoke("--json").stdout)["datasets"]] == ["rock", "discs"]


@pytest.mark.parametrize(("count", "few"), [(3, " --validate 1 --test 1"), (6, "")])
def test_a_set_with_nothing_to_validate_with_is_shared_out(there: Path, count: int, few: str) -> None:
    shutil.rmtree(there / "data" / "discs")
    write_discs(there, {"train": count})
    (there / "config.toml").write_text(WALK_CONFIG, encoding="utf-8")
    command = json.loads(invoke("--json").stdout)["next"]
    assert command == f"matseg-prep split data/discs/train discs_split{few}"
    made = CliRunner().invoke(ALL["matseg-prep"], command.split()[1:])
    assert made.exit_code == 0, made.output
    assert "next: matseg-train discs_split  (train a version that is made from the data)" in made.output
    datasets = {item["name"]: item for item in json.loads(invoke("--json").stdout)["datasets"]}
    assert datasets["discs"]["hint"] == "was shared out to discs_split"
    shutil.rmtree(there / "data" / "discs_split")
    for split, kind in (("train", "labels"), ("train", "labels_npy")):
        shutil.rmtree(there / "data" / "discs" / split / kind)
    assert "label images in data/discs/train/labels" in " ".join(invoke().stdout.split())


def check_main(name: str) -> str:
    return str(CliRunner().invoke(ALL["matseg-prep"], ["check", name]).output)


def test_a_set_without_versions_is_trained_with_one_that_is_made_from_it(there: Path) -> None:
    """With defaults alone, too, and without images that validate; a version may hold some out."""
    config = there / "config.toml"
    config.unlink()
    shutil.rmtree(there / "data" / "discs" / "validate")

    def proposed() -> str:
        return str(json.loads(invoke("--json").stdout)["next"])

    assert proposed() == "matseg-train discs"
    config.write_text("[discs.default]\nn_class = 2\n", encoding="utf-8")
    assert proposed() == "matseg-train discs"
    with config.open("a", encoding="utf-8") as stream:
        stream.write("[discs.auto]\nmodel = 'unet'\nvalidation_images = ['slice1']\n")
    assert proposed() == "matseg-train discs auto"


@pytest.mark.parametrize("has_arrays", [True, False])
def test_an_earlier_config_py_is_brought_along(there: Path, has_arrays: bool) -> None:
    (there / "config.toml").unlink()
    (there / "data" / "discs" / "classes.toml").unlink(missing_ok=True)
    if not has_arrays:
        shutil.rmtree(there / "data" / "discs" / "train" / "labels_npy")
    (there / "config.py").write_text(
        "config = {'discs': {'default': {'n_class': 2}, 'v1': {'model': 'unet'}}}\n", encoding="utf-8"
    )
    command = json.loads(invoke("--json").stdout)["next"]
    assert command == "matseg-prep import-config config.py -o config.toml"
    assert CliRunner().invoke(ALL["matseg-prep"], command.split()[1:]).exit_code == 0
    assert json.loads(invoke("--json").stdout)["next"] == "matseg-train discs v1"


def test_what_cannot_be_read_is_said_and_the_rest_shown(there: Path) -> None:
    (there / "saved").mkdir()
    (there / "saved" / "discs_v1.pth").write_bytes(b"no zip")
    (there / "saved" / "broken.onnx").write_bytes(b"\xff" * 40)
    (there / "log").mkdir()
    evaluation = {"name": "discs_v1", "split": "test", "mean_iou": 10**400}
    (there / "log" / "discs_v1_test.json").write_text(json.dumps(evaluation), encoding="utf-8")
    shown = " ".join(invoke().stdout.split())
    assert "discs_v1.pth: expected a checkpoint written by matseg-train" in shown
    assert "broken.onnx: expected an ONNX model" in shown
    (there / "config.toml").write_text("[discs.v1]\nmodel = 'nosuch'\n", encoding="utf-8")
    result = invoke()
    assert result.exit_code == 0
    assert "problem:" in result.stdout
    assert "train 5, validate 2, test 2" in result.stdout


@pytest.mark.parametrize(
    "report",
    [{"labelled": "<f8"}, {"labelled": -3}, {"excluded": 7}, {"provenance": 1}, {"complete": "perhaps"}],
)
def test_a_run_whose_report_says_what_none_says_is_one_without(
    there: Path, report: dict[str, object]
) -> None:
    run = there / "scan_predictions" / "discs_v1"
    (run / ".matseg").mkdir(parents=True)
    job = {
        "model_name": "discs_v1", "model_sha256": "0" * 64, "input_kind": "folder", "input_name": "scan",
        "input_content": "", "output_format": "png", "tile": None, "unit": 1, "provider": "cpu",
    }  # fmt: skip
    whole = {
        "model": "saved/discs_v1.onnx", "input": "scan", "output": "labels", "provenance": job, "threads": 1,
        "started": "", "finished": "", "slices": 2, "labelled": 2, "labelled_before": 0, "complete": True,
        "pixels": 9, "phase_fractions": [{"name": "a", "pixels": 9, "fraction": 1.0}],
    }  # fmt: skip
    (run / ".matseg" / "job.json").write_text(json.dumps(job), encoding="utf-8")
    for written, slices in (({}, 2), (report, 0)):
        (run / "report.json").write_text(json.dumps({**whole, **written}), encoding="utf-8")
        found = json.loads(invoke("--json").stdout)["datasets"][0]["runs"]
        assert [(item["slices"], item["is_complete"]) for item in found] == [(slices, not written)]


def test_properties_are_those_that_onnx_reads(tmp_path: Path) -> None:
    import onnx

    path = onnx_models.save_model(tmp_path / "m.onnx")
    expected = {item.key: item.value for item in onnx.load(path).metadata_props}
    assert check_model(path, path.read_bytes()) == expected
    assert len(expected) > 3


def test_every_field_of_the_state_is_documented() -> None:
    for kind in vars(state).values():
        if isinstance(kind, type) and dataclasses.is_dataclass(kind) and kind.__module__ == state.__name__:
            for item in dataclasses.fields(kind):
                assert f"`{item.name}`" in TERMINAL_PAGE, f"{kind.__name__}.{item.name}"


def test_every_field_that_prep_prints_is_documented(there: Path) -> None:
    (there / "config.py").write_text(
        "config = {'discs': {'v1': {'model': 'unet', 'n_class': 2}}}\n", encoding="utf-8"
    )
    for line in (
        "demo shapes --train 1 --validate 1 --test 1 --raw 1 --size 128",
        "labels shapes train validate test --classes 2",
        "crop discs 16 2 1",
        "import-config config.py",
    ):
        require_documented(CliRunner().invoke(ALL["matseg-prep"], [*line.split(), "--json"]))
