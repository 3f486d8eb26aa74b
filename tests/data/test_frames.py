import importlib
import io
import struct
import sys
import zlib

import numpy as np
import pytest
from PIL import ExifTags, Image, ImageOps

from mbu_jax.data.frames import decode_labels, read_frames
from mbu_jax.data.reading import read_image
from mbu_jax.errors import InputError

PHOTOMETRIC, EXTRA_SAMPLES = 262, 338  # TIFF tags


def grey(value: int, side: int = 8) -> Image.Image:
    return Image.new("L", (side, side + 2), value)


def deep(value: int) -> Image.Image:
    return Image.fromarray(np.full((6, 5), value, np.uint16))


@pytest.mark.parametrize("kind", ["png", "jpeg", "gif", "tiff", "bmp"])
def test_a_still_reads_as_the_datasets_read_it(tmp_path, kind):
    values = np.random.default_rng(0).integers(0, 256, (9, 7, 3)).astype(np.uint8)
    path = tmp_path / f"a.{kind}"
    Image.fromarray(values).save(path)
    frames = read_frames(path)
    (image,) = frames.images
    assert frames.count == 1
    if kind != "tiff":
        np.testing.assert_array_equal(image, read_image(path.read_bytes(), "a"))
    if kind in ("png", "tiff", "bmp"):
        np.testing.assert_array_equal(image, values)


@pytest.mark.parametrize("name", ["a.gif", "a.png", "a.tif"])
def test_frames_come_in_order(tmp_path, name):
    path = tmp_path / name
    grey(10).save(path, save_all=True, append_images=[grey(100), grey(200)])
    frames = read_frames(path)
    images = list(frames.images)
    assert frames.count == len(images) == 3
    assert [image.shape for image in images] == [(10, 8, 3)] * 3
    assert [int(image.mean()) for image in images] == [10, 100, 200]


# How a camera stores what is upright, by NumPy's own functions.
STORED = {
    1: lambda a: a,
    2: np.fliplr,
    3: lambda a: np.rot90(a, 2),
    4: np.flipud,
    5: lambda a: a.swapaxes(0, 1),
    6: np.rot90,
    7: lambda a: np.rot90(a, 2).swapaxes(0, 1),
    8: lambda a: np.rot90(a, -1),
}


@pytest.mark.parametrize("kind", ["jpeg", "png", "tiff"])
@pytest.mark.parametrize("orientation", STORED)
def test_a_photograph_is_turned_upright(tmp_path, kind, orientation):
    upright = np.zeros((32, 48, 3), np.uint8)
    upright[:16, :24] = 255, 0, 0
    upright[:16, 24:] = 0, 0, 255
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    path = tmp_path / f"a.{kind}"
    stored = np.ascontiguousarray(STORED[orientation](upright))
    Image.fromarray(stored).save(path, exif=exif)
    with Image.open(path) as picture:
        viewed = np.asarray(ImageOps.exif_transpose(picture).convert("RGB"))
    (image,) = read_frames(path).images
    np.testing.assert_array_equal(image, viewed)
    assert image.shape == upright.shape
    assert np.abs(image.astype(int) - upright).mean() < 5  # colour at edges is lost in a JPEG


def test_an_animation_is_turned_upright(tmp_path):
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    path = tmp_path / "a.png"
    grey(10).save(path, save_all=True, append_images=[grey(100)], exif=exif)
    assert [image.shape for image in read_frames(path).images] == [(8, 10, 3)] * 2


@pytest.mark.parametrize("exif", [b"Exif\0\0nonsense", b"Exif\0\0MM\0*\0\0\0\x08\0\xff", b""])
def test_damaged_exif_says_nothing(tmp_path, exif):
    path = tmp_path / "a.jpg"
    grey(10).save(path, exif=exif)
    (image,) = read_frames(path).images
    assert image.shape == (10, 8, 3)


@pytest.mark.parametrize("orientation", [0, 9, 77])
def test_an_unknown_orientation_is_upright(tmp_path, orientation):
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    path = tmp_path / "a.jpg"
    grey(10).save(path, exif=exif)
    (image,) = read_frames(path).images
    assert image.shape == (10, 8, 3)


