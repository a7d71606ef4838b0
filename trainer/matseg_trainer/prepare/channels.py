"""Pictures of several channels out of files of one channel each."""

from __future__ import annotations

from pathlib import Path

from matseg_shared.console.progress import Progress
from matseg_shared.errors import ImageError, UsageError
from matseg_shared.images.channel_files import ChannelFiles, read_channel_files
from matseg_shared.images.read import PIXEL_DTYPES, list_images
from matseg_shared.images.tiff import write_channels
from matseg_shared.system.files import atomic_write
from matseg_trainer.data.folder import shorten


def stack_channels(
    folder: Path, target: Path, pattern: ChannelFiles, *, overwrite: bool, progress: Progress
) -> list[Path]:
    """Write a TIFF per picture, in which ImageJ shows the channels by their names.

    Raises:
        UsageError: no file fits the pattern, or a picture is there already.
        ImageError: a channel is missing, or unlike the others.
        OutputError: a picture cannot be written.
    """
    images = list_images(folder)[0]
    pictures = pattern.group(folder, [image.name for image in images])
    if not pictures:
        raise UsageError(
            f"{folder}: expected files named {pattern}, found {shorten([image.name for image in images]) or 'no image'}"
        )
    paths = {target / f"{picture}.tif": files for picture, files in pictures.items()}
    there = [path.name for path in paths if path.exists()]
    if there and not overwrite:
        raise UsageError(f"{target}: has {shorten(there)} already; replace them with --overwrite")
    progress.stage("stacking channels", len(paths), unit="images")
    target.mkdir(parents=True, exist_ok=True)
    for path, files in paths.items():
        pixels = read_channel_files(files)
        if pixels.dtype.name not in PIXEL_DTYPES:
            raise ImageError(files[0], f"expected pixels of {', '.join(PIXEL_DTYPES)}, found {pixels.dtype}")
        with atomic_write(path) as stream:
            write_channels(stream, pixels, pattern.channels)
        progress.advance()
    return list(paths)
