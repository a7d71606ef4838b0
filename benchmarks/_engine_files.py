"""Everything that engines.py compares on one model: `python _engine_files.py MODEL WORKSPACE FOLDER`.

The model in fp32, in int8 as matseg-export makes it, and in int8 as `quantize_static` makes it of the untouched graph;
its labelled images, and the crops that ranges are chosen on. A program of its own, as _full_width.py is.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from _network_worker import STRIDE

SPLITS = ("validate", "test")
CROPS, IMAGES, TRUTH = "crops.npz", "images.npz", "truth.npz"


@dataclass(frozen=True, slots=True)
class EngineFiles:
    """Paths of one model's files."""

    folder: Path

    def model(self, kind: str) -> Path:
        """`fp32`, `int8`, `static` (ONNX), or `nncf`, which is OpenVINO's own."""
        return self.folder / f"{kind}.{'xml' if kind == 'nncf' else 'onnx'}"


def make(choice: str, workspace: Path, folder: Path) -> None:
    """Write all files.

    Args:
        choice: an fp32 model of matseg-export for grey uint8 slices, or zoo:NAME.
        workspace: its data set, with label arrays; that of the demo is drawn where it is missing.
        folder: for the files.
    """
    from matseg_shared.contract.tiling import pad_to_stride
    from matseg_shared.errors import UsageError
    from matseg_trainer.export.crops import calibration_crops, split_images
    from matseg_trainer.export.export import export_checkpoint
    from matseg_trainer.predict.exported import load_exported
    from matseg_trainer.workspace import Workspace

    path, checkpoint = load_exported(choice)
    if (checkpoint.input.channels, checkpoint.input.dtype) != (1, "uint8"):
        raise UsageError(f"{path}: expected a model for grey uint8 slices, found another; name such a one")
    dataset = Workspace(workspace).dataset(checkpoint.training.dataset).as_trained(checkpoint.training)
    stride = checkpoint.network().stride
    images, truth = {}, {}
    for split in (split for split in SPLITS if split in dataset.splits):
        for number, image in enumerate(split_images(checkpoint, dataset, split)):
            name = f"{split}_{number}"
            images[name] = pad_to_stride(image.pixels[0], STRIDE)[np.newaxis, np.newaxis]
            truth[name] = image.labels
    crops = calibration_crops(split_images(checkpoint, dataset, "train"), stride)
    files = EngineFiles(folder)
    files.model("fp32").write_bytes(path.read_bytes())
    export_checkpoint(checkpoint, files.model("int8"), precision="int8", dataset=dataset)
    _quantize_static(files.model("fp32"), files.model("static"), crops)
    np.savez(folder / CROPS, *crops)
    np.savez(folder / TRUTH, **truth)
    np.savez(folder / IMAGES, **images)


def _quantize_static(fp32: Path, int8: Path, crops: Sequence[np.ndarray]) -> None:
    """onnxruntime's quantiser as its documentation has it: QDQ, per channel, after its own preparation."""
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    from matseg_shared.contract.metadata import INPUT_NAME

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self._crops = iter(crops)

        def get_next(self) -> dict[str, np.ndarray] | None:
            crop = next(self._crops, None)
            return None if crop is None else {INPUT_NAME: crop}

    prepared = int8.with_stem("prepared")
    quant_pre_process(fp32, prepared, skip_symbolic_shape=True)
    quantize_static(prepared, int8, Reader(), quant_format=QuantFormat.QDQ, per_channel=True)


def quantise_for_openvino(folder: Path) -> None:
    """OpenVINO's own quantiser (NNCF, its defaults) on the same crops; in an environment that has it."""
    import nncf
    import openvino

    files = EngineFiles(folder)
    with np.load(folder / CROPS) as crops:
        samples = [crops[name] for name in crops.files]
    quantised = nncf.quantize(openvino.Core().read_model(files.model("fp32")), nncf.Dataset(samples))
    openvino.save_model(quantised, files.model("nncf"), compress_to_fp16=False)


if __name__ == "__main__":
    if len(sys.argv) == 2:
        quantise_for_openvino(Path(sys.argv[1]))
    else:
        make(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]))
