# pyrefly: ignore-errors
"""Codes of the counts that warpgroups have, compared and packed."""

from triton.experimental import gluon
from triton.experimental.gluon import language as gl


@gluon.jit
def code_words(
    counts,
    least,
    first_group,
    groups,
    PLANES: gl.constexpr,
):
    """Compare counts with thresholds.

    Args:
      counts: [pixels, GROUPS, 32] int32.
      least: pointer to [T, groups, 32] int32.
      first_group: of these.
      groups: of all.
      PLANES: of codes.

    Returns:
      A tuple of planes of codes, uint32 [pixels, GROUPS].
    """
    # Behind one address for a thread's channels, so that those of all are this and constants.
    least += first_group * 32
    low = _passed(counts, least)
    if PLANES == 1:
        words = (low,)
    else:
        high = low
        # A loop, because of three levels at once the thresholds alone would take all registers.
        for level in range(1, 3):
            least += groups * 32
            passed = _passed(counts, least)
            low ^= passed
            high = gl.where(level == 1, passed, high)
        words = (low, high)
    return words


@gluon.jit
def _passed(counts, least):
    """Words of the channels whose counts reach a threshold, uint32 [pixels, GROUPS]."""
    of_channels: gl.constexpr = gl.SliceLayout(0, counts.type.layout)
    group = gl.arange(0, counts.shape[1], layout=gl.SliceLayout(1, of_channels))
    place = gl.expand_dims(gl.arange(0, 32, layout=gl.SliceLayout(0, of_channels)), 0)
    least = gl.load(least + (gl.expand_dims(group, 1) * 32 + place))
    passed = counts >= gl.expand_dims(least, 0)
    place = gl.expand_dims(place.to(gl.uint32), 0)
    return gl.reduce_or(passed.to(gl.uint32) << place, axis=2)


@gluon.jit
def store_words(words, pixel, inside, group, y, groups, PLANES: gl.constexpr):
    """Store planes of codes.

    Args:
      words: from `code_words`.
      pixel: numbers of pixels of the output, int64 [pixels, 1 or GROUPS].
      inside: which of them are in the image, of the same rank.
      group: numbers of words of a pixel, [1, GROUPS].
      y: the output.
      groups: words of a pixel.
      PLANES: of codes.
    """
    at = y + (pixel * (PLANES * groups) + group)
    for plane in gl.static_range(PLANES):
        gl.store(at + plane * groups, words[plane], mask=inside)
