"""The network as data agrees with a network that is really built, array by array."""

import math

import jax
import jax.numpy as jnp
import pytest

from mbu_jax.architecture import LAYER_NAMES, ConvShape, padded_size, unet_layers
from mbu_jax.errors import InputError


def count_by_tracing(
    c: int, in_channels: int, classes: int, height: int, width: int
) -> dict[str, tuple[int, int]]:
    """Trace the whole graph, skips included, and count weights and products from its arrays.

    Returns name -> (weights, multiply-accumulates). Nothing is computed: shapes alone.
    """
    counts: dict[str, tuple[int, int]] = {}

    def add(name: str, weights: int, macs: int) -> None:
        before = counts.get(name, (0, 0))
        counts[name] = (before[0] + weights, before[1] + macs)

    def conv(name: str, x: jax.Array, out: int, size: int = 3) -> jax.Array:
        kernel = jnp.zeros((size, size, x.shape[-1], out))
        y = jax.lax.conv_general_dilated(
            x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )
        add(name, kernel.size, y.size * math.prod(kernel.shape[:3]))
        return y

    def double(name: str, x: jax.Array, out: int) -> jax.Array:
        return conv(name, conv(name, x, out), out)

    def pool(x: jax.Array) -> jax.Array:
        b, h, w, k = x.shape
        return x.reshape(b, h // 2, 2, w // 2, 2, k).max((2, 4))

    def up(name: str, x: jax.Array) -> jax.Array:
        b, h, w, k = x.shape
        kernel = jnp.zeros((2, 2, k, k))
        taps = jnp.einsum("bhwi,uvio->bhuwvo", x, kernel)
        add(name, kernel.size, taps.size * k)
        return taps.reshape(b, 2 * h, 2 * w, k)

    def network(image: jax.Array) -> jax.Array:
        skips = [double("stem", image, c)]
        for i, channels in enumerate((2 * c, 4 * c, 8 * c, 8 * c), start=1):
            skips.append(double(f"down_c{i}", pool(skips[-1]), channels))
        x = skips.pop()
        for i, channels in enumerate((4 * c, 2 * c, c, c), start=1):
            x = jnp.concatenate([skips.pop(), up(f"up_ct{i}", x)], axis=-1)
            x = double(f"up_c{i}", x, channels)
        return conv("head", x, classes, size=1)

    logits = jax.eval_shape(network, jax.ShapeDtypeStruct((1, height, width, in_channels), "f4"))
    assert logits.shape == (1, height, width, classes)
    return counts


@pytest.mark.parametrize(
    ("c", "in_channels", "classes", "height", "width"),
    [(64, 3, 1, 512, 512), (8, 1, 3, 48, 16), (5, 4, 2, 32, 80)],
)
def test_agrees_with_a_traced_network(
    c: int, in_channels: int, classes: int, height: int, width: int
) -> None:
    expected = count_by_tracing(c, in_channels, classes, height, width)
    layers = unet_layers(c, in_channels, classes)
    assert {x.name: (x.weights, x.macs(height, width)) for x in layers} == expected
    assert [x.name for x in layers] == list(expected)  # execution order


def test_published_size_of_the_network() -> None:
    layers = unet_layers(width=64)
    weights = sum(layer.weights for layer in layers)
    assert weights == 14_776_064  # "14.78 M" counts weights alone
    normalised = [conv for layer in layers[:-1] for conv in layer.convs]
    scale_and_bias = 2 * sum(conv.out_channels for conv in normalised)
    assert weights + scale_and_bias == 14_785_920


def test_published_work_of_the_network() -> None:
    layers = unet_layers(width=64)
    total = sum(layer.macs(512, 512) for layer in layers)
    full_precision = layers[0].convs[0].macs(512, 512) + layers[-1].macs(512, 512)
    assert total == 127_976_603_648
    assert round((total - full_precision) / 1e9, 1) == 127.5  # the quantised convolutions


def test_twelve_layers_are_configurable() -> None:
    layers = unet_layers()
    assert tuple(layer.name for layer in layers if layer.configurable) == LAYER_NAMES
    assert len(LAYER_NAMES) == 12
    assert [layer.name for layer in layers if not layer.configurable] == ["stem", "head"]


def test_odd_sizes_count_the_padded_image() -> None:
    for layer in unet_layers(width=4):
        assert layer.macs(33, 17) == layer.macs(48, 32)
    assert padded_size(1, 16) == (16, 16)


def test_a_transposed_convolution_has_four_taps_but_uses_one_a_pixel() -> None:
    up = ConvShape("up", kernel=2, in_channels=3, out_channels=5, scale=2, transposed=True)
    assert up.weights == 60
    assert up.macs(64, 32) == 32 * 16 * 3 * 5


@pytest.mark.parametrize("option", ["width", "in_channels", "classes"])
def test_rejects_empty_networks(option: str) -> None:
    with pytest.raises(InputError, match=f"{option} is 0"):
        unet_layers(**{option: 0})


@pytest.mark.parametrize("size", [(0, 16), (16, -1)])
def test_rejects_empty_images(size: tuple[int, int]) -> None:
    with pytest.raises(InputError, match="at least 1 pixel"):
        padded_size(*size)
