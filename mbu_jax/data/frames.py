"""Pictures of every kind that people have, frame by frame: stills, animations, stacks, videos."""

import contextlib
import dataclasses
import importlib
import io
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import (
    ExifTags,
    GifImagePlugin,
    Image,
    ImageFile,
    ImageOps,
    JpegImagePlugin,
    PngImagePlugin,
    TiffImagePlugin,
)

from mbu_jax.data.reading import (
    DECODING_ERRORS,
    check_size,
    decode,
    read_image,
    to_8_bits,
    without_alpha,
)
from mbu_jax.errors import InputError

PICTURE_SUFFIXES = frozenset((".png", ".apng", ".jpg", ".jpeg", ".gif", ".tif", ".tiff", ".bmp"))
VIDEO_SUFFIXES = frozenset((".mp4", ".m4v", ".mov", ".avi", ".mkv", ".webm", ".mpg", ".mpeg"))

_PNG, _GIF, _JPEG, _BMP = b"\x89PNG\r\n\x1a\n", b"GIF8", b"\xff\xd8\xff", b"BM"
_PNG_GREY = 0
_TIFF = (b"II*\0", b"MM\0*")
# TIFF tags.
_BITS_PER_SAMPLE, _PHOTOMETRIC, _SAMPLES_PER_PIXEL, _EXTRA_SAMPLES = 258, 262, 277, 338

# What turns a picture upright, by its EXIF orientation; 1 is upright already.
_TURNS: dict[Any, Image.Transpose] = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


@dataclasses.dataclass(frozen=True)
class Frames:
    """The pictures in one file.

    Attributes:
      count: how many; None where a video does not say.
      images: uint8 [H, W, 3] each, decoded as they are taken. Damage further on raises
        `InputError` there.
    """

    count: int | None
    images: Iterator[np.ndarray]


def read_frames(path: Path) -> Frames:
    """Open a PNG, JPEG, GIF, TIFF, BMP or video file as 8-bit RGB frames.

    Colours and 16-bit grey are converted as by `mbu_jax.data.reading.read_image`, all frames of a
    stack or animation with the same scale. A photograph is turned as its EXIF orientation says and
    as viewers show it. Videos need PyAV.

    Args:
      path: the file.

    Returns:
      Its frames, one for a still picture.

    Raises:
      InputError: the file cannot be read, is damaged, or of another kind.

    Example:
      >>> picture = Image.new("L", (3, 2), 7)
      >>> picture.save("stack.tif", save_all=True, append_images=[picture])
      >>> frames = read_frames(Path("stack.tif"))
      >>> frames.count, next(frames.images)[0, 0].tolist()
      (2, [7, 7, 7])
    """
    name = str(path)
    try:
        with path.open("rb") as file:
            start = file.read(8)
            if not start.startswith((_PNG, _GIF, _JPEG, _BMP, *_TIFF)):
                return _video(path)
            data = start + file.read()
    except OSError as error:
        raise InputError(f"{name} cannot be read ({error.strerror}); check the path") from error
    return decode_frames(data, name)


def decode_frames(data: bytes, name: str) -> Frames:
    """Decode a picture file that has been read, as `read_frames` does.

    Args:
      data: the bytes of a PNG, JPEG, GIF, TIFF or BMP file.
      name: how an error calls the file.

    Returns:
      Its frames, one for a still picture.

    Raises:
      InputError: the bytes are damaged, or of another kind.
    """
    # Errors of one frame are named, and the plugins are called directly, as in `read_image`.
    if data.startswith(_TIFF):
        return _tiff(data, name)
    still = _decoded(lambda: read_image(data, name), name)
    if data.startswith(_JPEG):
        picture = _open(JpegImagePlugin.JpegImageFile, data, name)
        return Frames(1, iter([_upright(still, picture)]))
    if data.startswith(_BMP):
        return Frames(1, iter([still]))
    plugin = GifImagePlugin.GifImageFile if data.startswith(_GIF) else PngImagePlugin.PngImageFile
    picture = _open(plugin, data, name)
    count = _decoded(lambda: picture.n_frames, name)
    if count == 1:
        return Frames(1, iter([_upright(still, picture)]))
    brightest = _brightest(picture, count, name) if _is_deep(picture) else 0
    pages = (_page(picture, i, name) for i in range(count))
    return Frames(count, (_upright(_pixels(page, brightest, name), page) for page in pages))


