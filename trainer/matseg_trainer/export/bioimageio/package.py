"""A model package of bioimage.io: our ONNX file, unchanged, with what ilastik, deepImageJ or QuPath must know of it.

The format is its specification's version 0.5, written and checked by the package `bioimageio.spec`. The input is the
model's own (raw pixels: no preprocessing); outputs are labels and probabilities. Sizes grow in strides, and the halo
is declared, so that programs that cut images into blocks get seamless results.
"""

from __future__ import annotations

import importlib.util
import re
import tempfile
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from matseg_runtime.inference.session import Session
from matseg_runtime.model.trust import MADE_HERE
from matseg_runtime.units import ome_unit, unit_of
from matseg_shared.contract.metadata import (
    INPUT_NAME,
    LABELS_NAME,
    PROBABILITIES_NAME,
    ModelMetadata,
    graph_kind,
)
from matseg_shared.contract.tiling import smallest_tile
from matseg_shared.errors import ExportError, MissingExtraError, UsageError, problems_of
from matseg_shared.system.files import atomic_write
from matseg_trainer.export.bioimageio.texts import cover, documentation, network_citation

if TYPE_CHECKING:
    from bioimageio.spec.model import v0_5

_COLOURS = ("red", "green", "blue")


@dataclass(frozen=True, slots=True, kw_only=True)
class Package:
    """The request: options, and facts that only people can know of a model."""

    path: Path
    authors: list[v0_5.Author]
    licence: v0_5.LicenseId
    citations: list[v0_5.CiteEntry]

    @classmethod
    def parse(
        cls,
        path: Path,
        authors: Sequence[str],
        licence: str | None,
        citations: Sequence[str],
        *,
        overwrite: bool,
    ) -> Package:
        """Check all of it, before any work.

        Raises:
            UsageError: something is missing or malformed.
            MissingExtraError: `bioimageio.spec` is not installed.
        """
        if path.suffix != ".zip":
            raise UsageError(f"{path}: expected a file name that ends in .zip")
        if path.exists() and not overwrite:
            raise UsageError(f"{path}: exists already; give --overwrite to replace it, or another name")
        if not authors or licence is None:
            raise UsageError(
                f"{path}: a package names who made the model and what others may do with it, which nobody but you "
                "knows; give --author 'Jane Doe' (once per person) and --licence CC-BY-4.0 (an SPDX identifier)"
            )
        if importlib.util.find_spec("bioimageio") is None:
            raise MissingExtraError("bioimageio", "--bioimageio")
        from bioimageio.spec.model.v0_5 import LicenseId
        from pydantic import ValidationError

        try:
            licence_id = LicenseId(licence)
        except ValidationError as error:
            raise UsageError(
                f"--licence {licence}: expected an SPDX identifier, such as CC-BY-4.0, CC0-1.0 or MIT"
            ) from error
        return cls(
            path=path,
            authors=[_author(text) for text in authors],
            licence=licence_id,
            citations=[_citation(text) for text in citations],
        )


def _author(text: str) -> v0_5.Author:
    """Read `Jane Doe` or `Jane Doe <jane@lab.org>`."""
    from bioimageio.spec.model.v0_5 import Author

    match = re.fullmatch(r"\s*([^<>/\\]+?)\s*(?:<\s*([^<>\s]+@[^<>\s]+)\s*>)?\s*", text)
    try:
        if match is not None:
            return Author(name=match[1], email=match[2])
    except ValueError:  # an address that cannot be one
        pass
    raise UsageError(
        f"--author {text}: expected a name, with or without an address: 'Jane Doe <jane@lab.org>'"
    )


def _citation(text: str) -> v0_5.CiteEntry:
    """Read a text that ends with a DOI: `Stan et al. 2019, 10.18126/M2RM08`."""
    from bioimageio.spec.model.v0_5 import CiteEntry, Doi

    found = re.fullmatch(
        r"(?i)(?:(.*\S)\s+)?(?:https?://(?:dx\.)?doi\.org/|doi:)?(10\.\d{4,9}/\S+)", text.strip()
    )
    if found is None:
        raise UsageError(f"--cite {text}: expected a text that ends with a DOI, such as 10.18126/M2RM08")
    return CiteEntry(text=(found[1] or found[2]).rstrip(",;:"), doi=Doi(found[2]))


