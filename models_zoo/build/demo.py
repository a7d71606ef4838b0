"""The whole walk on a synthetic data set, command by command, as a user would type it: `make demo`.

Everything lands in the workspace under the data set's name, where a user's own results would.
"""

from __future__ import annotations

import shlex
import sys
import time

from matseg_shared.console.command import console
from matseg_shared.errors import MatsegError
from matseg_trainer.evaluate.document import read_evaluation
from matseg_trainer.workspace import Workspace
from models_zoo.build.commands import run_command

LEAST_IOU = 0.95
"""Least IoU of the dendrites on the test slices."""


def main() -> None:
    """Walk, say where everything is, and fail where the network is not good.

    Raises:
        MatsegError: the dendrites' IoU is below `LEAST_IOU`.
    """
    place = Workspace.find()
    started = time.monotonic()
    for command in (
        "matseg-prep demo demo --overwrite",
        "matseg-prep labels demo train validate test",
        "matseg-prep check demo",
        "matseg-train demo v1 --overwrite",
        "matseg-evaluate demo v1 --overlay",
        "matseg-export demo v1 --overwrite",
        "matseg-verify saved/demo_v1.onnx",
        "matseg-run saved/demo_v1.onnx data/demo_raw --overwrite",
    ):
        run_command(shlex.split(command), place.root)
    metrics = place.log / "demo_v1_test.json"
    document = read_evaluation(metrics)
    iou = document.iou[1] or 0.0
    console().print(
        f"\nDendrite IoU on the test slices: {iou:.3f} ({time.monotonic() - started:.0f} s for all of it)\n\n"
        f"Look at\n"
        f"  {place.plots / 'demo_v1_test.html'}  test slice, label, prediction, what is wrong\n"
        f"  {place.plots / 'demo_v1.png'}  training curves\n"
        f"  {(place.log / str(document.images[0].overlay)).resolve().parent}  overlays\n"
        f"  {place.root / 'data' / 'demo_raw_predictions'}  the labelled stack, with phase fractions\n"
        f"  {place.root / 'saved' / 'demo_v1.onnx'}  the model: all that a machine without torch needs",
        soft_wrap=True,
    )
    if iou < LEAST_IOU:
        raise MatsegError(
            f"{metrics}: expected an IoU of the dendrites of at least {LEAST_IOU}, found {iou:.3f}; training, export "
            "or evaluation has become worse than it was"
        )


if __name__ == "__main__":
    try:
        main()
    except MatsegError as error:
        sys.exit(f"Error: {error}")
