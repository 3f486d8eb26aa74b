import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from mbu_jax.layers import QuantizationOptions
from mbu_jax.train.config import LossOptions
from mbu_jax.train.optimizer import OptimizerOptions, make_optimizer
from mbu_jax.train.state import Network, TrainState
from mbu_jax.train.step import (
    Teacher,
    data_mesh,
    make_train_step,
    replicate,
    shard_batch,
)
from mbu_jax.unet import UNetConfig
from tests.oracles import levels

UPDATES = 8
DECAY = 0.8
LOSS = LossOptions(cross_entropy_weight=0.7, dice_weight=0.9, teacher_weight=0.5, temperature=2.0)

type Snapshot = dict[str, dict[str, np.ndarray]]


def leaves(tree: Any) -> dict[str, np.ndarray]:
    pairs = jax.tree_util.tree_leaves_with_path(jax.device_get(tree))
    return {".".join(str(key.key) for key in path): leaf for path, leaf in pairs}


def blobs() -> dict[str, np.ndarray]:
    """Four images of bright discs on a dark, noisy ground."""
    rng = np.random.default_rng(7)
    rows, columns = np.mgrid[:32, :32]
    images, masks = [], []
    for _ in range(4):
        y, x, radius = rng.uniform(10, 22), rng.uniform(10, 22), rng.uniform(5, 9)
        mask = ((rows - y) ** 2 + (columns - x) ** 2 < radius**2).astype(np.uint8)
        noise = rng.uniform(0, 40, (32, 32, 3))
        images.append((20 + 180 * mask[..., None] + noise).astype(np.uint8))
        masks.append(mask)
    ids = np.array(["a", "b", "c", "d"])
    return {"image": np.stack(images), "mask": np.stack(masks), "id": ids}


class Fitted:
    """A few updates on one batch, and what each of them left."""

    def __init__(self, preset: Any, bits: int = 1, *, averaged: bool = False, taught: bool = False):
        quantization = QuantizationOptions(activation_bits=bits)
        config = UNetConfig.preset(preset, width=4, quantization=quantization)
        self.network, params, stats = Network.create(config, seed=0)
        self.mesh = data_mesh()
        self.teacher = None
        if taught:
            network, weights, teacher_stats = Network.create(config, seed=1)
            parts = weights, teacher_stats, network.fold(weights, teacher_stats)
            self.teacher = Teacher(network, replicate(parts, self.mesh))
        optimizer = make_optimizer(
            OptimizerOptions(learning_rate=0.02, schedule="constant"), UPDATES
        )
        self.update = make_train_step(
            self.network,
            optimizer,
            LOSS,
            self.mesh,
            ema_decay=DECAY,
            teacher=self.teacher,
        )
        first = TrainState(
            step=jnp.int32(0),
            params=params,
            stats=stats,
            opt_state=optimizer.init(params),
            ema=params if averaged else None,
        )
        self.first = jax.device_get(first)
        self.batch = blobs()
        self.state = replicate(first, self.mesh)
        self.params = [leaves(self.state.params)]
        self.averages = [leaves(self.state.ema)]
        self.metrics: list[dict[str, float]] = []
        for _ in range(UPDATES):
            given = self.state
            self.state, metrics = self.update(given, shard_batch(self.batch, self.mesh))
            with pytest.raises(RuntimeError, match="deleted or donated"):
                given.params["head"]["weight"].block_until_ready()
            self.params.append(leaves(self.state.params))
            self.averages.append(leaves(self.state.ema))
            self.metrics.append({k: float(v) for k, v in jax.device_get(metrics).items()})

    @property
    def latent(self) -> dict[str, str]:
        """Precision of every latent weight, from the configuration."""
        stem = {"stem.conv2.weight": "masked"}
        if "float32" in self.network.config.precisions:
            return {}
        names = [name for name in self.params[0] if name.endswith("weight")]
        rest = {
            n: self.network.config.precisions[0] for n in names if n[:4] not in ("stem", "head")
        }
        return stem | rest


CASES = {
    "full_precision": lambda: Fitted("full_precision"),
    "all_masked": lambda: Fitted("all_masked", averaged=True),
    "binary": lambda: Fitted("binary", taught=True),
    "two_bits": lambda: Fitted("all_masked", bits=2),
    "ttq": lambda: Fitted("ttq"),
}


@pytest.fixture(scope="module", params=CASES)
def fitted(request: pytest.FixtureRequest) -> Fitted:
    return CASES[request.param]()


def test_updates(fitted: Fitted) -> None:
    """One test, so that each network is compiled once even where tests are spread."""
    the_loss_falls(fitted)
    every_parameter_moves(fitted)
    latent_weights_stay_in_range(fitted)
    flips_are_counted(fitted)
    metrics_are_those_of_the_logits(fitted)
    the_state_is_on_every_device(fitted)
    if fitted.first.ema is not None:
        the_average_follows(fitted)
    numbers_beyond_bounds_are_seen(fitted)


def the_loss_falls(fitted: Fitted) -> None:
    losses = [metrics["loss"] for metrics in fitted.metrics]
    assert min(losses[-2:]) < 0.8 * losses[0], losses
    assert max(m["dice"] for m in fitted.metrics[-2:]) > fitted.metrics[0]["dice"]
    assert int(fitted.state.step) == UPDATES


def every_parameter_moves(fitted: Fitted) -> None:
    for name, before in fitted.params[0].items():
        assert (fitted.params[-1][name] != before).any(), name