def write_package(package: Package, model: Path) -> None:
    """Write the package of an exported model, whole or not at all.

    Raises:
        ModelError: the model file cannot be used.
        ExportError: the self-test in it shows too little, or the specification does not allow what it describes.
        OutputError: the package cannot be written.
    """
    from bioimageio.spec import save_bioimageio_package_to_stream
    from pydantic import ValidationError

    session = Session.open(model, provider="cpu", trust=MADE_HERE)
    session.require_self_test()
    with tempfile.TemporaryDirectory(prefix="matseg-") as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)  # bioimageio.spec leaves closing files to Python
        try:
            description = _describe(package, session, Path(folder))
        except ValidationError as error:
            listed = "; ".join(str(problem) for problem in problems_of(error))
            raise ExportError(f"{package.path}: bioimageio.spec refuses its description: {listed}") from error
        with atomic_write(package.path) as stream:
            save_bioimageio_package_to_stream(description, output_stream=stream)
        del description  # and with it what it holds open in the folder


def _example(session: Session) -> dict[str, NDArray[Any]]:
    """The package's test: the self-test's image, reflected to the smallest size from which a halo can be cut.

    Returns:
        `image` (1, C, H, W), which all programs can take in one piece, and the model's answer: `labels` (1, H, W) uint8
        and `probabilities` (1, K, H, W) float32.
    """
    tiling = session.model.metadata.tiling
    image = session.model.self_test.image[:1]
    smallest = smallest_tile(tiling.halo, tiling.stride)
    missing = [max(0, smallest - length) for length in image.shape[2:]]
    image = np.pad(image, ((0, 0), (0, 0), (0, missing[0]), (0, missing[1])), mode="reflect")
    labels, probabilities = session.predict_with_probabilities(np.ascontiguousarray(image))
    if not labels.any():
        raise ExportError(
            f"{session.model.path}: its self-test shows {session.model.metadata.classes[0].name} only, which tests "
            "nothing; train with images that show more than one class"
        )
    return {"image": image, "labels": labels, "probabilities": probabilities.astype(np.float32)}


def _describe(package: Package, session: Session, folder: Path) -> v0_5.ModelDescr:
    """The description, and beside it in `folder` the files that it names."""
    from bioimageio.spec.model import v0_5

    metadata = session.model.metadata
    example = _example(session)
    weights = folder / f"{_plain(metadata.name)}.onnx"
    weights.write_bytes(session.model.path.read_bytes())
    for name, array in example.items():
        np.save(folder / f"{name}.npy", array)
    cover(folder / "cover.png", example["image"][0], example["labels"][0], metadata)
    readme = folder / "README.md"
    readme.write_text(documentation(metadata, session.model.sha256), encoding="utf-8")
    classes = ", ".join(item.name for item in metadata.classes)
    networks = list(dict.fromkeys(training.network for training in metadata.trainings))
    papers = [network_citation(network) for network in networks]
    return v0_5.ModelDescr(
        name=_plain(f"MatSeg {metadata.name} {graph_kind(metadata.export.precision, metadata.export.tta)}"),
        description=f"Labels every pixel of 2D images as one of {len(metadata.classes)} classes: {classes}."[
            :512
        ],
        authors=package.authors,
        cite=[
            *package.citations,
            *(v0_5.CiteEntry(text=title, doi=v0_5.Doi(doi)) for title, doi in dict.fromkeys(papers)),
        ],
        timestamp=v0_5.Datetime(datetime.now(UTC)),
        license=package.licence,
        tags=["semantic-segmentation", "2d", "materials-science", "matseg", *networks],
        documentation=v0_5.FileDescr(source=readme),
        covers=[v0_5.FileDescr(source=folder / "cover.png")],
        inputs=[_input(metadata, folder)],
        outputs=_outputs(metadata, folder),
        weights=v0_5.WeightsDescr(
            onnx=v0_5.OnnxWeightsDescr(source=weights, opset_version=metadata.export.opset)
        ),
    )


