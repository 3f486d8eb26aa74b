# pyrefly: ignore-errors
"""Lists of a bit-sliced convolution's non-zero weights: where the planes lie that each output adds.

Shape letters: L lists an output has, M outputs, S words of 32 weights that an output has, and
E = 32 S entries.
"""

import triton
import triton.language as tl

from triton_kernels.launch import Launch

_WORDS = 32


@triton.jit
def bitsliced_lists_kernel(weights, planes, words, channel_step, zeros, y, WORDS: tl.constexpr):
    """One list a program.

    Args:
      weights: [M, L, S] uint32, bits set where a weight belongs to the list.
      planes: [S] int32, words from the first plane to that of each word's lowest bit.
      words: S.
      channel_step: words between the planes of two bits.
      zeros: words to the plane whose bits are all 0.
      y: [M, L, E] int32, words from the first plane to each of the list, zeros after the last.
      WORDS: of weights looked at together.
    """
    weights += tl.program_id(0).to(tl.int64) * words
    y += tl.program_id(0).to(tl.int64) * (32 * words)
    place = tl.arange(0, 32)[None, :]
    mask = tl.full([1, 32], 1, tl.uint32) << place
    order = tl.arange(0, 32 * WORDS)
    found = 0
    for start in range(0, words, WORDS):
        word = start + tl.arange(0, WORDS)
        bits = tl.load(weights + word, word < words, other=0)
        plane = tl.load(planes + word, word < words, other=0)
        entry = tl.reshape(plane[:, None] + place * channel_step, [32 * WORDS])
        chosen = tl.reshape(((bits[:, None] & mask) != 0).to(tl.int32), [32 * WORDS])
        # What is chosen fills the list from its start, zeros for everything else from its end.
        front = found + tl.cumsum(chosen, 0) - chosen
        back = 32 * (words - start) - 1 - (order - front)
        at = y + tl.where(chosen != 0, front, back)
        tl.store(at, tl.where(chosen != 0, entry, zeros), order < 32 * (words - start))
        found += tl.sum(chosen, 0)


def launch(weights: tuple[int, ...], *, channel_step: int, zeros: int) -> Launch:
    """Launch `bitsliced_lists_kernel` with arrays (weights, planes), giving y.

    Args:
      weights: shape, M, L and S.
      channel_step: words between the planes of two bits.
      zeros: words to the plane whose bits are all 0.

    Returns:
      The launch.
    """
    outputs, lists, words = weights
    return Launch(
        kernel=bitsliced_lists_kernel,
        blocks=outputs * lists,
        sizes={"words": words, "channel_step": channel_step, "zeros": zeros},
        constants={"WORDS": _WORDS},
        warps=4,
        registers=128,
    )
