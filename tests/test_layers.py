"""Layers against NumPy: exact integers and comparisons, float64 where numbers are real."""

from collections.abc import Callable
from functools import partial
from typing import Any, get_args

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax import Array
from numpy.typing import NDArray

from mbu_jax.errors import InputError
from mbu_jax.layers import (
    Conv3x3,
    DoubleConv,
    Folded,
    Folding,
    Head,
    LatentWeight,
    NormActivation,
    Precision,
    QuantizationOptions,
    Stem,
    Up,
    UpConv2x2,
    fold,
    latent_initializer,
    quantize_weight,
)
from tests.oracles import batch_norm, convolution, levels

QUANTIZED = ("int8", "int4", "int2", "pow2", "masked", "binary")
EPSILON = 1e-5
# Derivative of a quantizer inside the clip range: the scale of its integers.
SLOPE = {"int8": 127, "int4": 7, "int2": 1, "pow2": 4, "masked": 1, "binary": 1}


def latent(rng: np.random.Generator, *shape: int) -> NDArray:
    """Latent weights: some outside the clip range, some exactly on an edge or a tie."""
    ties = rng.choice(np.array([-1, -0.5, 0, 0.375, 0.5, 0.75, 1]), shape)
    values = np.where(rng.random(shape) < 0.2, ties, 0.6 * rng.normal(size=shape))
    return values.astype(np.float32)


def activations(rng: np.random.Generator, bits: int, *shape: int) -> NDArray:
    return 2 * rng.integers(0, 2**bits, shape).astype(np.float32) - (2**bits - 1)


def set_norm(layer: NormActivation, gamma: Any, beta: Any, mean: Any, var: Any) -> None:
    assert layer.norm.scale is not None
    assert layer.norm.bias is not None
    for variable, value in (
        (layer.norm.scale, gamma),
        (layer.norm.bias, beta),
        (layer.norm.mean, mean),
        (layer.norm.var, var),
    ):
        variable[...] = jnp.broadcast_to(jnp.asarray(value, jnp.float32), variable[...].shape)


def forward_and_backward(
    layer: Callable[[Array], Array], x: NDArray, dy: NDArray
) -> tuple[Array, list[Array]]:
    """The layer's output, and the gradients of its parameters."""
    graph, params, rest = nnx.split(layer, nnx.Param, ...)

    @jax.jit
    def run(params: nnx.State, x: Array, dy: Array) -> tuple[Array, nnx.State]:
        y, backward = jax.vjp(lambda p: nnx.merge(graph, p, rest, copy=True)(x), params)
        return y, backward(dy)[0]

    y, gradients = run(params, jnp.asarray(x), jnp.asarray(dy))
    return y, jax.tree.leaves(gradients)


@pytest.mark.parametrize(
    ("precision", "ternarizer"),
    [
        *((p, "fixed") for p in get_args(Precision) if p != "ttq"),
        *(("masked", ternarizer) for ternarizer in ("twn", "density", "max")),
    ],
)
def test_quantize_weight_uses_its_options(precision: Any, ternarizer: Any) -> None:
    w = latent(np.random.default_rng(0), 4, 30)
    options = QuantizationOptions(ternarizer=ternarizer, density=0.3, weight_gradient="approx_sign")
    quantized, backward = jax.vjp(lambda w: quantize_weight(w, precision, options), jnp.asarray(w))
    np.testing.assert_array_equal(quantized, levels.weights(w, precision, ternarizer, 0.3))
    assert quantized.dtype == jnp.float32
    (dw,) = backward(jnp.ones_like(quantized))
    if precision == "float32":
        np.testing.assert_array_equal(dw, 1)
    else:
        approximate = np.maximum(2 - 2 * np.abs(w.astype(np.float64)), 0)
        np.testing.assert_allclose(dw, SLOPE[precision] * approximate, rtol=1e-6, atol=1e-5)


