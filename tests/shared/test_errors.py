"""One tree of errors: each exported class, its exit code, and what it says."""

from __future__ import annotations

import inspect
import pickle
from pathlib import Path

import pytest

from matseg_shared import errors
from matseg_shared.errors import (
    ConfigError,
    DatasetError,
    ExportError,
    ImageError,
    MatsegError,
    MetadataError,
    MissingExtraError,
    ModelError,
    OutputError,
    Problem,
    ProviderError,
    UnsupportedError,
    UsageError,
)
from matseg_shared.installation import install_command

EXIT_CODES = {
    MatsegError: 1,
    UsageError: 2,
    ConfigError: 2,
    DatasetError: 2,
    ImageError: 2,
    ModelError: 2,
    MetadataError: 2,
    UnsupportedError: 3,
    MissingExtraError: 3,
    ProviderError: 3,
    OutputError: 1,
    ExportError: 1,
}


@pytest.mark.parametrize(("error", "code"), EXIT_CODES.items(), ids=str)
def test_exit_codes(error: type[MatsegError], code: int) -> None:
    assert error.exit_code == code
    assert issubclass(error, MatsegError)


def test_every_public_class_is_in_the_table_and_in_the_drawn_tree() -> None:
    public = {
        value
        for name, value in vars(errors).items()
        if inspect.isclass(value) and issubclass(value, MatsegError) and not name.startswith("_")
    }
    assert public == set(EXIT_CODES)
    assert errors.__doc__ is not None
    assert all(error.__name__ in errors.__doc__ for error in public)


def test_the_tree() -> None:
    assert issubclass(MetadataError, ModelError)
    assert issubclass(MissingExtraError, UnsupportedError)
    for error in (ConfigError, DatasetError, ImageError, ModelError):
        assert issubclass(error, UsageError)
    for error in (OutputError, ExportError, UnsupportedError):
        assert not issubclass(error, UsageError)


@pytest.mark.parametrize("error", [ConfigError, MetadataError])
def test_all_problems_are_listed(error: type[ConfigError]) -> None:
    problems = [
        Problem(where="a.b", message="is missing", kind="missing"),
        Problem(where="", message="is empty", kind="empty"),
    ]
    caught = error("file: two problems", iter(problems))
    assert str(caught) == "file: two problems\n  - a.b: is missing\n  - is empty"
    assert caught.problems == tuple(problems)
    assert str(error("file: nothing to list")) == "file: nothing to list"


def test_an_image_error_names_the_file() -> None:
    error = ImageError(Path("folder") / "a.png", "is empty")
    assert error.path == Path("folder") / "a.png"
    assert str(error) == f"{error.path}: is empty"


def test_a_missing_extra_says_how_to_install_it() -> None:
    error = MissingExtraError("train", "training")
    assert str(error) == f"training needs the extra `train`: {install_command('train')}"
    assert error.extra == "train"


@pytest.mark.parametrize(
    "error",
    [
        OutputError("out.zarr: full"),
        ImageError("a.png", "is empty"),
        MissingExtraError("cpu", "running"),
        ConfigError("c", [Problem(where="a", message="b", kind="c")]),
        MetadataError("m", [Problem(where="a", message="b", kind="c")]),
    ],
    ids=lambda error: type(error).__name__,
)
def test_errors_travel_between_processes(error: MatsegError) -> None:
    copy = pickle.loads(pickle.dumps(error))
    assert type(copy) is type(error)
    assert str(copy) == str(error)
    assert vars(copy) == vars(error)
