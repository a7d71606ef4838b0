"""The whole walk on a synthetic data set, command by command, as a user would type it: `make demo`.

Everything lands in the workspace under the data set's name, where a user's own results would.
"""

from __future__ import annotations

import shlex
import sys
import time
from pathlib import Path

from matseg_shared.console.command import console
from matseg_shared.errors import MatsegError
from matseg_shared.images.read import read_image
from matseg_shared.system.files import atomic_write
from matseg_trainer.data.folder import load_array
from matseg_trainer.demo.commands import run_command
from matseg_trainer.demo.otsu import otsu_iou
from matseg_trainer.evaluate.document import EvaluationDocument, read_evaluation
from matseg_trainer.workspace import Workspace

DATASET, VERSION = "demo", "v1"
LEAST_IOU = 0.95
"""Least IoU of the dendrites on the test slices."""
_DENDRITE = 1


def main() -> None:
    """Walk; say where everything is and how the network compares with a threshold, and fail where it is not good."""
    place = Workspace.find()
    started = time.monotonic()
    name = f"{DATASET}_{VERSION}"
    model, raw = f"saved/{name}.onnx", f"data/{DATASET}_raw"
    for command in (
        f"matseg-prep demo {DATASET} --overwrite",
        f"matseg-prep labels {DATASET} train validate test",
        f"matseg-prep check {DATASET}",
        f"matseg-train {DATASET} {VERSION} --overwrite",
        f"matseg-evaluate {DATASET} {VERSION} --overlay",
        f"matseg-export {DATASET} {VERSION} --overwrite",
        f"matseg-verify {model}",
        f"matseg-run {model} {raw} --overwrite",
    ):
        run_command(shlex.split(command), place.root)
    metrics = place.log / f"{name}_test.json"
    document = read_evaluation(metrics)
    pairs = [(read_image(place.log / i.image), load_array(place.log / i.array, 2)) for i in document.images]
    picture = place.plots / f"{name}_walk.png"
    draw_walk(document, metrics.parent, picture)
    console().print(
        f"\nDendrite IoU on the test slices: {document.iou[_DENDRITE] or 0:.3f} with the network, "
        f"{otsu_iou(pairs):.3f} with a global Otsu threshold\n"
        f"({time.monotonic() - started:.0f} s for all of it)\n\n"
        f"Look at\n"
        f"  {picture}  test slice, label, prediction, what is wrong\n"
        f"  {place.plots / f'{name}.png'}  training curves\n"
        f"  {(place.log / str(document.images[0].overlay)).resolve().parent}  overlays\n"
        f"  {place.root / f'{raw}_predictions'}  the labelled stack, with phase fractions\n"
        f"  {place.root / model}  the model: all that a machine without torch needs",
        soft_wrap=True,
    )
    require_iou(document, metrics)


def require_iou(document: EvaluationDocument, metrics: Path) -> None:
    """Raises MatsegError where the dendrites' IoU is below `LEAST_IOU`."""
    found = document.iou[_DENDRITE] or 0.0
    if found < LEAST_IOU:
        raise MatsegError(
            f"{metrics}: expected an IoU of the dendrites of at least {LEAST_IOU}, found {found:.3f}; training, export "
            "or evaluation has become worse than it was"
        )


def draw_walk(document: EvaluationDocument, folder: Path, path: Path) -> None:
    """One row per test slice: image, label, prediction, overlay."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 3.2 * len(document.images)), layout="constrained")
    rows = figure.subplots(len(document.images), 4, squeeze=False)
    for row, image in zip(rows, document.images, strict=True):
        pictures = {
            image.stem: read_image(folder / image.image),
            "label": load_array(folder / image.array, 2) * 255,
            "prediction": read_image(folder / image.prediction),
            "overlay: green too much, pink missed": read_image(folder / str(image.overlay)),
        }
        for axes, (title, pixels) in zip(row, pictures.items(), strict=True):
            axes.imshow(pixels, cmap="gray", vmin=0, vmax=255, interpolation="nearest")
            axes.set_title(title, fontsize="medium")
            axes.axis("off")
    with atomic_write(path) as stream:
        figure.savefig(stream, format="png", dpi=100)


if __name__ == "__main__":
    try:
        main()
    except MatsegError as error:
        sys.exit(f"Error: {error}")
