"""Train, try and export a small network from Python; in a notebook, each line `# %%` begins a cell.

The data set is drawn, so that this runs anywhere. With images of your own, leave out the cell that draws it.
"""

# %% What is used
from pathlib import Path

from matseg_shared.images.channels import to_channels
from matseg_shared.images.read import read_image
from matseg_trainer.data.folder import load_array
from matseg_trainer.demo.demo import DemoRequest, make_demo
from matseg_trainer.export.export import export_checkpoint
from matseg_trainer.predict.checkpoint import load_checkpoint
from matseg_trainer.predict.predictor import Predictor
from matseg_trainer.prepare.label_request import LabelRequest
from matseg_trainer.prepare.labels import plan_labels, write_labels
from matseg_trainer.train.console import Progress
from matseg_trainer.train.device import choose_compute
from matseg_trainer.train.distributed import DistributedContext
from matseg_trainer.train.loop import run_training
from matseg_trainer.train.training import TrainingJob
from matseg_trainer.workspace import Workspace

# %% A workspace: a folder with config.toml and data/
place = Workspace(Path())
place.config_path.write_text("""
[demo.default]
n_class = 2

[demo.v1]
model = "unet"
width = 8
crop = 96
crops_per_image = 4
batch_size = 4
lr = 0.003
weight_decay = 0
epoch = 4
aug = true
shuffle = true
""")

# %% Draw a data set, and make arrays of its label images, as `matseg-prep labels` does
make_demo(place.data / "demo", DemoRequest(train=4, validate=1, test=1, raw=3, size=128))
data = place.dataset("demo")
plan = plan_labels(data, ["train", "validate", "test"], LabelRequest(n_class=2))
for array in write_labels(plan):
    print(array.path, array.values)

# %% Train, as `matseg-train demo v1 --gpu` does: checkpoint, log and curves are written as well
config = place.config().version("demo", "v1")
compute = choose_compute(gpu=True, amp=config.amp)
job = TrainingJob(workspace=place, dataset=data, version="v1", config=config, compute=compute, seed=0)
log = run_training(job, DistributedContext(), Progress())
for record in log.epochs:
    print(record.epoch, record.train.loss, record.measured.mean_iou)

# %% Label a test image with the epoch that was kept
checkpoint = load_checkpoint(place.saved / "demo_v1.pth")
predictor = Predictor.of_checkpoint(checkpoint, compute.device)
(sample,) = data.samples("test")
pixels = to_channels(read_image(sample.image), predictor.input.channels, sample.image)
labels, probabilities = predictor.predict(pixels)
print((labels == load_array(sample.labels, 2)).mean(), "of the pixels are right")

# %% Export it, checked against torch; the file labels anywhere, without torch
export_checkpoint(checkpoint, Path("demo.onnx"))
