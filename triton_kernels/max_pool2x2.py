# pyrefly: ignore-errors
"""2x2 max-pool of channel-packed words.

Shape letters: B H W of the input, P planes, N words.
"""

import triton
import triton.language as tl

from triton_kernels.launch import Launch, cdiv

_BLOCK = 256


@triton.jit
def max_pool2x2_kernel(
    x, half_width, y, WORDS: tl.constexpr, PLANES: tl.constexpr, BLOCK: tl.constexpr
):
    """Some words of one row of outputs a program.

    Args:
      x: [B, H, W, P, N] uint32.
      half_width: W/2.
      y: [B, H/2, W/2, P, N] uint32.
      WORDS: N.
      PLANES: P.
      BLOCK: words of a program.
    """
    blocks_of_row = tl.cdiv(half_width * WORDS, BLOCK)
    # Rows of all images follow each other, so twice the row is a row of the same image.
    row = (tl.program_id(0) // blocks_of_row).to(tl.int64)
    index = tl.program_id(0) % blocks_of_row * BLOCK + tl.arange(0, BLOCK)
    column, word = index // WORDS, index % WORDS
    inside = column < half_width
    step: tl.constexpr = PLANES * WORDS
    top = x + row * (4 * half_width * step) + 2 * column * step + word
    bottom = top + 2 * half_width * step
    out = y + row * (half_width * step) + column * step + word
    if PLANES == 1:
        above = tl.load(top, inside) | tl.load(top + step, inside)
        below = tl.load(bottom, inside) | tl.load(bottom + step, inside)
        tl.store(out, above | below, inside)
    else:
        low, high = _load(top, inside, WORDS)
        low, high = larger(low, high, *_load(top + step, inside, WORDS))
        low, high = larger(low, high, *_load(bottom, inside, WORDS))
        low, high = larger(low, high, *_load(bottom + step, inside, WORDS))
        tl.store(out, low, inside)
        tl.store(out + WORDS, high, inside)


@triton.jit
def _load(at, inside, WORDS: tl.constexpr):
    return tl.load(at, inside), tl.load(at + WORDS, inside)


@triton.jit
def larger(low_a, high_a, low_b, high_b):
    """Larger of 32 pairs of codes; a low bit counts unless the other code's high bit beats it."""
    low = (low_a & (high_a | ~high_b)) | (low_b & (high_b | ~high_a))
    return low, high_a | high_b


def launch(x: tuple[int, ...]) -> Launch:
    """Launch `max_pool2x2_kernel` with array (x,), giving y.

    Args:
      x: shape, B, H, W, P and N.

    Returns:
      The launch.
    """
    batch, height, width, planes, words = x
    blocks_of_row = cdiv(width // 2 * words, _BLOCK)
    return Launch(
        kernel=max_pool2x2_kernel,
        blocks=batch * (height // 2) * blocks_of_row,
        sizes={"half_width": width // 2},
        constants={"WORDS": words, "PLANES": planes, "BLOCK": _BLOCK},
        warps=2,
        registers=128,
    )
