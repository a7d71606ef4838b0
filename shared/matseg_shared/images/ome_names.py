"""Other files that an OME-TIFF names as parts of itself, which tifffile opens when it looks at the file's series."""

from __future__ import annotations

from typing import TYPE_CHECKING
from xml.etree import ElementTree

from matseg_shared.system.names import name_problem, printable

if TYPE_CHECKING:
    from tifffile import TiffFile


def foreign_file_problem(tiff: TiffFile) -> str | None:
    """The refusal of a file that names one elsewhere as a part of itself; None where it does not.

    The OME model knows names beside the file only; with a path in its place, a file could have any other opened.
    """
    text = tiff.ome_metadata
    if not text:
        return None
    try:
        root = ElementTree.fromstring(text)
    except ElementTree.ParseError:  # then tifffile makes nothing of it either
        return None
    names = (item.attrib["FileName"] for item in root.iter() if item.attrib.get("FileName"))
    name = next((name for name in names if name_problem(name) is not None), None)
    if name is None:
        return None
    return (
        f"its OME-XML says that planes of it are in {printable(name)}, expected names of files beside it; save it as "
        "one plain stack"
    )