@pytest.mark.parametrize("mode", ["1", "L", "P", "LA", "RGB", "RGBA", "CMYK"])
def test_every_mode_of_tiff_becomes_rgb(tmp_path, mode):
    path = tmp_path / "a.tif"
    Image.new("RGB", (5, 4), (255, 255, 255)).convert(mode).save(path)
    (image,) = read_frames(path).images
    assert image.dtype == np.uint8
    np.testing.assert_array_equal(image, np.full((4, 5, 3), 255, np.uint8))


def tiff(picture: Image.Image, tags: dict[int, int] | None = None, **options) -> bytes:
    """A TIFF whose tags of one short number are overwritten after it was made."""
    content = io.BytesIO()
    picture.save(content, "tiff", **options)
    data = bytearray(content.getvalue())
    order = "big" if data.startswith(b"MM") else "little"
    for tag, value in (tags or {}).items():
        entry = tag.to_bytes(2, order) + (3).to_bytes(2, order) + (1).to_bytes(4, order)
        assert data.count(entry) == 1
        at = data.index(entry) + len(entry)
        data[at : at + 2] = value.to_bytes(2, order)
    return bytes(data)


def test_alpha_that_is_multiplied_in_is_dropped(tmp_path):
    picture = Image.new("LA", (5, 4), (200, 255))
    (tmp_path / "a.tif").write_bytes(tiff(picture, {EXTRA_SAMPLES: 1}))
    with Image.open(tmp_path / "a.tif") as opened:
        assert opened.mode == "La"
    (image,) = read_frames(tmp_path / "a.tif").images
    np.testing.assert_array_equal(image, np.full((4, 5, 3), 200, np.uint8))


@pytest.mark.parametrize("name", ["a.gif", "a.tif"])
def test_colours_that_are_not_understood_are_told(tmp_path, monkeypatch, name):
    def fail(_):
        raise ValueError("conversion from X to Y not supported")

    grey(1).save(tmp_path / name, save_all=True, append_images=[grey(2)])
    frames = read_frames(tmp_path / name)
    monkeypatch.setattr("mbu_jax.data.frames.without_alpha", fail)
    with pytest.raises(InputError, match=rf"{name} will not decode \(conversion from X to Y"):
        list(frames.images)


def channels(count: int, photometric: int, extra: list[int], planes: int = 1) -> bytes:
    """A TIFF of 8-bit samples, written from its specification: 3x2 pixels of 0."""
    bits = [8] * count
    tags: list[tuple[int, list[int]]] = [
        (256, [3]),
        (257, [2]),
        (258, bits),
        (259, [8 if planes == 2 else 1]),  # Pillow reads planes where they are compressed
        (262, [photometric]),
        (273, [8] * (count if planes == 2 else 1)),
        (277, [count]),
        (279, [6] * count if planes == 2 else [6 * count]),
        (284, [planes]),
        (EXTRA_SAMPLES, extra),
    ]
    after = 64 + 2 + 12 * len(tags) + 4
    directory, values = struct.pack("<H", len(tags)), b""
    for tag, numbers in tags:
        body = struct.pack(f"<{len(numbers)}H", *numbers)
        if len(body) > 4:
            place = struct.pack("<I", after + len(values))
            values += body
        else:
            place = body.ljust(4, b"\0")
        directory += struct.pack("<HHI", tag, 3, len(numbers)) + place
    return b"II*\0" + struct.pack("<I", 64) + bytes(56) + directory + bytes(4) + values


@pytest.mark.parametrize("planes", [1, 2])
@pytest.mark.parametrize(
    ("photometric", "extra"), [(1, [0]), (2, [0, 0]), (2, [0, 0, 0]), (2, [2, 0])]
)
def test_channels_that_would_be_left_out_are_told(tmp_path, photometric, extra, planes):
    count = (1 if photometric == 1 else 3) + len(extra)
    (tmp_path / "a.tif").write_bytes(channels(count, photometric, extra, planes))
    said = rf"a\.tif has {count} channels, which .*; save those to be used as grey or RGB"
    with pytest.raises(InputError, match=said):
        read_frames(tmp_path / "a.tif")


