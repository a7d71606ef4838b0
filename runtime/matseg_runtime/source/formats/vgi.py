"""Volumes of VGStudio and of phoenix scanners: a text file `.vgi`, and the pixels beside it in a `.vol`."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np

from matseg_runtime.source.array import ArraySource
from matseg_runtime.source.base import SourceOptions
from matseg_runtime.source.formats.pixels import FilePixels, array_source, data_file, reading, text_header
from matseg_shared.errors import UsageError

_TYPES = {"unsigned integer": "u", "signed integer": "i", "integer": "i", "float": "f"}


def open_vgi(location: str, options: SourceOptions) -> ArraySource:
    """Open the one volume of a `.vgi`; of a `.vol` the `.vgi` of the same name beside it.

    Raises:
        UsageError: the header is missing or damaged, or does not fit the file of its pixels.
    """
    path = Path(location)
    header = path if path.suffix.lower() == ".vgi" else path.with_suffix(".vgi")
    if not header.is_file():
        raise UsageError(
            f"{path}: expected {header.name} beside it, which tells its size and data type; bring it, or say both with "
            "--raw ZxYxX,DTYPE"
        )
    with reading(header, "a header of VGStudio (.vgi)"):
        text, _ = text_header(header, rb"\Z")
        names = re.findall(r"(?im)^\s*\[(file\d*)\]", text)
        if len(names) != 1:
            raise UsageError(f"{header}: expected a volume of one file, found {len(names)}; save it as one")
        sections = _sections(text)
        file = sections[names[0].lower()]
        shape = tuple(int(length) for length in file["size"].split())[::-1]
        if len(shape) != 3 or file.get("fileformat", "raw").lower() != "raw":
            raise ValueError(f"Size = {file['size']}, FileFormat = {file.get('fileformat')}")
        bits = int(file["bitsperelement"])
        if bits not in (8, 16, 32, 64):
            raise ValueError(f"BitsPerElement = {bits}")
        dtype = np.dtype(f"<{_TYPES[file['datatype'].lower()]}{bits // 8}")
        data = data_file(header, file["name"], options)
        skip = int(file.get("skipheader", "0"))
        array = FilePixels(data, shape, dtype, offset=skip, described_by=header)
        geometry = sections.get("geometry", {})
        edges = [float(edge) for edge in geometry.get("resolution", "").split()]
        return array_source(
            "vgi",
            path,
            array,
            options,
            data=data,
            edges=edges[::-1],
            units=[geometry.get("unit")] * len(edges),
            axis_names=("z", "y", "x"),
        )


def _sections(text: str) -> dict[str, dict[str, str]]:
    """The keys and values of each `[section]`, all names in lower case; `{groups}` of sections are ignored."""
    found: dict[str, dict[str, str]] = {"": {}}
    name = ""
    for line in map(str.strip, text.splitlines()):
        if line[:1] + line[-1:] == "[]":
            name = line[1:-1].lower()
            found.setdefault(name, {})
        key, is_pair, value = line.partition("=")
        if is_pair:
            found[name].setdefault(key.strip().lower(), value.strip())
    return found
