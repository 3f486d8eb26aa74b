"""The convolution on the image: the public function."""

from jax import Array

from mbu_jax.ops.stem.primitive import OPERATION
from mbu_jax.packing import PackedStem


def stem(
    levels: Array,
    layer: PackedStem,
    *,
    implementation: str | None = None,
) -> Array:
    """3x3 convolution of ``2 levels - 255``, compared with thresholds, as words.

    Args:
      levels: images, [B, H, W, C] uint8.
      layer: weights and thresholds.
      implementation: name of an engine, or None for the best that the device has.

    Returns:
      [B, H, W, P, ceil(K/32)] uint32.

    Raises:
      InputError: where levels and layer do not fit, the engine is unknown or cannot run, or a
        derivative is asked for.

    Example:
      >>> import jax.numpy as jnp
      >>> weight = jnp.ones((3, 3, 1, 2), jnp.int16)
      >>> layer = PackedStem(weight, jnp.array([[255, 256]], jnp.int32))
      >>> stem(jnp.full((1, 1, 1, 1), 255, jnp.uint8), layer).ravel().tolist()
      [1]
    """
    return OPERATION(levels, layer, implementation=implementation)
