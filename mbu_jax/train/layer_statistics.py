"""How the quantized weights of each layer are doing."""

from functools import partial

import jax
import jax.numpy as jnp

from mbu_jax.train.state import Network, Tree


def layer_statistics(network: Network, params: Tree) -> dict[str, float]:
    """Measure density and saturation of every quantized convolution.

    Args:
      network: the structure.
      params: parameters.

    Returns:
      ``density/<name>``, the share of quantized weights that are not 0, and
      ``outside_clip/<name>``, the share of latent weights at or beyond the clip range [-1, 1].

    Example:
      >>> from mbu_jax.unet import UNetConfig
      >>> network, params, _ = Network.create(UNetConfig.preset("binary", width=4), seed=0)
      >>> layer_statistics(network, params)["density/down_c1.conv1"]
      1.0
    """
    values = jax.device_get(_statistics(network, params))
    return {name: float(value) for name, value in values.items()}


@partial(jax.jit, static_argnums=0)
def _statistics(network: Network, params: Tree) -> dict[str, jax.Array]:
    values: dict[str, jax.Array] = {}
    for name, layer in network.quantized_layers(params).items():
        values[f"density/{name}"] = jnp.mean((layer.quantized_weight() != 0).astype(jnp.float32))
        values[f"outside_clip/{name}"] = jnp.mean(
            (jnp.abs(layer.weight[...]) >= 1).astype(jnp.float32)
        )
    return values