def _input(metadata: ModelMetadata, folder: Path) -> v0_5.InputTensorDescr:
    from bioimageio.spec.model import v0_5

    tiling = metadata.tiling
    size = v0_5.ParameterizedSize(min=smallest_tile(tiling.halo, tiling.stride), step=tiling.stride)
    given = metadata.input
    unnamed = {1: ("grey",), 3: _COLOURS}.get(given.channels) or [str(k) for k in range(given.channels)]
    named = given.channel_names or unnamed
    if given.context:
        named = [name.replace("-", " minus ").replace("+", " plus ") for name in named]
    names = _identifiers(named, "channel")
    return v0_5.InputTensorDescr(
        id=v0_5.TensorId(INPUT_NAME),
        description="Raw pixels; the model normalises them itself."
        + (f" A slice with {given.context} neighbours on either side as channels." if given.context else ""),
        axes=[
            v0_5.BatchAxis(),
            v0_5.ChannelAxis(channel_names=names),
            *(v0_5.SpaceInputAxis(id=v0_5.AxisId(axis), size=size, **_pixel(metadata)) for axis in "yx"),
        ],
        test_tensor=v0_5.FileDescr(source=folder / "image.npy"),
        data=v0_5.IntervalOrRatioDataDescr(type=metadata.input.dtype),
    )


def _outputs(metadata: ModelMetadata, folder: Path) -> list[v0_5.OutputTensorDescr]:
    """In the order of the graph: programs know outputs by their position."""
    from bioimageio.spec.model import v0_5

    space = [_output_axis(metadata, axis) for axis in "yx"]
    channels = v0_5.ChannelAxis(channel_names=_identifiers([item.name for item in metadata.classes], "class"))
    return [
        v0_5.OutputTensorDescr(
            id=v0_5.TensorId(LABELS_NAME),
            description="Index of the most probable class.",
            axes=[v0_5.BatchAxis(), *space],
            test_tensor=v0_5.FileDescr(source=folder / "labels.npy"),
            data=v0_5.NominalOrOrdinalDataDescr(
                values=[item.name for item in metadata.classes], type="uint8"
            ),
        ),
        v0_5.OutputTensorDescr(
            id=v0_5.TensorId(PROBABILITIES_NAME),
            description="Of each class, from 0 to 1.",
            axes=[v0_5.BatchAxis(), channels, *space],
            test_tensor=v0_5.FileDescr(source=folder / "probabilities.npy"),
            data=v0_5.IntervalOrRatioDataDescr(type="float32", range=(0.0, 1.0)),
        ),
    ]


def _output_axis(metadata: ModelMetadata, axis: str) -> Any:
    from bioimageio.spec.model import v0_5

    size = v0_5.SizeReference(tensor_id=v0_5.TensorId(INPUT_NAME), axis_id=v0_5.AxisId(axis))
    common = {"id": v0_5.AxisId(axis), "size": size, **_pixel(metadata)}
    if metadata.tiling.halo == 0:
        return v0_5.SpaceOutputAxis(**common)
    return v0_5.SpaceOutputAxisWithHalo(halo=metadata.tiling.halo, **common)


def _pixel(metadata: ModelMetadata) -> dict[str, Any]:
    """Edge of a pixel, where it is known in a unit of length."""
    size = metadata.pixel_size
    unit = None if size is None else unit_of(size.unit)
    return {} if size is None or unit is None else {"scale": size.value, "unit": ome_unit(unit)}


def _plain(text: str) -> str:
    """With the characters that names of packages may have."""
    return re.sub(r"[^A-Za-z0-9_+\- ()]", "-", text)


def _identifiers(names: Sequence[str], kind: str) -> list[str]:
    """Distinct names of channels that are identifiers, which older readers insist on."""
    plain = [re.sub(r"\W+", "_", name, flags=re.ASCII).strip("_").lower() for name in names]
    valid = [name if name.isidentifier() else f"{kind}_{name}".rstrip("_") for name in plain]
    return [name if valid.count(name) == 1 else f"{name}_{number}" for number, name in enumerate(valid)]
