"""Pictures of which every channel is a file of its own, found by a pattern such as `*_{Fe,Ni,Cr}.tif`."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from matseg_shared.contract.metadata import MAX_CHANNELS
from matseg_shared.errors import ImageError, UsageError
from matseg_shared.images.channels import PixelArray
from matseg_shared.images.read import read_any_dtype


@dataclass(frozen=True, slots=True)
class ChannelFiles:
    """The names of such files: `*` is the picture, what stands in braces are the channels in their order."""

    before: str
    channels: tuple[str, ...]
    after: str

    @classmethod
    def parse(cls, text: str) -> ChannelFiles:
        """Read a pattern, or raise a UsageError."""
        match = re.fullmatch(r"([^{}/\\]*)\{([^{}/\\*]+)\}([^{}/\\]*)", text)
        names = tuple(part.strip() for part in match[2].split(",")) if match else ()
        are_names = 1 < len(names) == len(set(names)) <= MAX_CHANNELS and all(names)
        if match is None or (match[1] + match[3]).count("*") != 1 or not are_names:
            raise UsageError(
                f"{text}: expected a pattern with one * for the picture and its 2 to {MAX_CHANNELS} channels in "
                "braces, such as '*_{Fe,Ni,Cr}.tif'"
            )
        return cls(match[1], names, match[3])

    def __str__(self) -> str:
        return f"{self.before}{{{','.join(self.channels)}}}{self.after}"

    def group(self, folder: Path, names: Iterable[str]) -> dict[str, tuple[Path, ...]]:
        """Per picture, by what stands for `*`, the files of its channels in the pattern's order, missing ones too.

        Args:
            folder: that the files are in.
            names: of all its images; those that do not fit are left out.
        """
        kinds = "|".join(re.escape(name) for name in self.channels)
        parts = (re.escape(part).replace(r"\*", "(?P<picture>.+)") for part in (self.before, self.after))
        fitting = re.compile(f"(?:{kinds})".join(parts))
        found = (fitting.fullmatch(name) for name in names)
        pictures = dict.fromkeys(match["picture"] for match in found if match is not None)
        return {picture: self._files(folder, picture) for picture in pictures}

    def _files(self, folder: Path, picture: str) -> tuple[Path, ...]:
        before, after = (part.replace("*", picture) for part in (self.before, self.after))
        return tuple(folder / f"{before}{channel}{after}" for channel in self.channels)


def read_channel_files(files: Sequence[Path]) -> PixelArray:
    """(H, W, C) of one picture, a channel of each file.

    Raises:
        ImageError: one cannot be read, is no grey image, or is unlike the first.
    """
    planes = [read_any_dtype(file, "grey") for file in files]
    for file, plane in zip(files, planes, strict=True):
        if (plane.shape, plane.dtype) != (planes[0].shape, planes[0].dtype):
            expected, found = (f"{one.shape[0]} x {one.shape[1]} {one.dtype}" for one in (planes[0], plane))
            raise ImageError(file, f"expected {expected} as in {files[0].name}, found {found}")
    return np.stack(planes, axis=-1)
