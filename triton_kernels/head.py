# pyrefly: ignore-errors
"""Logits: sums of weights that channel-packed activations choose, exact in any order.

Shape letters: B H W, P planes, N words, K classes.
"""

import triton
import triton.language as tl

from triton_kernels.launch import Launch, cdiv

_PIXELS = 128


@triton.jit
def head_kernel(
    x,
    weight,
    bias,
    pixels,
    classes,
    y,
    WORDS: tl.constexpr,
    PLANES: tl.constexpr,
    PIXELS: tl.constexpr,
):
    """Some pixels of the batch and one class a program.

    Args:
      x: [B, H, W, P, N] uint32.
      weight: [K, 32 N] float32, 0 where there is no channel.
      bias: [K] float32.
      pixels: B H W.
      classes: K.
      y: [B, H, W, K] float32.
      WORDS: N.
      PLANES: P.
      PIXELS: of a program.
    """
    block = tl.program_id(0)
    number = block % classes
    pixel = (block // classes).to(tl.int64) * PIXELS + tl.arange(0, PIXELS)
    inside = pixel < pixels
    at = x + pixel * (PLANES * WORDS)
    weight += number * (32 * WORDS)
    total = tl.full([PIXELS], 0, tl.float32) + tl.load(bias + number)
    for word in range(WORDS):
        for plane in tl.static_range(PLANES):
            bits = tl.load(at + (plane * WORDS + word), inside, other=0)
            for channel in tl.static_range(32):
                value = tl.load(weight + (word * 32 + channel)) * 2**plane
                total += tl.where((bits >> channel) & 1 != 0, value, -value)
    tl.store(y + pixel * classes + number, total, inside)


def launch(x: tuple[int, ...], *, classes: int) -> Launch:
    """Launch `head_kernel` with arrays (x, weight, bias), giving y.

    Args:
      x: shape, B, H, W, P and N.
      classes: K.

    Returns:
      The launch.
    """
    batch, height, width, planes, words = x
    pixels = batch * height * width
    return Launch(
        kernel=head_kernel,
        blocks=cdiv(pixels, _PIXELS) * classes,
        sizes={"pixels": pixels, "classes": classes},
        constants={"WORDS": words, "PLANES": planes, "PIXELS": _PIXELS},
        warps=4,
        registers=128,
    )
