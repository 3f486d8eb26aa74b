"""Masks in colours: numbers that mean the same in every file, and numbers that do not."""

import io

import numpy as np
import pytest
from PIL import Image

from mbu_jax.data.folder.palettes import Palettes, read_colours
from mbu_jax.errors import InputError

BLACK, RED, GREEN, WHITE = (0, 0, 0), (255, 0, 0), (0, 255, 0), (255, 255, 255)


def encoded(picture: Image.Image, kind: str) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, kind)
    return buffer.getvalue()


def painted(*colours: tuple[int, int, int]) -> Image.Image:
    """Objects of these colours on black."""
    pixels = np.zeros((20, 20, 3), np.uint8)
    for row, colour in enumerate(colours):
        pixels[5 * row : 5 * row + 3, 4:9] = colour
    return Image.fromarray(pixels)


def indexed(numbers: list[int], palette: list[int], mode: str = "P") -> Image.Image:
    picture = Image.fromarray(np.array([numbers], np.uint8))
    picture.putpalette(palette)
    return picture.convert(mode)


@pytest.mark.parametrize("kind", ["png", "gif", "tiff", "bmp"])
def test_colours_of_the_numbers_that_occur(kind):
    data = encoded(indexed([0, 1, 1], [*BLACK, *RED, *GREEN]), kind)
    assert read_colours(data, "mask") == {0: BLACK, 1: RED}


def test_colours_beside_transparency():
    data = encoded(indexed([0, 2], [*BLACK, *RED, *GREEN], "PA"), "tiff")
    assert read_colours(data, "mask") == {0: BLACK, 2: GREEN}


@pytest.mark.parametrize(
    "picture", [Image.new("L", (2, 2)), Image.new("RGB", (2, 2), RED), indexed([0], [*WHITE])]
)
def test_greys_and_colours_without_numbers_have_none(picture):
    assert read_colours(encoded(picture, "png"), "mask") == {}


@pytest.mark.parametrize("kind", ["png", "gif"])
def test_pictures_that_were_reduced_to_a_palette_are_told(kind):
    pictures = [painted(RED), painted(GREEN), painted(RED, GREEN)]
    for i, picture in enumerate(pictures):
        if kind == "png":
            picture = picture.convert("P", palette=Image.Palette.ADAPTIVE)
        colours = read_colours(encoded(picture, kind), f"{i}")
        black = max(colours)
        assert colours[black] == BLACK != colours[0]
        with pytest.raises(InputError) as caught:
            Palettes().add(colours, f"{i}.{kind}")
        assert str(caught.value).startswith(
            f"the palette of {i}.{kind} shows the number {black} in black (0, 0, 0), but that of"
            f" {i}.{kind} the background, 0, in the colour {colours[0]}; save masks in grey"
        )


def test_a_number_of_two_colours_is_told():
    palettes = Palettes()
    palettes.add({0: WHITE, 1: RED, 2: GREEN}, "a.png")
    palettes.add({0: WHITE}, "b.png")
    with pytest.raises(InputError) as caught:
        palettes.add({0: WHITE, 1: GREEN}, "c.png")
    assert str(caught.value).startswith(
        "the palette of c.png shows the number 1 in the colour (0, 255, 0), that of a.png in"
        " (255, 0, 0); save masks in grey"
    )


@pytest.mark.parametrize(
    ("first", "second"), [({0: RED, 2: GREEN}, {1: BLACK}), ({1: BLACK}, {0: RED})]
)
def test_black_that_is_not_the_background_is_told_across_files(first, second):
    palettes = Palettes()
    palettes.add(first, "a.png")
    with pytest.raises(InputError, match=r"number 1 in black .* the background, 0, in the colour"):
        palettes.add(second, "b.png")


def test_one_palette_for_all_is_no_fault():
    palettes = Palettes()
    for i, (numbers, palette) in enumerate(
        [
            ([0, 1, 2], [*BLACK, *RED, *GREEN]),
            ([0, 2], [*BLACK, *WHITE, *GREEN]),  # other colours where nothing occurs
            ([0, 1], [*BLACK, *RED] + [0] * 762),
            ([1, 2], [*BLACK, *RED, *GREEN]),
            ([0, 3], [*BLACK, *RED, *GREEN, *BLACK]),  # a class that the tool gave no colour
        ]
    ):
        palettes.add(read_colours(encoded(indexed(numbers, palette), "png"), f"{i}"), f"{i}")