@pytest.mark.parametrize("extra", [0, 1, 2])
def test_one_channel_beside_rgb_is_left_out(tmp_path, extra):
    (tmp_path / "a.tif").write_bytes(channels(4, 2, [extra]))
    (image,) = read_frames(tmp_path / "a.tif").images
    assert image.shape == (2, 3, 3)


@pytest.mark.parametrize("big_endian", [False, True])
@pytest.mark.parametrize("compression", [None, "tiff_lzw"])
def test_numbers_are_as_stored_where_0_is_white(big_endian, compression):
    values = np.array([[0, 1, 2, 128, 255]], np.uint8)
    options = {"big_endian": big_endian, "compression": compression}
    picture = Image.fromarray(values)
    data = tiff(picture, {PHOTOMETRIC: 0}, **options)
    assert (np.asarray(Image.open(io.BytesIO(data))) != values).all()
    np.testing.assert_array_equal(decode_labels(data, "a.tif"), values)
    np.testing.assert_array_equal(decode_labels(tiff(picture, **options), "a.tif"), values)
    # As fax machines write what others show in black and white.
    black = tiff(Image.fromarray(values > 1), {PHOTOMETRIC: 0}, **options)
    np.testing.assert_array_equal(decode_labels(black, "a.tif"), values <= 1)


def test_numbers_are_as_stored_where_white_is_not_said():
    picture = Image.fromarray(np.array([[0, 1, 255]], np.uint8))
    data = tiff(picture).replace(b"\6\1\3\0", b"\7\1\3\0")  # another tag in its place
    np.testing.assert_array_equal(decode_labels(data, "a.tif"), picture)


def of_few_bits(values: np.ndarray, bits: int, kind: str) -> bytes:
    """A grey picture, written from the specification of PNG or TIFF."""
    height, width = values.shape
    spread = np.unpackbits(values[..., None], axis=-1)[..., -bits:]
    rows = np.packbits(spread.reshape(height, -1), axis=-1)
    if kind == "png":
        header = struct.pack(">IIBBBBB", width, height, bits, 0, 0, 0, 0)
        pixels = zlib.compress(b"".join(b"\0" + row.tobytes() for row in rows))
        parts = [(b"IHDR", header), (b"IDAT", pixels), (b"IEND", b"")]
        checked = (struct.pack(">I", zlib.crc32(name + body)) for name, body in parts)
        return b"\x89PNG\r\n\x1a\n" + b"".join(
            struct.pack(">I", len(body)) + name + body + check
            for (name, body), check in zip(parts, checked, strict=True)
        )
    tags = {256: width, 257: height, 258: bits, 259: 1, 262: int(kind == "black is 0"), 277: 1}
    tags |= {273: 8 + 2 + 12 * 8 + 4, 279: rows.size}
    entries = (struct.pack("<HHIHH", tag, 3, 1, tags[tag], 0) for tag in sorted(tags))
    return b"II*\0" + struct.pack("<IH", 8, 8) + b"".join(entries) + bytes(4) + rows.tobytes()


@pytest.mark.parametrize("kind", ["png", "black is 0", "white is 0"])
@pytest.mark.parametrize("bits", [2, 4])
def test_numbers_of_few_bits_are_as_stored(bits, kind):
    values = np.arange(2**bits, dtype=np.uint8).reshape(2, -1)
    data = of_few_bits(values, bits, kind)
    white = np.asarray(Image.open(io.BytesIO(data))).ravel()[-1 if kind != "white is 0" else 0]
    assert white == 255  # for the eye
    np.testing.assert_array_equal(decode_labels(data, "a"), values)


def test_deep_numbers_are_as_stored_where_0_is_white():
    values = np.array([[0, 1, 700, 65_535]], np.uint16)
    data = tiff(Image.fromarray(values), {PHOTOMETRIC: 0})
    np.testing.assert_array_equal(decode_labels(data, "a.tif"), values)


def test_an_image_keeps_its_look_where_0_is_white(tmp_path):
    (tmp_path / "a.tif").write_bytes(tiff(grey(10), {PHOTOMETRIC: 0}))
    (image,) = read_frames(tmp_path / "a.tif").images
    assert (image == 245).all()


