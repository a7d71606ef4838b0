"""One target per kind of input: which file is mutated, and which commands are given it."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from random import Random

import numpy as np
import volume_files

from fuzzing import archives, arrays, models, pictures, seeds
from fuzzing.documents import mutate_json, mutate_toml
from fuzzing.octets import EDGES, mutate_octets

Line = tuple[str, ...]
"""A command and its arguments."""
_QUICK = ("--threads", "1", "--provider", "cpu", "--no-report")


@dataclass(frozen=True, slots=True, kw_only=True)
class Bench:
    """Folder of the seeds."""

    root: Path

    @property
    def model(self) -> str:
        """A good model of three classes for grey 8-bit images."""
        return str(self.root / "model.onnx")

    def seed(self, random: Random, pattern: str) -> Path:
        """One of the seeds of a pattern."""
        return random.choice(sorted(self.root.glob(pattern)))

    def donors(self, pattern: str) -> list[bytes]:
        """Contents of all seeds of a pattern."""
        return [path.read_bytes() for path in sorted(self.root.glob(pattern))]


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """A kind of input."""

    make: Callable[[Bench, Path, Random], list[Line]]
    """Writes a mutated input into an empty folder; the commands to run on it, one after the other."""
    weight: int
    """Its share of a corpus."""


def _image(bench: Bench, folder: Path, random: Random, suffix: str, content: bytes) -> list[Line]:
    """In a folder of slices beside a good one, or as a label image."""
    scan = folder / "scan"
    scan.mkdir()
    (scan / f"mutated{suffix}").write_bytes(content)
    shutil.copy(bench.root / "pictures" / "grey.png", scan / "a_good.png")
    choice = random.randrange(8)
    if choice <= 4:
        extra = random.choice(((), (), ("--window", "0,255"), ("--format", "tiff"), ("--probabilities",)))
        return [("run", bench.model, str(scan), "-o", str(folder / "out"), *extra, *_QUICK)]
    if choice == 5:
        return [("run", bench.model, str(scan), "-o", str(folder / "labels.tif"), *_QUICK)]
    if choice == 6:
        return [("quantify", str(scan), "-o", str(folder / "tables"), "--workers", "1")]
    place = folder / "ws" / "data" / "ds" / "train"
    for kind in ("images", "labels"):
        (place / kind).mkdir(parents=True)
    name = random.choice(("images", "labels"))
    (place / name / f"s{suffix}").write_bytes(content)
    other = "labels" if name == "images" else "images"
    shutil.copy(bench.root / "pictures" / "palette.png", place / other / "s.png")
    workspace = ("--workspace", str(folder / "ws"))
    return [
        ("prep", "labels", "ds", "train", "--classes", "3", *workspace),
        ("prep", "check", "ds", *workspace),
    ]


def _png(bench: Bench, folder: Path, random: Random) -> list[Line]:
    content = bench.seed(random, "pictures/*.png").read_bytes()
    blind = random.random() < 0.3
    mutated = (
        mutate_octets(random, content, bench.donors("pictures/*.png"))
        if blind
        else pictures.mutate_png(random, content)
    )
    return _image(bench, folder, random, ".png", mutated)


def _jpeg(bench: Bench, folder: Path, random: Random) -> list[Line]:
    content = bench.seed(random, "pictures/*.jpg").read_bytes()
    mutated = (
        mutate_octets(random, content) if random.random() < 0.5 else pictures.mutate_jpeg(random, content)
    )
    return _image(bench, folder, random, random.choice((".jpg", ".jpeg", ".png")), mutated)


def _bmp(bench: Bench, folder: Path, random: Random) -> list[Line]:
    content = bench.seed(random, "pictures/*.bmp").read_bytes()
    mutated = (
        mutate_octets(random, content) if random.random() < 0.3 else pictures.mutate_bmp(random, content)
    )
    return _image(bench, folder, random, ".bmp", mutated)


def _volume_lines(bench: Bench, folder: Path, random: Random, location: str) -> list[Line]:
    output = random.choice(("labels.zarr", "labels.tif", "labels.nrrd", "labels.nii", "out"))
    extra = random.choice(
        ((), (), (), ("--window", "0,255"), ("--axis", "1"), ("--range", "1:3"), ("--pyramid",),
         ("--fill-missing-chunks",), ("--quantify",), ("--dry-run",))
    )  # fmt: skip
    if random.random() < 0.1:
        return [("quantify", location, "-o", str(folder / "tables"), "--workers", "1")]
    if output != "labels.zarr" and extra == ("--pyramid",):
        extra = ()
    return [("run", bench.model, location, "-o", str(folder / output), *extra, *_QUICK)]


def _tiff(bench: Bench, folder: Path, random: Random) -> list[Line]:
    seed = bench.seed(random, "stacks/*.tif")
    content = seed.read_bytes()
    blind = random.random() < 0.3
    mutated = (
        mutate_octets(random, content, bench.donors("stacks/*.tif"))
        if blind
        else pictures.mutate_tiff(random, content)
    )
    if random.random() < 0.3:
        return _image(bench, folder, random, ".tif", mutated)
    path = folder / seed.name
    path.write_bytes(mutated)
    return _volume_lines(bench, folder, random, str(path))


def _channels(bench: Bench, folder: Path, random: Random) -> list[Line]:
    """A TIFF or a .czi of many channels: for a model of as many or of one, from training pictures to a run."""
    many = [
        (),
        (),
        (),
        ("--channels", "2,0,1,3"),
        ("--axes", "cyx"),
        ("--axes", "yxc"),
        ("--window", "0,255"),
    ]
    one = [("--channels", "1"), ("--channels", "1"), ("--channels", "grey"), ("--axis", "0")]
    one += [("--axes", axes, "--channels", "3") for axes in ("cyx", "yxc", "zcyx", "czyx")]
    model, extras = random.choice(((str(bench.root / "many.onnx"), many), (bench.model, one)))
    extra: Line = random.choice(extras if random.random() < 0.9 else many + one)
    if random.random() < 0.15:
        path = folder / "scan.czi"
        volume_files.write_czi(path, np.stack([seeds.volume()[: seeds.CHANNELS]] * 2))
        path.write_bytes(mutate_octets(random, path.read_bytes()))
        return [("run", model, str(path), "-o", str(folder / "out"), *extra, *_QUICK)]
    seed = bench.seed(random, "channels/*.tif")
    mutate = pictures.mutate_tiff if random.random() < 0.7 else mutate_octets
    content = mutate(random, seed.read_bytes())
    choice = random.randrange(4)
    if choice == 0:
        place = folder / "ws" / "data" / "ds" / "train"
        for kind in ("images", "labels"):
            (place / kind).mkdir(parents=True)
        (place / "images" / "s.tif").write_bytes(content)
        shutil.copy(bench.root / "pictures" / "palette.png", place / "labels" / "s.png")
        option = ("--workspace", str(folder / "ws"))
        return [
            ("prep", "labels", "ds", "train", "--classes", "3", *option),
            ("prep", "check", "ds", *option),
        ]
    scan = folder / "scan"
    scan.mkdir()
    path = scan / seed.name
    path.write_bytes(content)
    if choice == 1:
        shutil.copy(bench.root / "channels" / "together.tif", scan / "a_good.tif")
        extra = extra if "--channels" in extra[:1] else ()
        return [("run", model, str(scan), "-o", str(folder / "out"), *extra, *_QUICK)]
    output = random.choice(("out", "labels.tif", "labels.zarr", "labels.nii"))
    return [("run", model, str(path), "-o", str(folder / output), *extra, *_QUICK)]


def _npy(bench: Bench, folder: Path, random: Random) -> list[Line]:
    content = (bench.root / "volume.npy").read_bytes()
    mutated = mutate_octets(random, content) if random.random() < 0.3 else arrays.mutate_npy(random, content)
    if random.random() < 0.3:
        workspace = folder / "ws"
        shutil.copytree(bench.root / "workspace", workspace)
        (workspace / "data" / "ds" / "train" / "labels_npy" / "s0.npy").write_bytes(mutated)
        return [
            ("prep", "check", "ds", "--workspace", str(workspace)),
            ("matseg", "--workspace", str(workspace)),
        ]
    path = folder / "scan.npy"
    path.write_bytes(mutated)
    return _volume_lines(bench, folder, random, str(path))


def _zarr(bench: Bench, folder: Path, random: Random) -> list[Line]:
    seed = bench.seed(random, "zarrs/*.zarr")
    path = folder / seed.name
    shutil.copytree(seed, path)
    arrays.mutate_zarr(random, path)
    node = random.choice(("", "", "", "::/", "::/0", "::/no"))
    if seed.name.startswith("ome") and random.random() < 0.15:
        return [("run", bench.model, str(path), "--label", "phases", *_QUICK)]
    return _volume_lines(bench, folder, random, f"{path}{node}")


def _hdf5(bench: Bench, folder: Path, random: Random) -> list[Line]:
    path = folder / "scan.h5"
    if random.random() < 0.5:
        content = bench.seed(random, "hdf5/*.h5").read_bytes()
        path.write_bytes(mutate_octets(random, content, bench.donors("hdf5/*.h5")))
    else:
        arrays.make_hdf5(random, path, seeds.volume())
    node = random.choice(("", "", "::/exchange/data", "::/data", "::/", "::/loop", "::/a/b"))
    return _volume_lines(bench, folder, random, f"{path}{node}")


def _formats(bench: Bench, folder: Path, random: Random) -> list[Line]:
    """Files of lab CT and microscopes, of which the header is damaged more often than the pixels."""
    name = random.choice((*volume_files.WRITERS, "scan.raw"))
    path = folder / name
    if name == "scan.raw":
        path.write_bytes(seeds.volume().tobytes()[: random.choice((None, None, -1, 5))])
        shape = random.choice(
            ("6x24x32", "6x24x32", "32x24x6", "24x192", "6x24x33", f"6x24x{random.choice(EDGES)}")
        )
        told = f"{shape},{random.choice(('uint8', 'uint8', 'uint16', 'int8', 'f4,big', 'uint8,F', 'word'))}"
        return [(*_volume_lines(bench, folder, random, str(path))[0], "--raw", told)]
    volume_files.WRITERS[name](path, seeds.volume())
    others = [other for other in folder.iterdir() if other != path]
    wrong = random.choice(others) if others and random.random() < 0.3 else path
    content = wrong.read_bytes()
    if random.random() < 0.5:
        content = mutate_octets(random, content)
    else:  # a number in the text of a header, or a word
        found = list(re.finditer(rb"[-\d.]+|[A-Za-z]+", content[:1500])) or [re.match(b"", content)]
        place = random.choice(found)
        new = random.choice(
            (*map(str, EDGES), "-1", "0.5", "1e9", "nan", "", "9" * 40, "x" * 5000, "../up", "\n")
        )
        content = content[: place.start()] + new.encode() + content[place.end() :]
    wrong.write_bytes(content)
    return _volume_lines(bench, folder, random, str(path))


def _model_lines(bench: Bench, folder: Path, content: bytes) -> list[Line]:
    path = folder / "mutated.onnx"
    path.write_bytes(content)
    scan = bench.root / "run" / "scan"
    return [
        ("inspect", str(path)),
        ("verify", str(path), "--threads", "1"),
        ("run", str(path), str(scan), "-o", str(folder / "out"), *_QUICK),
    ]


def _onnx(bench: Bench, folder: Path, random: Random) -> list[Line]:
    content = (bench.root / "model.onnx").read_bytes()
    blind = random.random() < 0.4
    return _model_lines(
        bench, folder, mutate_octets(random, content) if blind else models.mutate_graph(random, content)
    )


def _metadata(bench: Bench, folder: Path, random: Random) -> list[Line]:
    content = (bench.root / "model.onnx").read_bytes()
    mutated = (
        models.mutate_self_test(random, content)
        if random.random() < 0.25
        else models.mutate_metadata(random, content)
    )
    if random.random() < 0.2:
        (folder / "model.onnx").write_bytes(mutated)
        return [("matseg", "--workspace", str(folder))]
    return _model_lines(bench, folder, mutated)


def _workspace(bench: Bench, folder: Path) -> Path:
    """One that has everything but images to train on, so that what loads is not trained."""
    workspace = folder / "ws"
    shutil.copytree(bench.root / "workspace", workspace)
    return workspace


def _config(bench: Bench, folder: Path, random: Random) -> list[Line]:
    workspace = _workspace(bench, folder)
    option = ("--workspace", str(workspace))
    if random.random() < 0.25:
        path = workspace / "data" / "ds" / "classes.toml"
        path.write_bytes(mutate_toml(random, path.read_text()))
        return [("prep", "check", "ds", *option), ("matseg", *option)]
    (workspace / "config.toml").write_bytes(mutate_toml(random, seeds.CONFIG))
    shutil.rmtree(
        workspace / "data" / "ds" / "train"
    )  # a configuration that is right must not start a training
    return [("train", "ds", "v1", "--overwrite", "--no-report", *option), ("matseg", *option)]


def _import_config(bench: Bench, folder: Path, random: Random) -> list[Line]:
    del bench
    text = "config = {'ds': {'v1': {'model': 'unet', 'n_class': 3, 'lr': 1e-4, 'size': (24, 32)}}}\n"
    content = mutate_octets(random, text.encode(), most=2)
    odd = (b"config = " + b"[" * 3000, b"config = " + b"-" * 9000 + b"1", b"(" * 500,
           b"config = {'a': {'b': {'lr': 1e999}}}", b"config = {'a': {'b': {'n_class': 1" + b"0" * 5000 + b"}}}", b"\0",
           b"x = 1\n" * 9, b"# coding: no\nconfig = {}")  # fmt: skip
    (folder / "config.py").write_bytes(random.choice(odd) if random.random() < 0.3 else content)
    return [("prep", "import-config", str(folder / "config.py"), "--workspace", str(folder))]


def _checkpoint(bench: Bench, folder: Path, random: Random) -> list[Line]:
    workspace = _workspace(bench, folder)
    path = workspace / "saved" / "ds_v1.pth"
    path.write_bytes(archives.mutate_checkpoint(random, path.read_bytes()))
    option = ("--workspace", str(workspace))
    shutil.rmtree(workspace / "data" / "ds" / "test")  # what loads need not be evaluated
    return [("matseg", *option), ("evaluate", "ds", "v1", "--no-report", *option)]


def _records(bench: Bench, folder: Path, random: Random) -> list[Line]:
    """Documents that runs, trainings and evaluations leave for later commands."""
    if random.random() < 0.5:
        workspace = _workspace(bench, folder)
        path = random.choice(
            sorted(item for item in (workspace / "log").iterdir() if item.suffix in (".json", ".jsonl"))
        )
        _mutate_record(random, path)
        return [("report", str(path)), ("matseg", "--workspace", str(workspace))]
    place = folder / "run"
    shutil.copytree(bench.root / "run", place)
    output = place / random.choice(("labels", "labels.zarr"))
    side = place / "labels.zarr.matseg" if output.suffix else output
    records = sorted(item for item in side.rglob("*") if item.suffix in (".json", ".jsonl", ".csv"))
    _mutate_record(random, random.choice(records))
    again = (
        "run",
        bench.model,
        str(place / "scan"),
        "-o",
        str(output),
        "--quantify",
        "--voxel-size",
        "0.5um",
        *_QUICK,
    )
    lines: list[Line] = [("report", str(output)), ("quantify", str(output), "--workers", "1"), again]
    return [random.choice(lines), ("matseg", "--workspace", str(place))]


def _mutate_record(random: Random, path: Path) -> None:
    content = path.read_bytes()
    if path.suffix == ".json":
        path.write_bytes(mutate_json(random, json.loads(content)))
    elif path.suffix == ".jsonl":
        lines = content.splitlines()
        at = random.randrange(len(lines))
        lines[at] = mutate_json(random, json.loads(lines[at])).replace(b"\n", b" ")
        path.write_bytes(b"\n".join(lines) + b"\n")
    else:
        path.write_bytes(mutate_octets(random, content))


def _export(bench: Bench, folder: Path, random: Random) -> list[Line]:
    """Labels of another tool: one file of an export that is in order."""
    source = bench.seed(random, "exports/*")
    place = folder / source.name
    shutil.copytree(source, place)
    files = sorted(path for path in place.rglob("*") if path.is_file() and path.stem != "s1")
    described = [path for path in files if path.suffix not in (".png", ".tif")]
    path = random.choice(described if described and random.random() < 0.9 else files)
    content = path.read_bytes()
    if "json" in path.suffix and random.random() < 0.7:
        path.write_bytes(mutate_json(random, json.loads(content)))
    else:
        path.write_bytes(mutate_octets(random, content))
    images = ("--images", str(place)) if source.name == "ilastik" or random.random() < 0.2 else ()
    extra = random.choice(((), ("--outside", "unlabelled"), ("--unlabelled", "pore"), ("--outside", "pore")))
    extra = () if source.name == "ilastik" else extra
    (folder / "ws").mkdir()
    return [("prep", "import", str(place), "ds", *images, *extra, "--workspace", str(folder / "ws"))]


TARGETS: Mapping[str, Target] = {
    "png": Target(make=_png, weight=14),
    "jpeg": Target(make=_jpeg, weight=6),
    "bmp": Target(make=_bmp, weight=4),
    "tiff": Target(make=_tiff, weight=18),
    "channels": Target(make=_channels, weight=10),
    "npy": Target(make=_npy, weight=8),
    "zarr": Target(make=_zarr, weight=18),
    "hdf5": Target(make=_hdf5, weight=10),
    "formats": Target(make=_formats, weight=20),
    "onnx": Target(make=_onnx, weight=6),
    "metadata": Target(make=_metadata, weight=8),
    "config": Target(make=_config, weight=10),
    "import": Target(make=_import_config, weight=4),
    "export": Target(make=_export, weight=10),
    "checkpoint": Target(make=_checkpoint, weight=6),
    "records": Target(make=_records, weight=8),
}
