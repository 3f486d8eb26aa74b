# pyrefly: ignore-errors
"""Codes to channel-packed words.

Shape letters: B H W C, P planes, N = ceil(C/32) words.
"""

import triton
import triton.language as tl

from triton_kernels.launch import Launch, cdiv

_PIXELS = 32


@triton.jit
def pack_bits_kernel(codes, pixels, channels, words, y, PLANES: tl.constexpr, PIXELS: tl.constexpr):
    """One word of some pixels of the batch a program.

    Args:
      codes: [B, H, W, C] uint8, 0 to 2^P - 1.
      pixels: B H W.
      channels: C.
      words: N.
      y: [B, H, W, P, N] uint32.
      PLANES: P.
      PIXELS: of a program.
    """
    block = tl.program_id(0)
    word = block % words
    pixel = (block // words).to(tl.int64) * PIXELS + tl.arange(0, PIXELS)
    place = tl.arange(0, 32)[None, :]
    channel = word * 32 + place
    inside = (pixel < pixels)[:, None] & (channel < channels)
    code = tl.load(codes + pixel[:, None] * channels + channel, inside, other=0).to(tl.uint32)
    for plane in tl.static_range(PLANES):
        bits = ((code >> plane) & 1) << place.to(tl.uint32)
        # No two are the same bit, so that their sum is their union.
        tl.store(y + (pixel * PLANES + plane) * words + word, tl.sum(bits, axis=1), pixel < pixels)


def launch(codes: tuple[int, ...], *, planes: int) -> Launch:
    """Launch `pack_bits_kernel` with array (codes,), giving y.

    Args:
      codes: shape, B, H, W and C.
      planes: P.

    Returns:
      The launch.
    """
    batch, height, width, channels = codes
    pixels, words = batch * height * width, cdiv(channels, 32)
    return Launch(
        kernel=pack_bits_kernel,
        blocks=cdiv(pixels, _PIXELS) * words,
        sizes={"pixels": pixels, "channels": channels, "words": words},
        constants={"PLANES": planes, "PIXELS": _PIXELS},
        warps=4,
        registers=128,
    )
