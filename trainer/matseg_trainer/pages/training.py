"""The page of a training, from its log and the record of its start."""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from matseg_shared.errors import MatsegError
from matseg_shared.images.palette import Colour
from matseg_shared.pages.page import Fact, Template, count, figure, percent, require_report_extra, write_page
from matseg_trainer.config.load import load_config
from matseg_trainer.config.versions import VersionConfig
from matseg_trainer.pages.places import page_path
from matseg_trainer.pages.training_charts import classes, curves, intensities
from matseg_trainer.train.log import TrainingLog, read_log
from matseg_trainer.train.record import TrainingRecord, read_record

_TEMPLATE = Template(package="matseg_trainer.pages", name="training.html.j2")


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingContent:
    """Content of the template."""

    title: str
    lead: str
    missing: tuple[str, ...]
    notes: tuple[str, ...]
    tiles: tuple[Fact, ...]
    log: TrainingLog
    record: TrainingRecord | None
    classes: tuple[tuple[str, Colour], ...]
    """Names and colours."""
    settings: tuple[Fact, ...]
    """Each noted with its default where the value is another."""
    settings_text: str
    data: tuple[Fact, ...]


def write_training_page(log: Path) -> Path:
    """Make the page of a training, finished or not, from `log/<dataset>_<version>.jsonl`.

    Returns:
        The page, see `page_path`.

    Raises:
        MissingExtraError: the extra `report` is not installed.
        UsageError: the log is missing or none.
        OutputError: the page cannot be written.
    """
    target = page_path(log)
    require_report_extra(target.name)
    epochs = read_log(log)
    record, missing = _read_record(log, epochs)
    config, origin = _config(log, record)
    if config is not None:
        epochs = replace(epochs, checkpoint=config.checkpoint)
    write_page(
        target,
        _TEMPLATE,
        title=f"{log.stem}: training",
        content=TrainingContent(
            title=log.stem,
            lead=_lead(epochs, record, config),
            missing=missing,
            notes=_notes(epochs, config),
            tiles=_tiles(epochs, config),
            log=epochs,
            record=record,
            classes=tuple(classes(epochs, record)),
            settings=_settings(config),
            settings_text=origin,
            data=_data(record),
        ),
        charts=[*curves(epochs, record), *intensities(record)],
    )
    return target


def _read_record(log: Path, epochs: TrainingLog) -> tuple[TrainingRecord | None, tuple[str, ...]]:
    """The record of the training's start, and what is missing or damaged of it and of the log."""
    missing, record = [], None
    if unread := epochs.unread:
        listed = ", ".join(map(str, unread[:10]))
        missing.append(
            f"{log}: {len(unread)} of its lines cannot be read and are left out here (line {listed})."
        )
    try:
        record = read_record(log)
    except MatsegError as error:
        missing.append(str(error))
    if record is not None and len(record.classes) != len(epochs.kept.measured.iou):
        missing.append(
            f"{log}: has another number of classes than what was noted at its start; they do not belong together."
        )
        record = None
    return record, tuple(missing)


def _config(log: Path, record: TrainingRecord | None) -> tuple[VersionConfig | None, str]:
    """Hyperparameters and where they are from: the start of the training, or else config.toml as it is now."""
    if record is not None:
        try:
            config = VersionConfig.model_validate_json(json.dumps(record.config))
            return config, "As they were when the training started."
        except ValueError:
            return None, "They were noted by another version of MatSeg, which knows other hyperparameters."
    with suppress(MatsegError):
        for dataset, configs in load_config(log.absolute().parent.parent / "config.toml").versions.items():
            for version, config in configs.items():
                if f"{dataset}_{version}" == log.stem:
                    return config, "As config.toml has them now; nothing was noted when the training started."
    found = "no config.toml beside its log knows this version"
    return None, f"Nothing was noted when the training started, and {found}."


def _lead(epochs: TrainingLog, record: TrainingRecord | None, config: VersionConfig | None) -> str:
    done = len(epochs.epochs)
    planned = f" of {config.epoch}" if config is not None and config.epoch != done else ""
    started = "" if record is None else record.started.replace("T", " ").replace("+00:00", " UTC")
    return f"{done}{planned} epochs{started and f', started {started}'}"


