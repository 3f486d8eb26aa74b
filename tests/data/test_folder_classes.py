"""What the numbers and colours in the masks of a user's folder mean."""

import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mbu_jax.data.folder.classes import MAX_CLASSES, find_classes, read_labels
from mbu_jax.errors import InputError
from tests.data.own_folder import labels, noise, opened, pair, refusal


@pytest.mark.parametrize(
    ("numbers", "said"),
    [
        ([0], "no mask marks an object, all are 0 everywhere (such as 0.png);"),
        ([255], "no mask has the value 0, the background (such as 255.png); make it 0,"),
        ([1, 2], "(such as 1.png); make it 0, which is black (transparency is not read), or"),
        ([0, 1, 255], "255.png has the value 255 and 1.png the value 1; use 0 and 255 alone"),
        ([0, 1, 3], "3.png has the value 3, but no mask has 2; number the classes"),
        ([0, 128], f"128.png has the value 128; use 0 and 255, or .* up to {MAX_CLASSES - 1} "),
    ],
)
def test_numbers_that_mean_nothing_are_told(numbers, said):
    pattern = said if ".*" in said else re.escape(said)
    with pytest.raises(InputError, match=pattern):
        find_classes({number: f"{number}.png" for number in numbers})


@pytest.mark.parametrize(
    ("numbers", "classes"), [([0, 1], 1), ([0, 255], 1), ([0, 1, 2], 3), ([3, 0, 2, 1], 4)]
)
def test_numbers_that_mean_classes(numbers, classes):
    assert find_classes(dict.fromkeys(numbers, "a.png")) == classes


@pytest.mark.parametrize(
    ("numbers", "classes"), [([0], 1), ([1], 1), ([255], 1), ([1, 2], 3), ([2], 5)]
)
def test_other_data_may_lack_classes_and_background(numbers, classes):
    assert find_classes(dict.fromkeys(numbers, "a.png"), classes) == classes


def _file(tmp_path: Path, picture: Image.Image, name: str) -> np.ndarray:
    picture.save(tmp_path / name)
    return read_labels((tmp_path / name).read_bytes(), name)


def test_numbers_are_read_whatever_the_file(tmp_path):
    truth = labels(5)
    eight = Image.fromarray(truth.astype(np.uint8))
    for name in ("a.png", "a.tif", "a.bmp", "a.gif"):
        np.testing.assert_array_equal(_file(tmp_path, eight, name), truth)
    for dtype in (np.uint16, np.int32, np.float32):
        np.testing.assert_array_equal(
            _file(tmp_path, Image.fromarray(truth.astype(dtype)), "a.tif"), truth
        )
    np.testing.assert_array_equal(_file(tmp_path, eight.convert("RGB"), "a.png"), truth)
    alpha = Image.fromarray(noise()[..., 0])
    grey_alpha, rgba = eight.convert("LA"), eight.convert("RGBA")
    grey_alpha.putalpha(alpha)
    rgba.putalpha(alpha)
    for picture in (grey_alpha, rgba):
        np.testing.assert_array_equal(_file(tmp_path, picture, "a.png"), truth)


@pytest.mark.parametrize("bits", [2, 4])
def test_numbers_of_few_bits_are_no_brightness(tmp_path, bits):
    truth = labels(3)
    assert set(truth.flat) == {0, 1, 2, 3}
    picture = Image.fromarray(truth.astype(np.uint8))
    picture.save(tmp_path / "a.png", bits=bits)
    data = (tmp_path / "a.png").read_bytes()
    assert data[24] == bits
    np.testing.assert_array_equal(read_labels(data, "a.png"), truth)


def test_a_palette_of_greys_is_looked_up_and_one_of_colours_is_not(tmp_path):
    truth = labels(2)
    picture = Image.fromarray(truth.astype(np.uint8))
    picture.putpalette([255, 255, 255, 0, 0, 0, 128, 128, 128])
    np.testing.assert_array_equal(_file(tmp_path, picture, "a.png"), np.array([255, 0, 128])[truth])
    picture.putpalette([0, 0, 0, 255, 255, 255, 200, 30, 30])
    np.testing.assert_array_equal(_file(tmp_path, picture, "a.png"), truth)


def _paint(path: Path, truth: np.ndarray, *palette: int) -> None:
    picture = Image.fromarray(truth.astype(np.uint8))
    picture.putpalette(palette)
    picture.save(path)


def test_a_palette_that_differs_from_file_to_file_is_told(tmp_path):
    root = tmp_path / "cells"
    for name, colour in (("a", (255, 0, 0)), ("b", (255, 0, 0)), ("c", (0, 255, 0))):
        pair(root, name)
        _paint(root / "masks" / f"{name}.png", labels(1), 0, 0, 0, *colour)
    said = refusal(root)
    assert "masks/c.png shows the number 1 in the colour (0, 255, 0), that of " in said
    assert "masks/a.png in (255, 0, 0);" in said
    _paint(root / "masks" / "c.png", labels(1), 0, 0, 0, 255, 0, 0, 0, 255, 0)
    assert opened(root).classes == 1


def test_masks_painted_on_transparent_white_are_told(tmp_path):
    root = tmp_path / "cells"
    for name in "ab":
        white = np.full((9, 7, 3), 255, np.uint8)
        pair(root, name, np.dstack([white, labels(1).astype(np.uint8) * 255]))
    assert "masks/a.png); make it 0, which is black (transparency is not read)" in refusal(root)
    pair(root, "a")  # one image may be full of objects where others are not
    assert opened(root).classes == 1


def test_numbered_objects_may_have_other_colours_in_every_file(tmp_path):
    root = tmp_path / "cells"
    for name, colour in (("a", (255, 0, 0)), ("b", (0, 255, 0))):
        pair(root, name, labels(1).astype(np.uint8), kind="instances")
        _paint(root / "instances" / f"{name}.png", labels(1), 0, 0, 0, *colour)
    assert len(opened(root)) == 2
    _paint(root / "instances" / "b.png", labels(1), 0, 255, 0, 0, 0, 0)
    assert "instances/b.png shows the number 1 in black" in refusal(root)
