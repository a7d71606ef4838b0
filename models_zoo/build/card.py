"""The card of one model: its description, its own metadata and its figures as one page of Markdown."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from matseg_runtime.inference.session import Session
from matseg_runtime.model.file import Model
from matseg_runtime.model.zoo import PREFIX, ZooModel
from matseg_shared.contract.metadata import PAYS_ON, ModelMetadata, TrainingInfo, Views, graph_kind
from matseg_shared.errors import ModelError
from matseg_trainer.config.versions import current_names
from matseg_trainer.evaluate.document import Spread
from models_zoo.build.checkout import ZooEntry
from models_zoo.build.description import Description, read_description
from models_zoo.build.figures import Speed, ZooFigures, read_figures


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Card:
    """Everything that is known of one model of the zoo; the parts agree with one another."""

    entry: ZooEntry
    description: Description
    model: Model
    figures: ZooFigures

    @classmethod
    def read(cls, entry: ZooEntry) -> Card:
        """From the files of one folder.

        Raises:
            MatsegError: one is missing or damaged, or they do not belong together.
        """
        description = read_description(entry.description)
        model = Session.open(entry.model, provider="cpu", threads=1).model
        check_model(description, model)
        figures = read_figures(entry.figures)
        if figures.model_sha256 != model.sha256:
            raise ModelError(
                f"{entry.figures}: expected figures of {entry.model} (SHA-256 {model.sha256}), found those of another "
                f"file ({figures.model_sha256}); run python -m models_zoo.build publish {entry.name}"
            )
        return cls(entry=entry, description=description, model=model, figures=figures)

    @property
    def indexed(self) -> ZooModel:
        """Entry of the index."""
        metadata = self.model.metadata
        return ZooModel(
            name=self.entry.name,
            summary=self.description.summary,
            dataset=metadata.training.dataset,
            version=metadata.training.version,
            network=metadata.training.network,
            precision=metadata.export.precision,
            tta=metadata.export.tta,
            classes=tuple(item.name for item in metadata.classes),
            channels=metadata.input.channels,
            dtype=metadata.input.dtype,
            bytes=self.entry.model.stat().st_size,
            sha256=self.model.sha256,
        )

    @property
    def text(self) -> str:
        """The page."""
        sections = (
            _head(self),
            _classes(self.model.metadata, self.figures),
            _quality(self.model.metadata, self.figures),
            _speed(self.figures.speed),
            _data(self.description, self.model.metadata),
            _use(self.description),
            _again(self.entry.name, self.description),
        )
        return "\n\n".join(sections) + "\n"


def check_model(description: Description, model: Model) -> None:
    """Refuse a file that is not what the description describes.

    Raises:
        ModelError: it has another name or precision, or other views.
    """
    metadata = model.metadata
    expected = f"{description.trained_name} in {graph_kind(description.precision, description.tta)}"
    found = f"{metadata.name} in {graph_kind(metadata.export.precision, metadata.export.tta)}"
    if found != expected:
        raise ModelError(
            f"{model.path}: expected a model of {expected}, as its model.toml says, found one of {found}; "
            "correct model.toml, or build the model again"
        )


def markdown_table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table; the bar that separates cells is escaped in them."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |" for line in lines)


def _head(card: Card) -> str:
    metadata, entry = card.model.metadata, card.entry
    training, low, high = metadata.training, metadata.input.histogram.low, metadata.input.histogram.high
    size = metadata.pixel_size
    rows = (
        ("file", f"`{entry.model.name}`, {entry.model.stat().st_size / 1e6:.1f} MB"),
        ("SHA-256", f"`{card.model.sha256}`"),
        ("network", f"{training.network}, width {training.config.get('width') or 64}"),
        (
            "input",
            f"{metadata.input.channels} channel(s) of {metadata.input.dtype}, {low:g} to {high:g} in training",
        ),
        ("pixel size", "not known" if size is None else f"{size.value:g} {size.unit}"),
        (
            "precision",
            f"{metadata.export.precision}, worth its while on {', '.join(filter(metadata.pays_on, PAYS_ON['fp32']))}",
        ),
        *_views(metadata.export.tta),
        ("tiles", f"stride {metadata.tiling.stride}, halo {metadata.tiling.halo} pixels"),
        *origins(training),
        (
            "training",
            f"{training.dataset} {training.version}, {_kept(training)} epoch {training.epoch} of "
            f"{training.config.get('epoch', 'an unknown number')}, seed {training.seed}",
        ),
        ("made with", ", ".join(f"{name} {version}" for name, version in metadata.export.packages.items())),
    )
    return (
        f"# {entry.name}\n\n{card.description.summary}.\n\n"
        f"```sh\nmatseg-run {PREFIX}{entry.name} raw_slices/\n```\n\n{markdown_table(('', ''), rows)}"
    )


def origins(training: TrainingInfo) -> list[tuple[str, str]]:
    """Sources of the weights besides the data set's labels."""
    rows = []
    if training.init is not None:
        rows.append(("fine-tuned from", f"{training.init.name} (weights `{training.init.sha256[:16]}`)"))
    if training.pretrained is not None:
        rows.append(("encoder begun from", str(training.pretrained)))
    return rows


def _views(tta: Views) -> list[tuple[str, str]]:
    """A row on test-time augmentation, where there is any."""
    if tta == 1:
        return []
    return [("test-time augmentation", f"mean of {tta} views, which takes {tta} times as long as one")]


