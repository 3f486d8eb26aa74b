"""Shapes of the packed 3x3 convolution that tests and benchmarks walk."""

from mbu_jax.ops.specs import ConvSpec

ODD = (
    ConvSpec("one_pixel", (1, 1, 1), (4,), 2, "binary"),
    ConvSpec("odd_binary", (2, 5, 7), (16, 40), 33, "binary"),
    ConvSpec("odd_masked", (2, 7, 3), (33,), 40, "masked"),
    ConvSpec("odd_masked_two_bits", (1, 3, 9), (48, 48), 5, "masked", activation_bits=2),
    ConvSpec("odd_pow2_two_bits", (1, 4, 5), (32,), 4, "pow2", activation_bits=2),
    ConvSpec("tall_pow2", (1, 600, 2), (3,), 2, "pow2"),
    ConvSpec("sparse", (1, 6, 6), (70,), 32, "masked", density=0.02),
)
"""Small and awkward: borders, words in part, several blocks of rows."""

NETWORK = (
    ConvSpec("full_binary", (1, 512, 512), (64,), 64, "binary"),
    ConvSpec("full_masked", (1, 512, 512), (64,), 64, "masked", density=0.1),
    ConvSpec("full_joined", (1, 512, 512), (64, 64), 64, "masked", density=0.1),
    ConvSpec("half", (1, 256, 256), (128,), 128, "masked", density=0.1),
    ConvSpec("eighth", (1, 64, 64), (512,), 512, "masked", density=0.1),
    ConvSpec("eighth_joined", (1, 64, 64), (512, 512), 256, "masked", density=0.1),
    ConvSpec("full_two_bits", (1, 512, 512), (64,), 64, "masked", 2, density=0.1),
)
"""Layers of the network of width 64 on a 512x512 image."""
