"""Compare what a model labels in every way it can be run: threads, tiles, batches, graph optimisation, providers.

`python benchmarks/numerics.py [MODEL ...] [--images FOLDER]`

Without a MODEL, every model of the zoo. The reference is one call on one thread for the whole image. A pixel with
another label is a tie when the reference's two best probabilities are closer than rounding (`inference`);
int8 computes in integers, so nothing excuses a difference there.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import numpy as np
from _common import reporting
from numpy.typing import NDArray

from matseg_runtime.inference.providers import exact_options, load_onnxruntime
from matseg_runtime.inference.session import Session, tie_margin
from matseg_runtime.inference.tiles import segment_images
from matseg_runtime.model.file import choose_model
from matseg_runtime.model.zoo import PREFIX, read_index
from matseg_runtime.source.transform import Transform
from matseg_shared.console.command import debug_option
from matseg_shared.contract.metadata import INPUT_NAME, LABELS_NAME, PROBABILITIES_NAME
from matseg_shared.contract.tiling import pad_to_stride, smallest_tile
from matseg_shared.images.read import list_images, read_image

_STRIDES = 8
"""By so many the image that is made where none is given is larger than the smallest tile."""
AS_IN_THE_FILE = "graph as it is in the file"
"""Not how matseg-run runs a model: for int8 it is float arithmetic between roundings, by other kernels."""
Result = tuple[NDArray[np.uint8], NDArray[np.float32]]
"""(H, W) labels and (K, H, W) probabilities."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """One way to run a model, compared with the reference."""

    model: str
    precision: str
    way: str
    pixels: int
    others: int
    """Pixels with another label."""
    ties: int
    """Differing pixels that rounding explains."""
    largest: float
    """Largest difference of a probability."""

    @property
    def is_right(self) -> bool:
        """True where rounding explains every difference."""
        return self.others == self.ties or (self.precision == "int8" and self.way == AS_IN_THE_FILE)


def compare(path: Path, image_file: Path | None = None) -> list[Difference]:
    """Every way on this machine, with the reference.

    Args:
        path: of a model file.
        image_file: a slice; None: the model's self-test image, reflected until it is large enough.
    """
    session = Session.open(path, provider="cpu", threads=1)
    info = session.model.metadata
    if image_file is None:
        edge = _smallest(session) + _STRIDES * info.tiling.stride
        image = _enlarged(session.model.self_test.image[0], edge)
    else:
        image = Transform(info=info.input).convert(read_image(image_file), str(image_file))
    labels, probabilities = _segmented(session, image)
    best = np.sort(probabilities, axis=0)
    tied = best[-1] - best[-2] < tie_margin(info)
    differences = []
    for way, (found, chances) in _ways(path, session, image):
        other = found != labels
        differences.append(
            Difference(
                model=info.name,
                precision=info.export.precision,
                way=way,
                pixels=labels.size,
                others=int(other.sum()),
                ties=int((other & tied).sum()),
                largest=float(np.abs(chances - probabilities).max()),
            )
        )
    return differences


def _ways(path: Path, session: Session, image: NDArray[Any]) -> Iterator[tuple[str, Result]]:
    yield "again", _segmented(session, image)
    for threads in (2, 5):
        opened = Session.open(path, provider="cpu", threads=threads)
        yield f"{threads} threads", _segmented(opened, image)
    for strides, batch in ((_STRIDES - 2, 1), (_STRIDES - 1, 3)):
        edge = _smallest(session) + strides * session.model.metadata.tiling.stride
        made = _segmented(session, image, tile=(edge, edge), batch=batch)
        yield f"tiles of {edge}, batches of {batch}", made
    yield "in a batch with others", _among_others(session, image)
    yield "two calls at a time", _beside_itself(session, image)
    yield AS_IN_THE_FILE, _unoptimised(path, session, image)


def _segmented(session: Session, *images: NDArray[Any], which: int = 0, **options: Any) -> Result:
    made = segment_images(session, images, probabilities=True, **options)[which]
    assert made.probabilities is not None
    return made.labels, made.probabilities


def _smallest(session: Session) -> int:
    tiling = session.model.metadata.tiling
    return smallest_tile(tiling.halo, tiling.stride)


def _among_others(session: Session, image: NDArray[Any]) -> Result:
    images = [np.ascontiguousarray(turned) for turned in (image[:, ::-1], image, image[:, :, ::-1])]
    return _segmented(session, *images, which=1, batch=3)


def _beside_itself(session: Session, image: NDArray[Any]) -> Result:
    flipped = np.ascontiguousarray(image[:, ::-1])
    with ThreadPoolExecutor(2) as pool:
        calls = [
            pool.submit(lambda part=part: _segmented(session, part))
            for part in (image, flipped, image, flipped)
        ]
        return calls[2].result()


def _unoptimised(path: Path, session: Session, image: NDArray[Any]) -> Result:
    runtime = load_onnxruntime()
    options = exact_options(runtime)
    options.graph_optimization_level = runtime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    plain = runtime.InferenceSession(path.read_bytes(), options, providers=["CPUExecutionProvider"])
    stride = session.model.metadata.tiling.stride
    padded = np.moveaxis(pad_to_stride(np.moveaxis(image, 0, -1), stride), -1, 0)
    labels, probabilities = plain.run(
        [LABELS_NAME, PROBABILITIES_NAME], {INPUT_NAME: np.ascontiguousarray(padded[np.newaxis])}
    )
    height, width = image.shape[1:]
    return labels[0, :height, :width], probabilities[0, :, :height, :width].astype(np.float32)


def _enlarged(image: NDArray[Any], edge: int) -> NDArray[Any]:
    """(C, h, w) to about (C, edge, edge), no multiple of any stride, by reflection."""
    below, right = (
        max(0, length - size) for length, size in zip((edge - 3, edge + 5), image.shape[1:], strict=True)
    )
    return np.pad(image, ((0, 0), (0, below), (0, right)), mode="reflect")


def rows_of(differences: Sequence[Difference]) -> list[list[str]]:
    """For the table."""
    return [
        [
            item.model,
            item.precision,
            item.way,
            f"{item.pixels:,}",
            str(item.others),
            str(item.ties),
            f"{item.largest:.1e}",
        ]
        for item in differences
    ]


HEADER = (
    "model",
    "precision",
    "way",
    "pixels",
    "other labels",
    "of which ties",
    "largest difference of probabilities",
)


@click.command()
@click.argument("models", nargs=-1)
@click.option(
    "--images", type=click.Path(path_type=Path, exists=True), help="Folder of real images for them all."
)
@click.option("--save", type=click.Path(path_type=Path), help="Write the report to this file too.")
@debug_option
def main(models: tuple[str, ...], images: Path | None, save: Path | None) -> None:
    """Compare every way to run MODELS (zoo:NAME or files; all of the zoo when none is named)."""
    names = models or tuple(f"{PREFIX}{item.name}" for item in read_index().models)
    chosen: list[Path | None] = [None] if images is None else [*list_images(images)[0]]
    found = [item for name in names for image in chosen for item in compare(choose_model(name)[0], image)]
    with reporting("Numerics", save) as report:
        report.table(HEADER, rows_of(found))
        wrong = [item for item in found if not item.is_right]
        report.say(
            f"{len(found)} comparisons, {len(wrong)} with a difference that rounding does not explain."
        )
    sys.exit(bool(wrong))


if __name__ == "__main__":
    main()
