"""Every model of the zoo is as good as its card says, measured again on the images it was measured on."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from matseg_runtime.model.zoo import read_index
from matseg_trainer.evaluate.document import read_evaluation
from matseg_trainer.workspace import Workspace
from models_zoo.build import commands
from models_zoo.build.build import Builder
from models_zoo.build.checkout import ZooCheckout
from models_zoo.build.figures import Accuracy, read_figures

ROOT = Path(__file__).parents[2]
REAL_DATA = ROOT.parent / "shared" / "data"
PUBLISHED = {"tomography": "tomography", "uhcs": "uhcs", "sandstone": "sandstone_published"}
"""Data set to the folder in a workspace that its preparation starts from; the demo's is drawn."""
TOLERANCE = 0.002
"""Another processor rounds differently, and the figures are of two or three images."""


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    root = tmp_path_factory.mktemp("zoo")
    shutil.copy2(ROOT / "config.toml", root)
    (root / "data").mkdir()
    return Workspace(root)


@pytest.mark.parametrize("name", [model.name for model in read_index().models])
def test_its_figures_are_measured_again(name: str, workspace: Workspace) -> None:
    builder = Builder.of(ZooCheckout.find(), name, workspace)
    dataset = builder.description.dataset
    if dataset in PUBLISHED:
        target = workspace.root / "data" / PUBLISHED[dataset]
        if not (REAL_DATA / dataset).is_dir():
            pytest.skip(f"the real data set {dataset} is not beside the project (shared/data/{dataset})")
        if not target.exists():
            shutil.copytree(REAL_DATA / dataset, target)
    builder.prepare()
    model = workspace.root / "saved" / f"{name}.onnx"
    model.parent.mkdir(exist_ok=True)
    shutil.copy2(builder.entry.model, model)
    commands.run_command(builder.description.evaluation(f"saved/{name}.onnx"), workspace.root)
    found = Accuracy.of(read_evaluation(builder.evaluation_path))
    known = read_figures(builder.entry.figures).accuracy
    assert found.images == known.images
    assert found.mean_iou == pytest.approx(known.mean_iou, abs=TOLERANCE)
    assert found.accuracy == pytest.approx(known.accuracy, abs=TOLERANCE)
    assert found.iou == pytest.approx(known.iou, abs=3 * TOLERANCE)
