"""Write a turned volume with SimpleITK (`write VOLUME.npy FILE...`), or print what it reads (`read FILE...`)."""

import json
import sys

import numpy as np
import SimpleITK as sitk  # noqa: N813 (its own habit)

PLACE = {"spacing": (0.5, 0.5, 3.0), "origin": (1.0, 2.0, 3.0), "direction": (0, -1, 0, 1, 0, 0, 0, 0, 1)}


def write(volume, *paths):
    image = sitk.GetImageFromArray(np.load(volume))
    image.SetSpacing(PLACE["spacing"])
    image.SetOrigin(PLACE["origin"])
    image.SetDirection(PLACE["direction"])
    for path in paths:
        sitk.WriteImage(image, path, useCompression="packed" in path)
    return PLACE


def read(*paths):
    images = [sitk.ReadImage(path) for path in paths]
    return [
        {
            "spacing": image.GetSpacing(),
            "origin": image.GetOrigin(),
            "direction": image.GetDirection(),
            "labels": sitk.GetArrayFromImage(image).tolist(),
        }
        for image in images
    ]


print(json.dumps({"write": write, "read": read}[sys.argv[1]](*sys.argv[2:])))
