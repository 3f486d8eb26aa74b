import importlib
import io
import sys

import numpy as np
import pytest
from PIL import ExifTags, Image, ImageOps

from mbu_jax.data.frames import read_frames
from mbu_jax.data.reading import read_image
from mbu_jax.errors import InputError


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


def test_a_deep_stack_is_scaled_alike(tmp_path):
    path = tmp_path / "a.tif"
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
