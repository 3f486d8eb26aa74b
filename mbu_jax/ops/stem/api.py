"""The convolution on the image: the public function."""

from jax import Array

from mbu_jax.ops.stem.primitive import OPERATION
from mbu_jax.packing import PackedStem


def stem(
    images: Array,
    layer: PackedStem,
    *,
    implementation: str | None = None,
) -> Array:
    """Full-precision 3x3 convolution of ``2 images - 1``, compared with thresholds, as words.

    Args:
      images: [B, H, W, C] float32 in [0, 1].
      layer: weights and thresholds.
      implementation: name of an engine, or None for the best that the device has.

    Returns:
      [B, H, W, P, ceil(K/32)] uint32.

    Raises:
      InputError: where images and layer do not fit, the engine is unknown or cannot run, or a
        derivative is asked for.

    Example:
      >>> import jax.numpy as jnp
      >>> layer = PackedStem(jnp.ones((3, 3, 1, 2)), jnp.array([[0.0, 10.0]]), jnp.ones(2))
      >>> stem(jnp.ones((1, 1, 1, 1)), layer).ravel().tolist()
      [1]
    """
    return OPERATION(images, layer, implementation=implementation)
