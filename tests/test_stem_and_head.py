"""The two ends of the network, stem and head, against NumPy."""

from fractions import Fraction

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from mbu_jax.errors import InputError
from mbu_jax.layers import (
    DoubleConv,
    Head,
    QuantizationOptions,
    Stem,
)


@pytest.mark.parametrize("bits", [1, 2])
def test_stem_starts_with_contrast_and_brightness(bits: int) -> None:
    stem = Stem(2, 7, QuantizationOptions(activation_bits=bits), rngs=nnx.Rngs(0))
    assert (stem.conv1.precision, stem.conv2.precision) == ("float32", "masked")
    sums = np.asarray(stem.conv1.weight[...], np.float64).sum(axis=(0, 1))
    np.testing.assert_allclose(sums[:, :3], 0, atol=1e-6)
    assert (np.abs(sums[:, 3:]) > 1e-3).all()
    assert stem.norm1.norm.bias is not None
    bias = bits * np.array([0, 0, 0, -1.5, -0.5, 0.5, 1.5])
    np.testing.assert_allclose(stem.norm1.norm.bias[...], bias, rtol=1e-6)


def test_stem_of_the_full_precision_network_is_plain() -> None:
    options = QuantizationOptions(activation_bits=32)
    stem = Stem(2, 4, options, rngs=nnx.Rngs(0))
    assert (stem.conv1.precision, stem.conv2.precision) == ("float32", "float32")
    plain = DoubleConv(2, 4, ("float32", "float32"), options, rngs=nnx.Rngs(0))
    pairs = zip(jax.tree.leaves(nnx.state(stem)), jax.tree.leaves(nnx.state(plain)), strict=True)
    for ours, theirs in pairs:
        np.testing.assert_array_equal(ours, theirs)


def test_head_is_a_matrix_product_with_a_bias() -> None:
    rng = np.random.default_rng(9)
    head = Head(3, 2, QuantizationOptions(activation_bits=2), rngs=nnx.Rngs(0))
    w = np.rint(64 * rng.normal(size=(3, 2))) / 64
    head.weight[...], head.bias[...] = jnp.asarray(w, jnp.float32), jnp.array([0.5, -3.0])
    x = 2 * rng.integers(0, 4, (1, 2, 5, 3)).astype(np.float32) - 3
    logits = head(jnp.asarray(x))
    assert logits.dtype == jnp.float32
    np.testing.assert_array_equal(logits, x @ w + np.array([0.5, -3.0]))
    head.fold()
    head.eval()  # numbers on a coarse grid stay as they are
    np.testing.assert_array_equal(head(jnp.asarray(x)), x @ w + np.array([0.5, -3.0]))


def test_evaluated_heads_sum_exactly() -> None:
    """Float32's result is that of rational arithmetic, at either training dtype."""
    rng = np.random.default_rng(11)
    options = QuantizationOptions(activation_bits=2)
    x = 2 * rng.integers(0, 4, (1, 3, 5, 70)).astype(np.float32) - 3
    heads = [Head(70, 2, options, dtype=t, rngs=nnx.Rngs(5)) for t in (jnp.float32, jnp.bfloat16)]
    for head in heads:
        head.bias[...] = jnp.array([1 / 3, -7.1])
        head.fold()
        head.eval()
    logits = [head(jnp.asarray(x)) for head in heads]
    np.testing.assert_array_equal(logits[0], logits[1])
    weight, bias = np.asarray(heads[0].exact_weight[...]), np.asarray(heads[0].exact_bias[...])
    np.testing.assert_allclose(weight, heads[0].weight[...], atol=1e-4)
    for pixel in np.ndindex(3, 5):
        for k in range(2):
            terms = zip(x[0][pixel], weight[:, k], strict=True)
            total = sum((Fraction(float(a)) * Fraction(float(w)) for a, w in terms), Fraction(0))
            assert Fraction(float(logits[0][0][*pixel, k])) == total + Fraction(float(bias[k]))


def test_heads_are_not_folded_under_jit() -> None:
    head = Head(3, 2, QuantizationOptions(), rngs=nnx.Rngs(0))
    with pytest.raises(InputError, match="outside jit"):
        nnx.jit(lambda m: m.fold())(head)
