"""Checked decoding of PNG, JPEG, GIF and BMP bytes: a clear error, or a trusted array."""

import io
import struct
import zlib

import numpy as np
from PIL import (
    BmpImagePlugin,
    GifImagePlugin,
    Image,
    ImageFile,
    JpegImagePlugin,
    PngImagePlugin,
)

from mbu_jax.errors import InputError

MAX_PIXELS = 2**28

_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_PNG_GREY = 0
_GREY_MODES = ("1", "L", "I;16")

# The plugins are called directly: Pillow's own guess would try dozens of formats, and its limit
# on sizes is a global that warns first and refuses later.
_PLUGINS: dict[bytes, type[ImageFile.ImageFile]] = {
    _PNG_SIGNATURE: PngImagePlugin.PngImageFile,
    b"\xff\xd8\xff": JpegImagePlugin.JpegImageFile,
    b"GIF8": GifImagePlugin.GifImageFile,
    b"BM": BmpImagePlugin.BmpImageFile,
}

# What Pillow's decoders are known to raise on damaged bytes.
DECODING_ERRORS = (
    OSError,
    SyntaxError,
    ValueError,
    EOFError,
    IndexError,
    KeyError,
    TypeError,
    AttributeError,
    OverflowError,
    MemoryError,
    struct.error,
    zlib.error,
    Image.DecompressionBombError,
)


def read_image(data: bytes, name: str) -> np.ndarray:
    """Decodes a picture to 8-bit RGB.

    Grey is copied to the three channels, palettes are looked up and alpha is dropped. 16-bit
    grey is scaled by the smallest of the full scales of 8, 10, 12, 14 and 16 bits that holds
    its brightest pixel, so that a 12-bit camera's picture is not left nearly black; 16-bit
    colour is refused.

    Args:
      data: the bytes of a PNG, JPEG, GIF or BMP file (of a GIF, the first frame).
      name: how an error calls the file.

    Returns:
      uint8 [H, W, 3].

    Raises:
      InputError: the bytes are damaged, of another format, 16-bit colour, or more than
        ``MAX_PIXELS`` pixels.

    Example:
      >>> buffer = io.BytesIO()
      >>> Image.new("LA", (3, 2), (7, 255)).save(buffer, "png")
      >>> read_image(buffer.getvalue(), "grey.png")[0, 0]
      array([7, 7, 7], dtype=uint8)
    """
    picture = decode(data, name)
    if picture.mode == "I;16":
        picture = Image.fromarray(to_8_bits(np.asarray(picture)))
    return np.array(without_alpha(picture).convert("RGB"))


def read_mask(data: bytes, name: str) -> np.ndarray:
    """Decodes a mask: an object wherever any channel but alpha is not zero.

    Masks of 0 and 1, of 0 and 255, grey, palette, RGB or RGBA therefore read the same.

    Args:
      data: the bytes of a PNG, JPEG, GIF or BMP file (of a GIF, the first frame).
      name: how an error calls the file.

    Returns:
      bool [H, W], True on the object.

    Raises:
      InputError: the bytes are damaged, of another format, 16-bit colour, or more than
        ``MAX_PIXELS`` pixels.

    Example:
      >>> buffer = io.BytesIO()
      >>> Image.new("RGBA", (3, 2), (0, 0, 0, 255)).save(buffer, "png")
      >>> read_mask(buffer.getvalue(), "empty.png").any()
      np.False_
    """
    values = np.asarray(without_alpha(decode(data, name)))
    return values != 0 if values.ndim == 2 else (values != 0).any(axis=2)


