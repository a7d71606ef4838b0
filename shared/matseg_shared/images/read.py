"""Read micrographs exactly as they are stored, or say why not.

TIFFs are read with tifffile, everything else with Pillow. What would change values on the way (Pillow opens
16-bit colour PNGs as 8-bit without a word, tifffile hands out white-is-zero TIFFs inverted) is put right or refused.
"""

from __future__ import annotations

import io
import os
import re
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import Image, ImageChops

from matseg_shared.errors import ImageError, UsageError
from matseg_shared.images.channels import GREY, ChannelChoice, pick_channels
from matseg_shared.images.channels import PixelArray as PixelArray
from matseg_shared.images.limits import require_memory
from matseg_shared.images.stored import (
    ORIENTATION_TAG,
    StoredImage,
    check_orientation,
    drop_alpha,
    native,
    one_channel,
    transparent_pixels,
)
from matseg_shared.images.tiff import TIFF_SUFFIXES as TIFF_SUFFIXES
from matseg_shared.images.tiff import read_tiff
from matseg_shared.installation import install_command

IMAGE_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp"}) | TIFF_SUFFIXES
_NOTES = (".txt", ".hdr")
PIXEL_DTYPES = ("uint8", "uint16", "float32")
"""The dtypes a model can take."""

_PILLOW_WARNINGS = threading.Lock()
"""`catch_warnings` exchanges the filters of the whole process; readers run in several threads."""
_IN_MEMORY = re.compile(r"\s*<[^<>]* at 0x[0-9A-Fa-f]+>")
"""Address of an object, as decoders call streams: it tells a user nothing, and is another in every run."""


def natural_key(name: str) -> tuple[tuple[int, int, str], ...]:
    """Sort key that counts: `slice9` before `slice10`."""
    parts = re.split(r"([0-9]+)", name.casefold())
    return tuple((0, int(part), part) if part.isdecimal() else (1, 0, part) for part in parts if part)


def list_images(folder: Path) -> tuple[list[Path], list[Path]]:
    """(images, everything else) directly in `folder`, each in natural order.

    Hidden files are left out of both, and so are text files that microscopes write beside their pictures.

    Raises:
        UsageError: `folder` is not a folder that can be read.
    """
    images, others = scan_images(folder)
    return [folder / entry.name for entry in images], [folder / entry.name for entry in others]


def scan_images(folder: Path) -> tuple[list[os.DirEntry[str]], list[os.DirEntry[str]]]:
    """As `list_images`, with what the system told of each entry while it was listed.

    Raises:
        UsageError: `folder` is not a folder that can be read.
    """
    try:
        with os.scandir(folder) as found:
            entries = [entry for entry in found if not entry.name.startswith(".")]
    except OSError as error:
        raise UsageError(f"{folder}: expected a folder of images: {error.strerror or error}") from error
    entries.sort(key=lambda entry: (natural_key(entry.name), entry.name))
    images: list[os.DirEntry[str]] = []
    others: list[os.DirEntry[str]] = []
    for entry in entries:
        is_image = Path(entry.name).suffix.lower() in IMAGE_SUFFIXES and _is_file(entry)
        (images if is_image else others).append(entry)
    pictures = {name for entry in images for name in _names_beside(Path(entry.name))}
    return images, [entry for entry in others if entry.name.lower() not in pictures]


def _names_beside(picture: Path) -> Iterator[str]:
    """Names of the text files about a picture, lower case: `a.txt`, `a.hdr`, `a-tif.hdr`, `a.tif.txt` of `a.tif`."""
    for stem in (picture.stem, picture.name, f"{picture.stem}-{picture.suffix[1:]}"):
        yield from (f"{stem}{suffix}".lower() for suffix in _NOTES)