def _validation(metadata: ModelMetadata) -> str:
    """Subject of the training's figures: its network, not the file."""
    return "validation" if metadata.export.tta == 1 else "validation, one view"


def _classes(metadata: ModelMetadata, figures: ZooFigures) -> str:
    accuracy = figures.accuracy
    validated = metadata.training.metrics.get("iou", [None] * len(metadata.classes))
    rows = [
        [
            str(item.index),
            item.name,
            str(item.colour),
            _number(validated[item.index]),
            _number(accuracy.iou[item.index]),
            _spread(accuracy.iou_spread[item.index]),
            f"{accuracy.fraction_error[item.index] * 100:+.2f}",
        ]
        for item in metadata.classes
    ]
    header = (
        "value",
        "class",
        "colour (RGB)",
        f"IoU, {_validation(metadata)}",
        f"IoU, {accuracy.split}",
        f"IoU, {accuracy.split}, image by image: median (lowest to highest)",
        f"phase fraction, {accuracy.split}: error in percentage points",
    )
    return f"## Classes\n\n{markdown_table(header, rows)}"


def _kept(training: TrainingInfo) -> str:
    """Epoch that the version keeps: the best or the last."""
    return str(current_names(training.config).get("checkpoint", "best"))


def _quality(metadata: ModelMetadata, figures: ZooFigures) -> str:
    accuracy, validated = figures.accuracy, metadata.training.metrics
    chosen = (
        ""
        if current_names(metadata.training.config).get("checkpoint") == "last"
        else ", on which the epoch was chosen"
    )
    lines = [
        f"- {accuracy.split}, {accuracy.images} image(s) that took no part in the training: mean IoU "
        f"{_number(accuracy.mean_iou)}, accuracy {_number(accuracy.accuracy)}; image by image mean IoU "
        f"{_spread(accuracy.mean_iou_spread)}",
        f"- boundaries there: F1 {_number(accuracy.boundary_f1)} within {accuracy.boundary_tolerance:g} pixels, mean "
        f"displacement {_number(accuracy.boundary_displacement, 2)} pixels",
        f"- probabilities there: expected calibration error {_number(accuracy.calibration_error)}",
        f"- {_validation(metadata)}{chosen}: mean IoU {_number(validated.get('mean_iou'))}, accuracy "
        f"{_number(validated.get('accuracy'))}",
    ]
    if figures.seeds:
        values = [*figures.seeds, float(validated["mean_iou"])]
        lines.append(
            f"- {len(values)} trainings with different seeds: validation mean IoU {_number(statistics.median(values))} "
            f"({_number(min(values))} to {_number(max(values))})"
        )
    if (cost := metadata.export.accuracy) is not None:
        lines.append(
            f"- {metadata.export.precision} instead of fp32: mean IoU {_number(cost.mean_iou)} instead of "
            f"{_number(cost.mean_iou_fp32)} on the {cost.images} images of {cost.split}"
        )
    return "## How good\n\n" + "\n".join(lines)


def _speed(speed: Speed) -> str:
    return (
        f"## How fast\n\n{speed.median * 1e3:.1f} ms for an image of {speed.edge} x {speed.edge} pixels "
        f"({speed.fastest * 1e3:.1f} to {speed.slowest * 1e3:.1f} in {speed.calls} calls), that is "
        f"{speed.megapixels_per_second:.1f} Mpixel/s, without reading and writing: onnxruntime {speed.onnxruntime} on "
        f"the provider {speed.provider}, {speed.threads} thread(s) on {speed.cores:.1f} core(s) of "
        f"the processor ({speed.processor})."
    )


def _data(description: Description, metadata: ModelMetadata) -> str:
    data = description.data
    cite = f"\n- to cite: {data.citation}" if data.citation else ""
    begun = metadata.training.pretrained
    others = "" if begun is None else f"; the weights that its encoder began from are under {begun.licence}"
    return (
        f"## Data\n\n{data.source.strip()}\n\n- licence of the data: {data.licence}{cite}\n"
        "- fingerprint of the training and validation images and label arrays (SHA-256): "
        f"`{metadata.training.fingerprint}`\n\nThe model is MIT licensed, as MatSeg is{others}."
    )


def _use(description: Description) -> str:
    limits = "\n".join(f"- {limit}" for limit in description.use.limits)
    return f"## What it is for, and what not\n\n{description.use.intended.strip()}\n\n{limits}"


def _again(name: str, description: Description) -> str:
    model = f"saved/zoo_{name}.onnx"
    others = ", ".join(f"`{other}`" for other in description.after)
    first = f" (after the training of {others}, unless its checkpoint is in `saved/`)" if others else ""
    commands = (
        *description.prepare,
        " ".join(description.training()),
        " ".join(description.export(model)),
        " ".join(description.evaluation(model)),
    )
    listing = "\n".join(commands)
    return (
        f"## Make it again\n\n`make models MODEL={name}` in a source checkout, whose `data/` holds the data sets that "
        f"are not drawn; it runs{first}\n\n```sh\n{listing}\n```"
    )


def _number(value: float | None, digits: int = 4) -> str:
    return "-" if value is None else f"{value:.{digits}f}"


def _spread(spread: Spread | None) -> str:
    if spread is None:
        return "-"
    return f"{_number(spread.median)} ({_number(spread.minimum)} to {_number(spread.maximum)})"
