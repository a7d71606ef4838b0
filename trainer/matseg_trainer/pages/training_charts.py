"""The charts of a training's page."""

from __future__ import annotations

from collections.abc import Sequence

from matseg_shared.images.palette import Colour, default_colours
from matseg_shared.pages.charts import BLUE, VERMILION, Chart, Mark, Series, thinned, training_set
from matseg_shared.pages.page import css_colour
from matseg_shared.pages.pictures import visible_colours
from matseg_trainer.train.curves import late_range
from matseg_trainer.train.log import TrainingLog
from matseg_trainer.train.record import TrainingRecord


def classes(epochs: TrainingLog, record: TrainingRecord | None) -> list[tuple[str, Colour]]:
    """Names of the classes, and RGB as it can be seen; numbers and default colours where nothing was noted."""
    if record is None:
        colours = default_colours(len(epochs.kept.measured.iou))
        return [(f"class {index}", colour) for index, colour in enumerate(colours)]
    colours = visible_colours([item.colour for item in record.classes])
    return [(item.name, colour) for item, colour in zip(record.classes, colours, strict=True)]


def curves(epochs: TrainingLog, record: TrainingRecord | None) -> list[Chart]:
    """Loss, IoU and learning rate by epoch."""
    all_, kept = epochs.epochs, epochs.kept
    x = [epoch.epoch for epoch in all_]
    marks = [Mark(x=kept.epoch, text=f"{epochs.checkpoint}: {kept.epoch}")]

    def both(name: str) -> list[Series]:
        train = thinned([getattr(epoch.train, name) for epoch in all_])
        validate = thinned([getattr(epoch.measured, name) for epoch in all_])
        return [
            Series(name="train", x=x, y=train, colour=BLUE, dash="dash"),
            Series(name="validate", x=x, y=validate, colour=VERMILION),
        ][: 1 + epochs.is_validated]

    def chart(name: str, title: str, y_title: str, series: Sequence[Series], *, y_log: bool = False) -> Chart:
        ends = [f"{line.name} {line.y[-1]:.4g}" for line in series if line.y[-1] is not None]
        return Chart(
            id=name,
            title=title,
            summary=f"In the last epoch: {', '.join(ends[:6])}.",
            x_title="epoch",
            y_title=y_title,
            series=series,
            marks=marks,
            height=320,
            y_log=y_log,
            y_range=None if y_log else late_range(line.y for line in series),
        )

    measured = "Validation" if epochs.is_validated else "Training"
    by_class = []
    for index, (name, colour) in enumerate(classes(epochs, record)):
        y = [epoch.measured.iou[index] for epoch in all_]
        by_class.append(Series(name=name, x=x, y=y, colour=css_colour(colour), width=1.5))
    rates = [epoch.lr if epoch.lr > 0 else None for epoch in all_]
    rate = [Series(name="learning rate", x=x, y=rates)]
    return [
        chart("loss", "Loss", "cross-entropy (nats)", both("loss"), y_log=True),
        chart("mean-iou", "Mean IoU", "mean IoU", both("mean_iou")),
        chart("class-iou", f"{measured} IoU per class", "IoU", by_class),
        chart("rate", "Learning rate", "learning rate", rate, y_log=True),
    ]


def intensities(record: TrainingRecord | None) -> list[Chart]:
    """The histogram of the training images, where it was noted."""
    if record is None:
        return []
    histogram = record.input.histogram
    return [
        Chart(
            id="histogram",
            title="Intensities of the training images",
            summary=f"From {histogram.low:g} to {histogram.high:g}; a run warns when its input's differ.",
            x_title="intensity",
            y_title="share of the pixels",
            y_percent=True,
            series=[training_set(histogram)],
            height=260,
        )
    ]
