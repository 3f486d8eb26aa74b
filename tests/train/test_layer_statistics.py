import jax
import numpy as np
import pytest

from mbu_jax.train.layer_statistics import layer_statistics
from mbu_jax.train.state import Network
from mbu_jax.unet import UNetConfig
from tests.oracles import levels


def test_every_quantized_layer_is_measured():
    config = UNetConfig.preset("mbu", width=4)
    network, params, _ = Network.create(config, seed=0)
    rng = np.random.default_rng(0)
    params = jax.tree.map(lambda p: rng.normal(size=p.shape).astype(np.float32), params)
    measured = layer_statistics(network, params)

    expected = {}
    precisions = dict(zip(network_layers(), config.precisions, strict=True))
    for layer, precision in {"stem": "masked", **precisions}.items():
        for conv in ("conv", "conv1", "conv2"):
            if conv not in params[layer] or (layer, conv) == ("stem", "conv1"):
                continue
            latent = params[layer][conv]["weight"]
            weights = levels.weights(latent, precision, "fixed", 0.1)
            expected[f"density/{layer}.{conv}"] = np.mean(weights != 0)
            expected[f"outside_clip/{layer}.{conv}"] = np.mean(np.abs(latent) >= 1)
    assert len(expected) == 2 * 21
    assert measured == pytest.approx(expected, abs=1e-6)
    densities = {value for name, value in measured.items() if name.startswith("density")}
    assert 1.0 in densities  # of binary layers
    assert min(densities) < 0.9


def network_layers() -> list[str]:
    downs = [f"down_c{i}" for i in (1, 2, 3, 4)]
    return [*downs, *(f"up_{kind}{i}" for i in (1, 2, 3, 4) for kind in ("ct", "c"))]


def test_weights_on_the_edge_count_as_outside():
    network, params, _ = Network.create(UNetConfig.preset("binary", width=4), seed=0)
    edge = jax.tree.map(lambda p: np.ones(p.shape, np.float32), params)
    inside = jax.tree.map(lambda p: np.full(p.shape, np.nextafter(np.float32(1), 0)), params)
    for weights, share in ((edge, 1.0), (inside, 0.0)):
        measured = layer_statistics(network, weights)
        assert {v for k, v in measured.items() if k.startswith("outside_clip")} == {share}


def test_a_full_precision_network_has_none():
    network = Network.build(UNetConfig.preset("full_precision", width=4))
    params = jax.tree.map(lambda p: np.zeros(p.shape, np.float32), network.params)
    assert layer_statistics(network, params) == {}
