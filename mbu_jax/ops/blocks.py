"""Blocks of rows, whose intermediate results are small."""


def row_blocks(height: int, pixels_per_row: int, wanted_pixels: int) -> tuple[int, int]:
    """Cut an image into blocks of equal height; the last may reach below the image.

    Args:
      height: H of the image in pixels.
      pixels_per_row: of all images of the batch.
      wanted_pixels: the most in a block, if a row has no more.

    Returns:
      Number of blocks, and rows of each.

    Example:
      >>> row_blocks(37, 10, 100)
      (4, 10)
    """
    rows = max(1, wanted_pixels // max(1, pixels_per_row))  # a batch may be empty
    blocks = -(-height // rows)
    return blocks, -(-height // blocks)
