"""Shapes of the packed transposed convolution that tests and benchmarks walk."""

from mbu_jax.ops.specs import ConvSpec

ODD = (
    ConvSpec("one_pixel", (1, 1, 1), (4,), 2, "binary", side=2),
    ConvSpec("odd_binary", (2, 5, 7), (48,), 33, "binary", side=2),
    ConvSpec("odd_masked_two_bits", (2, 7, 3), (33,), 40, "masked", 2, side=2),
    ConvSpec("tall_pow2", (1, 600, 2), (3,), 2, "pow2", side=2),
)
"""Small and awkward: words in part, several blocks of rows."""

NETWORK = (
    ConvSpec("up_ct1", (1, 32, 32), (512,), 512, "masked", density=0.1, side=2),
    ConvSpec("up_ct4", (1, 256, 256), (64,), 64, "masked", density=0.1, side=2),
)
"""Layers of the network of width 64 on a 512x512 image."""
