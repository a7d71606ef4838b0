"""Validate a package with bioimageio.core and run it: on its test input, and on an image whole and in blocks.

Arguments: package, image (.npy, 1 x C x H x W), outputs (.npz: labels of the whole, probabilities by blocks).
"""

import json
import sys
import warnings

warnings.simplefilter("ignore")  # their own deprecations

import numpy as np  # noqa: E402
from bioimageio.core import load_description_and_test, predict  # noqa: E402
from bioimageio.core.tensor import Tensor  # noqa: E402

package, image, out = sys.argv[1:]
description = load_description_and_test(package, weight_format="onnx", devices=["CPUExecutionProvider"])
summary = description.validation_summary
axes = [axis.id for axis in description.inputs[0].axes]
inputs = {"image": Tensor.from_numpy(np.load(image), dims=axes)}
whole = predict(model=description, inputs=inputs)
# in blocks it leaves out outputs without a channel axis, such as labels
blocks = predict(model=description, inputs=inputs, blocksize_parameter=3)
np.savez(
    out,
    labels=whole.members["labels"].data.to_numpy(),
    probabilities=blocks.members["probabilities"].data.to_numpy(),
)
print(
    json.dumps(
        {
            "status": summary.status,
            "errors": [str(entry.msg) for detail in summary.details for entry in detail.errors],
            "tests": [detail.name for detail in summary.details],
            "name": description.name,
            "covers": len(description.covers),
        }
    )
)
