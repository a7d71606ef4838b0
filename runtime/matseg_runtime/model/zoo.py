"""The models zoo: trained models by name, `zoo:NAME` wherever a command takes a model file.

The index travels with the program, the models do not (they would make the wheel many times as large); they are looked
for on this machine only, and a file is used only when it is the very one that the index of this version names.
"""

from __future__ import annotations

import importlib.metadata
import os
from collections.abc import Iterator
from importlib import resources
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from matseg_runtime.model.trust import HasSha256
from matseg_shared.console.help import did_you_mean
from matseg_shared.contract.metadata import Precision, Views, graph_kind
from matseg_shared.errors import ModelError, UsageError

PREFIX = "zoo:"
MODEL_NAME = "model.onnx"
ZOO_VARIABLE = "MATSEG_ZOO"
FOLDER_NAME = "models_zoo"
INDEX_NAME = "zoo_index.json"


class ZooModel(BaseModel):
    """One model of the zoo, as the index has it; all of it is repeated from the model file's own metadata."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9-]*$")
    summary: str
    """Its use, in half a sentence."""
    dataset: str
    version: str
    network: str
    precision: Precision
    tta: Views = 1
    """Views whose mean it gives; 1: no test-time augmentation."""
    classes: tuple[str, ...]
    """Names in the order of the indices."""
    channels: int
    dtype: str
    """Pixel type that it takes."""
    bytes: int = Field(ge=1)
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    """SHA-256 of the whole file."""

    @property
    def kind(self) -> str:
        """Network and how its graph computes, for a table."""
        return f"{self.network}, {graph_kind(self.precision, self.tta)}"

    @property
    def file(self) -> str:
        """Its path in a zoo's folder, the same on all machines."""
        return f"{self.name}/{MODEL_NAME}"


class ZooIndex(BaseModel):
    """All models of the zoo, by name."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    schema_version: Literal[1] = 1
    models: tuple[ZooModel, ...]

    def model(self, name: str) -> ZooModel:
        """The model of that name, or a UsageError with all names and the nearest."""
        models = {item.name: item for item in self.models}
        if name in models:
            return models[name]
        names = list(models)
        listing = f"the zoo has {', '.join(names) or 'no model yet'}"
        if not name:
            raise UsageError(f"{PREFIX}: expected the name of a model, as in {PREFIX}NAME; {listing}")
        hint = did_you_mean(name, names, f"; did you mean {PREFIX}{{}}?")
        raise UsageError(f"{PREFIX}{name}: there is no such model in the zoo{hint}; {listing}")


def read_index() -> ZooIndex:
    """The index that this version of the program carries; a ModelError where the installation is damaged."""
    source = resources.files("matseg_runtime").joinpath(INDEX_NAME)
    try:
        return ZooIndex.model_validate_json(source.read_bytes())
    except (OSError, ValidationError) as error:
        raise ModelError(
            f"{source}: expected the index of the models zoo, found a missing or damaged file; install matseg again"
        ) from error


def choose_zoo_model(name: str) -> tuple[Path, HasSha256]:
    """The file of a model of the zoo on this machine, and what it must prove when it is read.

    Raises:
        UsageError: the zoo has no model of that name, or MATSEG_ZOO names no folder.
        ModelError: the model is not on this machine.
    """
    wanted, release = read_index().model(name), importlib.metadata.version("matseg")
    found = find(wanted)
    if found is None:
        raise ModelError(
            f"{PREFIX}{name}: its file is not on this machine; copy {FOLDER_NAME}/{wanted.file} "
            f"({wanted.bytes / 1e6:.1f} MB, SHA-256 {wanted.sha256}) of MatSeg's source repository, release {release}, "
            f"to {user_folder() / wanted.file}, or set {ZOO_VARIABLE} to the folder that holds {wanted.file}"
        )
    refusal = (
        f"expected the model {PREFIX}{name} of matseg {release} (SHA-256 {wanted.sha256}), found another file (SHA-256 "
        f"{{found}}); copy {FOLDER_NAME}/{wanted.file} of that release there, or name the file by its path instead of "
        f"{PREFIX}{name} if it is the one you want"
    )
    return found, HasSha256(sha256=wanted.sha256, source=f"{PREFIX}{name}", refusal=refusal)


def find(model: ZooModel) -> Path | None:
    """The first file in `places` that stands where this model should; it may be another one."""
    return next((path for place in places() if (path := place / model.file).is_file()), None)


def places() -> Iterator[Path]:
    """Folders that may hold models: MATSEG_ZOO (a UsageError where it is none), a source checkout's, the user's."""
    if variable := os.environ.get(ZOO_VARIABLE):
        if not Path(variable).is_dir():
            raise UsageError(
                f"{variable}: expected the folder of a models zoo that {ZOO_VARIABLE} names, found none; name a folder "
                f"that holds <name>/{MODEL_NAME}, or unset the variable"
            )
        yield Path(variable)
    if (checkout := checkout_root()) is not None:
        yield checkout / FOLDER_NAME
    yield user_folder()


def checkout_root() -> Path | None:
    """The source checkout that this module is run from; None when the program was installed from a wheel."""
    package = Path(__file__).resolve().parent
    root = package.parents[2]
    return root if package.parents[1].name == "runtime" and (root / FOLDER_NAME).is_dir() else None


def user_folder() -> Path:
    """The folder for a user's own copies of the zoo's models: `~/.local/share/matseg/models_zoo` on Linux."""
    import platformdirs

    return platformdirs.user_data_path("matseg", appauthor=False) / FOLDER_NAME
