"""Figures as files that are complete or not there."""

import io
import os

from matplotlib.figure import Figure

from mbu_jax.files import write_bytes_atomic


def save_png(figure: Figure, path: str | os.PathLike[str], dpi: int = 110) -> None:
    """Write a figure in one step, so that a full disk leaves an earlier one as it was.

    Args:
      figure: to write.
      path: of the file.
      dpi: dots per inch.

    Raises:
      OSError: if the file cannot be written.

    Example:
      >>> save_png(Figure(), "empty.png")
    """
    content = io.BytesIO()
    figure.savefig(content, format="png", dpi=dpi)
    write_bytes_atomic(path, content.getvalue())
