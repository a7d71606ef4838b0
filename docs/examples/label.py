"""Label an image, then a folder of images, from Python; in a notebook, each line `# %%` begins a cell.

Needs one of the extras `cpu`, `cuda13` and `cuda12`, and no torch.
"""

# %% What is used
from pathlib import Path

import numpy as np
from PIL import Image

import matseg_runtime

# %% A model: a file that matseg-export wrote, or one of the zoo. It is opened once, and tried on its own self-test
model = matseg_runtime.open_model("zoo:dendrites")
classes = model.model.metadata.classes
print("labels", ", ".join(item.name for item in classes), "on", model.provider)

# %% An image: here drawn, else `np.asarray(Image.open("slice.png"))`
rows, columns = np.mgrid[:200, :300]
grey = np.where(np.hypot(rows - 100, columns - 150) < 60, 90, 140)
image = np.random.default_rng(0).normal(grey, 5).clip(0, 255).astype(np.uint8)

# %% Its labels: (H, W) class indices. An image of another dtype or range takes `window=(darkest, brightest)`
labels = matseg_runtime.segment(model, image)
for item in classes:
    print(item.name, f"{(labels == item.index).mean():.1%}")

# %% A look at them, in the colours of the classes
colours = np.array([item.colour for item in classes], dtype=np.uint8)
Image.fromarray(colours[labels]).save("labels.png")

# %% A whole folder or volume, as `matseg-run` does it: resumed when it is interrupted, in bounded memory
Path("slices").mkdir(exist_ok=True)
Image.fromarray(image).save("slices/s1.png")
summary = matseg_runtime.run_job("zoo:dendrites", "slices", output="labelled")
print(summary.labelled, "slices labelled in", summary.report.output)
