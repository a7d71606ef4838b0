"""The colour space of a TIFF page: grey or colours as they are meant, or a refusal.

A TIFF says so in its tag PhotometricInterpretation. Decoders hand out the numbers whatever it says, and lightness and
two colour differences, or cyan, magenta and yellow, would pass for red, green and blue.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from matseg_shared.errors import ImageError
from matseg_shared.images.palette import Colour

if TYPE_CHECKING:
    from tifffile import TiffPage

_WHITE_IS_ZERO, _BLACK_IS_ZERO, _RGB, _PALETTE, _YCBCR = 0, 1, 2, 3, 6
_ORIENTATION_TAG = 274
_ALPHA = (1, 2)
"""Associated, unassociated: values of the tag ExtraSamples."""
_TURNED_TO_RGB = (6, 7, 33007, 34892)
"""Compressions, all of them JPEG, of which tifffile decodes YCbCr to RGB."""
_SCALABLE_BITS = (2, 4)
"""Whose values spread evenly over 0 to 255, as PNGs of so few bits are read."""


def check_colours(path: Path, page: TiffPage) -> None:
    """Refuse colour spaces other than grey, RGB and palettes.

    Raises:
        ImageError: naming the colour space.
    """
    found = int(page.photometric)
    if found == _YCBCR and int(page.compression) in _TURNED_TO_RGB:
        return
    if found not in (_WHITE_IS_ZERO, _BLACK_IS_ZERO, _RGB, _PALETTE):
        name = getattr(page.photometric, "name", found)
        raise ImageError(
            path,
            f"expected grey, RGB or palette pixels, found the colour space {name}; save it as grey or RGB",
        )
    if found == _PALETTE and page.colormap is None:
        raise ImageError(path, "says that it has a palette and holds none; save it again from its source")


def palette_of(page: TiffPage) -> tuple[Colour, ...] | None:
    """RGB, 0 to 255, of each index of a palette page, else None.

    Colour maps have 16 bits; some programs write 8, which as 16 would all be black (libtiff reads them alike).
    """
    if int(page.photometric) != _PALETTE or page.colormap is None:
        return None
    colours: NDArray[np.integer[Any]] = page.colormap if page.colormap.max() < 256 else page.colormap >> 8
    return tuple((int(r), int(g), int(b)) for r, g, b in colours.T)


def as_meant(path: Path, page: TiffPage, pixels: NDArray[Any]) -> NDArray[Any]:
    """The pixels with black as zero, and few bits spread over 0 to 255; indices of a palette as they are.

    More than eight bits are left alone: a camera's 12 bits are counts of 0 to 4095 wherever they are stored.

    Args:
        path: named in errors.
        page: `pixels` were decoded from.
        pixels: of any shape.

    Raises:
        ImageError: signed or real pixels of which white is zero, or a number of bits that cannot be spread.
    """
    bits = 8 * pixels.itemsize if pixels.dtype == np.bool_ else int(page.bitspersample)
    if int(page.photometric) == _PALETTE:
        return pixels.astype(np.uint8) if pixels.dtype == np.bool_ else pixels
    if pixels.dtype == np.bool_:
        pixels = pixels.astype(np.uint8) * np.uint8(255)
    elif pixels.dtype == np.uint8 and bits in _SCALABLE_BITS:
        pixels = pixels * np.uint8(255 // ((1 << bits) - 1))
        bits = 8
    elif pixels.dtype == np.uint8 and bits != 8:
        raise ImageError(
            path, f"has {bits} bits per pixel, which cannot be spread over 8; save it with 8 bits"
        )
    if not is_inverted(page):
        return pixels
    if pixels.dtype.kind != "u":
        raise ImageError(
            path,
            f"says of its {pixels.dtype} pixels that zero is white, which has a meaning for unsigned integers only; "
            "save it with black as zero",
        )
    inverted: NDArray[Any] = pixels.dtype.type((1 << bits) - 1) - pixels
    return inverted


def unlike_its_bytes(page: TiffPage) -> str | None:
    """The reason that a page's bytes are not its pixels as they are meant, for a person; None: they are.

    For readers that map a file into memory instead of decoding its pages.
    """
    orientation = page.tags.get(_ORIENTATION_TAG)
    if orientation is not None and int(orientation.value) not in (0, 1):
        return f"a rotation flag (orientation {int(orientation.value)})"
    if int(page.photometric) not in (_BLACK_IS_ZERO, _RGB):
        return f"the colour space {getattr(page.photometric, 'name', page.photometric)}"
    if has_alpha(page) or (is_colour(page) and page.extrasamples):
        return "an alpha channel"
    return None


def is_inverted(page: TiffPage) -> bool:
    """True where a page says that zero is white."""
    return int(page.photometric) == _WHITE_IS_ZERO


def is_colour(page: TiffPage) -> bool:
    """True where the first samples of a page are red, green and blue."""
    return int(page.photometric) in (_RGB, _YCBCR)


def has_alpha(page: TiffPage) -> bool:
    """True where a page says that its last sample is an alpha channel; more samples alone are channels."""
    return bool(page.extrasamples) and int(page.extrasamples[-1]) in _ALPHA
