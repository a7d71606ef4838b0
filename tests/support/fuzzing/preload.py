"""Everything the commands import when they work, so that it is not counted against the first case."""

import h5py
import matplotlib.pyplot  # noqa: ICN001
import onnx
import onnxruntime
import plotly
import skimage.measure
import tifffile
import torch
import zarr

import matseg_runtime.job
import matseg_runtime.page.build
import matseg_runtime.quantify
import matseg_trainer.checkpoint
import matseg_trainer.evaluate
import matseg_trainer.overview
import matseg_trainer.pages.evaluation
import matseg_trainer.pages.training
import matseg_trainer.train
