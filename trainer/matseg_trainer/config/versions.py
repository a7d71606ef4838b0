"""Named hyperparameter versions, as the user guide has them, read from a workspace's `config.toml`.

```toml
[tomography.default]        # the data set's own
n_class = 2
size = [852, 852]

[tomography.v7]             # one version: what differs from the defaults
model = "unet"
epoch = 4
```
"""

from __future__ import annotations

import difflib
import reprlib
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from matseg_shared.contract.metadata import problems_of
from matseg_shared.errors import ConfigError, Problem
from matseg_shared.system.names import portable_name_problem

CONFIG_NAME = "config.toml"
DEFAULT_VERSION = "default"

Network = Literal["unet", "segnet", "pixelnet", "patchunet"]
Optimizer = Literal["Adam", "SGD"]
Precision = Literal["auto", "fp32", "bf16", "fp16"]
Keep = Literal["best", "last"]
Schedule = Literal["plateau", "cosine", "polynomial"]
Loss = Literal["cross_entropy", "dice"]
Pixels = Annotated[int, Field(ge=1)]


class VersionConfig(BaseModel):
    """All hyperparameters of one version; the first block is the user guide's, with its defaults."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", strict=True, allow_inf_nan=False, protected_namespaces=()
    )

    model: Network
    """The network; upper and lower case are the same."""
    n_class: int = Field(ge=2, le=255)
    size: tuple[Pixels, Pixels] | None = None
    """(H, W) in pixels that every image has; None: any size."""
    batch_size: int = Field(default=4, ge=1)
    optimizer: Optimizer = "Adam"
    lr: float = Field(default=1e-4, gt=0)
    """Learning rate at the start."""
    epoch: int = Field(default=40, ge=1)
    aug: bool | Literal["turns"] = False
    """Augment training images: flips, quarter turns, small rotations and scalings; `turns`: only the first two."""
    shuffle: bool = False
    """Visit the training images in a new random order each epoch."""
    patience: int = Field(default=0, ge=0)
    """Epochs without a better validation loss after which the learning rate falls to a tenth; 0: `epoch`."""
    balance: bool = False
    """Weight each class's loss by the reciprocal of its share of the training pixels."""

    width: int | None = Field(default=None, ge=1, le=1024)
    """Channels of the network's first level; None: the paper's 64."""
    crop: int | None = Field(default=None, ge=16)
    """Train on random square crops of this edge in pixels; None: whole images."""
    repeat: int = Field(default=1, ge=1)
    """Crops taken of each training image per epoch."""
    focus: float = Field(default=0.0, ge=0, le=1)
    """Share of the crops that are placed on a random pixel of a random class, instead of anywhere."""
    loss: Loss = "cross_entropy"
    """`dice` adds that term to the cross-entropy."""
    samples: int = Field(default=2048, ge=1)
    """PixelNet: training pixels sampled per image."""
    schedule: Schedule = "plateau"
    """`plateau` is the guide's (see `patience`); `cosine` and `polynomial` fall to zero at the last epoch."""
    weight_decay: float = Field(default=5e-4, ge=0)
    """L2 penalty on the weights."""
    momentum: float = Field(default=0.9, ge=0, lt=1)
    """Of SGD."""
    keep: Keep = "best"
    """Which epoch is kept: the best on the validation images, or the last, whatever they say."""
    precision: Precision = "auto"
    """Of training; `auto`: bf16 or fp16 where the device is faster with it."""
    seed: int = Field(default=0, ge=0, lt=2**63)

    @field_validator("model", mode="before")
    @classmethod
    def _lower_case(cls, value: object) -> object:
        return value.lower() if isinstance(value, str) else value

    @field_validator("optimizer", mode="before")
    @classmethod
    def _own_case(cls, value: object) -> object:
        names = {"adam": "Adam", "sgd": "SGD"}
        return names.get(value.lower(), value) if isinstance(value, str) else value

    @field_validator("size", mode="before")
    @classmethod
    def _one_number_is_square(cls, value: object) -> object:
        if isinstance(value, int) and not isinstance(value, bool):
            return (value, value)
        if value is not None and not (isinstance(value, list | tuple) and len(value) == 2):
            raise ValueError("expected [height, width] in pixels, or one number for square images")
        return tuple(value) if isinstance(value, list) else value

    @field_validator("aug", mode="before")
    @classmethod
    def _all_choices_are_told(cls, value: object) -> object:
        if not (isinstance(value, bool) or value == "turns"):
            raise ValueError('expected true, false or "turns"')
        return value

    @field_validator("*", mode="before")
    @classmethod
    def _no_endless_numbers(cls, value: object) -> object:
        if isinstance(value, int) and value.bit_length() > 64:
            raise ValueError("expected a number of ordinary size")
        return value

    @property
    def effective_patience(self) -> int:
        """`patience`, or the number of epochs when it is 0 (the guide's default: never)."""
        return self.patience or self.epoch


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """All data sets and versions of one `config.toml`, each checked."""

    source: Path
    versions: Mapping[str, Mapping[str, VersionConfig]]
    """Data set name -> version name -> hyperparameters."""

    def version(self, dataset: str, version: str) -> VersionConfig:
        """The hyperparameters of one version.

        Raises:
            ConfigError: no such data set or version; names the nearest.
        """
        if dataset not in self.versions:
            raise ConfigError(
                f"{self.source}: has no data set {dataset!r}; {_choices(dataset, self.versions)}; "
                f"add a table [{dataset}.{version}]"
            )
        versions = self.versions[dataset]
        if version not in versions:
            raise ConfigError(
                f"{self.source}: data set {dataset!r} has no version {version!r}; {_choices(version, versions)}"
            )
        return versions[version]