@pytest.mark.parametrize("bits", [1, 2])
@pytest.mark.parametrize("precision", QUANTIZED)
def test_convolutions_and_their_gradients_are_exact(precision: Any, bits: int) -> None:
    """The border holds the lowest level; the gradient passes straight to the latent weight."""
    rng = np.random.default_rng(1)
    options = QuantizationOptions(activation_bits=bits)
    three = Conv3x3(3, 4, precision, options, rngs=nnx.Rngs(0))
    up = UpConv2x2(4, 2, precision, options, rngs=nnx.Rngs(0))
    assert isinstance(three.weight, LatentWeight)
    assert isinstance(up.weight, LatentWeight)
    w3, w2 = latent(rng, 3, 3, 3, 4), latent(rng, 2, 2, 4, 2)
    x, a = activations(rng, bits, 2, 5, 3, 3), activations(rng, bits, 2, 3, 1, 4)
    dy = rng.integers(-5, 6, (2, 5, 3, 4)).astype(np.float32)
    da = rng.integers(-5, 6, (2, 6, 2, 2)).astype(np.float32)

    three.weight[...], up.weight[...] = jnp.asarray(w3), jnp.asarray(w2)
    y, (dw3,) = forward_and_backward(three, x, dy)
    b, (dw2,) = forward_and_backward(up, a, da)
    q3, q2 = (levels.weights(w, precision, "fixed", 0.1) for w in (w3, w2))
    lowest = -1 if bits == 1 else -3
    np.testing.assert_array_equal(y, convolution.conv3x3(x, q3, lowest))
    np.testing.assert_array_equal(b, convolution.up_conv2x2(a, q2))
    inside3, inside2 = (SLOPE[precision] * (np.abs(w) <= 1) for w in (w3, w2))
    expected = convolution.conv3x3_weight_gradient(x, dy, lowest) * inside3
    np.testing.assert_array_equal(dw3, expected)
    np.testing.assert_array_equal(dw2, convolution.up_conv2x2_gradients(a, q2, da)[1] * inside2)


@pytest.mark.parametrize("layer_type", [Conv3x3, UpConv2x2])
def test_learned_scales_are_parameters_and_multiply(layer_type: Any) -> None:
    """Zhu et al. 2017, eqs. 6 to 8, through a convolution; the border has the lowest level."""
    rng = np.random.default_rng(3)
    options = QuantizationOptions(ternarizer="max")
    layer = layer_type(3, 4, "ttq", options, rngs=nnx.Rngs(0))
    assert isinstance(layer.weight, LatentWeight)
    np.testing.assert_array_equal(layer.scales[...], 1)
    w = latent(rng, *layer.weight[...].shape)
    layer.weight[...] = jnp.asarray(w)
    layer.scales[...] = jnp.array([2.0, 0.25])
    x = activations(rng, 1, 2, 4, 5, 3)
    positive, negative = w > 0.05 * np.abs(w).max(), w < -0.05 * np.abs(w).max()
    q = 2.0 * positive - 0.25 * negative
    if layer_type is Conv3x3:
        expected = convolution.conv3x3(x, q, -1)
        dy = rng.integers(-5, 6, expected.shape).astype(np.float32)
        dq = convolution.conv3x3_weight_gradient(x, dy, -1)
    else:
        expected = convolution.up_conv2x2(x, q)
        dy = rng.integers(-5, 6, expected.shape).astype(np.float32)
        dq = convolution.up_conv2x2_gradients(x, q, dy)[1]
    y, (dscales, dw) = forward_and_backward(layer, x, dy)
    np.testing.assert_array_equal(y, expected)
    np.testing.assert_array_equal(dscales, [dq[positive].sum(), -dq[negative].sum()])
    factor = np.where(positive, 2.0, np.where(negative, 0.25, 1)) * (np.abs(w) <= 1)
    np.testing.assert_array_equal(dw, dq * factor)


def test_sums_of_learned_scales_are_not_taken_for_integers() -> None:
    block = DoubleConv(2, 3, ("ttq", "masked"), QuantizationOptions(), rngs=nnx.Rngs(0))
    assert (block.norm1.integer, block.norm2.integer) == (False, True)
    assert not Up(3, "ttq", QuantizationOptions(), rngs=nnx.Rngs(0)).norm.integer


@pytest.mark.parametrize("bits", [1, 2, 32])
def test_full_precision_convolutions_pad_with_zero(bits: int) -> None:
    rng = np.random.default_rng(2)
    options = QuantizationOptions(activation_bits=bits)
    layer = Conv3x3(2, 3, "float32", options, rngs=nnx.Rngs(0))
    assert not isinstance(layer.weight, LatentWeight)
    w = np.rint(64 * rng.normal(size=(3, 3, 2, 3))) / 64
    layer.weight[...] = jnp.asarray(w, jnp.float32)
    x = activations(rng, 2, 1, 4, 5, 2)
    np.testing.assert_array_equal(layer(jnp.asarray(x)), convolution.conv3x3(x, w, 0))


