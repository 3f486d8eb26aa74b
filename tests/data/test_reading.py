"""Checked decoding: every accepted kind of file, and every kind of damage."""

import io
import struct
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from mbu_jax.data.reading import MAX_PIXELS, read_image, read_mask, scale_image, scale_mask
from mbu_jax.errors import InputError

GREY = np.array([[0, 1, 128], [255, 7, 0]], np.uint8)
COLOUR = np.arange(2 * 3 * 3, dtype=np.uint8).reshape(2, 3, 3) * 13


def _chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def _png(samples: np.ndarray, bits: int, colour_type: int, extra: bytes = b"") -> bytes:
    """A PNG written from its specification: samples [H, W * channels], already in 1 or 2 bytes."""
    height, width = samples.shape[:2]
    rows = samples.astype(">u2" if bits == 16 else np.uint8).reshape(height, -1)
    scanlines = b"".join(b"\0" + row.tobytes() for row in rows)
    return (
        b"\x89PNG\r\n\x1a\n"
        + _chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, bits, colour_type, 0, 0, 0))
        + extra
        + _chunk(b"IDAT", zlib.compress(scanlines))
        + _chunk(b"IEND", b"")
    )


def _with_alpha(values: np.ndarray) -> np.ndarray:
    """Appends an alpha that, were it blended rather than dropped, would change every pixel."""
    stacked = values if values.ndim == 3 else values[..., None]
    alpha = np.full((*values.shape[:2], 1), 100, values.dtype)
    return np.concatenate([stacked, alpha], axis=2)


def _saved(picture: Image.Image, kind: str, **options) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, kind, **options)
    return buffer.getvalue()


PALETTE = _chunk(b"PLTE", bytes([0, 0, 0, 10, 20, 30, 250, 240, 230]))
INDEX = np.array([[0, 1, 2], [2, 1, 0]], np.uint8)
LOOKED_UP = np.array([[0, 0, 0], [10, 20, 30], [250, 240, 230]], np.uint8)[INDEX]


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        pytest.param(_png(GREY, 8, 0), np.dstack([GREY] * 3), id="grey"),
        pytest.param(_png(_with_alpha(GREY), 8, 4), np.dstack([GREY] * 3), id="grey+alpha"),
        pytest.param(_png(COLOUR, 8, 2), COLOUR, id="rgb"),
        pytest.param(_png(_with_alpha(COLOUR), 8, 6), COLOUR, id="rgba"),
        pytest.param(_png(INDEX, 8, 3, PALETTE), LOOKED_UP, id="palette"),
        pytest.param(
            _png(INDEX, 8, 3, PALETTE + _chunk(b"tRNS", b"\x00\x40\xff")),
            LOOKED_UP,
            id="palette+transparency",
        ),
        pytest.param(
            _png(GREY, 8, 0, _chunk(b"tRNS", b"\x00\x80")),
            np.dstack([GREY] * 3),
            id="grey+transparent colour",
        ),
        pytest.param(
            _png(np.array([[0b10000000]]), 1, 0),
            np.full((1, 1, 3), 255, np.uint8),
            id="one bit",
        ),
    ],
)
def test_image_kinds(data, expected):
    image = read_image(data, "a.png")
    assert image.dtype == np.uint8
    assert image.flags.c_contiguous
    np.testing.assert_array_equal(image, expected)


