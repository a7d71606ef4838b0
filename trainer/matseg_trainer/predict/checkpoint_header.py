"""What a checkpoint says about its training, read without torch and without its weights.

A checkpoint is a zip archive in which `<name>/data.pkl` is a pickle of plain values, with references to the tensors'
bytes beside it. Here every reference becomes None, and no class or function that the pickle names is ever looked up.
"""

from __future__ import annotations

import io
import pickle
import pickletools
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from matseg_shared.contract.metadata import TrainingInfo
from matseg_shared.errors import ModelError

_LARGEST_PICKLE = 64 << 20


class _Reader(pickle._Unpickler):
    """Plain values only.

    Python's own unpickler, not the faster one in C: that one makes room for 2**32 values when eight bytes ask it to.
    """

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("collections", "OrderedDict"):
            return OrderedDict
        return _nothing

    def persistent_load(self, _: object) -> None:
        """A tensor's bytes; nobody asks for them here."""


def require_plain_archive(path: Path) -> None:
    """Refuse an archive that unpacks to more than it is: torch stores tensors as they are, and would unpack any.

    Raises:
        ValueError: a member is compressed, or they overlap.
        OSError, zipfile.BadZipFile: it cannot be read as an archive.
    """
    with zipfile.ZipFile(path) as archive:
        members = archive.infolist()
    if any(member.compress_type != zipfile.ZIP_STORED for member in members):
        raise ValueError("its tensors are compressed, which torch does not do")
    if sum(member.file_size for member in members) > path.stat().st_size:
        raise ValueError("its tensors overlap")


def _nothing(*_: object) -> None:
    """Stands for whatever a pickle wants to call."""


def _require_honest_sizes(content: bytes) -> None:
    """Python makes room for as many values as the number of one of them says, billions in six bytes.

    Raises:
        ValueError: there are fewer bytes than values.
    """
    for opcode, argument, _ in pickletools.genops(content):
        if opcode.name in ("PUT", "LONG_BINPUT") and isinstance(argument, int) and argument > len(content):
            raise ValueError(f"value {argument} of a pickle of {len(content)} bytes")


def read_training(path: Path) -> TrainingInfo:
    """Where a checkpoint's weights come from.

    Raises:
        ModelError: the file cannot be read, or is no checkpoint of matseg-train.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            name = next(name for name in archive.namelist() if name.endswith("/data.pkl"))
            if archive.getinfo(name).file_size > _LARGEST_PICKLE:
                raise ValueError("oversized")
            with archive.open(name) as stream:
                # `read` without a length unpacks more than was declared
                content = stream.read(_LARGEST_PICKLE + 1)
        _require_honest_sizes(content)
        document = _Reader(io.BytesIO(content)).load()
        return TrainingInfo.model_validate(document["training"])
    except ValidationError as error:
        raise ModelError(f"{path}: its description is not valid; train this version again") from error
    except OSError as error:
        raise ModelError(f"{path}: the checkpoint cannot be read: {error.strerror or error}") from error
    except Exception as error:  # zipfile and pickle raise many kinds for damaged files
        raise ModelError(
            f"{path}: expected a checkpoint written by matseg-train, found a damaged or foreign file"
        ) from error
