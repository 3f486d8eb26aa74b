"""Tiles of the convolution kernels fit every image and layer."""

import itertools

import pytest

from triton_kernels.launch import cdiv
from triton_kernels.tiles import best_tile, tile_shape


@pytest.mark.parametrize("pixels", [64, 128])
def test_a_tile_wastes_no_more_than_a_row_or_column_of_tiles(pixels: int) -> None:
    for height, width in itertools.product((1, 2, 3, 16, 30, 40, 60, 512, 959), repeat=2):
        rows, columns = tile_shape(height, width, pixels)
        assert rows * columns == pixels
        computed = cdiv(height, rows) * rows * cdiv(width, columns) * columns
        assert computed < (height + rows) * (width + columns)
        # The network's sizes at every depth are multiples of what a tile can be cut to.
        if height % 32 == width % 32 == 0 or (height, width) == (16, 16):
            assert computed == height * width


def test_a_chunk_divides_the_words_of_a_pixel() -> None:
    for words, planes, weight_planes in itertools.product(range(1, 33), (1, 2), (1, 2, 4)):
        tile = best_tile((1, 30, 40, planes, words), weight_planes)
        assert words % tile.chunk == 0
        assert tile.rows * tile.columns == 16 * tile.warps