def latent_weights_stay_in_range(fitted: Fitted) -> None:
    at_the_edge = 0
    for name in fitted.latent:
        for params in fitted.params:
            assert np.abs(params[name]).max() <= 1, name
        at_the_edge += int((np.abs(fitted.params[-1][name]) == 1).sum())
    free = [name for name in fitted.params[0] if name not in fitted.latent]
    assert max(np.abs(fitted.params[-1][name]).max() for name in free) > 1
    assert (at_the_edge > 0) == bool(fitted.latent)


def flips_are_counted(fitted: Fitted) -> None:
    flipped = 0.0
    for metrics, before, after in zip(
        fitted.metrics, fitted.params, fitted.params[1:], strict=False
    ):
        expected = {}
        for name, precision in fitted.latent.items():
            signs = "masked" if precision == "ttq" else precision
            was, now = (levels.weights(p[name], signs, "fixed", 0.1) for p in (before, after))
            expected[f"sign_flip_rate/{name.removesuffix('.weight')}"] = np.mean(was != now)
        counted = {name: value for name, value in metrics.items() if "/" in name}
        assert counted == pytest.approx(expected, abs=1e-6)
        flipped += sum(expected.values())
    assert (flipped > 0) == bool(fitted.latent)


def metrics_are_those_of_the_logits(fitted: Fitted) -> None:
    """The first update's loss, in float64, from logits computed on one device."""
    images, masks = fitted.batch["image"], fitted.batch["mask"]
    run = jax.jit(fitted.network.apply_training)
    logits, _ = jax.device_get(run(fitted.first.params, fitted.first.stats, images))
    z, t = logits[..., 0].astype(np.float64), masks.astype(np.float64)
    p = 1 / (1 + np.exp(-z))
    bce = -(t * np.log(p) + (1 - t) * np.log1p(-p)).mean()
    overlap, size = (p * t).sum((1, 2)), (p + t).sum((1, 2))
    dice_loss = (1 - (overlap + 1) / (size / 2 + 1)).mean()
    loss = 0.7 * bce + 0.9 * dice_loss
    hard = z > 0
    scores = 2 * (hard & (t > 0)).sum((1, 2)) / (hard.sum((1, 2)) + t.sum((1, 2)))
    expected = {"bce": bce, "dice_loss": dice_loss, "dice": scores.mean()}
    if fitted.teacher is not None:
        network, weights = fitted.teacher.network, jax.device_get(fitted.teacher.weights)
        taught = jax.device_get(jax.jit(network.apply_evaluation)(*weights, images))
        q = 1 / (1 + np.exp(-taught[..., 0].astype(np.float64) / 2))
        p = 1 / (1 + np.exp(-z / 2))
        kl = q * np.log(q / p) + (1 - q) * np.log((1 - q) / (1 - p))
        expected["distillation"] = 4 * kl.mean()
        assert expected["distillation"] > 1e-3
        loss += 0.5 * expected["distillation"]
    expected["loss"] = loss
    squares = [(value.astype(np.float64) ** 2).sum() for value in fitted.params[1].values()]
    expected["weight_norm"] = np.sqrt(sum(squares))
    first = {k: v for k, v in fitted.metrics[0].items() if "/" not in k}
    assert 0 < first.pop("grad_norm") < 100
    assert first == pytest.approx(expected, rel=1e-4)


def the_state_is_on_every_device(fitted: Fitted) -> None:
    everywhere = NamedSharding(fitted.mesh, PartitionSpec())
    for leaf in jax.tree.leaves(fitted.state):
        assert leaf.sharding.is_equivalent_to(everywhere, leaf.ndim)
        assert len(leaf.sharding.device_set) == fitted.mesh.size == 2


def the_average_follows(fitted: Fitted) -> None:
    average = {name: value.astype(np.float64) for name, value in fitted.params[0].items()}
    for done in range(UPDATES):
        keep = min(DECAY, (1 + done) / (10 + done))
        for name, value in fitted.params[done + 1].items():
            average[name] = keep * average[name] + (1 - keep) * value
            np.testing.assert_allclose(
                fitted.averages[done + 1][name], average[name], rtol=1e-5, atol=1e-6
            )


def numbers_beyond_bounds_are_seen(fitted: Fitted) -> None:
    """A weight that is no number shows in what an update reports, behind any quantizer."""
    for layer in ("stem", "up_c4"):
        params = jax.tree.map(np.array, fitted.first.params)
        norm = params[layer]["norm1"]["norm"]
        norm["bias"] = norm["bias"] + np.float32(np.nan)
        broken = replicate(dataclasses.replace(fitted.first, params=params), fitted.mesh)
        _, metrics = fitted.update(broken, shard_batch(fitted.batch, fitted.mesh))
        values = np.array([float(value) for value in metrics.values()])
        assert not np.isfinite(values).all(), layer


def test_a_batch_is_split_and_ids_stay() -> None:
    mesh = data_mesh()
    batch = shard_batch(blobs(), mesh)
    assert set(batch) == {"image", "mask"}
    for name, array in batch.items():
        assert array.sharding == NamedSharding(mesh, PartitionSpec("data"))
        assert [shard.data.shape[0] for shard in array.addressable_shards] == [2, 2]
        np.testing.assert_array_equal(array, blobs()[name])


def test_optax_states_are_replicated_whole() -> None:
    state = optax.scale_by_adam().init({"w": jnp.arange(3.0)})
    copy = replicate(state, data_mesh())
    assert jax.tree.structure(copy) == jax.tree.structure(state)
    for ours, theirs in zip(jax.tree.leaves(copy), jax.tree.leaves(state), strict=True):
        np.testing.assert_array_equal(ours, theirs)
        assert len(ours.addressable_shards) == 2
