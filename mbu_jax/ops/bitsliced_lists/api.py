"""Lists of non-zero weights: the public function."""

from jax import Array

from mbu_jax.ops.bitsliced_lists.primitive import OPERATION


def bitsliced_lists(
    weights: Array,
    planes: Array,
    *,
    channel_step: int,
    zeros: int,
    implementation: str | None = None,
) -> Array:
    """List where the planes lie that bits of weights choose.

    Args:
      weights: [M, L, S] uint32, bits set where a weight belongs to the list; M outputs, L lists
        of each.
      planes: [S] int32, words from the first plane to that of each word's lowest bit.
      channel_step: words between the planes of two bits.
      zeros: words to a plane whose bits are all 0.
      implementation: name of an engine, or None for the best that the device has.

    Returns:
      [M, L, 32 S] int32, words from the first plane to each that is chosen, in order, then to the
      plane of zeros.

    Raises:
      InputError: for other shapes or dtypes, or an engine that is unknown or cannot run.

    Example:
      >>> import jax.numpy as jnp
      >>> weights = jnp.full((1, 1, 1), 0b1010, jnp.uint32)
      >>> planes = jnp.full((1,), 100, jnp.int32)
      >>> bitsliced_lists(weights, planes, channel_step=8, zeros=7)[0, 0, :4].tolist()
      [108, 124, 7, 7]
    """
    return OPERATION(
        weights, planes, implementation=implementation, channel_step=channel_step, zeros=zeros
    )
