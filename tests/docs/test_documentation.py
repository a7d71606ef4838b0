"""Lines that the documentation tells users to type are taken by the commands."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
from command_lines import take_line

from matseg_trainer.config.load import parse_config

ROOT = Path(__file__).parents[2]
PAGES = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    ROOT / "SECURITY.md",
    *sorted((ROOT / "docs").rglob("*.md")),
]
CODE = ("shared", "runtime", "trainer", "tests", "benchmarks", "models_zoo", "docs")
_BLOCK = re.compile(r"^```(\w+)\n(.*?)^```", flags=re.MULTILINE | re.DOTALL)


def blocks(language: str) -> Iterator[tuple[str, str]]:
    """(page, text) of every fenced block of a language."""
    for page in PAGES:
        for kind, text in _BLOCK.findall(page.read_text(encoding="utf-8")):
            if kind == language:
                yield page.name, text


def lines() -> Iterator[tuple[str, str]]:
    """(page, line) of every call of one of our commands, continued lines joined."""
    for page, text in blocks("sh"):
        for line in text.replace("\\\n", " ").splitlines():
            for part in re.split(r"&&|\|\||[|;]", line.split(" #")[0]):
                words = part.strip().removeprefix("srun ").removeprefix("$ ")
                if words.startswith("matseg"):
                    yield page, words


LINES = list(lines())


def test_there_are_lines_to_check() -> None:
    assert len(LINES) > 25


@pytest.mark.parametrize(("page", "line"), LINES)
def test_every_line_is_one_that_the_command_takes(page: str, line: str) -> None:
    del page
    take_line(line)


@pytest.mark.parametrize(
    ("page", "text"), [item for item in blocks("toml") if ".default]" in item[1] and "model =" in item[1]]
)
def test_every_example_configuration_is_right(page: str, text: str) -> None:
    parse_config(tomllib.loads(text), Path(page))


def test_every_page_for_users_is_in_the_navigation() -> None:
    navigation = (ROOT / "mkdocs.yml").read_text(encoding="utf-8").partition("\nnav:")[2]
    assert set(re.findall(r"([\w]+\.md)", navigation)) == {page.name for page in (ROOT / "docs").glob("*.md")}


def test_nothing_says_to_install_from_a_package_index() -> None:
    """Nothing of our name is there, and whoever takes the name would be installed instead."""
    code = [path for folder in ("shared", "runtime", "trainer") for path in (ROOT / folder).rglob("*.py")]
    for path in [*PAGES, ROOT / "Containerfile", *code]:
        for line in path.read_text(encoding="utf-8").splitlines():
            if re.search(r"pip install\b.*[ '\"]matseg\b", line):
                assert "--no-index" in line or "{" in line, f"{path}: {line}"


def test_the_wheel_is_called_as_it_is_built() -> None:
    version = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"]
    names = {
        name for page in PAGES for name in re.findall(r"matseg-[\d.]+-py3", page.read_text(encoding="utf-8"))
    }
    assert names == {f"matseg-{version}-py3"}


GUIDE = {"apply.py", "config.py", "cropping.py", "image2numpy.py", "main.py", "path/to/config.py"}
"""Files of the user guide's program."""


def test_every_source_file_that_a_page_names_is_there() -> None:
    """But for the experiments, which are dated."""
    files = [
        f"/{path.relative_to(ROOT).as_posix()}" for folder in CODE for path in (ROOT / folder).rglob("*.py")
    ]
    for page in PAGES:
        if page.name == "experiments.md":
            continue
        for name in set(re.findall(r"[\w/]+\.py\b", page.read_text(encoding="utf-8"))) - GUIDE:
            assert any(path.endswith(f"/{name}") for path in files), f"{page}: {name}"
