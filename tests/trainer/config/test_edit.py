"""A version is written into `config.toml`, and everything else in it stays as it is, byte for byte."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

from matseg_shared.errors import ConfigError
from matseg_trainer.config.edit import write_version

LINES = [("model", "unet", "a\nreason"), ("n_class", 2, "two"), ("validation_images", ["ü 1"], "")]
OTHERS = """# of mine
[steel.default]
n_class = 2  # two

# about v1
[steel.v1]
model = "unet"
"""


def write(path: Path, dataset: str = "steel") -> str:
    write_version(path, dataset, "auto", LINES, "how it was made")
    return path.read_bytes().decode()


def test_a_file_is_made_where_there_is_none(tmp_path: Path) -> None:
    text = write(tmp_path / "config.toml")
    assert text.startswith('[steel.auto]\n# how it was made\nmodel = "unet"  # a reason\n')
    assert tomllib.loads(text) == {
        "steel": {"auto": {"model": "unet", "n_class": 2, "validation_images": ["ü 1"]}}
    }


@pytest.mark.parametrize("newline", ["\n", "\r\n"])
@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_a_table_is_appended_and_then_replaced(tmp_path: Path, newline: str, mark: str) -> None:
    path = tmp_path / "config.toml"
    others = mark + OTHERS.replace("\n", newline)
    path.write_bytes(others.encode())
    text = write(path)
    assert text.startswith(others)
    assert ("\r\n" in text) == (newline == "\r\n")
    assert text.count("\n") == text.count(newline)
    old = f"[ steel . 'auto' ]{newline}model = 'segnet'{newline}{newline}# about v2{newline}"
    after = f"[steel.v2]{newline}model = 'unet'{newline}"
    path.write_bytes(f"{others}{newline}{old}{after}".encode())
    text = write(path)
    assert text.startswith(others)
    assert text.endswith(f"# about v2{newline}{after}")
    assert "segnet" not in text


def test_names_are_quoted_where_they_must_be(tmp_path: Path) -> None:
    assert write(tmp_path / "config.toml", "my steel").startswith('["my steel".auto]\n')


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("steel.auto.model = 'unet'\nsteel.auto.n_class = 2\n", "as a table [steel.auto] of its own"),
        ("steel = 3\n", "expected tables"),
        ("[steel.v1]\nmodel = 'unet'\n", "steel.v1.n_class: is missing"),
        ("[steel", "cannot be read as TOML"),
        ('[steel.v1]\nmodel = "unet"\nn_class = 2\n[other]\nx = 1\n', "stands outside a version"),
    ],
)
def test_nothing_is_written_where_it_would_be_wrong(tmp_path: Path, text: str, words: str) -> None:
    path = tmp_path / "config.toml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError) as caught:
        write(path)
    assert words in "\n".join([str(caught.value), *map(str, caught.value.problems)])
    assert path.read_text(encoding="utf-8") == text
