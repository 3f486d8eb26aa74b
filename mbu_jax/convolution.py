"""The three linear maps of the network, NHWC, with a weight gradient that is fast on a CPU."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.custom_batching import custom_vmap
from jax.experimental.custom_partitioning import custom_partitioning
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

_LAYOUT = ("NHWC", "HWIO", "NHWC")
_ROWS_PER_BLOCK = 1024  # pixels whose patches are gathered at once: they stay in the L2 cache


def _valid(x: Array, w: Array) -> Array:
    return lax.conv_general_dilated(
        x, w, (1, 1), "VALID", dimension_numbers=_LAYOUT, precision=lax.Precision.HIGHEST
    )


def _weight_gradient_native(x: Array, w: Array, dy: Array) -> Array:
    return jax.vjp(lambda w: _valid(x, w), w)[1](dy)[0]


def _sum_over_blocks(x: Array, dy: Array) -> Array:
    """Sum over blocks of rows of ``dy^T patches(x)``: on a CPU faster than XLA's own kernel.

    The result is [K, kh, kw, C], in float32 also where operands are bfloat16.
    """
    batch, height, width, out = dy.shape
    kh, kw, channels = x.shape[1] - height + 1, x.shape[2] - width + 1, x.shape[3]
    wanted = max(1, _ROWS_PER_BLOCK // (batch * width))
    rows = next(r for r in range(min(wanted, height), 0, -1) if height % r == 0)

    def add_block(total: Array, start: Array) -> tuple[Array, None]:
        d = lax.dynamic_slice_in_dim(dy, start, rows, axis=1).reshape(-1, out)
        block = lax.dynamic_slice_in_dim(x, start, rows + kh - 1, axis=1)
        patches = jnp.concatenate(
            [block[:, i : i + rows, j : j + width] for i in range(kh) for j in range(kw)], axis=-1
        )
        patches = patches.reshape(-1, kh * kw * channels)
        return total + jnp.matmul(d.T, patches, preferred_element_type=jnp.float32), None

    zero = jnp.zeros((out, kh * kw * channels), jnp.float32)
    total, _ = lax.scan(add_block, zero, jnp.arange(0, height, rows))
    return total.reshape(out, kh, kw, channels)


# Left to itself the partitioner sums over devices in every turn of the loop, and XLA does not
# order these sums with those outside it: two CPU devices can wait for each other for ever.
_sum_over_devices_once = custom_partitioning(_sum_over_blocks)


def _partition(mesh: Mesh, operands: tuple[Any, ...], _result: Any) -> tuple[Any, ...]:
    axes = operands[0].sharding.spec[:1]  # of the mesh, that the batch is split over
    split = NamedSharding(mesh, P(*axes))

    def on_one_device(x: Array, dy: Array) -> Array:
        total = _sum_over_blocks(x, dy)
        return lax.psum(total, axes[0]) if axes and axes[0] else total

    return mesh, on_one_device, NamedSharding(mesh, P()), (split, split)


_sum_over_devices_once.def_partition(
    partition=_partition,
    sharding_rule="b y x c, b h w k -> o i j m",
    need_replication_factors=tuple("yxchwkoijm"),
    reduction_factors=("b",),
)

_sum_of_blocks = custom_vmap(_sum_over_devices_once)


@_sum_of_blocks.def_vmap
def _population(size: int, batched: list[bool], x: Array, dy: Array) -> tuple[Array, bool]:
    axes = tuple(0 if b else None for b in batched)
    return jax.vmap(_sum_over_blocks, axes, axis_size=size)(x, dy), True


def _weight_gradient_blocked(x: Array, w: Array, dy: Array) -> Array:
    return _sum_of_blocks(x, dy).transpose(1, 2, 3, 0).astype(w.dtype)


@jax.custom_vjp
def _conv(x: Array, w: Array) -> Array:
    return _valid(x, w)


def _conv_fwd(x: Array, w: Array) -> tuple[Array, tuple[Array, Array]]:
    return _valid(x, w), (x, w)


def _conv_bwd(residuals: tuple[Array, Array], dy: Array) -> tuple[Array, Array]:
    x, w = residuals
    dx = jax.vjp(lambda x: _valid(x, w), x)[1](dy)[0]
    dw = lax.platform_dependent(
        x, w, dy, cpu=_weight_gradient_blocked, default=_weight_gradient_native
    )
    return dx, dw


_conv.defvjp(_conv_fwd, _conv_bwd)


def conv3x3(x: Array, w: Array, padding: float) -> Array:
    """3x3 convolution of the same size, the border filled with a constant.

    Args:
      x: [B, H, W, C] floating array.
      w: [3, 3, C, K] weights, same dtype.
      padding: value outside the image: 0 for full precision, the lowest activation level
        (-1 at one bit, -3 at two) in front of quantized weights, because a zero cannot be
        represented by bits.

    Returns:
      [B, H, W, K] array of the same dtype. Exact for integers while every sum stays
      below 2^24 (float32).

    Example:
      >>> conv3x3(jnp.ones((1, 2, 2, 1)), jnp.ones((3, 3, 1, 1)), -1.0)[0, :, :, 0].tolist()
      [[-1.0, -1.0], [-1.0, -1.0]]
    """
    border = ((0, 0), (1, 1), (1, 1), (0, 0))
    return _conv(jnp.pad(x, border, constant_values=padding), w)


def exact_conv3x3(x: Array, w: Array) -> Array:
    """3x3 convolution of the same size, zeros outside, of integers whose sums come near 2^24.

    Convolutions of a GPU may transform their operands (Winograd), which takes some bits of such
    sums; there it is a matrix product of patches, which adds nothing but products.

    Args:
      x: [B, H, W, C] float32 integers.
      w: [3, 3, C, K] float32 weights, each output's integers times one power of two.

    Returns:
      [B, H, W, K] float32, exact on every device where every sum of magnitudes is, in units of
      that power, below 2^24.

    Example:
      >>> x = jnp.full((1, 1, 1, 1), 255.0)
      >>> exact_conv3x3(x, jnp.full((3, 3, 1, 1), 32767.0)).tolist() == [[[[255.0 * 32767]]]]
      True
    """
    # XLA's own convolution on CPUs adds products, too, and is three times as fast.
    return lax.platform_dependent(
        x, w, cpu=functools.partial(conv3x3, padding=0.0), default=_by_patches
    )


def _by_patches(x: Array, w: Array) -> Array:
    height, width = x.shape[1:3]
    x = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    patches = jnp.concatenate(
        [x[:, i : i + height, j : j + width] for i in range(3) for j in range(3)], axis=-1
    )
    return jnp.matmul(patches, w.reshape(-1, w.shape[-1]), precision=lax.Precision.HIGHEST)


def conv1x1(x: Array, w: Array) -> Array:
    """1x1 convolution: a matrix product at every pixel.

    Args:
      x: [B, H, W, C] floating array.
      w: [C, K] weights, same dtype.

    Returns:
      [B, H, W, K] array.

    Example:
      >>> conv1x1(jnp.ones((1, 1, 1, 3)), jnp.ones((3, 2))).tolist()
      [[[[3.0, 3.0]]]]
    """
    return _conv(x, w[None, None])


def up_conv2x2(x: Array, w: Array) -> Array:
    """2x2 transposed convolution with stride 2: four 1x1 convolutions, interleaved.

    ``out[b, 2h+i, 2w+j, k] = sum_c x[b, h, w, c] w[i, j, c, k]``. Outputs do not overlap, so
    there is no border and no padding.

    Args:
      x: [B, H, W, C] floating array.
      w: [2, 2, C, K] weights, same dtype.

    Returns:
      [B, 2H, 2W, K] array of the same dtype.

    Example:
      >>> w = jnp.arange(4.0).reshape(2, 2, 1, 1)
      >>> up_conv2x2(jnp.ones((1, 1, 1, 1)), w)[0, :, :, 0].tolist()
      [[0.0, 1.0], [2.0, 3.0]]
    """
    b, h, width, c = x.shape
    k = w.shape[-1]
    y = _conv(x, w.transpose(2, 0, 1, 3).reshape(1, 1, c, 4 * k))
    return y.reshape(b, h, width, 2, 2, k).swapaxes(2, 3).reshape(b, 2 * h, 2 * width, k)


def max_pool2x2(x: Array) -> Array:
    """2x2 max-pool with stride 2; on one-bit activations it is the OR of the bits.

    The gradient is shared equally among equal maxima, which among signs are the rule.

    Args:
      x: [B, H, W, C] array, H and W even.

    Returns:
      [B, H/2, W/2, C] array.

    Example:
      >>> max_pool2x2(jnp.array([-1.0, -1.0, 1.0, -1.0]).reshape(1, 2, 2, 1)).tolist()
      [[[[1.0]]]]
    """
    b, h, w, c = x.shape
    return jnp.max(x.reshape(b, h // 2, 2, w // 2, 2, c), axis=(2, 4))