@pytest.mark.parametrize("bits", [1, 2])
@pytest.mark.parametrize("integer", [True, False])
def test_evaluation_compares_exactly(integer: bool, bits: int) -> None:
    rng = np.random.default_rng(3)
    channels = 24
    layer = NormActivation(
        channels, QuantizationOptions(activation_bits=bits), integer=integer, rngs=nnx.Rngs(0)
    )
    gamma = rng.normal(size=channels).astype(np.float32)
    gamma[:6] = 0, -0.0, 1e-30, -1e-30, 1e30, -1e30
    beta = rng.choice(np.array([0, 0.5, -2, 2, 1.3, -0.1], np.float32), channels)
    mean = np.where(rng.random(channels) < 0.5, rng.integers(-9, 9, channels), rng.normal(size=24))
    mean = mean.astype(np.float32)
    var = rng.choice(np.array([0, 1e-3, 1, 40], np.float32), channels)
    set_norm(layer, gamma, beta, mean, var)
    layer.eval()
    layer.fold()
    step = 1 if integer else 1 / 64
    y = np.arange(-300, 301)[:, None] * np.full(channels, step)
    y = y.reshape(1, 1, *y.shape)
    expected = batch_norm.activations(y, gamma, beta, mean, var, layer.norm.epsilon, bits)
    assert len(np.unique(expected)) == 2**bits
    got = nnx.jit(lambda layer, y: layer(y))(layer, jnp.asarray(y, jnp.float32))
    assert got.dtype == jnp.float32
    np.testing.assert_array_equal(got, expected)
    if integer:
        # A convolution that misses an integer by rounding gives the same activation.
        noise = rng.uniform(-0.4, 0.4, y.shape)
        np.testing.assert_array_equal(layer(jnp.asarray(y + noise, jnp.float32)), expected)


@pytest.mark.parametrize("bits", [1, 2])
def test_training_normalizes_by_batch_statistics(bits: int) -> None:
    rng = np.random.default_rng(4)
    layer = NormActivation(
        5, QuantizationOptions(activation_bits=bits), integer=True, rngs=nnx.Rngs(0)
    )
    # A variance that is tiny beside the mean: sums of squares in float32 would lose it.
    y = rng.integers(-40, 41, (2, 6, 7, 5)) + np.array([0, 3, -70, 5000, 40000])
    gamma, beta = np.array([1, -2, 0.5, 3, 1.7]), np.array([0, 0.3, -0.1, 1, -0.9])
    set_norm(layer, gamma, beta, mean=7.0, var=9.0)
    got = np.asarray(layer(jnp.asarray(y, jnp.float32)))
    mean, var = y.mean(axis=(0, 1, 2)), y.var(axis=(0, 1, 2))
    gamma32, beta32 = (np.float64(np.float32(v)) for v in (gamma, beta))
    z = gamma32 * (y - mean) / np.sqrt(var + EPSILON) + beta32
    expected = levels.sign(z) if bits == 1 else levels.two_bits(z)
    cuts = np.array(batch_norm.CUTS[bits])
    certain = np.abs(z[..., None] - cuts).min(axis=-1) > 1e-3 * (1 + np.abs(z))
    assert certain.mean() > 0.95
    np.testing.assert_array_equal(got[certain], expected[certain])
    np.testing.assert_allclose(layer.norm.mean[...], 0.9 * 7 + 0.1 * mean, rtol=1e-5)
    np.testing.assert_allclose(layer.norm.var[...], 0.9 * 9 + 0.1 * var, rtol=1e-4)


