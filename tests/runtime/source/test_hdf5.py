"""HDF5 and NeXus as beamlines write them: defaults and links, filters, files that nobody closed, projections."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import h5py
import hdf5plugin
import numpy as np
import onnx_models
import pytest
from click.testing import Result

from matseg_runtime.source.base import Source, SourceOptions
from matseg_runtime.source.hdf5_file import _checksum
from matseg_runtime.source.open import open_source
from matseg_shared.errors import UsageError

VOLUME = onnx_models.random_pixels((6, 24, 32), "uint8", 1)
Run = Callable[..., Result]
Opened = Callable[..., Source]


@pytest.fixture
def opened() -> Iterator[Opened]:
    """`open_source` of a settled file, closed when the test ends."""
    sources: list[Source] = []

    def call(path: Path, node: str = "", **options: Any) -> Source:
        _settle(path)
        sources.append(open_source(f"{path}{node}", SourceOptions(**options)))
        return sources[-1]

    yield call
    for source in sources:
        source.close()


def _settle(path: Path) -> Path:
    past = time.time() - 60
    os.utime(path, (past, past))
    return path


def _pixels(source: Source) -> np.ndarray[Any, Any]:
    return np.stack(source.read(0, len(source.slices)))


def _nexus(path: Path, signal: Any, **attributes: dict[str, Any]) -> Path:
    """/entry/rec/data, and another volume and a spectrum beside; attributes of root, entry and rec."""
    with h5py.File(path, "w") as file:
        entry = file.create_group("entry")
        rec = entry.create_group("rec")
        for group, name, kind in (
            (file, "root", "NXroot"),
            (entry, "entry", "NXentry"),
            (rec, "rec", "NXdata"),
        ):
            group.attrs.update({"NX_class": kind, **attributes.get(name, {})})
        rec["data"] = signal
        rec["spectrum"] = np.arange(5.0)
        entry["other"] = 255 - VOLUME
    return path


CHAIN = {"root": {"default": "entry"}, "entry": {"default": "rec"}, "rec": {"signal": "data"}}


@pytest.mark.parametrize(
    "attributes",
    [
        CHAIN,
        {**CHAIN, "root": {}},
        {**CHAIN, "root": {"default": "entry/rec"}, "entry": {}},
        {**CHAIN, "root": {"default": b"/entry/rec"}},
        {**CHAIN, "rec": {"signal": np.array(["data"], object)}},
        {"rec": {"signal": "data"}},
    ],
)
@pytest.mark.parametrize("linked", ["no", "soft", "external"])
def test_without_a_path_the_default_of_nexus_is_taken(
    attributes: dict[str, Any], linked: str, tmp_path: Path, opened: Opened
) -> None:
    with h5py.File(tmp_path / "detector.h5", "w") as file:
        file["a/data"] = VOLUME
    signals = {
        "no": VOLUME,
        "soft": h5py.SoftLink("/real"),
        "external": h5py.ExternalLink("detector.h5", "a/data"),
    }
    path = _nexus(tmp_path / "scan.nxs", signals[linked], **attributes)
    with h5py.File(path, "a") as file:
        file["real"] = VOLUME
    source = opened(path)
    np.testing.assert_array_equal(_pixels(source), VOLUME)
    assert source.location == f"{path}::/entry/rec/data"
    np.testing.assert_array_equal(_pixels(opened(path, "::/entry")), VOLUME)


def test_the_signal_of_old_nexus_is_marked_by_a_number(tmp_path: Path, opened: Opened) -> None:
    path = _nexus(tmp_path / "scan.nx", VOLUME)
    with h5py.File(path, "a") as file:
        file["entry/rec/data"].attrs["signal"] = 1
    np.testing.assert_array_equal(_pixels(opened(path)), VOLUME)


def test_groups_behind_links_are_followed(tmp_path: Path, opened: Opened) -> None:
    """Default through an entry in another file, whose signal lies in a third."""
    with h5py.File(tmp_path / "pixels.h5", "w") as file:
        file["data"] = VOLUME
    _nexus(tmp_path / "entry.nxs", h5py.ExternalLink("pixels.h5", "data"), **CHAIN)
    with h5py.File(tmp_path / "master.nxs", "w") as file:
        file.attrs["default"] = "scan"
        file["scan"] = h5py.ExternalLink("entry.nxs", "/entry")
    source = opened(tmp_path / "master.nxs")
    np.testing.assert_array_equal(_pixels(source), VOLUME)
    source.close()
    with h5py.File(tmp_path / "master.nxs", "a") as file:
        del file.attrs["default"]
    with pytest.raises(
        UsageError, match=r"/scan/other \(6, 24, 32\), /scan/rec/data \(6, 24, 32\), a link to pixels"
    ):
        opened(tmp_path / "master.nxs")


@pytest.mark.parametrize("attributes", [CHAIN, {}])
def test_a_link_that_leads_nowhere_is_named_with_its_file(
    attributes: dict[str, Any], tmp_path: Path, opened: Opened
) -> None:
    path = _nexus(tmp_path / "scan.nxs", h5py.ExternalLink("gone.h5", "data"), **attributes)
    with pytest.raises(UsageError, match=r"/entry/rec/data, a link to gone\.h5::data, which is not there"):
        opened(path)
    with pytest.raises(
        UsageError, match=r"no dataset /entry/rec/data: data is a link to gone\.h5::data, which is not"
    ):
        opened(path, "::/entry/rec/data")


def test_a_circle_of_links_ends(tmp_path: Path, opened: Opened) -> None:
    path = _nexus(tmp_path / "scan.nxs", h5py.SoftLink("/entry/rec/data"), **CHAIN)
    with h5py.File(path, "a") as file:
        file["entry/rec/again"] = file["entry"]
        file["entry/self"] = h5py.ExternalLink("scan.nxs", "/")
    with pytest.raises(UsageError, match="circle"):
        opened(path)


def test_a_default_that_is_no_picture_leaves_the_only_volume(tmp_path: Path, opened: Opened) -> None:
    path = _nexus(tmp_path / "scan.nxs", np.arange(7.0), **CHAIN)
    np.testing.assert_array_equal(_pixels(opened(path)), 255 - VOLUME)


def test_links_to_other_folders_are_listed_and_not_opened(tmp_path: Path, opened: Opened) -> None:
    folder = tmp_path / "scan"
    folder.mkdir()
    os.mkfifo(tmp_path / "pipe.h5")  # which would be waited for
    path = _nexus(folder / "scan.nxs", h5py.ExternalLink("../pipe.h5", "data"))
    with pytest.raises(
        UsageError, match=r"a link to \.\./pipe\.h5::data in another folder \(--follow-links\)"
    ):
        opened(path)
    for node in ("::/entry/rec/data", "::/entry/rec/data/more"):
        with pytest.raises(UsageError, match=r"pipe\.h5, which does not lie in the folder of scan\.nxs"):
            opened(path, node)


@pytest.mark.parametrize("suffix", ["nxs", "nx", "hdf", "hdf5", "he5", "mat", "scan"])
@pytest.mark.parametrize("userblock", [0, 512, 2048])
def test_a_file_is_known_by_content_also_behind_a_user_s_bytes(
    suffix: str, userblock: int, tmp_path: Path, opened: Opened
) -> None:
    path = tmp_path / f"scan.{suffix}"
    with h5py.File(path, "w", userblock_size=userblock) as file:
        file["data"] = VOLUME
    np.testing.assert_array_equal(_pixels(opened(path)), VOLUME)


def test_hdf4_is_told_apart(tmp_path: Path, opened: Opened) -> None:
    (tmp_path / "scan.hdf").write_bytes(b"\x0e\x03\x13\x01" + bytes(600))
    with pytest.raises(UsageError, match="found HDF4"):
        opened(tmp_path / "scan.hdf")


COMPRESSIONS = {
    "bitshuffle": hdf5plugin.Bitshuffle(),
    "blosc2": hdf5plugin.Blosc2(),
    "zstd": hdf5plugin.Zstd(),
}


@pytest.mark.parametrize("kind", COMPRESSIONS)
def test_filters_beside_h5py_s_are_used_where_they_are_installed(
    kind: str, tmp_path: Path, model: Path
) -> None:
    """In a process of its own: once imported, filters stay."""
    path = tmp_path / "scan.h5"
    with h5py.File(path, "w") as file:
        file.create_dataset("data", data=VOLUME, chunks=(1, 24, 32), **COMPRESSIONS[kind])
    with h5py.File(tmp_path / "master.h5", "w") as file:
        layout = h5py.VirtualLayout(VOLUME.shape, "u1")
        layout[:] = h5py.VirtualSource("scan.h5", "data", VOLUME.shape)
        file.create_virtual_dataset("data", layout)
    code = (
        "import sys\nif len(sys.argv) > 5: sys.modules['hdf5plugin'] = None; del sys.argv[5]\n"
        "from matseg_runtime.cli.run import run_main\nrun_main()"
    )
    for name in ("scan.h5", "master.h5"):
        command = [sys.executable, "-c", code, model, tmp_path / name, "-o", tmp_path / f"labels_{name[0]}"]
        without = subprocess.run([*command, "hide"], capture_output=True, text=True, check=False)
        assert without.returncode == 3
        assert without.stderr.count("needs the extra `hdf5-filters`") == 1
        assert not (tmp_path / f"labels_{name[0]}").exists()
        assert subprocess.run(command, capture_output=True, check=False).returncode == 0


WRITER = """
import h5py, os, sys, numpy as np
file = h5py.File(sys.argv[1], "w", libver="latest", userblock_size=int(sys.argv[3]))
volume = np.load(sys.argv[2])
options = {"chunks": (1, 24, 32), "maxshape": (None, 24, 32), "compression": sys.argv[4] or None}
data = file.create_dataset("data", volume.shape, "u1", **options)
if sys.argv[5]: file.swmr_mode = True
for number in range(4): data[number] = volume[number]
file.flush()
data[4] = volume[4]
if sys.argv[6]: print("ready", flush=True); sys.stdin.read()
os._exit(9)
"""


def _abandoned(
    folder: Path, *, userblock: int = 0, compression: str = "", swmr: str = "", hold: str = ""
) -> list[str]:
    np.save(folder / "volume.npy", VOLUME)
    arguments = [folder / "scan.h5", folder / "volume.npy", userblock, compression, swmr, hold]
    return [sys.executable, "-c", WRITER, *map(str, arguments)]


@pytest.mark.parametrize("swmr", ["", "swmr"])
@pytest.mark.parametrize("compression", ["", "gzip"])
@pytest.mark.parametrize("userblock", [0, 1024])
def test_what_was_flushed_before_the_writer_died_is_labelled(
    swmr: str, compression: str, userblock: int, tmp_path: Path, model: Path, run: Run
) -> None:
    subprocess.run(_abandoned(tmp_path, swmr=swmr, compression=compression, userblock=userblock), check=False)
    path = _settle(tmp_path / "scan.h5")
    content = path.read_bytes()
    path.chmod(0o444)
    result = run(model, path, "-o", tmp_path / "labels")
    assert result.exit_code == 4, result.output
    assert "4 of 6 slices labelled" in result.output
    assert "slice 4: its chunk at (4, 0, 0) was never written" in result.output
    assert "was not closed by the program that writes it" in result.output
    assert "h5clear" not in result.output
    assert path.read_bytes() == content


def test_a_chunk_behind_the_end_of_an_abandoned_file_was_never_written(
    tmp_path: Path, opened: Opened
) -> None:
    subprocess.run(_abandoned(tmp_path), check=False)
    path = tmp_path / "scan.h5"
    path.write_bytes(path.read_bytes()[:-500])
    source = opened(path)
    np.testing.assert_array_equal(np.stack(source.read(0, 3)), VOLUME[:3])
    with pytest.raises(Exception, match="never written"):
        source.read(3, 4)


def test_an_abandoned_file_hands_out_no_other_file_s_pixels(tmp_path: Path, opened: Opened) -> None:
    """HDF5 would look for what is linked in the file that it reads, and find other pixels."""
    with h5py.File(tmp_path / "good.h5", "w") as file:
        file["data"] = VOLUME
    writer = (
        "import h5py, os, sys; file = h5py.File(sys.argv[1], 'w', libver='latest'); file['data'] = [[[1, 2]] * 3] * 4;"
        "file['link'] = h5py.ExternalLink('good.h5', 'data'); layout = h5py.VirtualLayout((6, 24, 32), 'u1');"
        "layout[:] = h5py.VirtualSource('good.h5', 'data', (6, 24, 32));"
        "file.create_virtual_dataset('virtual', layout); file.flush(); os._exit(9)"
    )
    subprocess.run([sys.executable, "-c", writer, str(tmp_path / "scan.h5")], check=False)
    for node in ("::/link", "::/virtual"):
        with pytest.raises(UsageError, match=r"takes values from good\.h5, and scan\.h5 was not closed"):
            opened(tmp_path / "scan.h5", node)


def test_a_virtual_dataset_of_an_abandoned_file_is_not_filled_in(tmp_path: Path, opened: Opened) -> None:
    subprocess.run(_abandoned(tmp_path), check=False)
    with h5py.File(tmp_path / "master.h5", "w") as file:
        layout = h5py.VirtualLayout(VOLUME.shape, "u1")
        layout[:] = h5py.VirtualSource("scan.h5", "data", VOLUME.shape)
        file.create_virtual_dataset("data", layout)
    with pytest.raises(UsageError, match=r"scan\.h5, which is not there or cannot be opened"):
        opened(tmp_path / "master.h5")


@pytest.mark.parametrize("swmr", ["", "swmr"])
def test_a_file_at_whose_writing_a_program_is_still_at_work(
    swmr: str, tmp_path: Path, opened: Opened
) -> None:
    """One that writes for readers may be read; any other is waited for."""
    command = _abandoned(tmp_path, swmr=swmr, hold="hold")
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as writer:
        try:
            assert writer.stdout is not None
            assert writer.stdout.readline() == b"ready\n"
            if swmr:
                np.testing.assert_array_equal(np.stack(opened(tmp_path / "scan.h5").read(0, 4)), VOLUME[:4])
            else:
                with pytest.raises(UsageError, match="is open for writing in another program"):
                    opened(tmp_path / "scan.h5")
        finally:
            writer.kill()


def test_an_input_can_be_opened_for_writing_while_it_is_read(tmp_path: Path, opened: Opened) -> None:
    path = tmp_path / "scan.h5"
    with h5py.File(path, "w") as file:
        file["data"] = VOLUME
    source = opened(path)
    code = "import h5py, sys; h5py.File(sys.argv[1], 'a').close()"
    subprocess.run([sys.executable, "-c", code, str(path)], check=True)
    assert len(source.slices) == 6


def test_the_checksum_of_a_superblock_is_hdf5_s(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "scan.h5", "w", libver="latest") as file:
        file["data"] = VOLUME
    content = (tmp_path / "scan.h5").read_bytes()
    assert _checksum(content[:44]) == int.from_bytes(content[44:48], "little")


FRAME, ANGLES = np.zeros((2, 24, 32), "u1"), np.linspace(0, 180, 6)
PROJECTIONS: dict[str, tuple[str, dict[str, Any]]] = {
    "data exchange": ("exchange/data", {"exchange/data_white": FRAME, "exchange/theta": ANGLES}),
    "without angles": ("exchange/data", {"exchange/data_dark": FRAME[0]}),
    "without flats": ("exchange/data", {"exchange/theta": ANGLES}),
    "flats": ("scan/images", {"scan/flats": FRAME, "scan/darks": FRAME}),
    "NXtomo, detector": (
        "entry/instrument/detector/data",
        {"entry/instrument/detector/image_key": np.zeros(6, "u1")},
    ),
    "NXtomo, data": ("entry/data/data", {"entry/data/rotation_angle": ANGLES}),
    "NXtomo, sample": ("entry/instrument/detector/data", {"entry/sample/rotation_angle": ANGLES}),
}


@pytest.mark.parametrize("kind", PROJECTIONS)
def test_projections_are_told_before_the_work(kind: str, tmp_path: Path, model: Path, run: Run) -> None:
    name, others = PROJECTIONS[kind]
    with h5py.File(tmp_path / "raw.h5", "w") as file:
        file[name] = VOLUME
        for other, values in others.items():
            file[other] = values
    result = run(model, f"{tmp_path / 'raw.h5'}::/{name}", "-o", tmp_path / "labels")
    assert result.exit_code == 0
    for text in (result.stderr, result.stdout):  # while there is time to stop, and in the summary
        assert "looks like raw projections" in text
    assert "looks like raw projections" in run(model, f"{tmp_path / 'raw.h5'}::/{name}", "--dry-run").output


@pytest.mark.parametrize(
    "others",
    [{}, {"exchange/theta": np.linspace(0, 180, 900)}, {"exchange/data_white": np.zeros((2, 9, 11), "u1")}],
)
def test_reconstructions_are_not_taken_for_projections(
    others: dict[str, Any], tmp_path: Path, opened: Opened
) -> None:
    with h5py.File(tmp_path / "rec.h5", "w") as file:
        file["exchange/data"] = VOLUME
        for other, values in others.items():
            file[other] = values
    assert opened(tmp_path / "rec.h5", "::/exchange/data").warnings() == ()


def test_the_voxel_size_is_that_of_nexus_axes(tmp_path: Path, opened: Opened) -> None:
    path = _nexus(tmp_path / "scan.nxs", VOLUME, rec={"signal": "data", "axes": ["z", "y", "x"]})
    with h5py.File(path, "a") as file:
        for axis, length, step, unit in (("z", 6, 2.0, "um"), ("y", 24, -0.65, "um"), ("x", 32, 650.0, "nm")):
            file[f"entry/rec/{axis}"] = 3 + step * np.arange(length)
            file[f"entry/rec/{axis}"].attrs["units"] = unit
    source = opened(path)
    size = source.voxel_size()
    source.close()
    assert str(size) == "2000 x 650 x 650 nm"
    with h5py.File(path, "a") as file:
        file["entry/rec/z"][3] = 90  # not evenly
    assert opened(path).voxel_size() is None


@pytest.mark.parametrize("place", [0, 512, 2048])
@pytest.mark.parametrize("length", [8, 9, 12])
def test_a_file_that_ends_in_its_first_bytes(tmp_path: Path, place: int, length: int, opened: Opened) -> None:
    path = tmp_path / "scan.h5"
    path.write_bytes((bytes(place) + b"\x89HDF\r\n\x1a\n\3\x08\x08\1")[: place + length])
    with pytest.raises(UsageError, match="expected an HDF5 file, found something else or a damaged file"):
        opened(path)


CHANNELS = np.random.default_rng(1).integers(0, 255, (4, 5, 18, 22)).astype(np.uint8)


def _labelled(path: Path, pixels: np.ndarray, labels: Sequence[str]) -> Path:
    with h5py.File(path, "w") as file:
        file["data"] = pixels
        file["data"].attrs["element_size_um"] = [3.0, 0.5, 0.5]
        for dim, label in zip(file["data"].dims, labels, strict=True):
            dim.label = label
    return path


@pytest.mark.parametrize("labels", ["czyx", "zcyx", "zyxc", ("channel", "depth", "height", "width")])
def test_axes_are_those_of_the_dimension_labels(
    tmp_path: Path, labels: Sequence[str], opened: Opened
) -> None:
    places = [0, 1, 2, 3] if len(labels[0]) > 1 else ["czyx".index(name) for name in labels]
    source = opened(_labelled(tmp_path / "scan.h5", CHANNELS.transpose(places), labels), taken=4)
    assert source.volume is not None
    assert (source.volume.shape, source.volume.channels) == ((5, 18, 22), 4)
    np.testing.assert_array_equal(source.read(2, 3)[0], np.moveaxis(CHANNELS[:, 2], 0, -1))
    assert str(source.voxel_size()) == "3 x 0.5 x 0.5 um"


def test_axes_are_those_of_nexus(tmp_path: Path, opened: Opened) -> None:
    path = _nexus(tmp_path / "scan.nxs", CHANNELS, rec={"signal": "data", "axes": ["channel", "z", "y", "x"]})
    with h5py.File(path, "a") as file:
        for axis, step in zip("zyx", (3, 0.5, 0.5), strict=True):
            values = file["entry/rec"].create_dataset(
                axis, data=step * np.arange(CHANNELS.shape["czyx".index(axis)])
            )
            values.attrs["units"] = "um"
    source = opened(path, taken=2, channels=(3, 0))
    np.testing.assert_array_equal(source.read(2, 3)[0], np.moveaxis(CHANNELS[[3, 0], 2], 0, -1))
    assert str(source.voxel_size()) == "3 x 0.5 x 0.5 um"


def test_axes_in_another_order_are_refused_with_the_option(tmp_path: Path, opened: Opened) -> None:
    path = _labelled(tmp_path / "scan.h5", VOLUME, "xyz")
    with pytest.raises(
        UsageError, match=r"in the order z, y, x, found x, y, z.*--axes zyx if its names are wrong"
    ):
        opened(path)
    np.testing.assert_array_equal(opened(path, axes="zyx").read(1, 2)[0], VOLUME[1])


@pytest.mark.parametrize("labels", [("", "y", "x"), ("energy", "y", "x"), ("z", "y", "y"), ("a", "b", "c")])
def test_labels_that_are_no_axes_are_left_alone(
    tmp_path: Path, labels: Sequence[str], opened: Opened
) -> None:
    source = opened(_labelled(tmp_path / "scan.h5", VOLUME, labels))
    np.testing.assert_array_equal(source.read(1, 2)[0], VOLUME[1])
