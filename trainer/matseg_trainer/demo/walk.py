"""The whole walk on a synthetic data set, command by command, as a user would type it: `make demo`.

Everything lands in the workspace under the data set's name, where a user's own results would.
"""

from __future__ import annotations

import json
import shlex
import time
from pathlib import Path

from matseg_shared.console.command import console
from matseg_shared.images.read import read_image
from matseg_shared.system.files import atomic_write
from matseg_trainer.data.folder import Dataset, load_array
from matseg_trainer.demo.commands import run_command
from matseg_trainer.demo.otsu import otsu_iou
from matseg_trainer.workspace import Workspace

DATASET, VERSION, NETWORK = "demo", "v1", "unet"
_DENDRITE = 1


def main() -> None:
    """Walk, then print where everything is and how the network compares with a threshold."""
    workspace = Workspace.find()
    started = time.monotonic()
    model = Path("saved") / f"{DATASET}_{VERSION}.onnx"
    raw = Path("data") / f"{DATASET}_raw"
    for command in (
        f"matseg-prep demo {DATASET} --overwrite",
        f"matseg-prep labels {DATASET} train validate test",
        f"matseg-prep check {DATASET}",
        f"matseg-train {DATASET} {VERSION} --overwrite",
        f"matseg-evaluate {DATASET} {VERSION} --overlay",
        f"matseg-export {DATASET} {VERSION} --overwrite",
        f"matseg-verify {model.as_posix()}",
        f"matseg-run {model.as_posix()} {raw.as_posix()} --overwrite",
    ):
        run_command(shlex.split(command), workspace.root)
    dataset = workspace.dataset(DATASET)
    threshold = otsu_iou(
        (read_image(sample.image), load_array(sample.array, 2)) for sample in dataset.samples("test")
    )
    metrics = json.loads((workspace.log / f"{DATASET}_{VERSION}_test.json").read_text(encoding="utf-8"))
    picture = workspace.plots / f"{DATASET}_{VERSION}_walk.png"
    draw_walk(dataset, picture)
    console().print(
        f"\nDendrite IoU on the test slices: {metrics['iou'][_DENDRITE]:.3f} with the network, "
        f"{threshold:.3f} with a global Otsu threshold\n"
        f"({time.monotonic() - started:.0f} s for all of it)\n\n"
        f"Look at\n"
        f"  {picture}  test slice, label, prediction, what is wrong\n"
        f"  {workspace.plots / f'{DATASET}_{VERSION}.png'}  training curves\n"
        f"  {dataset.root / 'test' / 'overlays' / f'{VERSION}_{NETWORK}'}  overlays\n"
        f"  {workspace.root / 'data' / f'{DATASET}_raw_predictions'}  the labelled stack, with phase fractions\n"
        f"  {workspace.root / model}  the model: all that a machine without torch needs",
        soft_wrap=True,
    )


def draw_walk(dataset: Dataset, path: Path) -> None:
    """One row per test slice: image, label, prediction, overlay."""
    from matplotlib.figure import Figure

    samples = dataset.samples("test")
    folder = f"{VERSION}_{NETWORK}"
    figure = Figure(figsize=(12, 3.2 * len(samples)), layout="constrained")
    rows = figure.subplots(len(samples), 4, squeeze=False)
    for row, sample in zip(rows, samples, strict=True):
        test = sample.image.parent.parent
        pictures = {
            sample.stem: read_image(sample.image),
            "label": load_array(sample.array, 2) * 255,
            "prediction": read_image(test / "predictions" / folder / f"{sample.stem}.png"),
            "overlay: green too much, pink missed": read_image(
                test / "overlays" / folder / f"{sample.stem}.png"
            ),
        }
        for axes, (title, pixels) in zip(row, pictures.items(), strict=True):
            axes.imshow(pixels, cmap="gray", vmin=0, vmax=255, interpolation="nearest")
            axes.set_title(title, fontsize="medium")
            axes.axis("off")
    with atomic_write(path) as stream:
        figure.savefig(stream, format="png", dpi=100)


if __name__ == "__main__":
    main()