def decode_labels(data: bytes, name: str) -> Image.Image:
    """Decode the one picture of a file as it is stored, for its numbers rather than its colours.

    It is turned as an image is, by its EXIF orientation.

    Args:
      data: the bytes of a PNG, GIF, TIFF or BMP file.
      name: how an error calls the file.

    Returns:
      The decoded picture, of any mode, at most `mbu_jax.data.reading.MAX_PIXELS` pixels.

    Raises:
      InputError: the bytes are damaged, of another kind, a JPEG, or more than one picture.
    """
    if data.startswith(_JPEG):
        raise InputError(f"{name} is a JPEG, which changes the numbers in a mask; save it as PNG")
    if not data.startswith(_TIFF):
        picture = decode(data, name)
        pages = _decoded(lambda: getattr(picture, "n_frames", 1), name)
        check_one_page(pages, name)
        # The stored depth and kind of colour of a PNG, whose header is checked.
        if data.startswith(_PNG) and data[25] == _PNG_GREY:
            picture = _unstretched(picture, data[24])
        turn = _turn(picture)
        return picture if turn is None else picture.transpose(turn)
    stack, pages = _open_tiff(data, name)
    check_one_page(pages, name)
    page = _page(stack, 0, name)
    # Where the tag says, or Pillow assumes, that 0 is white, as for Fiji's inverting tables, Pillow
    # inverts 8 bits, for the eye. Of 1 bit there are no numbers to keep: black and white are meant.
    inverted = page.mode == "L" and stack.tag_v2.get(_PHOTOMETRIC, 0) == 0
    bits: Any = stack.tag_v2.get(_BITS_PER_SAMPLE, (1,))
    return _unstretched(ImageOps.invert(page) if inverted else page, max(bits))


