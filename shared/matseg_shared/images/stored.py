"""One image as its file holds it, whatever decoded it: byte order, upright rows, alpha."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from matseg_shared.errors import ImageError
from matseg_shared.images.channels import PixelArray
from matseg_shared.images.palette import Colour

ORIENTATION_TAG = 274
_TRANSPARENT = "has transparent pixels, whose value nobody can know; save it without alpha"


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class StoredImage:
    """One image as the file holds it."""

    pixels: PixelArray
    """(H, W) or (H, W, C); for a palette image the indices. An alpha channel is dropped when it is opaque."""
    palette: tuple[Colour, ...] | None = None
    """RGB of each index of a palette image, else None."""
    transparent: bool = False
    """True when pixels of a palette image have an index whose colour is transparent."""
    inverted: bool = False
    """True when the file says that zero is white, and holds the complements of these pixels, of 8 or 16 bits."""


def transparent_pixels(path: Path) -> ImageError:
    """The refusal of an image with transparent pixels."""
    return ImageError(path, _TRANSPARENT)


def native(pixels: PixelArray) -> PixelArray:
    """The same pixels in the byte order of this machine."""
    return pixels.astype(pixels.dtype.newbyteorder("="), copy=False)


def check_orientation(path: Path, orientation: int) -> None:
    if orientation not in (0, 1):
        raise ImageError(
            path,
            f"carries a rotation flag (orientation {orientation}), so its stored rows are not its upright rows; "
            "save it upright without the flag",
        )


def is_opaque(alpha: PixelArray) -> bool:
    return bool((alpha == (np.iinfo(alpha.dtype).max if alpha.dtype.kind == "u" else 1)).all())


def drop_alpha(path: Path, pixels: PixelArray) -> PixelArray:
    if not is_opaque(pixels[..., -1]):
        every = ",".join(map(str, range(pixels.shape[-1])))
        raise ImageError(
            path,
            f"{_TRANSPARENT} (if that is one more channel of a picture, take all with --channels {every})",
        )
    return pixels[..., :-1]


def one_channel(pixels: PixelArray) -> PixelArray:
    return pixels[..., 0] if pixels.ndim == 3 and pixels.shape[-1] == 1 else pixels
