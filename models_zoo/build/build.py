"""From a data set to a model of the zoo, and from a trained checkpoint to one.

```
train:    prepare ─> train (again with other seeds) ─┐
publish:                                             └─> export ─> evaluate ─> check ─> model.onnx, figures.json
```
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from matseg_runtime.inference.session import Session
from matseg_runtime.model.file import read_model
from matseg_runtime.model.trust import MADE_HERE
from matseg_shared.errors import ModelError, UsageError
from matseg_shared.system.files import atomic_write, write_text
from matseg_trainer.config.versions import current_names
from matseg_trainer.evaluate.document import read_evaluation
from matseg_trainer.predict.checkpoint import CHECKPOINT_SUFFIX
from matseg_trainer.train.log import read_log
from matseg_trainer.train.record import read_record
from matseg_trainer.workspace import Workspace
from models_zoo.build.card import check_model
from models_zoo.build.checkout import ZooCheckout, ZooEntry
from models_zoo.build.commands import run_command
from models_zoo.build.description import Description, read_description
from models_zoo.build.figures import Accuracy, ZooFigures, read_figures
from models_zoo.build.pages import write_pages
from models_zoo.build.speed import measure_speed

LARGEST_MODEL = 8_000_000
"""Bytes of a model file: the repository stays small."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Builder:
    """One model of the zoo and the workspace it is made in."""

    zoo: ZooCheckout
    entry: ZooEntry
    workspace: Workspace
    description: Description
    earlier: tuple[Description, ...]
    """Descriptions of the models whose checkpoints the training needs."""

    @classmethod
    def of(cls, zoo: ZooCheckout, name: str, workspace: Workspace) -> Builder:
        """Read what is to be made, before any work.

        Raises:
            UsageError: nothing of that name is described.
            ConfigError: the description, or the version it names, is wrong or missing.
        """
        entry = zoo.entry(name)
        description = read_description(entry.description)
        earlier = tuple(read_description(zoo.entry(other).description) for other in description.after)
        config = workspace.config()
        for item in (description, *earlier):
            config.version(item.dataset, item.version)
        return cls(zoo=zoo, entry=entry, workspace=workspace, description=description, earlier=earlier)

    @property
    def steps(self) -> tuple[object, ...]:
        """All that decides what `train` leaves: models for which it is the same are made of one training."""
        classes = self.entry.classes.read_bytes() if self.entry.classes.is_file() else None
        return (self.description.preparation(), classes, self.description.training())

    def train(self, seeds: int = 1) -> tuple[float, ...]:
        """Prepare the data and train.

        Args:
            seeds: trainings in all; those beside the version's own show how much the seed matters and are not kept.

        Returns:
            Validation mean IoU of the trainings that are not kept.

        Raises:
            SystemExit: a command failed, and has said why.
        """
        self.prepare()
        self._train_earlier()
        own = self.workspace.config().version(self.description.dataset, self.description.version).seed
        others = [seed for seed in range(seeds) if seed != own][: seeds - 1]
        results = []
        for seed in others:
            run_command(self.description.training("--no-save", "--seed", str(seed)), self.workspace.root)
            results.append(kept_mean_iou(self.workspace.log / f"{self.description.trained_name}.jsonl"))
        run_command(self.description.training(), self.workspace.root)
        return tuple(results)

    def prepare(self) -> None:
        """Make the data set ready, with the names and colours that the zoo has for its classes.

        Raises:
            SystemExit: a command failed, and has said why.
        """
        for words in self.description.preparation():
            run_command(words, self.workspace.root)
        if self.entry.classes.is_file():
            shutil.copy2(self.entry.classes, self.workspace.dataset(self.description.dataset).classes_path)

    def _train_earlier(self) -> None:
        """Train the models that the training needs, with their data, unless an earlier training has left it."""
        for other in self.earlier:
            if (self.workspace.saved / f"{other.trained_name}{CHECKPOINT_SUFFIX}").exists():
                continue
            steps = other.preparation() if other.dataset != self.description.dataset else ()
            for words in (*steps, other.training()):
                run_command(words, self.workspace.root)

    def publish(self, seeds: Sequence[float] = ()) -> tuple[Path, Path]:
        """Export the trained checkpoint, measure that file, and put it into the zoo when it is fit for it.

        Args:
            seeds: validation mean IoU of further trainings.

        Returns:
            Model and figures. The zoo's pages, which tell of all models, are not written.

        Raises:
            SystemExit: a command failed, and has said why.
            ModelError: the file is too large, or not what is described.
            OutputError: a file cannot be written.
        """
        made = self.workspace.saved / f"zoo_{self.entry.name}.onnx"
        relative = made.relative_to(self.workspace.root).as_posix()
        run_command(self.description.export(relative), self.workspace.root)
        run_command(self.description.evaluation(relative), self.workspace.root)
        return self._store(made, seeds)

    def _store(self, made: Path, seeds: Sequence[float]) -> tuple[Path, Path]:
        size = made.stat().st_size
        if size > LARGEST_MODEL:
            raise ModelError(
                f"{made}: expected a model of at most {LARGEST_MODEL / 1e6:.0f} MB, found {size / 1e6:.1f} MB; "
                f"describe a narrower version or precision int8 in {self.entry.description}"
            )
        file = read_model(made, MADE_HERE)
        session = Session.open(file, provider="cpu")
        check_model(self.description, session.model)
        session.require_self_test()
        figures = ZooFigures(
            model_sha256=session.model.sha256,
            accuracy=Accuracy.of(read_evaluation(self.evaluation_path)),
            speed=measure_speed(session),
            seeds=tuple(seeds),
        )
        with atomic_write(self.entry.model) as stream:
            stream.write(file.content)
        write_text(self.entry.figures, figures.model_dump_json(indent=1) + "\n")
        return (self.entry.model, self.entry.figures)

    @property
    def evaluation_path(self) -> Path:
        """Path of the document that matseg-evaluate writes."""
        description = self.description
        return self.workspace.log / f"{description.trained_name}_{description.split}_onnx.json"