def kept_index(mean_ious: Sequence[float], keep: Keep) -> int:
    """Which of some epochs is kept, from 0: the first with the highest validation mean IoU, or the last."""
    return len(mean_ious) - 1 if keep == "last" else max(range(len(mean_ious)), key=mean_ious.__getitem__)


def config_differences(trained: Mapping[str, Any], config: VersionConfig) -> list[Problem]:
    """Every hyperparameter that differs between a trained version and the configuration.

    What a version was trained without, because MatSeg did not know it then, had today's default.
    """
    now = config.model_dump(mode="json")
    fields = VersionConfig.model_fields
    then = {key: field.default for key, field in fields.items() if not field.is_required()} | dict(trained)
    return [
        Problem(
            where=key,
            message=f"trained with {_plain(then.get(key))}, now {_plain(now.get(key))}",
            kind="changed",
        )
        for key in sorted({*then, *now})
        if then.get(key) != now.get(key)
    ]


def load_config(path: Path) -> Config:
    """Read and check a `config.toml`.

    Raises:
        ConfigError: the file is missing, is not TOML, or anything in it is wrong; lists every problem.
    """
    try:
        document = tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except FileNotFoundError as error:
        raise ConfigError(
            f"{path}: expected the workspace's configuration there, found nothing; run the command in the folder "
            "that holds config.toml and data/, or name it with --workspace"
        ) from error
    except (OSError, ValueError, RecursionError) as error:
        # ValueError: broken UTF-8, broken TOML, or a whole number of more digits than Python reads
        raise ConfigError(f"{path}: cannot be read as TOML: {error}") from error
    return parse_config(document, path)


def parse_config(document: Mapping[str, Any], source: Path) -> Config:
    """Check a document of tables `[dataset.version]`.

    Raises:
        ConfigError: lists every problem, each with its place.
    """
    problems: list[Problem] = []
    versions: dict[str, Mapping[str, VersionConfig]] = {}
    for dataset, tables in document.items():
        found = _layout_problems(dataset, tables)
        if not found:
            versions[dataset], found = _check_dataset(dataset, tables)
        problems += found
    if problems:
        count = "one problem" if len(problems) == 1 else f"{len(problems)} problems"
        raise ConfigError(f"{source}: {count} to mend", problems)
    return Config(source=source, versions=versions)


