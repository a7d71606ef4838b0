"""Versions of an existing `config.py` come along with their meaning, and its source is never executed."""

from __future__ import annotations

import re
import textwrap
import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from matseg_shared.errors import ConfigError
from matseg_trainer.commands.prep import main as prep_main
from matseg_trainer.config.import_guide import (
    DROPPED,
    read_matseg_config,
)
from matseg_trainer.config.load import Config, parse_config

Write = Callable[[str], Path]

PUBLISHED = """
    '''Hyperparameters.'''
    import sys

    def gen_default(dataset, n_class, size, batch_size=2, lr=1e-4, epoch=40):
        \"\"\"Defaults of one data set.\"\"\"
        default = {
            'root': './data/' + dataset, 'n_class': n_class, 'size': size, 'batch_size': batch_size,
            'optimizer': 'Adam', 'lr': lr, 'epoch': epoch, 'patience': epoch, 'aug': False,
        }
        return default

    config = {
        'steel': {
            'default': gen_default('steel', 4, size=(484, 645)),
            'v1': {'model': 'pixelnet'},
            'v2': {'model': 'SegNet', 'optimizer': 'SGD', 'lr': 0.01, 'aug': True},
        },
        'rock': {
            'default': {'n_class': 3, 'shuffle': True},
            'long-run': {'model': 'unet', 'epoch': 100},
        },
    }

    def get_config(dataset, version):
        chosen = config[dataset]['default'].copy()
        chosen.update(config[dataset][version])
        return chosen

    if __name__ == '__main__':
        print(config, file=sys.stderr)
    """


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def write_source(source: str) -> Path:
        path = tmp_path / "config.py"
        path.write_text(textwrap.dedent(source), encoding="utf-8")
        return path

    return write_source


def read_back(path: Path) -> Config:
    return parse_config(tomllib.loads(read_matseg_config(path).text), path)


def refusal(path: Path) -> str:
    with pytest.raises(ConfigError) as caught:
        read_matseg_config(path)
    assert str(path) in str(caught.value)
    return str(caught.value)


def problems(path: Path) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        read_matseg_config(path)
    assert str(path) in str(caught.value)
    return [str(problem) for problem in caught.value.problems]


def test_the_published_shape(write: Write) -> None:
    config = read_back(write(PUBLISHED))
    assert {name: list(versions) for name, versions in config.versions.items()} == {
        "steel": ["v1", "v2"],
        "rock": ["long-run"],
    }
    first, second = config.version("steel", "v1"), config.version("steel", "v2")
    assert (first.model, first.n_class, first.size, first.batch_size) == ("pixelnet", 4, (484, 645), 2)
    assert (first.lr, first.epoch, first.effective_patience, first.aug) == (1e-4, 40, 40, False)
    assert (second.model, second.optimizer, second.lr, second.aug) == ("segnet", "SGD", 0.01, True)
    rock = config.version("rock", "long-run")
    assert (rock.n_class, rock.shuffle, rock.epoch, rock.effective_patience) == (3, True, 100, 100)


def test_only_what_differs_from_our_defaults_is_written(write: Write) -> None:
    document = tomllib.loads(read_matseg_config(write(PUBLISHED)).text)
    assert document["steel"]["default"] == {"n_class": 4, "size": [484, 645], "batch_size": 2, "patience": 40}
    assert document["rock"]["default"] == {"n_class": 3, "shuffle": True}


def test_an_older_fork(write: Write) -> None:
    path = write("""
        def gen_default(dataset, size, mean, std, class_num=4, batch_size=1, lr=1e-4, epoch=150,
                        decay_epoch=50, *, print_freq=10):
            return {'root': f'./data/{dataset}', 'size': size, 'mean': mean, 'std': std, 'class_num': class_num,
                    'batch_size': batch_size, 'lr': lr, 'epoch': epoch, 'decay_epoch': decay_epoch,
                    'print_freq': print_freq, 'save': True}

        config = {'uhcs': {
            'default': gen_default('uhcs', (484, 645), mean=np.mean(x), std=[0.1] * 3),
            'v1': {'model': 'unet'}}}
        """)
    imported = read_matseg_config(path)
    assert tomllib.loads(imported.text)["uhcs"]["default"] == {
        "size": [484, 645],
        "n_class": 4,
        "batch_size": 1,
        "epoch": 150,
    }
    dropped = {note.split(":")[0] for note in imported.notes}
    assert dropped == {"root", "mean", "std", "decay_epoch", "print_freq", "save"}
    assert "mean: left out; measured on the training set" in imported.notes
    assert all(f"# {note}\n" in imported.text for note in imported.notes)


