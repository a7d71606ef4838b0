"""One face for both kinds of trained models: torch checkpoints and exported files."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray

from matseg_runtime.inference.tiles import segment_image
from matseg_runtime.source.transform import NoDataOptions
from matseg_shared.contract.metadata import ClassInfo, InputInfo, ModelMetadata
from matseg_shared.images.read import PixelArray
from matseg_trainer.data.no_data import no_data_of
from matseg_trainer.predict.checkpoint import Checkpoint
from matseg_trainer.predict.tiled import TorchPredictor

if TYPE_CHECKING:
    from matseg_runtime.inference.session import Session

Predict = Callable[[PixelArray], tuple[NDArray[np.uint8], NDArray[np.float32]]]
TILE = 1024
"""Edge of the largest tile for an exported model, in pixels; results do not depend on it."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Predictor:
    """A model of either kind: a torch network, or an exported file on onnxruntime."""

    classes: tuple[ClassInfo, ...]
    input: InputInfo
    predict: Predict
    """(C, H, W) raw pixels to (H, W) labels and (K, H, W) probabilities."""
    no_data: NoDataOptions = field(default_factory=NoDataOptions)
    """Pixels that its training took for no sample."""

    @classmethod
    def of_checkpoint(cls, checkpoint: Checkpoint, device: torch.device) -> Predictor:
        """The torch network, in fp32."""
        network = checkpoint.network().to(device)
        return cls._of(checkpoint, TorchPredictor.of(network, checkpoint.input, device).predict)

    @classmethod
    def mean_of(cls, predictors: Sequence[Predictor]) -> Predictor:
        """The mean of the probabilities of several models of the same data, an ensemble (Hansen and Salamon 1990)."""

        def predict(pixels: PixelArray) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
            probabilities = predictors[0].predict(pixels)[1].copy()
            for one in predictors[1:]:
                probabilities += one.predict(pixels)[1]
            probabilities /= len(predictors)
            return probabilities.argmax(axis=0).astype(np.uint8), probabilities

        return predictors[0] if len(predictors) == 1 else replace(predictors[0], predict=predict)

    @classmethod
    def of_session(cls, session: Session) -> Predictor:
        """An exported model, tiled as `matseg-run` does."""

        def predict(pixels: PixelArray) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
            found = segment_image(session, pixels, tile=(TILE, TILE), probabilities=True)
            assert found.probabilities is not None, "they were asked for"
            return found.labels, found.probabilities

        return cls._of(session.model.metadata, predict)

    @classmethod
    def _of(cls, model: Checkpoint | ModelMetadata, predict: Predict) -> Predictor:
        return cls(
            classes=model.classes, input=model.input, no_data=no_data_of(model.training), predict=predict
        )
