import itertools

import jax
import numpy as np
import pytest

from mbu_jax.train.evaluation import Evaluator
from mbu_jax.train.state import Network
from mbu_jax.train.step import data_mesh
from mbu_jax.unet import UNetConfig
from tests.oracles import convolution, levels


@pytest.fixture(scope="module")
def network():
    return Network.create(UNetConfig.preset("mbu", width=4), seed=0)


@pytest.fixture(scope="module")
def evaluator(network):
    return Evaluator(network[0], data_mesh())


@pytest.fixture(scope="module")
def examples():
    rng = np.random.default_rng(5)
    images = rng.integers(0, 256, (7, 32, 16, 3), dtype=np.uint8)
    masks = rng.integers(0, 2, (7, 32, 16), dtype=np.uint8)
    masks[3] = 0
    return [
        {"id": f"image-{i}", "image": image, "mask": mask}
        for i, (image, mask) in enumerate(zip(images, masks, strict=True))
    ]


def batched(examples, size):
    """Batches, the last one filled up with its last image at weight 0."""
    for group in itertools.batched(examples, size):
        rows = [*group, *[group[-1]] * (size - len(group))]
        batch = {name: np.stack([row[name] for row in rows]) for name in ("image", "mask", "id")}
        yield batch | {"weight": (np.arange(size) < len(group)).astype(np.float32)}


def test_every_image_is_scored_once(network, evaluator, examples):
    structure, params, stats = network
    rng = np.random.default_rng(1)
    stats = jax.tree.map(lambda s: np.asarray(s) + rng.uniform(0, 2, s.shape).astype("f"), stats)
    scores = evaluator.scores(params, stats, batched(examples, 4))

    whole = jax.jit(structure.apply_evaluation)
    thresholds = structure.fold(params, stats)
    expected = {}
    for example in examples:
        logits = np.asarray(whole(params, stats, thresholds, example["image"][None]))[0, ..., 0]
        predicted, truth = logits > 0, example["mask"] == 1
        both, either = (predicted & truth).sum(), (predicted | truth).sum()
        expected[example["id"]] = both / either if either else 1.0
    assert len(set(expected.values())) > 3
    assert {row["id"]: row["iou"] for row in scores.per_image()} == pytest.approx(expected)
    assert [row["id"] for row in scores.per_image()] == [e["id"] for e in examples]
    assert scores.result()["iou"] == pytest.approx(np.mean(list(expected.values())))


def test_batches_do_not_show(network, evaluator, examples):
    _, params, stats = network
    results = [evaluator.scores(params, stats, batched(examples, size)).result() for size in (2, 4)]
    assert results[0] == results[1]


def test_statistics_that_are_no_numbers_are_refused(network, evaluator, examples):
    _, params, stats = network
    broken = jax.tree.map(lambda s: np.asarray(s) * np.float32(np.nan), stats)
    with pytest.raises(ValueError, match="finite"):
        evaluator.scores(params, broken, batched(examples, 4))


def test_recalibrated_statistics_are_means_over_batches(network, evaluator, examples):
    structure, params, initial = network
    batches = list(batched(examples, 2))[:3]
    stats = evaluator.recalibrated_stats(params, iter(batches))

    # The stem's accumulators are computed here, one convolution after the other.
    weights = jax.device_get(params["stem"])
    first, second = [], []
    for batch in batches:
        x = 2 * (batch["image"].astype(np.float64) / 255) - 1
        y = convolution.conv3x3(x, weights["conv1"]["weight"], 0.0)
        first.append((y.mean((0, 1, 2)), y.var((0, 1, 2))))
        norm = weights["norm1"]["norm"]
        z = norm["scale"] * (y - first[-1][0]) / np.sqrt(first[-1][1] + 1e-5) + norm["bias"]
        masked = levels.weights(weights["conv2"]["weight"], "masked", "fixed", 0.1)
        y = convolution.conv3x3(levels.sign(z), masked, -1.0)
        second.append((y.mean((0, 1, 2)), y.var((0, 1, 2))))
    for layer, moments in (("norm1", first), ("norm2", second)):
        norm = jax.device_get(stats["stem"][layer]["norm"])
        for i, name in enumerate(("mean", "var")):
            expected = np.mean([moment[i] for moment in moments], axis=0)
            np.testing.assert_allclose(norm[name], expected, rtol=1e-3, atol=1e-4)

    # All the others: what training's moving average gives away of each batch.
    means = jax.tree.map(lambda s: np.zeros(s.shape), initial)
    train = jax.jit(structure.apply_training)
    for batch in batches:
        after = jax.device_get(train(params, initial, batch["image"])[1])
        means = jax.tree.map(lambda m, a, b: m + (a - 0.9 * b) / 0.3, means, after, initial)
    for ours, theirs in zip(jax.tree.leaves(stats), jax.tree.leaves(means), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-3, atol=1e-3)
        assert len(ours.addressable_shards) == 2


def test_a_batch_repeated_has_the_statistics_of_that_batch(network, evaluator, examples):
    _, params, _ = network
    batch = next(batched(examples, 2))
    once = evaluator.recalibrated_stats(params, [batch])
    thrice = evaluator.recalibrated_stats(params, [batch] * 3)
    for a, b in zip(jax.tree.leaves(once), jax.tree.leaves(thrice), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)
