"""What the numbers in a user's masks mean: one class of objects, or several classes."""

from collections.abc import Mapping

import numpy as np

from mbu_jax.data.folder.palettes import indices_of, palette_of
from mbu_jax.data.frames import decode_labels
from mbu_jax.errors import InputError

MAX_CLASSES = 64
_WHITE = 255


def read_labels(data: bytes, name: str) -> np.ndarray:
    """Decodes a mask to the numbers that are stored in it.

    Grey values are taken as they are, with alpha dropped, whatever the bits. A palette of greys is
    looked up; of one with colours, drawn for the eye, the indices are the numbers. RGB is
    taken where its channels are equal.

    Args:
      data: the bytes of a PNG, GIF, TIFF or BMP file.
      name: how an error calls the file.

    Returns:
      uint16 [H, W].

    Raises:
      InputError: the bytes are damaged, a JPEG, a stack, in colours, or hold a number that is not
        whole or not in 0 to 65535.

    Example:
      >>> import io
      >>> from PIL import Image
      >>> buffer = io.BytesIO()
      >>> Image.fromarray(np.array([[0, 255]], np.uint8)).save(buffer, "png")
      >>> read_labels(buffer.getvalue(), "mask.png").tolist()
      [[0, 255]]
    """
    picture = decode_labels(data, name)
    if palette_of(picture) is not None:
        values = indices_of(picture)
    else:
        values = np.asarray(picture.convert("L") if picture.mode == "P" else picture)
    if picture.mode in ("LA", "RGBA"):
        values = values[..., :-1]
    if values.ndim == 3:
        if values.shape[2] > 3 or (values != values[..., :1]).any():
            raise InputError(
                f"{name} is in colours; save it with one number a pixel: 0 for the background,"
                " 1, 2, … for the classes"
            )
        values = values[..., 0]
    labels = values.astype(np.uint16) if _fits(values) else None
    if labels is None or (labels != values).any():
        raise InputError(
            f"{name} has values from {values.min()} to {values.max()}; save it as 8-bit or 16-bit"
            " whole numbers"
        )
    return labels


def _fits(values: np.ndarray) -> bool:
    # A comparison with a number that is none fails.
    return bool(values.min() >= 0 and values.max() <= np.iinfo(np.uint16).max)


def find_classes(values: Mapping[int, str], expected: int | None = None) -> int:
    """Finds what a set of masks tells apart, from the numbers that occur in it.

    Args:
      values: the numbers that occur, each with a file that has it.
      expected: what it must fit: the classes of a network that is to be scored with it.

    Returns:
      1 where masks hold 0 and 1, or 0 and 255; else the number of classes, background included,
      which they number from 0.

    Raises:
      InputError: no object or no background is there, or the numbers fit neither; the message
        names a file.

    Example:
      >>> find_classes({0: "a.png", 255: "a.png"}), find_classes({0: "a.png", 1: "a", 2: "b.png"})
      (1, 3)
    """
    present = sorted(set(values) - {0})
    white_alone = present == [_WHITE]
    if expected is not None:
        limit = 1 if expected == 1 else expected - 1
        if expected == 1 and white_alone:
            return 1
        if present and present[-1] > limit:
            allowed = "0 and 1, or 0 and 255" if expected == 1 else f"0 to {limit}"
            raise InputError(
                f"{values[present[-1]]} has the value {present[-1]}, but the network's masks hold"
                f" {allowed}; correct the mask"
            )
        return expected
    if not present:
        raise InputError(
            f"no mask marks an object, all are 0 everywhere (such as {values[0]}); give objects"
            " the value 255, or their class"
        )
    if 0 not in values:
        raise InputError(
            f"no mask has the value 0, the background (such as {values[present[0]]}); make it 0,"
            " which is black (transparency is not read), or number the classes 0, 1, 2, …"
        )
    if white_alone:
        return 1
    most = present[-1]
    if most == _WHITE and len(present) > 1:
        raise InputError(
            f"{values[most]} has the value 255 and {values[present[0]]} the value {present[0]};"
            " use 0 and 255 alone, or number the classes 0, 1, 2, …"
        )
    if most >= MAX_CLASSES:
        raise InputError(
            f"{values[most]} has the value {most}; use 0 and 255, or number the classes 0, 1, 2, …"
            f" up to {MAX_CLASSES - 1} (objects that are numbered one by one belong in instances/"
            " instead of masks/)"
        )
    for number in range(1, most):
        if number not in values:
            raise InputError(
                f"{values[most]} has the value {most}, but no mask has {number}; number the"
                " classes 0, 1, 2, … without gaps"
            )
    return 1 if most == 1 else most + 1


def class_table(classes: int) -> np.ndarray:
    """Translates the numbers in masks to classes.

    Args:
      classes: of ``find_classes``.

    Returns:
      uint8 [256]: the class of each number; where there is one class of objects, 255 is it.

    Example:
      >>> class_table(1)[[0, 1, 255]].tolist()
      [0, 1, 1]
    """
    table = np.arange(256, dtype=np.uint8)
    if classes == 1:
        table[_WHITE] = 1
    return table