def _is_file(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_file()
    except OSError:  # a link in a circle
        return False


def read_image(path: Path, choice: ChannelChoice = ()) -> PixelArray:
    """The chosen channels of one image: (H, W) or (H, W, C); uint8, uint16 or float32. A palette is applied.

    Real pixels may be NaN, which is no data.

    Raises:
        ImageError: the file cannot be read without loss, holds something else than one image, or lacks a channel.
    """
    pixels = read_any_dtype(path, choice)
    if pixels.dtype.name not in PIXEL_DTYPES:
        raise ImageError(
            path,
            f"expected pixels of {', '.join(PIXEL_DTYPES[:-1])} or {PIXEL_DTYPES[-1]}, found {pixels.dtype}; "
            "convert it to one of these (the same way for every image of the set)",
        )
    refuse_infinite(pixels, path)
    return pixels


def refuse_infinite(pixels: PixelArray, path: Path | str) -> None:
    """Refuse with an ImageError (H, W) or (H, W, 3) pixels of which some are infinite."""
    if pixels.dtype.kind == "f" and np.isinf(pixels).any():
        places = np.argwhere(np.isinf(pixels))
        row, column = places[0][:2]
        raise ImageError(
            path,
            f"holds infinite pixels, {len(places)} of {pixels.size}, the first at row {row}, column {column}; replace "
            "them, with NaN where there are no data",
        )


def read_any_dtype(path: Path, choice: ChannelChoice = ()) -> PixelArray:
    """The chosen channels of an image as they are stored, (H, W) or (H, W, C), a palette applied.

    Raises:
        ImageError: the file cannot be read without loss, or lacks a channel.
    """
    stored = read_picture(path, keep_alpha=bool(choice) and choice != GREY)
    return pick_channels(apply_palette(path, stored), choice, path)


def apply_palette(path: Path, stored: StoredImage) -> PixelArray:
    """The colours of a palette image, the pixels of any other.

    Raises:
        ImageError: some of the colours are transparent.
    """
    if stored.palette is None:
        return stored.pixels
    if stored.transparent:
        raise transparent_pixels(path)
    return np.asarray(stored.palette, dtype=np.uint8)[stored.pixels]


def read_stored(path: Path) -> StoredImage:
    """Read a grey or RGB image as it is stored: of palette images, indices with their palette; used for label images.

    Raises:
        ImageError: as `read_image`.
    """
    stored = _read(path, pages_are_channels=False)
    if stored.pixels.ndim == 3 and stored.pixels.shape[-1] != 3:
        raise ImageError(path, f"expected a grey or RGB image, found pixels of shape {stored.pixels.shape}")
    return stored


def read_picture(path: Path, *, keep_alpha: bool = False) -> StoredImage:
    """Read an image of any number of channels, which may also be the pages of a TIFF, as it is stored.

    Raises:
        ImageError: as `read_image`.
    """
    return _read(path, pages_are_channels=True, keep_alpha=keep_alpha)


def _read(path: Path, *, pages_are_channels: bool, keep_alpha: bool = False) -> StoredImage:
    try:
        if path.suffix.lower() in TIFF_SUFFIXES:
            stored = read_tiff(path, pages_are_channels=pages_are_channels, keep_alpha=keep_alpha)
        else:
            stored = _read_with_pillow(path, keep_alpha=keep_alpha)
    except ImageError:
        raise
    except (FileNotFoundError, IsADirectoryError) as error:
        raise ImageError(path, "there is no such file") from error
    except MemoryError as error:
        raise ImageError(path, "is too large for the memory of this machine") from error
    except Exception as error:  # decoders raise whatever a damaged file makes them stumble over
        raise ImageError(path, decoding_problem(path, error)) from error
    if 0 in stored.pixels.shape:
        raise ImageError(path, f"holds no pixels: its shape is {stored.pixels.shape}")
    return stored


def decoding_problem(path: Path, error: Exception) -> str:
    """The refusal of a file that a decoder cannot read."""
    if "imagecodecs" in str(error):
        return f"its compression needs the extra `compressed-tiff`: {install_command('compressed-tiff')} ({error})"
    text = _IN_MEMORY.sub("", str(error)) or type(error).__name__
    return (
        f"expected a readable {path.suffix.lower().lstrip('.')} image, found a damaged file or another format "
        f"({text}); save it again from its source"
    )


def _read_with_pillow(path: Path, *, keep_alpha: bool) -> StoredImage:
    content = path.read_bytes()  # at once: Pillow asks for a few bytes at a time
    _check_png(path, content)
    with _open_with_pillow(content) as image:
        require_memory(
            path, (image.height, image.width, len(image.getbands())), 2 if "16" in image.mode else 1
        )
        if getattr(image, "n_frames", 1) != 1:
            raise ImageError(path, f"expected one image, found an animation of {image.n_frames} frames")  # type: ignore[attr-defined]
        image.load()
        with _no_warnings():
            orientation = int(image.getexif().get(ORIENTATION_TAG, 1))
        check_orientation(path, orientation)
        if image.mode == "P":
            return _palette_image(image)
        _refuse_transparent_key(path, image, content)
        if image.mode not in ("1", "L", "LA", "RGB", "RGBA", "I;16", "I;16B", "I;16L"):
            raise ImageError(path, f"expected a grey or RGB image, found the colour mode {image.mode!r}")
        if image.mode == "RGB":
            return StoredImage(pixels=_rgb_pixels(image))
        pixels = np.array(image.convert("L") if image.mode == "1" else image)
        if image.mode in ("LA", "RGBA") and not keep_alpha:
            pixels = drop_alpha(path, pixels)
    return StoredImage(pixels=one_channel(native(pixels)))


def _check_png(path: Path, content: bytes) -> None:
    """Refuse what Pillow would read from a PNG without a word: other pixels than were written, 16 bits as 8."""
    with _open_with_pillow(content) as image:
        if image.format != "PNG":
            return
        depth, colour = content[24], content[25]
        if depth == 16 and colour != 0:
            raise ImageError(
                path,
                "is a PNG of 16 bits per colour channel, which would be read as 8 bits; save it as a TIFF",
            )
        try:
            image.verify()
        except (OSError, SyntaxError) as error:
            what = "is not whole" if isinstance(error, OSError) else "has changed since it was written"
            raise ImageError(path, f"{what} ({error}); copy or save it again from its source") from error


@contextmanager
def _no_warnings() -> Iterator[None]:
    """Silence Pillow on large images, for which its hard limit still holds, and on EXIF data that nobody needs here."""
    with _PILLOW_WARNINGS, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _open_with_pillow(content: bytes) -> Image.Image:
    """Only formats that are read as they are stored: a TIFF named .png would lose its depth or its sign."""
    with _no_warnings():
        return Image.open(io.BytesIO(content), formats=("PNG", "JPEG", "BMP"))


def _rgb_pixels(image: Image.Image) -> PixelArray:
    """(H, W, 3); of an image whose channels are equal one is kept, which a read-only array shows three times.

    So grey stored as RGB, as tomography often is, costs a third of the memory, and `is_grey` need not look again.
    """
    red, green, blue = image.split()
    if any(ImageChops.difference(red, other).getbbox() for other in (green, blue)):
        return np.array(image)
    return np.broadcast_to(np.asarray(red)[..., np.newaxis], (image.height, image.width, 3))


def _palette_image(image: Image.Image) -> StoredImage:
    flat = image.getpalette("RGB") or []
    palette = [(flat[i], flat[i + 1], flat[i + 2]) for i in range(0, len(flat), 3)]
    indices = np.array(image)
    palette += [(0, 0, 0)] * (int(indices.max(initial=0)) + 1 - len(palette))
    clear = "transparency" in image.info and (np.asarray(image.convert("RGBA"))[..., 3] < 255).any()
    return StoredImage(pixels=indices, palette=tuple(palette), transparent=bool(clear))


def _refuse_transparent_key(path: Path, image: Image.Image, content: bytes) -> None:
    """Grey and RGB PNGs may name one value that is transparent, in as few bits as they have (PNG, section 11.3.2.1)."""
    key = image.info.get("transparency")
    if key is None or isinstance(key, bytes):
        return
    if image.mode == "L" and content[24] in (2, 4):
        key *= 255 // ((1 << content[24]) - 1)  # as Pillow spreads the pixels
    pixels = np.asarray(image.convert("L") if image.mode == "1" else image)
    if np.all(pixels.reshape(*image.size[::-1], -1) == key, axis=-1).any():
        raise transparent_pixels(path)


def check_dtype(pixels: PixelArray, dtype: str, path: Path | str) -> None:
    """Refuse pixels of another dtype than the model's.

    Raises:
        ImageError: naming both dtypes and the mapping that `matseg-run --window` offers.
    """
    if pixels.dtype.name != dtype:
        known = pixels[np.isfinite(pixels)]
        span = f"{known.min():g} to {known.max():g}" if known.size else "nothing"
        raise ImageError(
            path,
            f"has {pixels.dtype} pixels, this model takes {dtype}; map them with --window LO,HI, the intensities "
            f"that become the model's darkest and brightest (this image spans {span}), the same for a "
            "whole volume",
        )
