"""Tensor Cores that multiply one-bit matrices, and a layer's weights as their instructions read it.

Of an output channel let p and n be the bit planes of its positive and negative weights, v all bits
that there are, and a those of an activation. The counts that a kernel compares are

- by XOR: popc(a ^ n), the agreements, in a binary layer; popc(a ^ n) + popc(a ^ (v & ~p)), which
  is a.w + |v|, in a masked one;
- by AND: popc(a & p) + popc(~a & n), the agreements, in a masked layer; in a binary one they are
  2 popc(a & p) - popc(a) + |n|, one product instead of two, and |n| moves to the threshold.

Bits past the channels are 0 in a, p, n and v and are never counted. Powers of two have p, n and v
of their own for each exponent.

Shape letters: G groups of 32 output channels, E exponents, F factors, L words of a lane,
T thresholds.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
from jax import Array, lax

from mbu_jax.ops.counting import least_agreements, negative_plane
from mbu_jax.ops.gpu.target import absent as kernels_absent
from mbu_jax.ops.gpu.target import target
from mbu_jax.ops.gpu.warpgroups import arranged_slabs
from mbu_jax.ops.gpu.weights import NEVER
from mbu_jax.packing import WORD_BITS, PackedConv, valid_bits, word_count

if TYPE_CHECKING:
    from triton_kernels.bmma_tiles import Form
    from triton_kernels.wgmma_tiles import Slab

FIRST_EMULATED = 100
"""The first compute capability that multiplies one-bit matrices in software."""


def absent() -> str | None:
    """Say what the `bmma` engine lacks here.

    Returns:
      What is missing, in words, or None where it can be lowered.
    """
    if missing := kernels_absent():
        return missing
    capability = target()
    if capability is not None and capability >= FIRST_EMULATED:
        return (
            f"Tensor Cores of compute capability {capability} have no one-bit products, which are "
            f"emulated from {FIRST_EMULATED} on; popcount runs there"
        )
    return None


def form_of(layer: PackedConv) -> Form | Slab:
    """Choose the instruction for a layer on the GPU that it is lowered for.

    Args:
      layer: the layer.

    Returns:
      A form of the products of warps, or a slab of those of warpgroups.
    """
    from triton_kernels.bmma_tiles import best_form
    from triton_kernels.wgmma_tiles import best_slab, fits

    capability = target()
    assert capability is not None, "an engine that is not absent has a target"
    taps, words, factors = _taps(layer), layer.positive.shape[3], factor_count(layer)
    groups = word_count(layer.out_channels) * (4 if layer.transposed else 1)
    if fits(capability, taps, words, factors, exponent_count(layer), groups):
        return best_slab(taps, words, factors)
    return best_form(capability, taps=taps, words=words)


def factor_count(layer: PackedConv) -> int:
    """Products that a word of activations takes part in.

    Args:
      layer: the layer.

    Returns:
      F, 1 in a binary layer, else 2.
    """
    return 1 if layer.precision == "binary" else 2


def exponent_count(layer: PackedConv) -> int:
    """Exponents of the weights.

    Args:
      layer: the layer.

    Returns:
      E, 3 with powers of two, else 1.
    """
    return 3 if layer.precision == "pow2" else 1


@functools.partial(jax.jit, static_argnames="form")
def arranged_factors(layer: PackedConv, form: Form | Slab) -> Array:
    """Order the weights so that a warp reads one stretch of memory from end to end.

    Args:
      layer: the layer.
      form: of the products.

    Returns:
      uint32 [G, E, steps, F, 4, 8, 4, L], blocks of 8 channels, channels, and members of a step;
      of a transposed convolution 4 G groups, tap after tap. For warpgroups as
      `mbu_jax.ops.gpu.warpgroups` has them.
    """
    from triton_kernels.bmma_tiles import Form

    planes = _factors(layer, by_and=form.by_and)  # [E, F, h, w, K, N]
    exponents, factors, _, _, outputs, words = planes.shape
    planes = jnp.pad(planes, ((0, 0),) * 4 + ((0, -outputs % WORD_BITS), (0, 0)))
    if layer.transposed:
        planes = planes.transpose(2, 3, 4, 0, 1, 5)  # a tap and an output are a channel
    else:
        planes = planes.transpose(4, 0, 1, 2, 3, 5)
    if not isinstance(form, Form):
        return arranged_slabs(planes.reshape(-1, factors, _taps(layer), words), form)
    depth = _taps(layer) * words
    planes = planes.reshape(-1, exponents, factors, depth)
    steps = form.steps(depth)
    idle = steps * 4 * form.lane_words - depth
    planes = jnp.pad(planes, ((0, 0), (0, 0), (0, 0), (0, idle)))
    planes = planes.reshape(-1, 4, 8, exponents, factors, steps, 4, form.lane_words)
    return planes.transpose(0, 3, 5, 4, 1, 2, 6, 7)


@functools.partial(jax.jit, static_argnames="form")
def arranged_least(layer: PackedConv, form: Form | Slab) -> Array:
    """Turn thresholds into the fewest counts that reach them.

    Args:
      layer: the layer.
      form: of the products.

    Returns:
      int32 [T, G, 32], or of a transposed convolution [T, 4 G, 32].
    """
    levels = 2**layer.activation_bits - 1
    if layer.precision == "binary":
        least = least_agreements(layer)
        if form.by_and:
            least = least - levels * _size(negative_plane(layer), layer)
    elif form.by_and:
        least = least_agreements(layer)
    else:
        largest = levels * (2 ** exponent_count(layer) - 1) * _taps(layer) * layer.in_channels
        # Clipping keeps "always" and "never" and lets the sum fit 32 bits.
        least = jnp.clip(layer.theta, -largest, largest + 1)[:, None] + largest
        outputs_of = 4 if layer.transposed else 1
        least = jnp.broadcast_to(least, (least.shape[0], outputs_of, least.shape[2]))
    outputs = layer.out_channels
    border = ((0, 0), (0, 0), (0, -outputs % WORD_BITS))
    least = jnp.pad(least, border, constant_values=NEVER)
    return least.reshape(least.shape[0], -1, WORD_BITS)


def _taps(layer: PackedConv) -> int:
    """Taps that one output sums over."""
    return 1 if layer.transposed else 9


def _valid(layer: PackedConv) -> Array:
    return jnp.asarray(valid_bits(layer.segments)).reshape(1, 1, 1, -1)


def _factors(layer: PackedConv, *, by_and: bool) -> Array:
    """[E, F, h, w, K, N] uint32; the sums that they make are at the head of this module."""
    positive, negative = layer.positive, negative_plane(layer)
    if layer.precision == "binary":
        return (positive if by_and else negative)[None, None]
    magnitudes: list[Array | None] = [None]
    if layer.exponent is not None:
        double, quadruple = layer.exponent
        magnitudes = [~(double | quadruple), double, quadruple]
    pairs = []
    for magnitude in magnitudes:
        p = positive if magnitude is None else positive & magnitude
        n = negative if magnitude is None else negative & magnitude
        pairs.append(jnp.stack([p, n] if by_and else [n, _valid(layer) & ~p]))
    return jnp.stack(pairs)


def _size(plane: Array, layer: PackedConv) -> Array:
    """Bits of a plane of weights that an output sums over: int32 [1, 1 or 4, K]."""
    counts = lax.population_count(plane).sum(-1, dtype=jnp.int32)
    counts = counts.reshape(1, -1, layer.out_channels)
    return counts if layer.transposed else counts.sum(1, keepdims=True, dtype=jnp.int32)