@pytest.mark.parametrize("brightest", [255, 256, 1023, 1024, 4095, 16383, 16384, 65535])
def test_16_bit_grey_is_scaled_by_its_bit_depth(brightest):
    values = np.array([[0, brightest // 3, brightest // 2, brightest]], np.uint16)
    full_scale = next(2**b - 1 for b in (8, 10, 12, 14, 16) if brightest < 2**b)
    expected = np.floor(values.astype(float) * 255 / full_scale + 0.5)
    image = read_image(_png(values, 16, 0), "a.png")
    np.testing.assert_array_equal(image, np.dstack([expected] * 3))


@pytest.mark.parametrize("colour_type", [2, 4, 6])
def test_16_bit_colour_is_refused(colour_type):
    channels = {2: 3, 4: 2, 6: 4}[colour_type]
    data = _png(np.ones((2, 2, channels), np.uint16), 16, colour_type)
    for read in (read_image, read_mask):
        with pytest.raises(InputError, match=r"^a\.png is a 16-bit PNG .*; save it as 8-bit"):
            read(data, "a.png")


def test_jpeg_and_gif_images():
    flat = np.full((16, 24, 3), (200, 60, 30), np.uint8)
    image = read_image(_saved(Image.fromarray(flat), "jpeg", quality=95), "a.jpg")
    assert np.abs(image.astype(int) - flat).max() <= 3
    gif = _saved(Image.fromarray(flat).quantize(4), "gif")
    np.testing.assert_array_equal(read_image(gif, "a.gif"), flat)


OBJECT = np.array([[0, 1, 1], [1, 0, 0]], np.uint8)


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(_png(OBJECT, 8, 0), id="0/1"),
        pytest.param(_png(OBJECT * 255, 8, 0), id="0/255"),
        pytest.param(_png(OBJECT.astype(np.uint16) * 200, 16, 0), id="16 bits, dark"),
        pytest.param(_png(_with_alpha(OBJECT), 8, 4), id="grey+alpha"),
        pytest.param(
            _png(np.dstack([OBJECT * 0, OBJECT, OBJECT * 0]), 8, 2), id="rgb, one channel"
        ),
        pytest.param(_png(_with_alpha(np.dstack([OBJECT] * 3)), 8, 6), id="rgba"),
        pytest.param(_png(OBJECT * 2, 8, 3, PALETTE), id="palette"),
        pytest.param(_saved(Image.fromarray(OBJECT * 255).convert("1"), "png"), id="one bit"),
        pytest.param(_saved(Image.fromarray(OBJECT * 255), "gif"), id="gif"),
    ],
)
def test_mask_kinds(data):
    mask = read_mask(data, "mask.png")
    assert mask.dtype == bool
    np.testing.assert_array_equal(mask, OBJECT == 1)


def test_a_mask_s_palette_counts_not_its_index():
    # Index 0 is white here: the colour says object, the index would say background.
    white_first = _chunk(b"PLTE", bytes([255, 255, 255, 0, 0, 0]))
    mask = read_mask(_png(OBJECT, 8, 3, white_first), "mask.png")
    np.testing.assert_array_equal(mask, OBJECT == 0)


VICTIM = _png(COLOUR, 8, 2)


@pytest.mark.parametrize("end", range(len(VICTIM)))
def test_every_truncation_of_a_png_is_told(end):
    with pytest.raises(InputError, match=r"^a\.png is "):
        read_image(VICTIM[:end], "a.png")


@pytest.mark.parametrize("at", range(len(VICTIM)))
def test_every_flipped_byte_of_a_png_is_told(at):
    damaged = bytearray(VICTIM)
    damaged[at] ^= 0x10
    with pytest.raises(InputError, match=r"^a\.png is .*; (copy|convert|replace)"):
        read_image(bytes(damaged), "a.png")


def test_valid_chunks_around_broken_pixels_are_told():
    header = struct.pack(">IIBBBBB", 3, 2, 8, 0, 0, 0, 0)
    for pixels in (b"not zlib", zlib.compress(b"\0")):
        data = VICTIM[:8] + _chunk(b"IHDR", header) + _chunk(b"IDAT", pixels) + _chunk(b"IEND", b"")
        with pytest.raises(InputError, match=r"^a\.png will not decode .*; replace"):
            read_image(data, "a.png")


JPEG = _saved(Image.fromarray(np.arange(4800, dtype=np.uint8).reshape(40, 40, 3)), "jpeg")
GIF = _saved(Image.fromarray(np.arange(1600, dtype=np.uint8).reshape(40, 40)), "gif")


@pytest.mark.parametrize(("data", "name"), [(JPEG, "a.jpg"), (GIF, "a.gif")])
def test_a_truncated_jpeg_or_gif_is_told(data, name):
    for end in (5, 20, len(data) // 2):
        with pytest.raises(InputError, match=f"^{name} "):
            read_image(data[:end], name)


@settings(max_examples=150, deadline=None)
@given(
    data=st.sampled_from([JPEG, GIF]),
    changes=st.lists(st.tuples(st.integers(3, 2000), st.integers(0, 255)), min_size=1, max_size=8),
)
def test_damage_gives_an_image_or_an_input_error(data, changes):
    damaged = bytearray(data)
    for at, value in changes:
        damaged[at % len(data)] = value
    for read in (read_image, read_mask):
        try:
            result = read(bytes(damaged), "a")
        except InputError as error:
            assert str(error).startswith("a ")  # noqa: PT017 (either outcome is allowed)
        else:
            assert result.shape[0] * result.shape[1] <= MAX_PIXELS


def _huge_jpeg() -> bytes:
    at = JPEG.index(b"\xff\xc0") + 5
    return JPEG[:at] + struct.pack(">HH", 65500, 65500) + JPEG[at + 4 :]


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(
            VICTIM[:8]
            + _chunk(b"IHDR", struct.pack(">IIBBBBB", 2**16, 2**16, 8, 0, 0, 0, 0))
            + _chunk(b"IDAT", zlib.compress(bytes(2**16)))
            + _chunk(b"IEND", b""),
            id="png",
        ),
        pytest.param(_huge_jpeg(), id="jpeg"),
        pytest.param(GIF[:6] + struct.pack("<HH", 65000, 65000) + GIF[10:], id="gif"),
    ],
)
def test_absurd_sizes_are_refused_before_decoding(data):
    with pytest.raises(InputError, match=r"^bomb says it has \d{5}x\d{5} pixels, outside"):
        read_image(data, "bomb")


@pytest.mark.parametrize("data", [b"", b"II*\0 a TIFF", b"%PDF-1.4", b"\x89PNX\r\n\x1a\n"])
def test_other_formats_are_refused(data):
    with pytest.raises(InputError, match=r"^a\.tif is not a PNG, JPEG, GIF or BMP file; conv"):
        read_image(data, "a.tif")


def test_a_bitmap_is_read_whole_or_refused():
    values = np.random.default_rng(0).integers(0, 256, (5, 6, 3)).astype(np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(values).save(buffer, "bmp")
    data = buffer.getvalue()
    np.testing.assert_array_equal(read_image(data, "a.bmp"), values)
    for length in (2, 20, 53, len(data) - 3):
        with pytest.raises(InputError, match=r"^a\.bmp will not decode"):
            read_image(data[:length], "a.bmp")
    huge = data[:18] + struct.pack("<ii", 60000, 60000) + data[26:]
    with pytest.raises(InputError, match=r"^a\.bmp says it has 60000x60000 pixels, outside"):
        read_image(huge, "a.bmp")


def test_halving_an_image_averages_and_a_mask_does_not_blur():
    step = np.zeros((8, 8, 3), np.uint8)
    step[:, 4:] = 200
    halved = scale_image(step, (4, 4))
    assert halved.shape == (4, 4, 3)
    # The triangle filter is as wide as four of the old pixels: weights 1/8, 3/8, 3/8, 1/8.
    np.testing.assert_array_equal(halved[1, :, 0], [0, 25, 175, 200])
    mask = scale_mask(step[..., 0] > 0, (5, 3))
    assert mask.dtype == bool
    np.testing.assert_array_equal(mask, [[False, True, True]] * 5)