@pytest.mark.parametrize("kind", ["png", "tiff"])
@pytest.mark.parametrize("mode", ["1", "L", "P", "I;16"])
@pytest.mark.parametrize("orientation", STORED)
def test_numbers_are_turned_as_an_image_is(tmp_path, kind, mode, orientation):
    upright = np.arange(1, 7, dtype=np.uint8).reshape(2, 3)
    if mode == "1":
        upright = upright > 4
    elif mode == "I;16":
        upright = upright * np.uint16(1000)
    picture = Image.fromarray(np.ascontiguousarray(STORED[orientation](upright)))
    if mode == "P":
        picture.putpalette(range(60))
    assert picture.mode == mode
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    path = tmp_path / "a"
    picture.save(path, kind, exif=exif)
    found = decode_labels(path.read_bytes(), "a")
    np.testing.assert_array_equal(found, upright)
    assert found.size == next(read_frames(path).images).shape[1::-1]
    if mode == "P":
        assert (found.getpalette() or [])[:21] == list(range(21))


@pytest.mark.parametrize("name", ["a.tif", "a.png"])
def test_a_deep_stack_is_scaled_alike(tmp_path, name):
    path = tmp_path / name
    deep(100).save(path, save_all=True, append_images=[deep(4095)])
    dim, bright = read_frames(path).images
    assert int(dim.mean()) == round(100 * 255 / 4095)
    assert int(bright.mean()) == 255


@pytest.mark.parametrize(
    ("picture", "said"),
    [
        (Image.fromarray(np.ones((4, 4), np.float32)), "32-bit F pixels; save it as 8-bit"),
        (Image.fromarray(np.ones((4, 4), np.int32)), "32-bit I pixels; save it as 8-bit"),
    ],
)
def test_pixels_without_a_known_scale_are_refused(tmp_path, picture, said):
    picture.save(tmp_path / "a.tif")
    with pytest.raises(InputError, match=said):
        read_frames(tmp_path / "a.tif")


def damaged(kind: str) -> bytes:
    content = io.BytesIO()
    noise = np.random.default_rng(0).integers(0, 256, (40, 40, 3)).astype(np.uint8)
    pictures = [Image.fromarray(noise), Image.fromarray(noise[::-1])]
    pictures[0].save(content, kind, save_all=True, append_images=pictures[1:])
    return content.getvalue()


@pytest.mark.parametrize("kind", ["png", "gif", "tiff"])
@pytest.mark.parametrize("share", [0.02, 0.3, 0.9])
def test_a_truncated_file_is_told(tmp_path, kind, share):
    data = damaged(kind)
    path = tmp_path / "a.bin"
    path.write_bytes(data[: int(len(data) * share)])
    with pytest.raises(InputError, match=r"a\.bin"):
        list(read_frames(path).images)


@pytest.mark.parametrize("name", ["notes.txt", "a.png", "empty.jpg"])
def test_another_kind_of_file_is_told(tmp_path, name):
    (tmp_path / name).write_bytes(b"" if "empty" in name else b"nothing to see")
    with pytest.raises(InputError, match=rf"{name} is not a PNG, .*TIFF, BMP or video file"):
        read_frames(tmp_path / name)


def test_a_missing_file_is_told(tmp_path):
    with pytest.raises(InputError, match="cannot be read"):
        read_frames(tmp_path / "a.png")


def test_a_video_without_pyav_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "av", None)
    (tmp_path / "clip.mp4").write_bytes(b"\0\0\0\x18ftypmp42")
    with pytest.raises(InputError, match=r"clip\.mp4 is a video, .*pip install av, or uv run"):
        read_frames(tmp_path / "clip.mp4")


def test_a_video_is_read_by_frame(tmp_path):
    pytest.importorskip("av", reason="PyAV is optional")
    av = importlib.import_module("av")
    path = tmp_path / "clip.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=5)
        stream.width, stream.height, stream.pix_fmt = 32, 16, "yuv420p"
        for value in (20, 120, 220):
            pixels = np.full((16, 32, 3), value, np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode())
    images = list(read_frames(path).images)
    assert [image.shape for image in images] == [(16, 32, 3)] * 3
    means = np.array([image.mean() for image in images])
    np.testing.assert_allclose(means, [20, 120, 220], atol=6)
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(InputError, match=r"clip\.mp4"):
        list(read_frames(path).images)
