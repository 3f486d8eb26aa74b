"""A whole network of kernels, run as compiled PTX."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mbu_jax.inference import infer_with_activations
from mbu_jax.layers import QuantizationOptions
from mbu_jax.unet import UNetConfig
from tests.oracles import packed_network
from tests.random_packed import random_packed
from tests.triton_kernels.simulated import gpu


@pytest.mark.parametrize(
    ("engine", "bits", "others"),
    [
        ("popcount", 2, {"max_pool2x2", "conv3x3", "up_conv2x2"}),
        ("bmma", 2, {"max_pool2x2", "bmma_conv3x3", "bmma_up_conv2x2"}),
        (
            "bitsliced",
            1,
            {
                *("bitsliced_max_pool2x2", "bitsliced_conv3x3", "bitsliced_up_conv2x2"),
                *("channels_to_pixels", "pixels_to_channels"),
            },
        ),
    ],
)
def test_every_layer_of_a_network_of_kernels_is_the_oracles(
    engine: str, bits: int, others: set[str]
) -> None:
    config = UNetConfig(
        width=2,
        precisions=("binary", "masked", "pow2") * 4,
        quantization=QuantizationOptions(activation_bits=bits),
    )
    params = random_packed(config)
    images = np.random.default_rng(0).integers(0, 256, (bits, 16, 15, 3)).astype(np.uint8)
    run = jax.jit(functools.partial(infer_with_activations, implementation=engine))
    with gpu(90) as called:
        logits, words = run(params, jnp.asarray(images))
    names = {kernel.function.__name__.removesuffix("_kernel") for kernel in called}
    # Lists of weights may be made by any engine.
    assert names - {"bitsliced_lists"} == {"stem", "head"} | others
    codes, expected = packed_network.network(params, images)
    assert words.keys() == codes.keys()
    for name in words:
        found = packed_network.read_codes(np.asarray(words[name]), codes[name].shape[-1:])
        np.testing.assert_array_equal(found, codes[name], err_msg=name)
    np.testing.assert_array_equal(np.asarray(logits, np.float64), expected[:, :16, :15])
