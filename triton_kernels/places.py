# pyrefly: ignore-errors
"""Where a program's tile lies in its image: what the convolutions' kernels begin with."""

from triton.experimental import gluon
from triton.experimental.gluon import language as gl


@gluon.jit
def tile_of_image(program, height, width, ROWS: gl.constexpr, COLUMNS: gl.constexpr):
    """Top and left of a tile that lies in one image, and the first pixel of that, int64."""
    across = gl.cdiv(width, COLUMNS)
    left = program % across * COLUMNS
    program = program // across
    down = gl.cdiv(height, ROWS)
    top = program % down * ROWS
    return top, left, (program // down).to(gl.int64) * height * width


@gluon.jit
def tile_of_batch(program, width, ROWS: gl.constexpr, COLUMNS: gl.constexpr):
    """Top and left of a tile where the rows of all images follow each other."""
    across = gl.cdiv(width, COLUMNS)
    left = program % across * COLUMNS
    return program // across * ROWS, left


@gluon.jit
def pixels_of_tile(top, left, ROWS: gl.constexpr, COLUMNS: gl.constexpr, of_pixels: gl.constexpr):
    """Rows and columns of a tile's pixels, [ROWS COLUMNS]."""
    pixel = gl.arange(0, ROWS * COLUMNS, layout=of_pixels)
    return top + pixel // COLUMNS, left + pixel % COLUMNS


@gluon.jit
def words_of_tile(tile_number, words, VECTOR: gl.constexpr, tile: gl.constexpr):
    """Places of a bit-sliced tile's words in a plane, int32 [32 VECTOR], and others to read.

    Threads beyond the image read some of its words instead; to be without a mask saves them
    setting registers to 0. All steps are multiples of VECTOR, which the compiler cannot know.
    """
    of_words: gl.constexpr = gl.SliceLayout(0, tile)
    word = tile_number * (32 * VECTOR) + gl.arange(0, 32 * VECTOR, layout=of_words)
    somewhere = gl.where(word < words, word, word % VECTOR)
    return word, gl.max_contiguous(gl.multiple_of(somewhere, [VECTOR]), [VECTOR])
