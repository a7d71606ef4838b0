"""Note what a training starts from, for the page about it."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

import numpy as np

from matseg_trainer.predict.checkpoint import package_versions
from matseg_trainer.train.record import SplitFacts, TrainingRecord

if TYPE_CHECKING:
    from matseg_trainer.data.dataset import LabelledImages
    from matseg_trainer.train.loop import Training


def record_of(training: Training, facts: dict[str, str]) -> TrainingRecord:
    """Everything that is known before the first epoch."""
    job = training.job
    return TrainingRecord(
        name=job.name,
        started=datetime.now(UTC).isoformat(timespec="seconds"),
        config=job.config.model_dump(mode="json"),
        facts=facts,
        classes=training.classes,
        input=training.input,
        train=_facts_of(training.train_images, job.config.n_class),
        validate=_facts_of(training.validation_images, job.config.n_class),
        fingerprint=training.fingerprint,
        seed=job.seed,
        packages=package_versions(),
    )


def _facts_of(images: LabelledImages, n_class: int) -> SplitFacts:
    counts = np.zeros(n_class, np.int64)
    for image in images:
        counts += np.bincount(image.labels.ravel(), minlength=n_class)
    pixels = int(counts.sum())
    return SplitFacts(images=len(images), pixels=pixels, class_shares=tuple((counts / pixels).tolist()))