def scale_image(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Scales a picture with a triangle filter, wide enough to average where it shrinks.

    Args:
      image: uint8 [H, W, 3].
      size: the new (H, W).

    Returns:
      uint8 [size[0], size[1], 3].

    Example:
      >>> scale_image(np.full((4, 6, 3), 9, np.uint8), (2, 3))[0, 0]
      array([9, 9, 9], dtype=uint8)
    """
    height, width = size
    return np.array(Image.fromarray(image).resize((width, height), Image.Resampling.BILINEAR))


def scale_mask(mask: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Scales a mask by taking the nearest pixel.

    Args:
      mask: bool [H, W].
      size: the new (H, W).

    Returns:
      bool [size[0], size[1]].

    Example:
      >>> scale_mask(np.eye(2, dtype=bool), (4, 4)).sum()
      np.int64(8)
    """
    height, width = size
    return np.array(Image.fromarray(mask).resize((width, height), Image.Resampling.NEAREST))


def decode(data: bytes, name: str) -> Image.Image:
    """Decodes a picture as it is stored, after every check that can be made before.

    Args:
      data: the bytes of a PNG, JPEG, GIF or BMP file (of a GIF, the first frame).
      name: how an error calls the file.

    Returns:
      The decoded picture, of any mode.

    Raises:
      InputError: as ``read_image``.
    """
    plugin = next((p for magic, p in _PLUGINS.items() if data.startswith(magic)), None)
    if plugin is None:
        raise InputError(f"{name} is not a PNG, JPEG, GIF or BMP file; convert it to PNG")
    if plugin is PngImagePlugin.PngImageFile:
        _check_png(data, name)
    try:
        picture = plugin(io.BytesIO(data))
        check_size(picture.width, picture.height, name)
        picture.load()
    except InputError:
        raise
    except DECODING_ERRORS as error:
        reason = str(error) or type(error).__name__
        raise InputError(f"{name} will not decode ({reason}); replace the file") from error
    return picture


def without_alpha(picture: Image.Image) -> Image.Image:
    """Drops transparency, showing the colours under it rather than blending them.

    Args:
      picture: a decoded picture of any mode.

    Returns:
      The picture in grey or RGB.

    Example:
      >>> without_alpha(Image.new("RGBA", (1, 1), (1, 2, 3, 0))).getpixel((0, 0))
      (1, 2, 3)
    """
    picture.info.pop("transparency", None)
    if picture.mode == "La":  # alpha is multiplied in
        picture = picture.convert("LA")
    if picture.mode == "LA":
        return picture.getchannel("L")
    return picture if picture.mode in _GREY_MODES else picture.convert("RGB")


def to_8_bits(values: np.ndarray, brightest: int | None = None) -> np.ndarray:
    """Scales 16-bit grey as ``read_image`` documents, rounded.

    Args:
      values: uint16 of any shape.
      brightest: the brightest pixel, by default of ``values``; of a stack, so that its frames
        are scaled alike.

    Returns:
      uint8 of the same shape.

    Example:
      >>> to_8_bits(np.array([0, 4095], np.uint16))
      array([  0, 255], dtype=uint8)
    """
    most = values.max() if brightest is None else brightest
    bits = next(b for b in (8, 10, 12, 14, 16) if most < 2**b)
    full_scale = 2**bits - 1
    return ((values.astype(np.uint32) * 255 + full_scale // 2) // full_scale).astype(np.uint8)


def check_size(width: int, height: int, name: str) -> None:
    """Refuses a picture before memory is taken for it.

    Args:
      width: pixels.
      height: pixels.
      name: how an error calls the file.

    Raises:
      InputError: the picture is empty or has more than ``MAX_PIXELS`` pixels.

    Example:
      >>> check_size(640, 480, "a.png")
    """
    if width < 1 or height < 1 or width * height > MAX_PIXELS:
        raise InputError(
            f"{name} says it has {width}x{height} pixels, outside 1 to {MAX_PIXELS};"
            " replace it or cut it into parts"
        )


def _check_png(data: bytes, name: str) -> None:
    """Walks the chunks: Pillow checks neither the CRC of the pixels' chunks nor the end."""

    def damaged(what: str) -> InputError:
        return InputError(f"{name} is a damaged PNG ({what}); copy or download it again")

    view, at = memoryview(data), len(_PNG_SIGNATURE)
    while True:
        if at + 12 > len(data):
            raise damaged("truncated")
        length, kind = struct.unpack_from(">I4s", data, at)
        if at + 12 + length > len(data):
            raise damaged("truncated")
        body = view[at + 4 : at + 8 + length]
        if zlib.crc32(body) != int.from_bytes(data[at + 8 + length : at + 12 + length], "big"):
            raise damaged(f"bad CRC in its {kind.decode('latin-1')} chunk")
        if at == len(_PNG_SIGNATURE):
            if kind != b"IHDR" or length != 13:
                raise damaged("no header")
            width, height, bits, colour_type = struct.unpack_from(">IIBB", data, at + 8)
            check_size(width, height, name)
            if bits == 16 and colour_type != _PNG_GREY:
                raise InputError(
                    f"{name} is a 16-bit PNG with colour or alpha; save it as 8-bit, or as"
                    " 16-bit grey without alpha"
                )
        if kind == b"IEND":
            return
        at += 12 + length
