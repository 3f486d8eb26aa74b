"""Quantizers with straight-through gradients: weights and activations of one to eight bits.

Every quantizer here but `trained_ternary` is a function of an array that returns *integers held in
the input's floating dtype*: the numbers that the packed engines count in. Scales are left out on
purpose; the BatchNorm behind each quantized layer absorbs them.

Rounding has a zero derivative almost everywhere, so each quantizer is a ``jax.custom_vjp``
whose backward pass substitutes a surrogate, the straight-through estimator (STE):

| surrogate     | derivative of `sign`             | source                               |
| ------------- | -------------------------------- | ------------------------------------ |
| `clipped`     | 1 where abs(x) <= 1, else 0      | Hubara et al. 2016, arXiv:1602.02830 |
| `approx_sign` | 2 - 2 abs(x) there, else 0       | Bi-Real Net, arXiv:1808.00278, eq. 7 |
| `swish_sign`  | that of SignSwish with beta = 5  | BNN+, arXiv:1812.11800, eq. 6        |

The clip range is closed: a value exactly on its edge still receives a gradient (for
``approx_sign`` that gradient is 0 there).
"""

from collections.abc import Callable
from functools import partial
from typing import Literal, get_args

import jax
import jax.numpy as jnp
from jax import Array

from mbu_jax.errors import InputError

SteGradient = Literal["clipped", "approx_sign", "swish_sign"]
Ternarizer = Literal["fixed", "twn", "density", "max"]

_SWISH_BETA = 5.0


def ste_derivative(x: Array, gradient: SteGradient) -> Array:
    """Surrogate derivative of ``sign`` at x.

    Args:
      x: floating array of any shape.
      gradient: which surrogate; see the table at the top of this module.

    Returns:
      Array of x's shape and dtype.

    Raises:
      InputError: for an unknown surrogate.

    Example:
      >>> ste_derivative(jnp.array([-2.0, -1.0, 0.25]), "clipped").tolist()
      [0.0, 1.0, 1.0]
    """
    if gradient == "clipped":
        return (jnp.abs(x) <= 1).astype(x.dtype)
    if gradient == "approx_sign":
        return jnp.maximum(2 - 2 * jnp.abs(x), 0)
    if gradient == "swish_sign":
        # Even in x, and 0 far out, where 0 times an overflowing beta x would be NaN.
        bx = _SWISH_BETA * jnp.minimum(jnp.abs(x), 100)
        s = jax.nn.sigmoid(-bx)
        return 2 * _SWISH_BETA * s * (1 - s) * (2 - bx * (1 - 2 * s))
    raise InputError(
        f"unknown gradient {gradient!r}; choose one of {', '.join(get_args(SteGradient))}"
    )


def _straight_through(
    forward: Callable[[Array], Array], derivative: Callable[[Array], Array]
) -> Callable[[Array], Array]:
    """Elementwise ``forward`` whose backward pass multiplies by ``derivative(x)``."""

    @jax.custom_vjp
    def quantizer(x: Array) -> Array:
        return forward(x)

    def fwd(x: Array) -> tuple[Array, Array]:
        return forward(x), x

    def bwd(x: Array, cotangent: Array) -> tuple[Array]:
        return (cotangent * derivative(x),)

    quantizer.defvjp(fwd, bwd)
    return quantizer


def _sign(x: Array) -> Array:
    return jnp.where(x >= 0, 1, -1).astype(x.dtype)


def binarize(x: Array, gradient: SteGradient = "clipped") -> Array:
    """Sign with a straight-through gradient: one-bit weights or activations.

    Zero maps to +1, so that the threshold of a folded BatchNorm is ``accumulator >= theta``.

    Args:
      x: floating array of any shape.
      gradient: surrogate derivative; see `ste_derivative`.

    Returns:
      Array of -1 and +1, x's shape and dtype.

    Example:
      >>> binarize(jnp.array([-0.3, 0.0, 2.0])).tolist()
      [-1.0, 1.0, 1.0]

    Source: Hubara et al., "Binarized Neural Networks", 2016.
    """
    return _straight_through(_sign, partial(ste_derivative, gradient=gradient))(x)


def quantize_activation(x: Array, bits: int = 1, gradient: SteGradient = "clipped") -> Array:
    """Activation of one bit (sign) or two bits (nearest of -3, -1, 1, 3), straight through.

    Two bits are ``s_0 + 2 s_1`` with signs s, so that a product with a weight is two one-bit
    products. Thresholds are -2, 0 and 2; ties go up. The surrogate is the one of the sign,
    stretched to the range [-3, 3]: ``clipped`` passes the gradient where abs(x) <= 3.

    Args:
      x: floating array of any shape.
      bits: 1 or 2.
      gradient: surrogate derivative; see `ste_derivative`.

    Returns:
      Array of odd integers, x's shape and dtype.

    Raises:
      InputError: for any other number of bits.

    Example:
      >>> quantize_activation(jnp.array([-9.0, -0.5, 1.9, 2.0]), bits=2).tolist()
      [-3.0, -1.0, 1.0, 3.0]
    """
    if bits == 1:
        return binarize(x, gradient)
    if bits != 2:
        raise InputError(f"activation bits must be 1 or 2, not {bits}")
    return _straight_through(
        lambda x: jnp.clip(2 * jnp.floor(x / 2) + 1, -3, 3),
        lambda x: ste_derivative(x / 3, gradient),
    )(x)