def _notes(epochs: TrainingLog, config: VersionConfig | None) -> tuple[str, ...]:
    """Signs of an interruption, of overfitting and of too short a training, with the numbers they rest on."""
    notes: list[str] = []
    last, best = epochs.epochs[-1], epochs.best
    unfinished = config is not None and not epochs.is_done(config)
    if config is not None and unfinished:
        notes.append(
            f"{len(epochs.epochs)} of {config.epoch} epochs were done when this page was made; should the training "
            "have been interrupted, matseg-train --resume goes on."
        )
    if not epochs.is_validated:
        notes.append(
            "No image validates: nothing measures what the network does on images that it has not learned."
        )
        return tuple(notes)
    lowest = min(epochs.epochs, key=lambda epoch: epoch.measured.loss)
    if last.measured.loss > 1.5 * lowest.measured.loss and last.train.loss < lowest.train.loss:
        notes.append(
            f"The validation loss was lowest in epoch {lowest.epoch} ({lowest.measured.loss:.4f}) and has risen to "
            f"{last.measured.loss:.4f} while the training loss still fell: the network begins to learn the training "
            "images by heart; more labels, or augmentation (aug), help."
        )
    if best.epoch == last.epoch and len(epochs.epochs) > 1 and not unfinished:
        notes.append("The last epoch is the best: a longer training (more epochs) may give more.")
    return tuple(notes)


def _tiles(epochs: TrainingLog, config: VersionConfig | None) -> tuple[Fact, ...]:
    kept, number = epochs.kept, len(epochs.epochs)
    seconds = sum(epoch.seconds for epoch in epochs.epochs)
    score, split = kept.measured, "validation" if epochs.is_validated else "training"
    rows = [
        (f"{split} mean IoU", figure(score.mean_iou), f"in the {epochs.checkpoint} epoch, which is kept"),
        (f"{split} accuracy", percent(score.accuracy), "share of pixels that are right"),
        (f"{epochs.checkpoint} epoch", str(kept.epoch), f"of {number}"),
        ("time", f"{seconds / 60:.1f} min", f"{seconds / number:.1f} s an epoch, validation included"),
    ]
    if config is not None:
        rows.append(("network", config.model, f"width {config.width}" if config.width else "full width"))
    return tuple(Fact(name=name, value=value, note=note) for name, value, note in rows)


def _settings(config: VersionConfig | None) -> tuple[Fact, ...]:
    """Those that differ from the defaults first."""
    if config is None:
        return ()
    rows = []
    for name, field in VersionConfig.model_fields.items():
        value = getattr(config, name)
        default = "must be given" if field.is_required() else _shown(field.default)
        changed = field.is_required() or value != field.default
        rows.append(Fact(name=name, value=_shown(value), note=default if changed else ""))
    return tuple(sorted(rows, key=lambda row: not row.note))


def _shown(value: object) -> str:
    if value is None or value == ():
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return " × ".join(map(str, value)) if isinstance(value, tuple) else f"{value}"


def _data(record: TrainingRecord | None) -> tuple[Fact, ...]:
    if record is None:
        return ()
    info = record.input
    mean, std = (", ".join(f"{value:.4g}" for value in values) for values in (info.mean, info.std))
    rows = [
        *((name, value, "") for name, value in record.facts.items()),
        *(
            (
                f"{name} pixels",
                f"{count(split.pixels)} labelled ({percent(split.labelled_share)})",
                f"{split.images} images",
            )
            for name, split in (("training", record.train), ("validation", record.validate_))
            if split is not None
        ),
        ("intensities", f"mean {mean}, deviation {std}", f"{info.channels} channel(s) of {info.dtype}"),
    ]
    return (
        *(Fact(name=name, value=value, note=note) for name, value, note in rows),
        Fact(name="data SHA-256", value=record.fingerprint, code=True),
        *(Fact(name=f"{name} version", value=value) for name, value in record.packages.items()),
    )
