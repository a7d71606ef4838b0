"""The script of a good colleague: python bare_script.py MODEL IN OUT STRIDE THREADS; no checks, no resume, no page."""

import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import onnxruntime
from PIL import Image

model, scan, out, stride, threads = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]), *map(int, sys.argv[4:])
options = onnxruntime.SessionOptions()
options.intra_op_num_threads = 1
options.add_session_config_entry("session.intra_op.allow_spinning", "0")
options.add_session_config_entry("session.x64quantprecision", "1")


def label(session, image):
    height, width = image.shape
    padded = np.pad(image, ((0, -height % stride), (0, -width % stride)), mode="reflect")
    return session.run(["labels"], {"image": padded[None, None]})[0][0, :height, :width]


def label_images(number):
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    for path in sorted(scan.glob("*.png"))[number::threads]:
        labels = label(session, np.asarray(Image.open(path).convert("L")))
        Image.fromarray(labels).save(out / path.name)


def label_layers(number):
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    depth, layer = source.shape[0], source.chunks[0]
    for start in range(number * layer, depth, threads * layer):
        stop = min(start + layer, depth)
        target[start:stop] = np.stack([label(session, image) for image in source[start:stop]])


if scan.suffix == ".zarr":
    import zarr

    source = zarr.open_array(scan, mode="r")
    target = zarr.create_array(out, shape=source.shape, chunks=source.chunks, dtype="uint8")
else:
    out.mkdir(exist_ok=True)
with ThreadPoolExecutor(threads) as pool:
    list(pool.map(label_layers if scan.suffix == ".zarr" else label_images, range(threads)))
