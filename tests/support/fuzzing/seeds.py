"""Small valid files of every kind, from which the mutated ones are made."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import checkpoints
import h5py
import hdf5plugin
import numpy as np
import onnx_models
import tifffile
import zarr
from click.testing import CliRunner
from label_exports import make_exports
from numpy.typing import NDArray
from ome_images import make_image
from PIL import Image

from matseg_shared.contract.classes import write_classes
from matseg_shared.contract.metadata import ClassInfo

SLICES, ROWS, COLUMNS = 6, 24, 32
N_CLASS = 3
CHANNELS = 4
SETTLED_SECONDS = 60
CONFIG = """\
[ds.default]
n_class = 3

[ds.v1]
model = "unet"
width = 4
crop = 16
size = [24, 32]
batch_size = 2
optimizer = "Adam"
lr = 0.001
epoch = 1
aug = true
patience = 0
weight_decay = 0
schedule = "cosine"
seed = 3
"""


def volume() -> NDArray[np.uint8]:
    """(6, 24, 32) uint8 pixels."""
    return onnx_models.random_pixels((SLICES, ROWS, COLUMNS), "uint8", 1)


def make_seeds(root: Path) -> None:
    """Write all seeds below `root`."""
    root.mkdir(parents=True)
    onnx_models.save_model(root / "model.onnx", n_class=N_CLASS)
    pixels = volume()
    _pictures(root / "pictures", pixels)
    _stacks(root / "stacks", pixels)
    _channels(root / "channels", pixels)
    onnx_models.save_model(root / "many.onnx", channels=CHANNELS, n_class=N_CLASS)
    _zarrs(root / "zarrs", pixels)
    _hdf5(root / "hdf5", pixels)
    np.save(root / "volume.npy", pixels)
    make_workspace(root / "workspace", pixels)
    _run(root, pixels)
    make_exports(root / "exports")


def _pictures(folder: Path, pixels: NDArray[np.uint8]) -> None:
    folder.mkdir()
    grey = Image.fromarray(pixels[0])
    colour = Image.fromarray(np.stack(pixels[:3], axis=-1))
    grey.save(folder / "grey.png")
    grey.convert("1").save(folder / "bits.png")
    colour.save(folder / "colour.png")
    grey.convert("P").save(folder / "palette.png")
    colour.convert("RGBA").save(folder / "alpha.png")
    Image.fromarray(pixels[0].astype(np.uint16) * 257).save(folder / "deep.png")
    grey.save(folder / "grey.jpg")
    colour.save(folder / "colour.jpg", progressive=True)
    grey.save(folder / "grey.bmp")
    grey.convert("RGB").save(folder / "colour.bmp")


def _stacks(folder: Path, pixels: NDArray[np.uint8]) -> None:
    folder.mkdir()
    tifffile.imwrite(folder / "plain.tif", pixels)
    tifffile.imwrite(folder / "big.tif", pixels, bigtiff=True, byteorder=">")
    tifffile.imwrite(folder / "tiled.tif", pixels, tile=(16, 16), compression="zlib", predictor=True)
    tifffile.imwrite(folder / "lzw.tif", pixels, compression="lzw", rowsperstrip=5)
    tifffile.imwrite(folder / "packbits.tif", pixels, compression="packbits")
    tifffile.imwrite(folder / "zstd.tif", pixels, compression="zstd")
    tifffile.imwrite(folder / "jpeg.tif", pixels, compression="jpeg")
    tifffile.imwrite(
        folder / "imagej.tif", pixels, imagej=True, resolution=(2, 2), metadata={"spacing": 3, "unit": "um"}
    )
    axes: dict[str, Any] = {"axes": "ZYX", "PhysicalSizeX": 0.5, "PhysicalSizeY": 0.5, "PhysicalSizeZ": 1.0}
    tifffile.imwrite(folder / "ome.ome.tif", pixels, ome=True, metadata=axes)
    tifffile.imwrite(folder / "behind.tif", pixels, metadata={"axes": "ZYX"}, truncate=True)
    tifffile.imwrite(folder / "float.tif", pixels.astype(np.float32), compression="zlib", predictor=3)
    tifffile.imwrite(folder / "deep.tif", pixels.astype(np.uint16), resolution=(1e4, 1e4), resolutionunit=3)
    tifffile.imwrite(folder / "planar.tif", pixels[:3], photometric="rgb", planarconfig="separate")
    tifffile.imwrite(folder / "bits.tif", pixels > 100, photometric="miniswhite", bitspersample=1)
    with tifffile.TiffWriter(folder / "thumbnails.tif") as writer:
        for number, page in enumerate(pixels):
            writer.write(page, metadata=None)
            writer.write(page[::4, ::4], subfiletype=number % 2, metadata=None)
    palette = np.arange(768, dtype=np.uint16).reshape(3, 256) * 80
    tifffile.imwrite(folder / "palette.tif", pixels[0], photometric="palette", colormap=palette)
    height, width = pixels.shape[1:]
    for name, code, kind, text in (
        (
            "fei",
            34682,
            "s",
            f"[Scan]\r\nPixelWidth=3e-9\r\nPixelHeight=3e-9\r\n[Image]\r\nResolutionY={height - 4}",
        ),
        ("zeiss", 34118, "s", f"DP_IMAGE_STORE\r\nStore resolution = {width} * {height - 4}\r\n"),
        ("tescan", 50431, "B", "[MAIN]\r\nImageStripSize=4\r\nPixelSizeX=3e-9\r\nPixelSizeY=3e-9\r\n"),
    ):
        value: Any = text if kind == "s" else text.encode()
        tag = (code, kind, 0 if kind == "s" else len(text), value, True)
        tifffile.imwrite(folder / f"{name}.tif", pixels[0], extratags=[tag], metadata=None)


def _channels(folder: Path, pixels: NDArray[np.uint8]) -> None:
    """Pictures and stacks of `CHANNELS` channels, in the layouts that programs write."""
    folder.mkdir()
    one, last = pixels[:CHANNELS], np.ascontiguousarray(np.moveaxis(pixels[:CHANNELS], 0, -1))
    stack = np.stack([one, 255 - one])  # (Z, C, Y, X)
    names: dict[str, Any] = {"axes": "CYX", "Channel": {"Name": ["Fe", "Ni", "Cr", "Al"]}}
    for name, array, options in (
        ("planes", one, {"planarconfig": "separate", "metadata": None}),
        ("together", last, {"planarconfig": "contig", "metadata": None}),
        ("tiles", last, {"planarconfig": "contig", "tile": (16, 16), "compression": "zlib"}),
        ("pages", one, {"metadata": None}),
        ("behind", one, {"truncate": True}),
        ("last", last, {"planarconfig": None}),
        ("imagej", one, {"imagej": True, "metadata": {"axes": "CYX", "Labels": ["Fe", "Ni", "Cr", "Al"]}}),
        ("ome", one, {"ome": True, "metadata": names}),
        ("samples.ome", last, {"ome": True, "planarconfig": "contig", "metadata": {"axes": "YXS"}}),
        ("stack", stack, {"imagej": True, "metadata": {"axes": "ZCYX"}}),
        ("stack.ome", np.moveaxis(stack, 1, 0), {"ome": True, "metadata": {"axes": "CZYX"}}),
    ):
        tifffile.imwrite(folder / f"{name}.tif", array, photometric="minisblack", **options)


def _zarrs(folder: Path, pixels: NDArray[np.uint8]) -> None:
    folder.mkdir()

    def write(name: str, zarr_format: Any, **options: Any) -> None:
        array = zarr.create_array(
            str(folder / f"{name}.zarr"),
            shape=pixels.shape,
            dtype="uint8",
            zarr_format=zarr_format,
            **options,
        )
        array[:] = pixels

    write("v3", 3, chunks=(2, 24, 32))
    write("plain", 3, chunks=(1, 24, 32), compressors=None)
    write("sharded", 3, chunks=(1, 12, 16), shards=(2, 24, 32))
    write("gzip", 3, chunks=(3, 24, 16), compressors=[{"name": "gzip", "configuration": {"level": 1}}])
    write("blosc", 3, chunks=(2, 24, 32), compressors=[{"name": "blosc", "configuration": {"cname": "lz4"}}])
    write("v2", 2, chunks=(2, 24, 32))
    import numcodecs

    write("v2blosc", 2, chunks=(2, 24, 32), compressors=numcodecs.Blosc())
    write(
        "v2zlib", 2, chunks=(2, 24, 32), compressors=numcodecs.Zlib(), filters=[numcodecs.Delta(dtype="|u1")]
    )
    make_image(folder / "ome4.zarr", "0.4")
    make_image(folder / "ome5.zarr", "0.5")


def _hdf5(folder: Path, pixels: NDArray[np.uint8]) -> None:
    folder.mkdir()
    for name, options in {
        "plain": {},
        "gzip": {"chunks": (2, 24, 32), "compression": "gzip", "shuffle": True},
        "lzf": {"chunks": (1, 12, 16), "compression": "lzf", "fletcher32": True},
    }.items():
        with h5py.File(folder / f"{name}.h5", "w") as file:
            data = file.create_dataset("exchange/data", data=pixels, **options)
            data.attrs["element_size_um"] = [1.0, 0.5, 0.5]
            file["exchange/theta"] = np.arange(5.0)
    with h5py.File(folder / "latest.h5", "w", libver="latest") as file:
        file.create_dataset("data", data=pixels, chunks=(1, 24, 32), compression="gzip")
        file.flush()
        abandoned = bytearray((folder / "latest.h5").read_bytes())
    (folder / "abandoned.h5").write_bytes(abandoned)  # as it is while it is open for writing
    with h5py.File(folder / "nexus.h5", "w", userblock_size=512) as file:
        entry = file.create_group("entry")
        file.attrs["default"], entry.attrs["default"] = "entry", "rec"
        rec = entry.create_group("rec")
        rec.attrs.update({"NX_class": "NXdata", "signal": "data", "axes": ["z", "y", "x"]})
        rec.create_dataset("real", data=pixels, chunks=(1, 24, 32), **hdf5plugin.Bitshuffle())
        rec["data"] = h5py.SoftLink("/entry/rec/real")
        for axis, length in zip("zyx", pixels.shape, strict=True):
            rec[axis] = 0.5 * np.arange(length)
            rec[axis].attrs["units"] = "um"
        entry["link"] = h5py.ExternalLink("gone.h5", "/data")


def make_workspace(root: Path, pixels: NDArray[np.uint8]) -> None:
    """A workspace with a data set, a checkpoint, an exported model, the log of a training and an evaluation."""
    from matseg_trainer.commands.evaluate import evaluate_main
    from matseg_trainer.commands.train import train_main
    from matseg_trainer.predict.checkpoint import save_checkpoint

    for split in ("train", "validate", "test"):
        for kind in ("images", "labels", "labels_npy"):
            (root / "data" / "ds" / split / kind).mkdir(parents=True)
        for number in (0, 1):
            place, labels = root / "data" / "ds" / split, pixels[number] // 90
            Image.fromarray(pixels[number]).save(place / "images" / f"s{number}.png")
            Image.fromarray(labels * 100).save(place / "labels" / f"s{number}.png")
            np.save(place / "labels_npy" / f"s{number}.npy", labels)
    classes = [
        ClassInfo(index=k, name=f"phase {k}", colour=(80 * k, 9, 9), label_value=100 * k)
        for k in range(N_CLASS)
    ]
    write_classes(root / "data" / "ds" / "classes.toml", classes)
    (root / "config.toml").write_text(CONFIG)
    for command in (train_main, evaluate_main):
        done = CliRunner().invoke(command, ["ds", "v1", "--workspace", str(root), "--no-report"])
        assert done.exit_code == 0, done.output
    save_checkpoint(root / "saved" / "noise_v1.pth", checkpoints.make_checkpoint("unet"))
    onnx_models.save_model(root / "saved" / "ds_v1.onnx", name="ds_v1")


def _run(root: Path, pixels: NDArray[np.uint8]) -> None:
    """A run's folder of labels with its report and ledger, and a volume with its own beside it."""
    from matseg_runtime.cli.run import run_main

    place = root / "run"
    (place / "scan").mkdir(parents=True)
    for number, image in enumerate(pixels[:3]):
        Image.fromarray(image).save(place / "scan" / f"s{number}.png")
    settle(place)
    for output in ("labels", "labels.zarr"):
        arguments = [str(root / "model.onnx"), str(place / "scan"), "-o", str(place / output), "--quantify"]
        done = CliRunner().invoke(
            run_main, [*arguments, "--no-report", "--threads", "1", "--voxel-size", "0.5um"]
        )
        assert done.exit_code == 0, done.output


def settle(root: Path) -> None:
    """As if written a while ago, so that nobody waits for files to grow."""
    past = time.time() - SETTLED_SECONDS
    for path in (root, *root.rglob("*")):
        os.utime(path, (past, past))