def _layout_problems(dataset: str, tables: object) -> list[Problem]:
    """Names that cannot be file names, and keys that stand outside a version."""
    if not isinstance(tables, dict):
        message = f"expected tables [<data set>.default], [<data set>.v1], ..., found {_show(tables)}"
        return [Problem(where=dataset, message=message, kind="not_a_table")]
    problems = [] if _is_file_name(dataset) else [_bad_name(dataset)]
    for name, table in tables.items():
        place = f"{dataset}.{name}"
        if not isinstance(table, dict):
            message = f"stands outside a version; move it into [{dataset}.{DEFAULT_VERSION}]"
            problems.append(Problem(where=place, message=message, kind="not_a_table"))
        elif not _is_file_name(name):
            problems.append(_bad_name(place))
    return problems


def _is_file_name(name: str) -> bool:
    return name.isprintable() and name.strip(" .") == name and portable_name_problem(name) is None


def _bad_name(where: str) -> Problem:
    message = "the name is used for folders and files; use letters, digits, - and _"
    return Problem(where=repr(where), message=message, kind="bad_name")


def _check_dataset(
    dataset: str, tables: Mapping[str, Mapping[str, Any]]
) -> tuple[dict[str, VersionConfig], list[Problem]]:
    """A mistake in the defaults is reported once, there, and not again for every version."""
    defaults = tables.get(DEFAULT_VERSION, {})
    named = {name: table for name, table in tables.items() if name != DEFAULT_VERSION}
    placeholders: dict[str, Any] = {"model": "unet"}
    if any("n_class" in table for table in named.values()):
        placeholders["n_class"] = 2
    problems = _check({**placeholders, **defaults}, f"{dataset}.{DEFAULT_VERSION}")[1]
    reported = {problem.where.rsplit(".", 1)[-1] for problem in problems}
    versions: dict[str, VersionConfig] = {}
    for name, table in named.items():
        where = f"{dataset}.{name}"
        config, found = _check({**defaults, **table}, where)
        problems += [
            problem
            for problem in found
            if (key := problem.where.removeprefix(f"{where}.")) in table or key not in reported
        ]
        if config is not None:
            versions[name] = config
    return versions, problems


def _check(table: Mapping[str, Any], where: str) -> tuple[VersionConfig | None, list[Problem]]:
    try:
        return VersionConfig.model_validate(dict(table)), []
    except ValidationError as error:
        # one problem per key: both numbers of a bad `size` are one mistake
        found = [_explain(problem, table, where) for problem in problems_of(error)]
        return None, list({problem.where: problem for problem in found}.values())


def _explain(problem: Problem, table: Mapping[str, Any], where: str) -> Problem:
    key = problem.where.split(".")[0]
    place = f"{where}.{key}" if key else where
    if problem.kind == "extra_forbidden":
        return Problem(
            where=place,
            message=f"unknown key; {_choices(key, VersionConfig.model_fields)}",
            kind="unknown_key",
        )
    if problem.kind == "missing":
        message = "is missing and has no default"
        if key == "model":
            message += f"; one of {', '.join(get_args(Network))}"
        elif key == "n_class":
            message += "; it is the number of classes, and two or more"
        return Problem(where=place, message=message, kind="missing")
    message = problem.message[:1].lower() + problem.message[1:]
    near = (
        difflib.get_close_matches(table[key].lower(), get_args(Network), n=1)
        if key == "model" and isinstance(table.get(key), str)
        else []
    )
    hint = f"; did you mean {near[0]!r}?" if near else ""
    return Problem(where=place, message=f"{message}, found {_show(table.get(key))}{hint}", kind=problem.kind)


def _plain(value: object) -> str:
    """As Python writes it, whatever a checkpoint holds."""
    try:
        return repr(value)
    except (ValueError, RecursionError):  # of more digits, or deeper, than Python prints
        return f"a {type(value).__name__} that cannot be printed"


def _show(value: object) -> str:
    """As in the file, but short: Python refuses to print whole numbers of thousands of digits."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int) and value.bit_length() > 64:
        return f"a whole number of {value.bit_length()} bits"
    return reprlib.repr(value)


def _choices(name: str, known: Mapping[str, Any]) -> str:
    near = difflib.get_close_matches(name, known, n=1)
    listing = ", ".join(known) or "none"
    return f"did you mean {near[0]!r}? (known: {listing})" if near else f"known: {listing}"