def _unstretched(picture: Image.Image, bits: int) -> Image.Image:
    """The stored numbers of grey, which Pillow spreads over 8 bits where it has 2 or 4."""
    if picture.mode != "L" or bits not in (2, 4):
        return picture
    white = 2**bits - 1
    return picture.point([value * white // 255 for value in range(256)])


def check_one_page(pages: int | None, name: str) -> None:
    """Refuse an animation or a stack where one picture is wanted.

    Args:
      pages: how many the file has.
      name: how an error calls the file.

    Raises:
      InputError: unless it has one.
    """
    if pages != 1:
        raise InputError(f"{name} holds {pages} pictures; save each as a file of its own")


def _open_tiff(data: bytes, name: str) -> tuple[TiffImagePlugin.TiffImageFile, int]:
    # Pillow turns pages of this format upright itself, as it loads them.
    picture = _open(TiffImagePlugin.TiffImageFile, data, name)
    return picture, _decoded(lambda: picture.n_frames, name)


def _tiff(data: bytes, name: str) -> Frames:
    picture, count = _open_tiff(data, name)
    for index in range(count):
        _decoded(lambda index=index: picture.seek(index), name)
        check_size(picture.width, picture.height, name)
        samples: Any = picture.tag_v2.get(_SAMPLES_PER_PIXEL, 1)
        unspecified = 0 in picture.tag_v2.get(_EXTRA_SAMPLES, ())
        if samples > 4 or (unspecified and len(picture.getbands()) == 1):
            raise InputError(
                f"{name} has {samples} channels, which are neither RGB nor grey with alpha; save"
                " those to be used as grey or RGB"
            )
        bits: Any = picture.tag_v2.get(_BITS_PER_SAMPLE, (1,))
        deep_colour = max(bits) > 8 and len(bits) > 1
        if deep_colour or picture.mode in ("I", "F"):
            raise InputError(
                f"{name} has {max(bits)}-bit {'colour' if deep_colour else picture.mode} pixels; "
                "save it as 8-bit, or as 16-bit grey"
            )
    brightest = _brightest(picture, count, name)
    pages = (_page(picture, i, name) for i in range(count))
    return Frames(count, (_pixels(page, brightest, name) for page in pages))


def _video(path: Path) -> Frames:
    if path.suffix.lower() not in VIDEO_SUFFIXES:
        raise InputError(
            f"{path} is not a PNG, JPEG, GIF, TIFF, BMP or video file; convert it to PNG"
        )
    try:
        av: Any = importlib.import_module("av")
    except ModuleNotFoundError:
        raise InputError(
            f"{path} is a video, which takes PyAV to read: pip install av, or uv run --extra video"
        ) from None
    damage = (av.error.FFmpegError, OSError, ValueError)

    def broken(error: Exception) -> InputError:
        return InputError(f"{path} will not decode as a video ({error}); convert or replace it")

    try:
        container = av.open(str(path))
    except damage as error:
        raise broken(error) from error
    if not container.streams.video:
        container.close()
        raise InputError(f"{path} holds no pictures; give a video or images")
    stream = container.streams.video[0]

    def images() -> Iterator[np.ndarray]:
        with container:
            try:
                for frame in container.decode(stream):
                    check_size(frame.width, frame.height, str(path))
                    yield frame.to_ndarray(format="rgb24")
            except damage as error:
                if isinstance(error, InputError):
                    raise
                raise broken(error) from error

    return Frames(stream.frames or None, images())


def _open[T: ImageFile.ImageFile](plugin: Callable[[Any], T], data: bytes, name: str) -> T:
    return _decoded(lambda: plugin(io.BytesIO(data)), name)


def _page(picture: ImageFile.ImageFile, index: int, name: str) -> Image.Image:
    def decode() -> Image.Image:
        picture.seek(index)
        check_size(picture.width, picture.height, name)
        picture.load()
        return picture.copy()

    return _decoded(decode, f"{name}, frame {index},")


def _decoded[T](work: Callable[[], T], name: str) -> T:
    """Do what may fail on damaged bytes, in Pillow's many ways."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of tags that do not matter here
            return work()
    except InputError:
        raise
    except DECODING_ERRORS as error:
        reason = str(error) or type(error).__name__
        raise InputError(f"{name} will not decode ({reason}); replace the file") from error


def _upright(pixels: np.ndarray, picture: Image.Image) -> np.ndarray:
    turn = _turn(picture)
    return pixels if turn is None else np.array(Image.fromarray(pixels).transpose(turn))


def _turn(picture: Image.Image) -> Image.Transpose | None:
    """What the picture's EXIF asks for; one that cannot be read asks for nothing."""
    orientation = 1
    with contextlib.suppress(*DECODING_ERRORS), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of other tags
        orientation = picture.getexif().get(ExifTags.Base.Orientation, 1)
    return _TURNS.get(orientation)


def _is_deep(page: Image.Image) -> bool:
    return page.mode.startswith("I;16")


def _deep(page: Image.Image) -> np.ndarray:
    """16-bit grey values."""
    return np.asarray(page).astype(np.uint16)


def _brightest(picture: ImageFile.ImageFile, count: int, name: str) -> int:
    """The brightest pixel of 16 bits in any frame; 0 where there is none."""
    pages = (_page(picture, i, name) for i in range(count))
    return max((int(_deep(page).max()) for page in pages if _is_deep(page)), default=0)


def _pixels(page: Image.Image, brightest: int, name: str) -> np.ndarray:
    if not _is_deep(page):
        return _decoded(lambda: np.array(without_alpha(page).convert("RGB")), name)
    return np.repeat(to_8_bits(_deep(page), brightest)[..., None], 3, axis=2)
