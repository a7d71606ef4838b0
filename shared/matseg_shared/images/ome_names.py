"""Names in OME-TIFFs: channels, and other files as parts of themselves, which tifffile opens to know the series."""

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
    if (root := _document(tiff)) is None:
        return None
    names = (item.attrib["FileName"] for item in root.iter() if item.attrib.get("FileName"))
    name = next((name for name in names if name_problem(name) is not None), None)
    if name is None:
        return None
    return (
        f"its OME-XML says that planes of it are in {printable(name)}, expected names of files beside it; save it as "
        "one plain stack"
    )


def ome_channel_names(tiff: TiffFile) -> tuple[str, ...]:
    """Names of the channels of its first image, those that have one."""
    pixels = ome_pixels(tiff)
    channels = () if pixels is None else pixels.findall("{*}Channel")
    return tuple(channel.attrib["Name"] for channel in channels if channel.attrib.get("Name"))


def ome_pixels(tiff: TiffFile) -> ElementTree.Element | None:
    """The element that describes its first image; None where there is none."""
    root = _document(tiff)
    return None if root is None else root.find(".//{*}Pixels")


def _document(tiff: TiffFile) -> ElementTree.Element | None:
    text = tiff.ome_metadata
    if not text:
        return None
    try:
        return ElementTree.fromstring(text)
    except ElementTree.ParseError:  # then tifffile makes nothing of it either
        return None