def symmetric(x: Array, bits: int, gradient: SteGradient = "clipped") -> Array:
    """Symmetric uniform quantizer on [-1, 1]: integers from -n to n, n = 2^(bits-1) - 1.

    ``round(clip(x, -1, 1) * n)``, halves to even. At two bits this is the paper's masked weight
    {-1, 0, 1} with threshold 0.5. Divide by n for the value on [-1, 1].

    Args:
      x: floating array of any shape, meant to lie in [-1, 1].
      bits: 2 to 8.
      gradient: surrogate derivative; see `ste_derivative`. It is scaled by n.

    Returns:
      Array of integers, x's shape and dtype.

    Raises:
      InputError: for a number of bits outside 2 to 8.

    Example:
      >>> symmetric(jnp.array([-2.0, 0.1, 0.5]), bits=4).tolist()
      [-7.0, 1.0, 4.0]
    """
    if not 2 <= bits <= 8:
        raise InputError(f"weight bits must be 2 to 8, not {bits}")
    n = 2 ** (bits - 1) - 1
    return _straight_through(
        lambda x: jnp.round(jnp.clip(x, -1, 1) * n),
        lambda x: n * ste_derivative(x, gradient),
    )(x)


def power_of_two(x: Array, gradient: SteGradient = "clipped") -> Array:
    """Signed powers of two: the nearest of 0, ±1, ±2, ±4 to 4x.

    A latent weight of ±1 becomes ±4. A tie goes to the level of smaller magnitude. In a
    bit-sliced counter a weight ±2^k enters k bits higher and costs the same as ±1.

    Args:
      x: floating array of any shape, meant to lie in [-1, 1].
      gradient: surrogate derivative; see `ste_derivative`. It is scaled by 4.

    Returns:
      Array of 0, ±1, ±2 or ±4, x's shape and dtype.

    Example:
      >>> power_of_two(jnp.array([-1.0, -0.5, 0.3, 0.1])).tolist()
      [-4.0, -2.0, 1.0, 0.0]

    Source: Zhou et al., "Incremental Network Quantization", 2017, for the level set.
    """

    def forward(x: Array) -> Array:
        m = 4 * jnp.abs(x)
        step = (m > 0.5).astype(x.dtype) + (m > 1.5).astype(x.dtype) + 2 * (m > 3).astype(x.dtype)
        return jnp.where(x < 0, -step, step)

    return _straight_through(forward, lambda x: 4 * ste_derivative(x, gradient))(x)


def ternary_threshold(x: Array, method: Ternarizer = "fixed", density: float = 0.1) -> Array:
    """Threshold on abs(x) above which a latent weight is kept.

    Args:
      x: floating array of any shape: the latent weights of one layer.
      method: ``fixed`` is 0.5, the paper's ``round(clip(w, -1, 1))``; ``twn`` is
        ``0.7 mean(abs(x))`` of Ternary Weight Networks; ``density`` the quantile of abs(x) that
        keeps the wanted share of weights (more where equal magnitudes straddle it); ``max``
        ``0.05 max(abs(x))`` of trained ternary quantization.
      density: share of non-zeros that ``density`` keeps, between 0 and 1.

    Returns:
      Scalar array of x's dtype.

    Raises:
      InputError: for an unknown method or a density outside (0, 1].

    Example:
      >>> round(float(ternary_threshold(jnp.array([0.1, -0.2, 0.6]), "twn")), 3)
      0.21

    Source: MBU-Net §3.1.1; Li et al., "Ternary Weight Networks", 2016, eq. 6; Zhu et al., "Trained
    Ternary Quantization", 2017, eq. 9.
    """
    if method == "fixed":
        return jnp.asarray(0.5, x.dtype)
    if method == "max":
        return 0.05 * jnp.max(jnp.abs(x))
    if method == "twn":
        return 0.7 * jnp.mean(jnp.abs(x))
    if method == "density":
        if not 0 < density <= 1:
            raise InputError(f"density must lie in (0, 1], not {density}")
        kept = max(1, round(density * x.size))
        smallest_kept = _largest(jnp.abs(x), kept)
        # Just below it, so that ties, as among weights clipped to ±1, are kept and never all lost;
        # below 0 that is a subnormal, which devices take for 0.
        below = jnp.nextafter(smallest_kept, jnp.asarray(-1, x.dtype))
        return jnp.where(smallest_kept > 0, below, jnp.asarray(-1, x.dtype))
    raise InputError(
        f"unknown ternarizer {method!r}; choose one of {', '.join(get_args(Ternarizer))}"
    )


