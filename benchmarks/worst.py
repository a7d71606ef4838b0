"""Picture of where a model and the annotator disagree most: `python benchmarks/worst.py log/NAME.json --out FILE`.

log/NAME.json is what `matseg-evaluate` wrote, in the workspace it wrote it in; several are those of a
cross-validation. Of the worst images a square around the largest wrong region is shown, without the image itself: grey
levels of a data set need not be ours to publish.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click
import numpy as np
from numpy.typing import NDArray

from matseg_shared.console.command import debug_option
from matseg_shared.contract.metadata import ClassInfo
from matseg_shared.errors import DatasetError, UsageError
from matseg_shared.images.read import read_stored
from matseg_shared.system.files import atomic_write
from matseg_trainer.evaluate.document import EvaluationDocument, ImageResult, read_evaluation
from matseg_trainer.evaluate.overlay import FALSE_NEGATIVE, FALSE_POSITIVE, overlay

if TYPE_CHECKING:
    from matplotlib.patches import Patch

COLUMNS = 4


def worst_square(
    document: EvaluationDocument, image: ImageResult, folder: Path, edge: int
) -> NDArray[np.uint8]:
    """Errors around the largest wrong region of an image.

    Args:
        document: of the evaluation.
        image: one of its images, with at least one wrong pixel.
        folder: of the document.
        edge: of the square in pixels; the image's own where that is shorter.

    Returns:
        (H, W, 3) RGB as `matseg-evaluate --overlay` draws it.

    Raises:
        DatasetError: labels or prediction are gone, or of another shape by now.
    """
    labels = document.load_labels(image, folder)
    prediction = read_stored(folder / image.prediction).pixels
    if prediction.shape != labels.shape:
        raise DatasetError(
            f"{folder / image.prediction}: expected {labels.shape[0]} x {labels.shape[1]} pixels as its label array, "
            f"found shape {prediction.shape}; evaluate again"
        )
    picture = overlay(labels, prediction, [item.colour for item in document.classes])
    region = image.disagreement.largest_region
    assert region is not None  # there are wrong pixels
    corner = (
        min(max(middle - edge // 2, 0), max(length - edge, 0))
        for middle, length in zip((region.y, region.x), labels.shape, strict=True)
    )
    top, left = corner
    return picture[top : top + edge, left : left + edge]


def draw(paths: Sequence[Path], count: int, edge: int, out: Path) -> None:
    """The `count` worst images of all documents, `COLUMNS` in a row."""
    from matplotlib.figure import Figure

    documents = {path: read_evaluation(path) for path in paths}
    classes = documents[paths[0]].classes
    for path, document in documents.items():
        if document.classes != classes:
            raise UsageError(f"{path}: expected the classes of {paths[0]}, found others; draw it by itself")
    wrong = [
        (path, image)
        for path, document in documents.items()
        for image in document.images
        if image.disagreement.wrong_pixels
    ]
    if not wrong:
        raise UsageError(f"{paths[0]}: expected wrong pixels, found none in any image")
    shown = sorted(wrong, key=lambda item: -1 if item[1].mean_iou is None else item[1].mean_iou)[:count]
    rows = -(-len(shown) // COLUMNS)
    columns = min(COLUMNS, len(shown))
    figure = Figure(figsize=(3 * columns, 3.6 * rows + 0.4), layout="constrained")
    for place, (path, image) in zip(figure.subplots(rows, columns, squeeze=False).flat, shown, strict=False):
        place.imshow(worst_square(documents[path], image, path.parent, edge), interpolation="nearest")
        near = image.disagreement.near_boundary
        place.set_title(
            f"{image.stem}\nmean IoU {image.mean_iou:.3f}, {image.disagreement.wrong_pixels} wrong pixels,\n"
            f"{0 if near is None else near:.0%} of them at a boundary",
            fontsize="small",
        )
    for place in figure.axes:
        place.set_axis_off()
    figure.legend(handles=list(_legend(classes)), loc="outside lower center", ncols=6, frameon=False)
    out.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(out) as stream:
        figure.savefig(stream, format="png", dpi=100, bbox_inches="tight", metadata={"Software": ""})


def _legend(classes: Sequence[ClassInfo]) -> Iterator[Patch]:
    from matplotlib.patches import Patch

    marks = [(item.name, item.colour) for item in classes]
    if len(classes) == 2:
        name = classes[1].name
        marks += [(f"{name} that the label has not", FALSE_POSITIVE), (f"{name} missed", FALSE_NEGATIVE)]
    else:
        marks.append(("unlike the label", FALSE_NEGATIVE))
    for name, colour in marks:
        yield Patch(facecolor=[value / 255 for value in colour], edgecolor="0.5", label=name)


@click.command()
@click.argument("documents", type=click.Path(path_type=Path), nargs=-1, required=True)
@click.option("--out", type=click.Path(path_type=Path), required=True, help="The picture, PNG.")
@click.option("--count", type=click.IntRange(min=1), default=4, help="So many images, the worst ones.")
@click.option("--edge", type=click.IntRange(min=8), default=96, help="Of the squares, in pixels.")
@debug_option
def main(documents: tuple[Path, ...], out: Path, count: int, edge: int) -> None:
    """Draw the worst images of evaluations."""
    draw(documents, count, edge, out)
    click.echo(f"drawn: {out}")


if __name__ == "__main__":
    main()