@pytest.mark.parametrize("gradient", ["clipped", "approx_sign"])
@pytest.mark.parametrize("bits", [1, 2])
def test_training_gradient_of_norm_and_activation(bits: int, gradient: Any) -> None:
    rng = np.random.default_rng(5)
    options = QuantizationOptions(activation_bits=bits, activation_gradient=gradient)
    layer = NormActivation(3, options, integer=True, rngs=nnx.Rngs(0))
    y = rng.integers(-9, 10, (2, 4, 5, 3)).astype(np.float64)
    g = rng.normal(size=y.shape)
    gamma, beta = np.array([1.1, -2.3, 0.7]), np.array([0.2, 0.1, -0.4])
    set_norm(layer, gamma, beta, mean=0.0, var=1.0)
    structure, variables = nnx.split(layer)
    normalize = lambda y: nnx.merge(structure, variables, copy=True)(y)  # noqa: E731
    backward = jax.jit(lambda y, g: jax.vjp(normalize, y)[1](g)[0])
    got = backward(jnp.asarray(y, jnp.float32), jnp.asarray(g, jnp.float32))
    sigma = np.sqrt(y.var(axis=(0, 1, 2)) + EPSILON)
    normal = (y - y.mean(axis=(0, 1, 2))) / sigma
    reach = np.abs(gamma * normal + beta) / (1 if bits == 1 else 3)
    slope = (reach <= 1) if gradient == "clipped" else np.maximum(2 - 2 * reach, 0)
    dz = g * slope
    spread = dz.mean(axis=(0, 1, 2)) + normal * (dz * normal).mean(axis=(0, 1, 2))
    np.testing.assert_allclose(got, gamma / sigma * (dz - spread), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("precision", ["masked", "binary"])
def test_a_scale_of_each_channel_changes_neither_output_nor_gradient(precision: Any) -> None:
    """BatchNorm undoes it both ways, which is why quantized weights have none."""
    rng = np.random.default_rng()
    scale = jnp.asarray(rng.uniform(0.5, 2, (1, 1, 1, 4)), jnp.float32)
    graph, latents, rest = nnx.split(
        nnx.List(
            [
                Conv3x3(6, 4, precision, QuantizationOptions(), rngs=nnx.Rngs(0)),
                NormActivation(4, QuantizationOptions(), integer=True, rngs=nnx.Rngs(0)).norm,
            ]
        ),
        LatentWeight,
        ...,
    )
    latents = jax.tree.map(lambda w: jnp.asarray(latent(rng, *w.shape)), latents)
    x = jnp.asarray(activations(rng, 1, 2, 6, 7, 6))
    dy = jnp.asarray(rng.normal(size=(2, 6, 7, 4)), jnp.float32)

    def run(scale: Array | float) -> list[Array]:
        def scaled(latents: nnx.State) -> Array:
            conv, norm = nnx.merge(graph, latents, rest, copy=True)
            return norm(conv(x) * scale)

        y, backward = jax.vjp(scaled, latents)
        return [y, *jax.tree.leaves(backward(dy))]

    for plain, changed in zip(run(1.0), run(scale), strict=True):
        assert np.abs(plain).max() > 0.1
        np.testing.assert_allclose(changed, plain, rtol=1e-4, atol=1e-4)


def test_modes_and_folding() -> None:
    layer = NormActivation(2, QuantizationOptions(), integer=True, rngs=nnx.Rngs(0))
    y = jnp.array([[[[5.0, -3.0]], [[1.0, 9.0]]]])
    by_batch = [[[[1, -1]], [[-1, 1]]]]
    assert layer(y).tolist() == by_batch
    set_norm(layer, 1.0, 0.0, mean=[5.5, -4.0], var=1.0)
    layer.eval()
    assert layer(y).tolist() == [[[[1, -1]], [[1, 1]]]]  # thresholds of zero: not folded yet
    layer.fold()
    assert layer(y).tolist() == [[[[-1, 1]], [[-1, 1]]]]
    assert layer.norm.mean[...].tolist() == [5.5, -4.0]
    layer.train()
    assert layer(y).tolist() == by_batch
    set_norm(layer, float("nan"), 0.0, 0.0, 1.0)
    with pytest.raises(ValueError, match="not finite"):
        layer.fold()


def test_a_model_of_ones_own_is_folded_as_a_whole() -> None:
    class Classifier(nnx.Module):
        def __init__(self, rngs: nnx.Rngs) -> None:
            options = QuantizationOptions()
            self.parts = nnx.List([Stem(3, 8, options, rngs=rngs)])
            self.head = Head(8, 2, options, rngs=rngs)

        def __call__(self, x: Array) -> Array:
            return self.head(self.parts[0](x))

    images = jnp.asarray(np.random.default_rng().random((2, 9, 7, 3)), jnp.float32)
    model = Classifier(nnx.Rngs(0))
    model(images)  # statistics other than those at the start
    model.eval()
    assert not jnp.isfinite(model(images)).any()
    by_hand = nnx.clone(model)
    stem = by_hand.parts[0]
    assert isinstance(stem.conv1, Folding)
    for layer in (stem.conv1, stem.norm1, stem.norm2, by_hand.head):
        layer.fold()
    fold(model)
    logits = model(images)
    np.testing.assert_array_equal(logits, by_hand(images))
    assert jnp.unique(logits).size > 2


def test_thresholds_are_not_parameters() -> None:
    layer = NormActivation(3, QuantizationOptions(), integer=True, rngs=nnx.Rngs(0))
    assert set(nnx.to_pure_dict(nnx.state(layer, Folded))) == {"theta", "sign"}
    assert set(nnx.to_pure_dict(nnx.state(layer, nnx.Param))) == {"norm"}


def test_constant_channels_keep_their_thresholds_in_float32() -> None:
    layer = NormActivation(2, QuantizationOptions(), integer=True, rngs=nnx.Rngs(0))
    set_norm(layer, 0.0, [1.0, -1.0], 0.0, 1.0)
    layer.eval()
    layer.fold()
    y = jnp.array([-(2.0**24), 0.0, 2.0**24]).reshape(1, 1, 3, 1) * jnp.ones((1, 1, 1, 2))
    np.testing.assert_array_equal(layer(y)[0, 0], [[1, -1]] * 3)


@pytest.mark.parametrize("transform", [nnx.jit, nnx.grad, nnx.eval_shape])
def test_folding_inside_a_transformation_is_told(transform: Any) -> None:
    layer = NormActivation(2, QuantizationOptions(), integer=True, rngs=nnx.Rngs(0))

    def fold(layer: NormActivation) -> Array:
        layer.fold()
        return jnp.zeros(())

    transformed = partial(transform, fold) if transform is nnx.eval_shape else transform(fold)
    with pytest.raises(InputError, match=r"outside jit; call the model's eval\(\) or fold\(\)"):
        transformed(layer)


def test_full_precision_activation_is_relu() -> None:
    rng = np.random.default_rng(6)
    options = QuantizationOptions(activation_bits=32)
    layer = NormActivation(3, options, integer=False, rngs=nnx.Rngs(0))
    assert not hasattr(layer, "theta")
    y = rng.normal(size=(2, 3, 4, 3)) * 5 + 2
    gamma, beta = np.array([1.5, -0.5, 1]), np.array([0.1, 0, -1])
    mean, var = np.array([1, 2, 3]), np.array([1, 20, 3])
    set_norm(layer, gamma, beta, mean, var)
    axes = (0, 1, 2)
    z = gamma * (y - y.mean(axes)) / np.sqrt(y.var(axes) + EPSILON) + beta
    trained = layer(jnp.asarray(y, jnp.float32))
    np.testing.assert_allclose(trained, np.maximum(z, 0), rtol=1e-4, atol=1e-5)
    set_norm(layer, gamma, beta, mean, var)
    layer.eval()
    layer.fold()
    z = gamma * (y - mean) / np.sqrt(var + EPSILON) + beta
    evaluated = layer(jnp.asarray(y, jnp.float32))
    np.testing.assert_allclose(evaluated, np.maximum(z, 0), rtol=1e-4, atol=1e-5)
    assert layer(jnp.asarray(y, jnp.bfloat16)).dtype == jnp.bfloat16


def test_initial_scale_of_two_bits_cuts_at_one_deviation() -> None:
    layer = NormActivation(
        1, QuantizationOptions(activation_bits=2), integer=True, rngs=nnx.Rngs(0)
    )
    y = np.random.default_rng(7).normal(size=(1, 100, 100, 1))
    values, counts = np.unique(np.asarray(layer(jnp.asarray(y, jnp.float32))), return_counts=True)
    assert values.tolist() == [-3, -1, 1, 3]
    np.testing.assert_allclose(counts / y.size, [0.1587, 0.3413, 0.3413, 0.1587], atol=0.015)


def test_double_conv_and_up_are_their_parts_in_order() -> None:
    rng = np.random.default_rng(8)
    options = QuantizationOptions()
    x = jnp.asarray(activations(rng, 1, 1, 4, 6, 3))
    block = DoubleConv(3, 4, ("binary", "int4"), options, rngs=nnx.Rngs(0))
    assert (block.conv1.precision, block.conv2.precision) == ("binary", "int4")
    middle = block.norm1(block.conv1(x))
    np.testing.assert_array_equal(block(x), block.norm2(block.conv2(middle)))
    quantized = Up(3, "pow2", options, rngs=nnx.Rngs(0))
    np.testing.assert_array_equal(quantized(x), quantized.norm(quantized.conv(x)))
    assert not hasattr(quantized, "bias")
    plain = Up(3, "float32", QuantizationOptions(activation_bits=32), rngs=nnx.Rngs(0))
    assert not hasattr(plain, "norm")
    plain.bias[...] = jnp.array([1.0, -2.0, 3.0])
    expected = plain.conv(x) + jnp.array([1.0, -2.0, 3.0]).reshape(1, 1, 1, 3)
    np.testing.assert_array_equal(plain(x), expected)


def test_norms_know_whether_accumulators_are_integers() -> None:
    options = QuantizationOptions()
    block = DoubleConv(1, 1, ("float32", "masked"), options, rngs=nnx.Rngs(0))
    assert (block.norm1.integer, block.norm2.integer) == (False, True)
    assert Up(1, "int8", options, rngs=nnx.Rngs(0)).norm.integer
    assert not Up(1, "float32", options, rngs=nnx.Rngs(0)).norm.integer


@pytest.mark.parametrize("density", [0.02, 0.1, 0.4, 0.9])
def test_initial_density(density: float) -> None:
    w = np.asarray(latent_initializer(density)(jax.random.key(1), (200, 500), jnp.float32))
    assert w.dtype == np.float32
    assert np.abs(w).max() <= 1
    assert abs((np.abs(w) > 0.5).mean() - density) < 5 * np.sqrt(density / w.size)
    assert abs((w > 0).mean() - 0.5) < 0.01


def test_bfloat16_leaves_quantized_layers_exact() -> None:
    rng = np.random.default_rng(10)
    options = QuantizationOptions(activation_bits=2)
    x = activations(rng, 2, 1, 4, 4, 8)
    quantized = Conv3x3(8, 4, "int8", options, dtype=jnp.bfloat16, rngs=nnx.Rngs(0))
    w = latent(rng, 3, 3, 8, 4)
    quantized.weight[...] = jnp.asarray(w)
    y = quantized(jnp.asarray(x))
    expected = convolution.conv3x3(x, levels.uniform(w, 8), -3)
    assert np.abs(expected).max() > 2**8  # more than bfloat16's mantissa holds
    assert y.dtype == jnp.float32
    np.testing.assert_array_equal(y, expected)
    full = Conv3x3(8, 4, "float32", options, dtype=jnp.bfloat16, rngs=nnx.Rngs(0))
    assert full(jnp.asarray(x)).dtype == jnp.bfloat16
    full.eval()
    assert full(jnp.asarray(x)).dtype == jnp.float32
    assert full.weight[...].dtype == jnp.float32
    up = Up(8, "float32", QuantizationOptions(activation_bits=32), dtype=jnp.bfloat16,
            rngs=nnx.Rngs(0))  # fmt: skip
    assert up(jnp.asarray(x)).dtype == jnp.bfloat16
    up.eval()  # nothing repeats the sums of a network whose activations are full precision
    assert up(jnp.asarray(x)).dtype == jnp.bfloat16
    head = Head(8, 2, options, dtype=jnp.bfloat16, rngs=nnx.Rngs(0))
    w = np.asarray(head.weight[...].astype(jnp.bfloat16), np.float64)
    assert head(jnp.asarray(x)).dtype == jnp.float32
    np.testing.assert_allclose(head(jnp.asarray(x)), x @ w, rtol=1e-2, atol=0.05)


@pytest.mark.parametrize("precision", ["ternary", None, 1, ["masked"]])
def test_an_unknown_precision_is_named_with_those_that_there_are(precision: Any) -> None:
    options, rngs = QuantizationOptions(), nnx.Rngs(0)
    known = "choose one of float32, int8, int4, int2, pow2, masked, binary, ttq$"
    for make, name in (
        (lambda: Conv3x3(4, 4, precision, options, rngs=rngs), "Conv3x3"),
        (lambda: UpConv2x2(4, 4, precision, options, rngs=rngs), "UpConv2x2"),
        (lambda: Up(4, precision, options, rngs=rngs), "UpConv2x2"),
        (lambda: DoubleConv(4, 4, ("binary", precision), options, rngs=rngs), "Conv3x3"),
        (lambda: quantize_weight(jnp.ones(3), precision, options), "the weight"),
    ):
        with pytest.raises(InputError, match=f"^{name} has unknown precision .*; {known}"):
            make()