def _largest(x: Array, k: int) -> Array:
    """The k-th largest of non-negative floats, found bit by bit.

    Their bits, read as integers, are ordered as they are, so that each bit of the result takes one
    count over x. Sorting takes XLA ten times as long on a CPU.
    """
    bits = 8 * x.dtype.itemsize - 1  # without the sign
    keys = jax.lax.bitcast_convert_type(x, jnp.dtype(f"uint{bits + 1}"))

    def set_bit(i: Array, found: Array) -> Array:
        higher = found | jnp.ones_like(found) << (bits - 1 - i).astype(found.dtype)
        return jnp.where(jnp.sum(keys >= higher) >= k, higher, found)

    found = jax.lax.fori_loop(0, bits, set_bit, jnp.zeros((), keys.dtype))
    return jax.lax.bitcast_convert_type(found, x.dtype)


def ternarize(
    x: Array,
    method: Ternarizer = "fixed",
    density: float = 0.1,
    gradient: SteGradient = "clipped",
) -> Array:
    """Masked weights {-1, 0, 1}: the sign where abs(x) exceeds a threshold, else 0.

    The gradient passes straight through to every latent weight in the clip range, zeros
    included, so that a masked weight can come back; the threshold itself gets no gradient.

    Args:
      x: floating array of any shape: the latent weights of one layer.
      method: how the threshold is found; see `ternary_threshold`.
      density: share of non-zeros for ``method="density"``.
      gradient: surrogate derivative; see `ste_derivative`.

    Returns:
      Array of -1, 0 and 1, x's shape and dtype.

    Example:
      >>> ternarize(jnp.array([-0.9, -0.5, 0.2, 0.51])).tolist()
      [-1.0, 0.0, 0.0, 1.0]

    Source: MBU-Net §3.1.1.
    """

    def forward(x: Array) -> Array:
        kept = jnp.abs(x) > ternary_threshold(x, method, density)
        return jnp.where(kept, _sign(x), 0).astype(x.dtype)

    return _straight_through(forward, partial(ste_derivative, gradient=gradient))(x)


def trained_ternary(
    x: Array,
    scales: Array,
    method: Ternarizer = "max",
    density: float = 0.1,
    gradient: SteGradient = "clipped",
) -> Array:
    """Ternary weights {-n, 0, p} whose two magnitudes are learned (TTQ).

    A scale's gradient is the sum of those of the weights that have it, with their sign; a latent
    weight's is that of its quantized weight times the scale that it has, or 1 where that is 0.

    Args:
      x: floating array of any shape: the latent weights of one layer.
      scales: [2], p and n, of x's dtype.
      method: how the threshold is found; see `ternary_threshold`.
      density: share of non-zeros for ``method="density"``.
      gradient: surrogate derivative; see `ste_derivative`. ``clipped`` is the paper's rule, which
        knows no weights outside [-1, 1].

    Returns:
      Array of -n, 0 and p, x's shape and dtype.

    Example:
      >>> scales = jnp.array([2.0, 0.5])
      >>> trained_ternary(jnp.array([-0.9, 0.01, 1.0]), scales).tolist()
      [-0.5, 0.0, 2.0]

    Source: Zhu et al., "Trained Ternary Quantization", 2017, eqs. 6 to 8.
    """

    def sides(x: Array) -> tuple[Array, Array]:
        threshold = ternary_threshold(x, method, density)
        return x > threshold, x < -threshold

    @jax.custom_vjp
    def quantizer(x: Array, scales: Array) -> Array:
        above, below = sides(x)
        return jnp.where(above, scales[0], jnp.where(below, -scales[1], 0)).astype(x.dtype)

    def fwd(x: Array, scales: Array) -> tuple[Array, tuple[Array, Array]]:
        return quantizer(x, scales), (x, scales)

    def bwd(saved: tuple[Array, Array], cotangent: Array) -> tuple[Array, Array]:
        x, scales = saved
        above, below = sides(x)
        factor = jnp.where(above, scales[0], jnp.where(below, scales[1], 1)).astype(x.dtype)
        dx = cotangent * factor * ste_derivative(x, gradient)
        # Eq. 7 prints no minus for n; the derivative of -n has one.
        dp, dn = jnp.sum(cotangent, where=above), -jnp.sum(cotangent, where=below)
        return dx, jnp.stack([dp, dn])

    quantizer.defvjp(fwd, bwd)
    return quantizer(x, scales)
