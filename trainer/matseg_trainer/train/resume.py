"""The state of an interrupted training, from which it goes on bit for bit."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from matseg_shared.contract.metadata import InitInfo, PretrainedInfo
from matseg_shared.errors import ModelError
from matseg_trainer.config.versions import config_differences
from matseg_trainer.predict.checkpoint import load_tensors, save_tensors
from matseg_trainer.train.log import EpochRecord
from matseg_trainer.train.pretrained import origin_changes
from matseg_trainer.train.training import Training, TrainingJob


def save_resume_state(path: Path, training: Training) -> None:
    """Write what the next epoch depends on.

    Raises:
        OutputError: it cannot be written.
    """
    document = {
        "matseg_resume": 1,
        "config": training.job.config.model_dump(mode="json"),
        "seed": training.job.seed,
        "fingerprint": training.fingerprint,
        "init": None if training.init is None else training.init.model_dump(mode="json"),
        "pretrained": None if training.pretrained is None else training.pretrained.model_dump(mode="json"),
        "processes": training.context.size,
        "network": training.step.network.state_dict(),
        "optimizer": training.step.optimizer.state_dict(),
        "scaler": training.step.scaler.state_dict(),
        "average": None if training.step.average is None else training.step.average.state_dict(),
        "rate": training.rate.state(),
        "records": [record.document() for record in training.records],
    }
    save_tensors(path, document)


def restore(path: Path, training: Training) -> None:
    """Go on after the last finished epoch of an interrupted training.

    Raises:
        ModelError: the state is damaged, or hyperparameters, seed, data or processes have changed since.
    """
    state = load_tensors(path)
    if state.get("matseg_resume") != 1:
        raise ModelError(f"{path}: expected the state of an interrupted training, found something else")
    changed = changes(state, training.job, training.fingerprint)
    if state["processes"] != training.context.size:
        changed.append(f"processes: was {state['processes']}, now {training.context.size}")
    if changed:
        raise ModelError(
            f"{path}: the interrupted training cannot go on, since these have changed: {'; '.join(changed)}; "
            "restore them, or start again with --overwrite"
        )
    training.init = started = _start(state)
    if state.get("pretrained") is not None:
        training.pretrained = PretrainedInfo.model_validate(state["pretrained"])
        training.start = f"encoder of {training.pretrained}"
    if started is not None:
        training.start = started.name
    training.step.network.load_state_dict(state["network"])
    training.step.optimizer.load_state_dict(state["optimizer"])
    training.step.scaler.load_state_dict(state["scaler"])
    if training.step.average is not None:
        training.step.average.load_state_dict(state["average"])
    training.rate.restore(state["rate"])
    training.records = [EpochRecord.model_validate(values) for values in state["records"]]


def changes(state: Mapping[str, Any], job: TrainingJob, fingerprint: str) -> list[str]:
    """Everything that would make a training another one, in words; `state` has its config, seed, fingerprint and init.

    `fingerprint` is that of the data as they are now.
    """
    changed = [str(item) for item in config_differences(state["config"], job.config)]
    if state["seed"] != job.seed:
        changed.append(f"seed: was {state['seed']}, now {job.seed}")
    if state["fingerprint"] != fingerprint:
        changed.append("data: the training or validation images or labels have changed")
    changed += origin_changes(_start(state), None if job.weights is None else job.weights.info)
    if state.get("teacher") is not None:
        changed.append(
            f"teacher: was {state['teacher']['name']}, from which this version of matseg cannot learn"
        )
    return changed


def _start(state: Mapping[str, Any]) -> InitInfo | None:
    """The weights that a training started from; None: random ones."""
    return None if state.get("init") is None else InitInfo.model_validate(state["init"])
