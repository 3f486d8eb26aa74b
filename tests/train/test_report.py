import json

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from PIL import Image

from mbu_jax.train.metrics import SegmentationScores, confusion_counts
from mbu_jax.train.report import write_report


class Threshold(nnx.Module):
    """Object where the image is bright; works on any size."""

    def __call__(self, image):
        return image.astype(jnp.float32).mean(axis=-1, keepdims=True) - 127


class Images:
    """Images whose predictions are wrong in more and more pixels."""

    ids = ("perfect", "good", "fair", "poor", "bad")

    def __getitem__(self, index):
        size = (40 + 8 * index, 48)
        mask = np.zeros(size, np.uint8)
        mask[8:24] = 1
        bright = mask.copy()
        bright[8 : 8 + 3 * index] = 0
        return {"id": self.ids[index], "image": np.stack([255 * bright] * 3, -1), "mask": mask}


@pytest.fixture
def scores():
    result = SegmentationScores()
    for index, name in reversed(list(enumerate(Images.ids))):
        example = Images()[index]
        predicted = (example["image"][..., 0] > 127).astype(np.uint8)
        counts = confusion_counts(jnp.asarray(predicted[None]), jnp.asarray(example["mask"][None]))
        result.add(counts, ids=[name])
    return result


def test_everything_is_written(tmp_path, scores):
    out, pictures = tmp_path / "eval.json", tmp_path / "samples"
    report = write_report(out, pictures, scores, Images(), Threshold(), 3, step=7, split="all")
    assert json.loads(out.read_text()) == report
    assert (report["step"], report["split"], report["images"]) == (7, "all", 5)
    assert {row["id"] for row in report["per_image"]} == set(Images.ids)
    assert report["dice"] == pytest.approx(np.mean([row["dice"] for row in report["per_image"]]))

    # From the worst to the best, evenly.
    names = [path.name for path in sorted(pictures.iterdir())]
    assert names == ["00-bad.png", "01-fair.png", "02-perfect.png"]
    with Image.open(pictures / "00-bad.png") as image:
        assert image.width >= 4 * 48


def test_the_model_makes_the_pictures_of_the_scores(tmp_path, scores, monkeypatch):
    drawn = {}

    def write(folder, images, truths, predictions, ids, dice):
        rows = zip(truths, predictions, dice, strict=True)
        drawn.update(zip(ids, rows, strict=True))
        return []

    monkeypatch.setattr("mbu_jax.train.report.write_samples", write)
    write_report(tmp_path / "e.json", tmp_path, scores, Images(), Threshold(), 10)
    assert list(drawn) == list(reversed(Images.ids))
    for index, name in enumerate(Images.ids):
        truth, prediction, dice = drawn[name]
        example = Images()[index]
        np.testing.assert_array_equal(truth, example["mask"])
        np.testing.assert_array_equal(prediction, example["image"][..., 0] > 127)
        overlap = 2 * (truth & prediction).sum() / (truth.sum() + prediction.sum())
        assert dice == pytest.approx(overlap)


def test_no_pictures_on_request(tmp_path, scores):
    write_report(tmp_path / "eval.json", tmp_path / "samples", scores, Images(), Threshold(), 0)
    assert [path.name for path in tmp_path.iterdir()] == ["eval.json"]


def test_pictures_of_an_earlier_report_go(tmp_path, scores):
    pictures = tmp_path / "samples"
    write_report(tmp_path / "eval.json", pictures, scores, Images(), Threshold(), 5)
    mine = ("01-cell.png", "2-poor.png", "notes.txt", "x1-poor.png")
    for name in mine:
        (pictures / name).write_text("mine")
    write_report(tmp_path / "eval.json", pictures, scores, Images(), Threshold(), 2)
    names = sorted(path.name for path in pictures.iterdir())
    assert names == sorted(["00-bad.png", "01-perfect.png", *mine])
