"""Write images into a folder in all the ways in which detectors, reconstructions and people do, good and bad.

    python benchmarks/_soak_writer.py FOLDER --seconds 60 --rate 3 --seed 0

Each image is its own little story, told at its own pace. At the end all stories are over: what lies in the folder
then is final. Prints as JSON how many of each there were, and which names were given up.
"""

from __future__ import annotations

import argparse
import heapq
import io
import json
import random
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import tifffile
from numpy.typing import NDArray
from PIL import Image

Story = Iterator[float]
"""Does something, then waits for so many seconds, until it is over."""


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seconds", type=float, required=True)
    parser.add_argument("--rate", type=float, default=3, help="images a second")
    parser.add_argument("--patience", type=float, default=20, help="longest pause of a story in seconds")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    writer = Writer(folder=options.folder, dice=random.Random(options.seed), patience=options.patience)
    tell(writer, options.seconds, options.rate)
    print(json.dumps({"stories": dict(sorted(writer.told.items())), "given_up": sorted(writer.given_up)}))


def tell(writer: Writer, seconds: float, rate: float) -> None:
    """Begin stories for so long, and go on until all are over."""
    started = time.monotonic()
    waiting: list[tuple[float, int, Story]] = []
    due, number = 0.0, 0
    while waiting or due < seconds:
        if due < seconds and (not waiting or due <= waiting[0][0]):
            when, story = due, writer.begin(number)
            number, due = number + 1, due + writer.dice.expovariate(rate)
        else:
            when, _, story = heapq.heappop(waiting)
        time.sleep(max(0.0, started + when - time.monotonic()))
        pause = next(story, None)
        if pause is not None:
            heapq.heappush(waiting, (time.monotonic() - started + pause, id(story), story))


@dataclass(kw_only=True)
class Writer:
    """The stories; each touches files of its own only."""

    folder: Path
    dice: random.Random
    patience: float
    """Longest pause in seconds."""
    told: Counter[str] = field(default_factory=Counter)
    given_up: set[str] = field(default_factory=set)
    """Stems of images that were there for a while."""

    def begin(self, number: int) -> Story:
        """A story for image `number`."""
        tellers: dict[Callable[[Path, bytes], Story], int] = {
            self.renamed_into_place: 50,
            self.at_once: 10,
            self.in_pieces: 10,
            self.reserved_then_filled: 6,
            self.broken_then_mended: 5,
            self.broken_for_ever: 1,
            self.renamed_later: 4,
            self.deleted: 4,
            self.replaced_by_rename: 4,
            self.replaced_in_place: 4,
            self.away_for_a_moment: 2,
        }
        tell = self.dice.choices(list(tellers), list(tellers.values()))[0]
        self.told[tell.__name__] += 1
        if number % 100 == 99:
            self.told["something_else"] += 1
            (self.folder / f"log{number:06}.txt").write_text("beam on\n")
        suffix = ".tif" if tell == self.reserved_then_filled else self.dice.choice([".png", ".tif", ".bmp"])
        return tell(self.folder / f"s{number:06}{suffix}", self.content(suffix))

    def renamed_into_place(self, path: Path, content: bytes) -> Story:
        hidden = path.with_name(f".{path.name}.part")
        hidden.write_bytes(content)
        yield self.pause(0.05)
        hidden.rename(path)

    def at_once(self, path: Path, content: bytes) -> Story:
        path.write_bytes(content)
        yield 0

    def in_pieces(self, path: Path, content: bytes) -> Story:
        cuts = sorted(self.dice.randrange(len(content)) for _ in range(self.dice.randint(1, 5)))
        for start, stop in zip([0, *cuts], [*cuts, len(content)], strict=True):
            with path.open("ab") as stream:
                stream.write(content[start:stop])
            yield self.pause(0.1)

    def reserved_then_filled(self, path: Path, content: bytes) -> Story:
        """As with a memory-mapped TIFF: right in size and header from the start, and black."""
        with tifffile.TiffFile(io.BytesIO(content)) as tiff:
            start = tiff.pages[0].dataoffsets[0]  # type: ignore[union-attr]
        path.write_bytes(content[:start] + bytes(len(content) - start))
        yield self.pause()
        half = (start + len(content)) // 2
        for first, last in ((start, half), (half, len(content))):
            with path.open("r+b") as stream:
                stream.seek(first)
                stream.write(content[first:last])
            yield self.pause(0.1)

    def broken_then_mended(self, path: Path, content: bytes) -> Story:
        path.write_bytes(content[: len(content) // 2])
        yield self.pause()
        path.write_bytes(content)

    def broken_for_ever(self, path: Path, content: bytes) -> Story:
        path.write_bytes(content[: len(content) // 2])
        yield 0

    def renamed_later(self, path: Path, content: bytes) -> Story:
        path.write_bytes(content)
        yield self.pause()
        path.rename(path.with_name(f"r{path.name}"))
        self.given_up.add(path.stem)

    def deleted(self, path: Path, content: bytes) -> Story:
        path.write_bytes(content)
        yield self.pause()
        path.unlink()
        self.given_up.add(path.stem)

    def replaced_by_rename(self, path: Path, content: bytes) -> Story:
        path.write_bytes(content)
        yield self.pause()
        hidden = path.with_name(f".{path.name}.part")
        hidden.write_bytes(self.content(path.suffix))
        hidden.replace(path)

    def replaced_in_place(self, path: Path, content: bytes) -> Story:
        path.write_bytes(content)
        yield self.pause()
        path.write_bytes(self.content(path.suffix))

    def away_for_a_moment(self, path: Path, content: bytes) -> Story:
        path.write_bytes(content)
        yield self.pause(0.2)
        hidden = path.with_name(f".{path.name}.away")
        path.rename(hidden)
        yield self.pause(0.2)
        hidden.rename(path)

    def pause(self, share: float = 1.0) -> float:
        """Seconds, often short."""
        return self.patience * share * self.dice.random() ** 2

    def content(self, suffix: str) -> bytes:
        """A grey image of random size, as a file."""
        stream = io.BytesIO()
        pixels = self.pixels()
        if suffix == ".tif":
            tifffile.imwrite(stream, pixels, photometric="minisblack")
        else:
            Image.fromarray(pixels).save(stream, {".png": "PNG", ".bmp": "BMP"}[suffix])
        return stream.getvalue()

    def pixels(self) -> NDArray[np.uint8]:
        """Blobs in noise."""
        rng = np.random.default_rng(self.dice.getrandbits(32))
        rows, columns = (self.dice.randint(40, 160) for _ in range(2))
        coarse = rng.integers(60, 190, (rows // 8 + 1, columns // 8 + 1))
        blobs = np.kron(coarse, np.ones((8, 8)))[:rows, :columns]
        return (blobs + 8 * rng.standard_normal((rows, columns))).clip(0, 255).astype(np.uint8)


if __name__ == "__main__":
    main()
