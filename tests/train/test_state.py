import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from mbu_jax.train.state import Network, clip_latent
from mbu_jax.unet import UNet, UNetConfig
from tests.oracles import convolution

SMALL = UNetConfig.preset("mbu", width=4)


def leaves(tree) -> dict[str, np.ndarray]:
    pairs = jax.tree_util.tree_leaves_with_path(tree)
    return {".".join(str(key.key) for key in path): np.asarray(leaf) for path, leaf in pairs}


def assert_equal(a, b) -> None:
    a, b = leaves(a), leaves(b)
    assert a.keys() == b.keys()
    for name in a:
        np.testing.assert_array_equal(a[name], b[name], err_msg=name)


@pytest.fixture(scope="module")
def images() -> jax.Array:
    rng = np.random.default_rng(3)
    return jnp.asarray(rng.integers(0, 256, (2, 16, 32, 3), dtype=np.uint8))


def test_the_seed_decides_the_numbers():
    network, params, stats = Network.create(SMALL, seed=1)
    again, same, _ = Network.create(SMALL, seed=1)
    _, other, _ = Network.create(SMALL, seed=2)
    assert_equal(params, same)
    assert again.training == network.training
    weights = [name for name in leaves(params) if name.endswith("weight")]
    assert len(weights) == 23
    for name in weights:
        assert (leaves(params)[name] != leaves(other)[name]).any()
        assert leaves(params)[name].std() > 0
    for name, value in leaves(stats).items():
        assert (value == (1 if name.endswith("var") else 0)).all()


def test_the_numbers_have_the_shapes_of_the_module():
    network, params, stats = Network.create(SMALL, seed=0)
    model = nnx.eval_shape(lambda: UNet(SMALL, rngs=nnx.Rngs(0)))
    for ours, kind in ((params, nnx.Param), (stats, nnx.BatchStat), (network.params, nnx.Param)):
        theirs = nnx.to_pure_dict(nnx.state(model, kind))
        shapes = [jax.tree.map(lambda x: (x.shape, x.dtype), tree) for tree in (ours, theirs)]
        assert shapes[0] == shapes[1]


def test_evaluation_is_that_of_the_module(images):
    network, params, stats = Network.create(SMALL, seed=0)
    rng = np.random.default_rng(0)
    stats = jax.tree.map(lambda s: np.asarray(s) + rng.uniform(0, 1, s.shape).astype("f"), stats)

    model = UNet(SMALL, rngs=nnx.Rngs(9))
    nnx.update(model, params, stats)
    model.eval()
    segment = nnx.jit(lambda model, x: model(x))
    expected = np.asarray(segment(model, images))

    thresholds = network.fold(params, stats)
    logits = jax.jit(network.apply_evaluation)(params, stats, thresholds, images)
    np.testing.assert_array_equal(logits, expected)
    np.testing.assert_array_equal(segment(network.model(params, stats), images), expected)


def test_training_moves_the_statistics_to_those_of_the_batch(images):
    network, params, stats = Network.create(SMALL, seed=0)
    _, after = jax.jit(network.apply_training)(params, stats, images)
    x = 2 * (np.asarray(images, np.float64) / 255) - 1
    y = convolution.conv3x3(x, np.asarray(params["stem"]["conv1"]["weight"]), 0.0)
    norm = after["stem"]["norm1"]["norm"]
    np.testing.assert_allclose(norm["mean"], 0.1 * y.mean((0, 1, 2)), rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(norm["var"], 0.9 + 0.1 * y.var((0, 1, 2)), rtol=1e-4)


def test_latent_weights_are_those_of_quantized_convolutions():
    config = dataclasses.replace(SMALL, precisions=("float32", *SMALL.precisions[1:]))
    network, params, _ = Network.create(config, seed=0)
    full = {"stem.conv1", "down_c1.conv1", "down_c1.conv2", "head"}
    expected = {
        name: name.endswith(".weight") and name.removesuffix(".weight") not in full
        for name in leaves(params)
    }
    assert sum(expected.values()) == 19
    assert leaves(network.latent_mask(params)) == expected
    layers = network.quantized_layers(params)
    assert {f"{name}.weight" for name in layers} == {n for n, latent in expected.items() if latent}
    for name, layer in layers.items():
        np.testing.assert_array_equal(layer.weight[...], leaves(params)[f"{name}.weight"])


def test_clipping_touches_latent_weights_alone():
    network, params, _ = Network.create(SMALL, seed=0)
    large = jax.tree.map(lambda p: 3 * np.asarray(p) + 2, params)
    mask = network.latent_mask(params)
    clipped = jax.jit(lambda params: clip_latent(params, mask))(large)
    before, after, latent = leaves(large), leaves(clipped), leaves(mask)
    for name in before:
        expected = before[name]
        if latent[name]:
            expected = np.minimum(np.maximum(expected, -1), 1)
        np.testing.assert_array_equal(after[name], expected, err_msg=name)


def test_one_configuration_is_one_network():
    """It is a static argument of compiled functions."""
    network = Network.build(SMALL)
    assert {network: 1}[Network.create(SMALL, seed=3)[0]] == 1
    assert network != Network.build(UNetConfig.preset("mbu", width=5))