def test_patience_keeps_its_meaning(write: Write) -> None:
    path = write("""
        config = {'set': {
            'default': {'n_class': 2, 'epoch': 40, 'patience': 40},
            'short': {'model': 'unet', 'epoch': 4},
            'long': {'model': 'unet', 'epoch': 100},
            'own': {'model': 'unet', 'epoch': 100, 'patience': 7},
            'none': {'model': 'unet', 'patience': 0}}}
        """)
    config = read_back(path)
    found = {name: version.effective_patience for name, version in config.versions["set"].items()}
    assert found == {"short": 40, "long": 40, "own": 7, "none": 1}
    assert [note.split(":")[0] for note in read_matseg_config(path).notes] == ["set.none"]


def test_a_default_patience_of_its_own_is_carried_over(write: Write) -> None:
    config = read_back(
        write("""
        config = {'set': {'default': {'n_class': 2, 'epoch': 40, 'patience': 5}, 'v1': {'model': 'unet'}}}
        """)
    )
    assert config.version("set", "v1").patience == 5


def test_names_that_need_quotes_in_toml(write: Write) -> None:
    config = read_back(write("config = {'größe 2': {'v 1.5': {'model': 'unet', 'n_class': 2}}}"))
    assert config.version("größe 2", "v 1.5").model == "unet"


def test_an_empty_dict(write: Write) -> None:
    assert read_back(write("config = {}")).versions == {}


def test_the_source_is_never_executed(write: Write, tmp_path: Path) -> None:
    witness = tmp_path / "executed"
    run = f"__import__('pathlib').Path({str(witness)!r}).touch()"
    path = write(f"""
        {run}
        def gen_default(n=({run}, 2)[1]):
            return {{'n_class': 2, 'root': {run}}}
        config = {{'set': {{'default': gen_default(), 'v1': {{'model': 'unet', 'mean': {run}}}}}}}
        """)
    assert read_back(path).version("set", "v1").n_class == 2
    assert not witness.exists()


@pytest.mark.parametrize(
    ("version", "message"),
    [
        ("'v': {'model': name}", "expected a plain value as s.v.model, found `name`"),
        ("'v': {'epoch': int('4')}", "expected a plain value as s.v.epoch, found `int('4')`"),
        ("'v': {'size': (SIZE, 852)}", "expected a plain value as s.v.size, found `(SIZE, 852)`"),
        ("'v': {'lr': 10 ** -4}", "expected a plain value as s.v.lr, found `10 ** (-4)`"),
        ("'v': {'model': f'unet'}", "expected a plain value as s.v.model, found `f'unet'`"),
        (
            "f'v': {'model': 'unet'}",
            "expected a name in quotes as a key of the versions of 's', found `f'v'`",
        ),
        ("**others", "expected a name in quotes as a key of the versions of 's', found `others`"),
        ("'v': dict(model='unet')", "expected a dict or a call of a function of this file"),
        ("'v': 'unet'", "expected the dict of s.v, found `'unet'`"),
        ("'v': {'size': None}", "expected a plain value as s.v.size, found `None`"),
    ],
)
def test_what_is_no_plain_value_is_refused_with_its_line(write: Write, version: str, message: str) -> None:
    path = write(f"config = {{'s': {{\n    {version},\n}}}}")
    assert f"plain values; line 2: {message}" in refusal(path)


@pytest.mark.parametrize(
    "statement",
    [
        "config.update({})",
        "config |= {}",
        "for name in []:\n    config[name] = {}",
        "config = dict(config)",
        "del config['s']",
        "if True:\n    config = {}",
    ],
)
def test_versions_changed_by_code_are_refused(write: Write, statement: str) -> None:
    path = write("config = {'s': {'v': {'model': 'unet', 'n_class': 2}}}\n" + statement)
    assert "line 2: expected one dict `config` that no other code changes, found " in refusal(path)


@pytest.mark.parametrize(
    "function",
    [
        "def gen(a):\n    a = 3\n    return {'n_class': a}",
        "def gen(a):\n    d = {'n_class': a}\n    d['lr'] = 1\n    return d",
        "def gen(a):\n    d = {'n_class': a}\n    d.update(lr=1)\n    return d",
        "def gen(a):\n    if a:\n        return {}",
        "@twice\ndef gen(a):\n    return {'n_class': a}",
        "def gen(a):\n    return dict(n_class=a)",
    ],
)
def test_a_function_that_does_more_than_return_a_dict_is_refused(write: Write, function: str) -> None:
    path = write(f"{function}\nconfig = {{'s': {{'default': gen(2), 'v': {{'model': 'unet'}}}}}}")
    assert "expected gen() to do nothing but return one dict" in refusal(path)


