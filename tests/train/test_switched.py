"""Networks switched by an array against what each precision gives by itself."""

import jax
import jax.numpy as jnp
import numpy as np

from mbu_jax.architecture import LAYER_NAMES
from mbu_jax.layers import QuantizationOptions
from mbu_jax.quantizers import ste_derivative
from mbu_jax.train.state import Network
from mbu_jax.train.switched import SwitchedNetwork
from mbu_jax.unet import UNetConfig
from tests.oracles import levels

MASKED = np.array([True, False] * 6)


def test_weights_and_their_gradients_are_those_of_each_precision() -> None:
    """Also where the graph inside has another ternarizer and surrogate than the layers."""
    options = QuantizationOptions(ternarizer="density", density=0.3, weight_gradient="approx_sign")
    config = UNetConfig(width=4, quantization=options)
    rng = np.random.default_rng(0)
    params = jax.tree.map(
        lambda p: np.clip(rng.normal(0, 0.5, p.shape), -1, 1).astype(np.float32),
        Network.build(config).params,
    )

    @jax.jit
    def run(params, masked):
        def total(params):
            network = SwitchedNetwork.build_switched(config, masked)
            weights = {
                name: layer.quantized_weight()
                for name, layer in network.quantized_layers(params).items()
            }
            # Each weight counts differently, so that no gradient can stand for another.
            return sum(jnp.vdot(w, jnp.arange(1.0, w.size + 1)) for w in weights.values()), weights

        return jax.grad(total, has_aux=True)(params)

    grads, weights = jax.device_get(run(params, MASKED))
    precisions = {
        name: "masked" if masked else "binary"
        for name, masked in zip(LAYER_NAMES, MASKED, strict=True)
    }
    assert len(weights) == 21
    for name, found in weights.items():
        layer, conv = name.split(".")
        latent, grad = params[layer][conv]["weight"], grads[layer][conv]["weight"]
        precision = precisions.get(layer, "masked")  # the stem's second convolution always is
        expected = levels.weights(latent, precision, options.ternarizer, options.density)
        np.testing.assert_array_equal(found, expected, err_msg=name)
        assert ((found == 0).any()) == (precision == "masked"), name
        surrogate = np.asarray(ste_derivative(jnp.asarray(latent), options.weight_gradient))
        counts = np.arange(1.0, latent.size + 1).reshape(latent.shape)
        np.testing.assert_allclose(grad, surrogate * counts, rtol=1e-5, err_msg=name)
    for name in ("stem.conv1", "head"):
        *above, last = name.split(".")
        part = grads[above[0]][last] if above else grads[last]
        assert not part["weight"].any(), "not quantized, so not in the sum"
