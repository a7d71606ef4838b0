"""The folder that holds `config.toml` and `data/`, and where results go in it."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click

from matseg_shared.errors import ConfigError, DatasetError, UsageError
from matseg_shared.system.names import portable_name_problem

if TYPE_CHECKING:  # they bring numpy and pydantic along, which `--help` need not wait for
    from matseg_trainer.config.load import Config
    from matseg_trainer.data.folder import Dataset

WORKSPACE_VARIABLE = "MATSEG_WORKSPACE"


@dataclass(frozen=True, slots=True)
class Workspace:
    """The folders of one project, named as the user guide names them."""

    root: Path

    @classmethod
    def find(cls, option: Path | None = None) -> Workspace:
        """The folder named on the command line, else by MATSEG_WORKSPACE, else the current one.

        Raises:
            UsageError: it is not a folder.
        """
        root = option or Path(os.environ.get(WORKSPACE_VARIABLE) or "")
        if not root.is_dir():
            source = "--workspace" if option else WORKSPACE_VARIABLE
            raise UsageError(
                f"{root}: expected the workspace folder that {source} names, found none; "
                "name the folder that holds config.toml and data/"
            )
        return cls(root)

    @property
    def config_path(self) -> Path:
        """`config.toml`."""
        return self.root / "config.toml"

    @property
    def data(self) -> Path:
        """The data sets, one folder each."""
        return self.root / "data"

    @property
    def saved(self) -> Path:
        """The checkpoints."""
        return self.root / "saved"

    @property
    def log(self) -> Path:
        """The metrics per epoch."""
        return self.root / "log"

    @property
    def plots(self) -> Path:
        """The curves."""
        return self.root / "plots"

    def config(self) -> Config:
        """`config.toml`, checked; see `load_config`."""
        from matseg_trainer.config.load import load_config

        return load_config(self.config_path)

    def dataset_root(self, name: str) -> Path:
        """Folder of a data set of that name, there or not.

        Raises:
            DatasetError: `name` cannot be the name of a folder in `data/`.
        """
        if (problem := portable_name_problem(name)) is not None:
            raise DatasetError(
                f"{name!r}: expected the name of a data set, that is of a folder in {self.data}; {problem}"
            )
        return self.data / name

    def dataset(self, name: str, validation_images: Sequence[str] | None = None) -> Dataset:
        """The data set `data/<name>`; see `Dataset.open`."""
        from matseg_trainer.data.folder import Dataset

        return Dataset.open(self.dataset_root(name), validation_images)

    def n_class_of(self, dataset: Dataset) -> int | None:
        """The number of classes in `config.toml`; where that says nothing of the data set, in its `classes.toml`.

        None: neither says it; the version `auto` does not, for it follows from the labels.

        Raises:
            ConfigError: the configuration is wrong.
            DatasetError: the versions give several numbers.
        """
        from matseg_trainer.config.load import AUTO_VERSION

        name, path = dataset.name, self.config_path
        numbers: set[int] = set()
        if path.exists():
            config = self.config()
            versions, tables = config.versions.get(name, {}), config.tables.get(name, {})
            numbers = {item.n_class for version, item in versions.items() if version != AUTO_VERSION}
            # else what the defaults say, or versions whose plan is not made yet
            said = [table.get("n_class") for version, table in tables.items() if version != AUTO_VERSION]
            numbers = numbers or {number for number in said if isinstance(number, int)}
        if not numbers:
            return len(dataset.classes) if dataset.classes_path.exists() else None
        if len(numbers) == 1:
            return numbers.pop()
        raise DatasetError(
            f"{path}: expected one number of classes of {name!r}, found that its versions differ ({sorted(numbers)}); "
            "make them agree, or give the number with --classes"
        )

    def known_classes(self, name: str) -> int | None:
        """Number of classes that the label arrays of a data set would have; None: nothing here says so."""
        from matseg_trainer.data.folder import Dataset

        try:
            return self.n_class_of(Dataset(self.dataset_root(name)))
        except (ConfigError, DatasetError):
            return None


workspace_option = click.option(
    "--workspace",
    type=click.Path(path_type=Path),
    help=f"The folder that holds config.toml and data/ (default: ${WORKSPACE_VARIABLE}, else here).",
)
"""The command's argument `workspace` (Path or None) goes to `Workspace.find`."""