def build_models(zoo: ZooCheckout, builders: Iterable[Builder], seeds: int = 1) -> Iterator[tuple[Path, ...]]:
    """Train and publish models, one after the other; those of one training (`uhcs` and `uhcs-fast`) train once.

    Args:
        zoo: where they go.
        builders: of the models.
        seeds: see `Builder.train`.

    Yields:
        The files of the zoo that were written for each model; at last cards and indexes, when no model is left that is
        described in a new way and still the old one.

    Raises:
        SystemExit: a command failed, and has said why.
        MatsegError: see `Builder.publish`.
    """
    latest: dict[
        str, tuple[object, tuple[float, ...]]
    ] = {}  # of a data set: what its data and checkpoint are left by
    for builder in builders:
        steps, results = latest.get(builder.description.dataset, (None, ()))
        if steps != builder.steps:
            results = builder.train(seeds)
            latest[builder.description.dataset] = (builder.steps, results)
        yield builder.publish(results)
    yield write_pages(zoo)


def time_again(entry: ZooEntry) -> ZooFigures:
    """Measure the speed of a model of the zoo anew, on this machine as it is now, and keep its other figures.

    Raises:
        MatsegError: files of the model are missing or damaged.
        OutputError: the figures cannot be written.
    """
    figures = read_figures(entry.figures)
    session = Session.open(entry.model, provider="cpu")
    figures = figures.model_copy(update={"speed": measure_speed(session)})
    write_text(entry.figures, figures.model_dump_json(indent=1) + "\n")
    return figures


def kept_mean_iou(log: Path) -> float:
    """Validation mean IoU of the epoch of a training that is kept.

    Args:
        log: `log/<name>.jsonl`.

    Raises:
        UsageError: it is missing, damaged or no such log, or what was noted beside it is damaged.
    """
    epochs, noted = read_log(log), read_record(log)
    if epochs.unread:
        raise UsageError(
            f"{log}: expected the log of a training, found lines that cannot be read (line {epochs.unread[0]}); "
            "train the version again"
        )
    if noted is not None:
        epochs = replace(epochs, checkpoint=current_names(noted.config).get("checkpoint", "best"))
    return epochs.kept.measured.mean_iou