@pytest.mark.parametrize("call", ["gen()", "gen(*x)", "gen(**x)", "gen(2, 3, 4)", "gen(2, c=3)"])
def test_arguments_that_do_not_fit(write: Write, call: str) -> None:
    path = write(
        f"def gen(a, b=1):\n    return {{'n_class': a}}\nconfig = {{'s': {{'default': {call}, 'v': {{}}}}}}"
    )
    assert re.search(r"expected arguments of gen\(a, b\)|n_class, found `(a|\*x)`", refusal(path))


def test_wrong_values_are_listed_with_place_and_line(write: Write) -> None:
    path = write("""\
        config = {
            'set': {
                'default': {'class_num': 1},
                'v1': {'model': 'unett'},
                'v2': {'model': 'unet', 'learning_rate': 3,
                       'batch_size': True, 'lr': -1e-3, 'seed': 'x'},
            },
            'b/c': {'v1': {'model': 'unet', 'n_class': 2}},
        }
        """)
    found = problems(path)
    assert [(line.split(":")[0], line.rsplit("(", 1)[-1]) for line in found] == [
        ("set.default.n_class", "line 3)"),
        ("set.v1.model", "line 4)"),
        ("set.v2.batch_size", "line 6)"),
        ("set.v2.lr", "line 6)"),
        ("set.v2.seed", "line 6)"),
        ("set.v2.learning_rate", "line 5)"),
        ("'b/c'", "line 8)"),
    ]
    assert any("did you mean 'unet'?" in line for line in found)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            b"config = {\n",
            "expected Python source, found something else: '{' was never closed (config.py, line 1)",
        ),
        (b"\x89PNG\r\n\x1a\n\x00\x01", "expected Python source"),
        (b"config = {}\x00", "expected Python source"),
        (b"x = 1\n", "expected a dict `config`"),
        (b"", "expected a dict `config`"),
        (b"config = " + b"[" * 50000, "config.py: "),
        (b"config = {'s': {'v': {'lr': " + b"-" * 50000 + b"1}}}", "config.py: "),
        (b"config = {'s': {'v': {'lr': " + b"1+" * 50000 + b"1}}}", "config.py: "),
        (b"config = {'s': {'v': {'lr': 0x" + b"f" * 9000 + b"}}}", "a number of ordinary size"),
        (b"config = {'s': {'v': {'lr': 9" + b"9" * 9000 + b"}}}", "config.py: "),
        (b"# coding: no-such-code\nconfig = {}", "expected Python source"),
        (b"#" * ((1 << 20) + 1), "more than a megabyte"),
    ],
    ids=[
        "open",
        "png",
        "null",
        "other",
        "empty",
        "lists",
        "minus",
        "plus",
        "hex",
        "digits",
        "coding",
        "large",
    ],
)
def test_files_that_are_no_config(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "config.py"
    path.write_bytes(content)
    with pytest.raises(ConfigError) as caught:
        read_matseg_config(path)
    assert str(path) in str(caught.value)
    assert message in str(caught.value)


def test_a_missing_file_and_a_folder(tmp_path: Path) -> None:
    for path in (tmp_path / "config.py", tmp_path):
        with pytest.raises(ConfigError, match="expected a MatSeg config"):
            read_matseg_config(path)


def run(*arguments: object) -> Result:
    return CliRunner().invoke(prep_main, ["import-config", *(str(argument) for argument in arguments)])


def test_the_command_prints_toml_and_says_its_notes_apart(write: Write) -> None:
    path = write(PUBLISHED)
    result = run(path)
    assert result.exit_code == 0
    assert result.stdout == read_matseg_config(path).text
    assert "note: root: left out; images are looked for in data/<data set>" in result.stderr


def test_the_command_writes_a_file_and_never_over_one(write: Write, tmp_path: Path) -> None:
    path, output = write(PUBLISHED), tmp_path / "config.toml"
    assert run(path, "-o", output).exit_code == 0
    assert output.read_text(encoding="utf-8") == read_matseg_config(path).text
    output.write_text("mine", encoding="utf-8")
    result = run(path, "-o", output)
    assert result.exit_code == 2
    assert "is there already and is left as it is" in result.stderr
    assert output.read_text(encoding="utf-8") == "mine"


def test_the_command_answers_a_bad_file_without_a_traceback(write: Write) -> None:
    result = run(write("config = {'a': b}"))
    assert result.exit_code == 2
    assert "line 1: expected the dict of the versions of 'a', found `b`" in result.stderr
    assert "Traceback" not in result.output


def test_the_documentation_names_every_key_that_is_left_out() -> None:
    text = (Path(__file__).parents[3] / "docs" / "config.md").read_text(encoding="utf-8")
    table = text.partition("| key | instead |")[2]
    named = [
        key
        for row in re.findall(r"^\| (`.+`) \|", table, re.M)
        for key in re.findall(r"`(\w+)`", row.split("|")[0])
    ]
    assert named == list(DROPPED)
