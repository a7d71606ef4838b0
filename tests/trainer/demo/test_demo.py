"""The synthetic set looks like tomography, cannot be thresholded, and repeats."""

from __future__ import annotations

import sys

import numpy as np
import pytest
from scipy import ndimage
from skimage.filters import threshold_otsu

from matseg_shared.contract.metadata import Histogram, InputInfo
from matseg_shared.errors import MatsegError
from matseg_shared.images.read import list_images, read_image
from matseg_shared.installation import install_command
from matseg_trainer.data.folder import Dataset
from matseg_trainer.demo.phantom import OUTSIDE, make_scan, render_slice
from matseg_trainer.evaluate.run import EvaluationOutputs, EvaluationRequest, evaluate
from matseg_trainer.predict.predictor import Predictor
from matseg_trainer.workspace import Workspace
from models_zoo.build import demo


def pairs_of(root, split):
    return [
        (read_image(pair.image), read_image(pair.labels) // 255)
        for pair in Dataset.open(root).pairing(split).pairs
    ]


def otsu_iou(pairs):
    """IoU of what is darker, or brighter, than the threshold of Otsu (1979); the better of the two."""
    labels = np.concatenate([label.ravel() for _, label in pairs]) == 1
    dark = np.concatenate([(image <= threshold_otsu(image)).ravel() for image, _ in pairs])
    return max(float((found & labels).sum() / (found | labels).sum()) for found in (dark, ~dark))


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_a_threshold_does_not_do(prep, workspace, seed):
    assert prep("demo", "dendrites", "--seed", seed, "--train", 1, "--validate", 1, "--raw", 0).exit_code == 0
    pairs = pairs_of(workspace / "data" / "dendrites", "test")
    assert len(pairs) == 3
    assert 0.1 < otsu_iou(pairs) < 0.80
    assert 0.02 < np.mean([labels.mean() for _, labels in pairs]) < 0.3


def test_slices_look_like_tomography():
    y, x = np.mgrid[:192, :192]
    inside = np.hypot(x - 95.5, y - 95.5) < 0.38 * 192
    extremes = []
    for seed in range(6):
        image, labels = render_slice(make_scan(seed), 0.0, 192)
        assert image.dtype == labels.dtype == np.uint8
        assert image.shape == labels.shape == (192, 192)
        assert set(np.unique(labels)) == {0, 1}
        assert image[0, 0] == image[-1, -1] == OUTSIDE
        liquid = image[inside & (labels == 0)]
        assert image[labels == 1].mean() < liquid.mean() - 20
        assert liquid.std() > 4
        extremes.append((liquid.min(), liquid.max()))
        parts, _ = ndimage.label(labels, np.ones((3, 3)))
        assert np.bincount(parts.ravel())[1:].max() > 100
    assert min(low for low, _ in extremes) < 50  # dark inclusions
    assert max(high for _, high in extremes) > 200  # bright ones


def test_neighbours_in_the_stack_resemble_each_other(prep, workspace):
    assert (
        prep("demo", "d", "--train", 1, "--validate", 1, "--test", 1, "--raw", 9, "--size", 160).exit_code
        == 0
    )
    names = list_images(workspace / "data" / "d_raw")[0]
    slices = [ndimage.gaussian_filter(read_image(path).astype(float), 2) for path in names]
    assert len(slices) == 9
    y, x = np.mgrid[:160, :160]
    inside = np.hypot(x - 80, y - 80) < 60
    near, far = (np.abs(slices[0] - other)[inside].mean() for other in (slices[1], slices[8]))
    assert near < 0.7 * far


def test_the_same_seed_gives_the_same_files(prep, workspace):
    small = ("--train", 2, "--validate", 1, "--test", 1, "--raw", 2, "--size", 128)
    for name, seed in (("a", 3), ("b", 3), ("c", 4)):
        assert prep("demo", name, "--seed", seed, *small).exit_code == 0
    images = {
        name: [path.read_bytes() for path in sorted((workspace / "data" / name).rglob("*.png"))]
        for name in "abc"
    }
    assert images["a"] == images["b"] != images["c"]
    assert len(set(images["a"])) == 8


def test_it_goes_through_the_other_commands(prep):
    prep("demo", "d", "--train", 2, "--validate", 1, "--test", 1, "--raw", 0, "--size", 128)
    assert prep("labels", "d", "train", "validate", "test", "--classes", 2).exit_code == 0
    assert prep("check", "d").exit_code == 0
    assert prep("crop", "d", 64, 3, 2).exit_code == 0


def test_what_is_there_stays_unless_told(prep, workspace):
    few = ("--train", 1, "--validate", 1, "--test", 1, "--raw", 1, "--size", 128)
    stack = workspace / "data" / "d_raw"
    stack.mkdir()
    (stack / "mine.png").write_text("precious")
    result = prep("demo", "d", *few)
    assert result.exit_code == 2
    assert "--overwrite" in result.output
    assert not (workspace / "data" / "d").exists()
    assert prep("demo", "d", *few, "--overwrite").exit_code == 0
    assert [path.name for path in stack.iterdir()] == ["slice_0000.png"]


def test_without_scipy_the_extra_is_named(prep, workspace, monkeypatch):
    for name in [*sys.modules]:
        if name.split(".")[0] == "scipy" or name.endswith("demo.phantom"):
            monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "scipy", None)
    result = prep("demo", "d")
    assert result.exit_code == 3
    assert install_command("train") in result.output
    assert list((workspace / "data").iterdir()) == []


def test_the_demo_ends_with_its_iou_and_fails_when_that_has_become_worse(
    prep, workspace, monkeypatch, capsys
):
    prep("demo", "demo", "--train", 1, "--validate", 1, "--test", 2, "--raw", 0, "--size", 128)
    assert prep("labels", "demo", "train", "validate", "test", "--classes", 2).exit_code == 0
    dataset, place = Dataset.open(workspace / "data" / "demo"), Workspace(workspace)
    known = {read_image(s.image).tobytes(): np.load(s.labels) for s in dataset.samples("test")}
    request = EvaluationRequest(name="demo_v1", split="test", model=workspace / "saved" / "demo_v1.pth")
    outputs = EvaluationOutputs.of(place, dataset, request, "unet", exported=False, overlays=True)
    histogram = Histogram(low=0, high=256, counts=(1,))
    info = InputInfo(channels=1, dtype="uint8", mean=(120,), std=(30,), histogram=histogram)
    monkeypatch.setattr(demo, "run_command", lambda *_: None)
    monkeypatch.setenv("MATSEG_WORKSPACE", str(workspace))
    for missed in (0, 12):

        def predict(pixels, missed=missed):
            labels = known[pixels.tobytes()].copy()
            labels[:, : labels.shape[1] * missed // 16] = 0
            return labels, np.stack([1.0 - labels, labels]).astype(np.float32)

        model = Predictor(classes=dataset.classes, input=info, predict=predict)
        evaluate(dataset, request, model, outputs, lambda *_: None)
        if not missed:
            demo.main()
            assert "Dendrite IoU on the test slices: 1.000" in capsys.readouterr().out
            continue
        with pytest.raises(
            MatsegError, match=r"demo_v1_test\.json: expected an IoU .* at least 0\.95, found 0\."
        ):
            demo.main()
