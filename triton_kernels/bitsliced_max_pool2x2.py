# pyrefly: ignore-errors
"""2x2 max-pool of pixel-packed planes.

Shape letters: B H W of the input, P planes, C channels, N = ceil(W/32) words of a row.
"""

import triton
import triton.language as tl

from triton_kernels.launch import Launch, cdiv
from triton_kernels.max_pool2x2 import larger

_BLOCK = 256


@triton.jit
def bitsliced_max_pool2x2_kernel(x, rows, width, y, PLANES: tl.constexpr, BLOCK: tl.constexpr):
    """Some words of the outputs of one image a program.

    Args:
      x: [B, P, C, H, N] uint32.
      rows: C H/2: rows of all channels follow each other.
      width: W.
      y: [B, P, C, H/2, ceil(W/64)] uint32.
      PLANES: P.
      BLOCK: words of a program.
    """
    words_in, words_out = tl.cdiv(width, 32), tl.cdiv(width, 64)
    blocks = tl.cdiv(rows * words_out, BLOCK)
    image = (tl.program_id(0) // blocks).to(tl.int64)
    index = tl.program_id(0) % blocks * BLOCK + tl.arange(0, BLOCK)
    inside = index < rows * words_out
    row, word = index // words_out, index % words_out * 2
    step = 2 * rows * words_in
    at = x + image * PLANES * step + (2 * row * words_in + word)
    left = _pooled(at, words_in, step, inside, PLANES)
    right = _pooled(at + 1, words_in, step, inside & (word + 1 < words_in), PLANES)
    y += image * PLANES * rows * words_out + index
    for plane in tl.static_range(PLANES):
        tl.store(y + plane * rows * words_out, left[plane] | (right[plane] << 16), inside)


@triton.jit
def _pooled(at, words_in, step, inside, PLANES: tl.constexpr):
    """Larger codes of 16 pairs of pixels of two rows, in the lower halves; a tuple of planes."""
    if PLANES == 1:
        either = tl.load(at, inside, other=0) | tl.load(at + words_in, inside, other=0)
        codes = (_every_other(either | (either >> 1)),)
    else:
        low, high = _load(at, step, inside)
        low, high = larger(low, high, *_load(at + words_in, step, inside))
        low, high = larger(low, high, low >> 1, high >> 1)
        codes = _every_other(low), _every_other(high)
    return codes


@triton.jit
def _load(at, step, inside):
    return tl.load(at, inside, other=0), tl.load(at + step, inside, other=0)


@triton.jit
def _every_other(words):
    """Bits 0, 2, 4 and so on, moved together."""
    words = words & 0x55555555
    words = (words | (words >> 1)) & 0x33333333
    words = (words | (words >> 2)) & 0x0F0F0F0F
    words = (words | (words >> 4)) & 0x00FF00FF
    return (words | (words >> 8)) & 0xFFFF


def launch(x: tuple[int, ...], *, width: int) -> Launch:
    """Launch `bitsliced_max_pool2x2_kernel` with array (x,), giving y.

    Args:
      x: shape, B, P, C, H and N.
      width: W.

    Returns:
      The launch.
    """
    batch, planes, channels, height, _ = x
    rows = channels * height // 2
    return Launch(
        kernel=bitsliced_max_pool2x2_kernel,
        blocks=batch * cdiv(rows * cdiv(width, 64), _BLOCK),
        sizes={"rows": rows, "width": width},
        constants={"PLANES": planes, "BLOCK": _BLOCK},
        warps=8,
        registers=128,
    )
