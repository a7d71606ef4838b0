"""`model.toml`: what a person has to say about a model of the zoo, and how it is made."""

from __future__ import annotations

import shlex
import tomllib
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from matseg_shared.contract.metadata import Precision, Views
from matseg_shared.errors import ConfigError, problems_of


class _Table(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class DataSource(_Table):
    """Data that the model was trained on."""

    source: str
    """Subject, makers and place of the data."""
    licence: str
    citation: str | None = None
    """Work to cite when the model is used; None where there is nothing."""


class Use(_Table):
    """Intended use of the model, and its limits."""

    intended: str
    limits: tuple[str, ...] = Field(min_length=1)


class Description(_Table):
    """The whole file."""

    summary: str = Field(max_length=100)
    """Phases that it labels, in half a sentence."""
    dataset: str
    version: str
    """Version in `config.toml`: all hyperparameters."""
    precision: Precision = "fp32"
    tta: Views = 1
    """Views whose mean the file gives, for `matseg-export --tta`."""
    split: str = "test"
    """Folder of labelled images that the card's figures are measured on."""
    prepare: tuple[str, ...] = Field(min_length=1)
    """Commands that bring the data set from where its makers left it to label arrays."""
    after: tuple[str, ...] = ()
    """Models of the zoo whose checkpoints this training needs; they are trained before, unless they are in `saved/`."""
    init: str | None = None
    """Checkpoint to start from, for `matseg-train --weights`; None: random weights."""
    data: DataSource
    use: Use

    @property
    def trained_name(self) -> str:
        """`<dataset>_<version>`: what the training and the file call themselves."""
        return f"{self.dataset}_{self.version}"

    def preparation(self) -> tuple[tuple[str, ...], ...]:
        """The words of the commands before the training."""
        return tuple(tuple(shlex.split(command)) for command in self.prepare)

    def training(self, *options: str) -> tuple[str, ...]:
        """The words of the training's command."""
        init = () if self.init is None else ("--weights", self.init)
        return ("matseg-train", self.dataset, self.version, *init, "--overwrite", *options)

    def export(self, target: str) -> tuple[str, ...]:
        """The words of the command that writes the model file."""
        words = ("matseg-export", self.dataset, self.version, "--precision", self.precision)
        views = () if self.tta == 1 else ("--tta", str(self.tta))
        return (*words, *views, "--output", target, "--overwrite")

    def evaluation(self, model: str) -> tuple[str, ...]:
        """The words of the command that measures the model file."""
        words = ("matseg-evaluate", self.dataset, self.version, "--model", model)
        return (*words, "--test-folder", self.split)


def read_description(path: Path) -> Description:
    """Read and check a `model.toml`.

    Raises:
        ConfigError: it is missing or wrong; lists every problem.
    """
    try:
        return Description.model_validate(tomllib.loads(path.read_text(encoding="utf-8")))
    except ValidationError as error:
        raise ConfigError(f"{path}: describes a model of the zoo wrongly", problems_of(error)) from error
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path}: cannot be read as TOML: {error}") from error
