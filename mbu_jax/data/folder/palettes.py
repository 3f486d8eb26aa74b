"""The colours that masks with palettes show their numbers in, compared from file to file."""

from collections.abc import Mapping

import numpy as np
from PIL import Image

from mbu_jax.data.frames import decode_labels
from mbu_jax.errors import InputError

type Colour = tuple[int, int, int]

_BLACK = (0, 0, 0)
_REMEDY = "save masks in grey, each pixel the number of its class, or all with one palette"


class Palettes:
    """What colour each number had so far; a number is one class only if it has one colour.

    Pictures that a program reduced to a palette by itself number their colours as they happen to
    occur in each: red is 0 in one file, green in the next, and black, the background, 1 in both.

    Example:
      >>> palettes = Palettes()
      >>> palettes.add({0: (0, 0, 0), 1: (255, 0, 0)}, "a.png")
      >>> palettes.add({0: (0, 0, 0), 2: (0, 255, 0)}, "b.png")
    """

    def __init__(self) -> None:
        self._seen: dict[int, tuple[Colour, str]] = {}

    def add(self, colours: Mapping[int, Colour], name: str) -> None:
        """Compares a mask with those before it.

        Args:
          colours: of `read_colours`.
          name: how an error calls the file.

        Raises:
          InputError: a number had another colour before, or black is not 0 although 0 occurs.
        """
        for number, colour in colours.items():
            before, file = self._seen.setdefault(number, (colour, name))
            if colour != before:
                raise InputError(
                    f"the palette of {name} shows the number {number} in the colour {colour}, that"
                    f" of {file} in {before}; {_REMEDY}"
                )
        background, file = self._seen.get(0, (_BLACK, name))
        black = (n for n, (colour, _) in self._seen.items() if n and colour == _BLACK)
        number = None if background == _BLACK else next(black, None)
        if number is not None:
            raise InputError(
                f"the palette of {self._seen[number][1]} shows the number {number} in black"
                f" {_BLACK}, but that of {file} the background, 0, in the colour {background};"
                f" {_REMEDY} that begins with the background"
            )


def read_colours(data: bytes, name: str) -> dict[int, Colour]:
    """Finds what colours a mask's palette shows its numbers in.

    Args:
      data: the bytes of a PNG, GIF, TIFF or BMP file.
      name: how an error calls the file.

    Returns:
      The red, green and blue of each number that occurs; nothing where the numbers are greys.

    Raises:
      InputError: the bytes are damaged, a JPEG or a stack.

    Example:
      >>> import io
      >>> picture, buffer = Image.new("P", (3, 2), 1), io.BytesIO()
      >>> picture.putpalette([0, 0, 0, 255, 0, 0])
      >>> picture.save(buffer, "png")
      >>> read_colours(buffer.getvalue(), "mask.png")
      {1: (255, 0, 0)}
    """
    picture = decode_labels(data, name)
    palette = palette_of(picture)
    if palette is None:
        return {}
    numbers = np.unique(indices_of(picture)).tolist()
    colours = palette.tolist()
    return {n: tuple(colours[n]) for n in numbers if n < len(colours)}


def palette_of(picture: Image.Image) -> np.ndarray | None:
    """The palette of a picture whose numbers are the indices of colours.

    Args:
      picture: of `decode_labels`.

    Returns:
      uint8 [N, 3]; None where there is no palette, or one of greys.
    """
    if picture.mode not in ("P", "PA"):
        return None
    palette = np.array(picture.getpalette("RGB"), np.uint8).reshape(-1, 3)
    return palette if picture.mode == "PA" or (palette != palette[:, :1]).any() else None


def indices_of(picture: Image.Image) -> np.ndarray:
    """The indices that a picture with a palette holds.

    Args:
      picture: of `decode_labels`, of mode P or PA.

    Returns:
      uint8 [H, W].
    """
    return np.asarray(picture if picture.mode == "P" else picture.getchannel("P"))
