"""Augmentation: image, mask and instances move together, and colours change nothing else."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from mbu_jax.data.augment import (
    NO_AUGMENTATION,
    AugmentOptions,
    View,
    _hue_matrix,
    augment,
    jitter_colours,
)
from mbu_jax.data.example import Example
from mbu_jax.errors import InputError

TURNS = AugmentOptions(scale=(1, 1), jitter=0, colour=0)


def random_example(seed: int, height: int, width: int) -> Example:
    rng = np.random.default_rng(seed)
    instances = rng.integers(0, 900, (height, width), dtype=np.uint16)
    image = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Example(
        id="a", image=image, mask=(instances > 300).astype(np.uint8), instances=instances
    )


def dihedral(array: np.ndarray) -> list[np.ndarray]:
    """The eight mirrored and turned copies."""
    return [np.rot90(a, k) for a in (array, array[::-1]) for k in range(4)]


@given(
    seed=st.integers(0, 2**32 - 1),
    size=st.tuples(st.integers(1, 40), st.integers(1, 40)),
    crop=st.none() | st.tuples(st.integers(1, 50), st.integers(1, 50)),
    low=st.floats(0.3, 1),
    high=st.floats(1, 3),
    flip=st.booleans(),
    rotate=st.booleans(),
)
@settings(max_examples=80, deadline=None)
def test_labels_and_image_move_together(
    seed: int,
    size: tuple[int, int],
    crop: tuple[int, int] | None,
    low: float,
    high: float,
    flip: bool,
    rotate: bool,
) -> None:
    """The image holds each pixel's own coordinates, the instances its own number."""
    height, width = size
    y, x = np.mgrid[:height, :width]
    image = np.stack([5 * y, 5 * x, 0 * x], axis=-1).astype(np.uint8)
    instances = (y * width + x).astype(np.uint16)
    example = Example(
        id="a", image=image, mask=(instances % 2).astype(np.uint8), instances=instances
    )
    options = AugmentOptions(flip=flip, rotate=rotate, scale=(low, high), jitter=0, colour=0)
    result = augment(example, np.random.default_rng(seed), options, crop)
    assert result["mask"].shape == result["instances"].shape == (crop or size)
    assert result["image"].shape == (*(crop or size), 3)
    np.testing.assert_array_equal(result["mask"], result["instances"] % 2)
    source_y, source_x = np.divmod(result["instances"].astype(int), width)
    # Nearest is at most half a pixel from where bilinear looks; 5 grey levels make one pixel.
    assert np.abs(result["image"][..., 0] / 5 - source_y).max() <= 0.5 + 0.11
    assert np.abs(result["image"][..., 1] / 5 - source_x).max() <= 0.5 + 0.11


@given(seed=st.integers(0, 2**32 - 1), height=st.integers(8, 20), width=st.integers(8, 20))
@settings(max_examples=50, deadline=None)
def test_crop_without_scale_is_an_exact_window(seed: int, height: int, width: int) -> None:
    example = random_example(0, height, width)
    result = augment(example, np.random.default_rng(seed), TURNS, crop=(8, 8))
    windows = [
        (slice(top, top + 8), slice(left, left + 8))
        for top, left in itertools.product(range(height - 7), range(width - 7))
    ]
    # Random contents make a wrong match next to impossible.
    matches = [
        index
        for window in windows
        for index, variant in enumerate(dihedral(example["instances"][window]))
        if np.array_equal(variant, result["instances"])
        and np.array_equal(dihedral(example["image"][window])[index], result["image"])
        and np.array_equal(dihedral(example["mask"][window])[index], result["mask"])
    ]
    assert len(matches) == 1


def test_every_turn_and_mirroring_is_about_equally_likely() -> None:
    example = random_example(0, 6, 6)
    variants = dihedral(example["image"])
    rng = np.random.default_rng(0)
    seen = [augment(example, rng, TURNS)["image"] for _ in range(1600)]
    counts = [sum(np.array_equal(v, s) for s in seen) for v in variants]
    assert sum(counts) == 1600
    assert min(counts) > 150
    assert max(counts) < 250


@pytest.mark.parametrize(
    ("options", "allowed"),
    [
        (AugmentOptions(flip=False, scale=(1, 1), jitter=0, colour=0), [0, 1, 2, 3]),
        (AugmentOptions(rotate=False, scale=(1, 1), jitter=0, colour=0), [0, 2, 4, 6]),
    ],
)
def test_rotations_alone_and_mirrorings_alone(options: AugmentOptions, allowed: list[int]) -> None:
    example = random_example(0, 5, 5)
    variants = [v.tobytes() for v in dihedral(example["image"])]
    rng = np.random.default_rng(0)
    seen = {variants.index(augment(example, rng, options)["image"].tobytes()) for _ in range(100)}
    assert seen == set(allowed)


def test_oblong_images_keep_their_shape_and_are_turned_by_half() -> None:
    example = random_example(0, 4, 7)
    variants = [v.tobytes() for v in dihedral(example["mask"])]
    rng = np.random.default_rng(0)
    seen = set()
    for _ in range(100):
        result = augment(example, rng, TURNS)["mask"]
        assert result.shape == (4, 7)
        seen.add(variants.index(result.tobytes()))
    assert seen == {0, 2, 4, 6}


def test_crop_past_the_border_is_a_reflection() -> None:
    example = random_example(0, 6, 9)
    options = AugmentOptions(flip=False, rotate=False, scale=(1, 1), jitter=0, colour=0)
    result = augment(example, np.random.default_rng(3), options, crop=(12, 18))
    padded = np.pad(example["image"], ((6, 6), (9, 9), (0, 0)), mode="symmetric")
    windows = [
        padded[top : top + 12, left : left + 18]
        for top, left in itertools.product(range(7), range(10))
    ]
    assert sum(np.array_equal(result["image"], window) for window in windows) == 1


def test_scale_is_log_uniform() -> None:
    """A ramp of slope 4 a pixel shows the magnification as its slope."""
    x = np.mgrid[:60, :60][1]
    image = np.stack([4 * x] * 3, axis=-1).astype(np.uint8)
    example = Example(id="a", image=image, mask=np.zeros((60, 60), np.uint8))
    options = AugmentOptions(flip=False, rotate=False, scale=(0.5, 2), jitter=0, colour=0)
    rng = np.random.default_rng(0)
    slopes = []
    for _ in range(300):
        ramp = augment(example, rng, options, crop=(20, 20))["image"][0, :, 0].astype(float)
        slopes.append((ramp[-1] - ramp[0]) / 19)
    octaves = np.log2(4 / np.array(slopes))
    assert octaves.min() > -1.05
    assert octaves.max() < 1.05
    assert np.histogram(octaves, bins=4, range=(-1, 1))[0] == pytest.approx([75] * 4, abs=30)


def test_bilinear_against_scipy() -> None:
    image = random_example(0, 13, 17)["image"]
    rows, columns = np.linspace(0.3, 11.8, 9), np.linspace(1.1, 15.7, 11)
    mesh = np.stack(np.meshgrid(rows, columns, indexing="ij"))
    expected = [
        ndimage.map_coordinates(image[..., c].astype(float), mesh, order=1) for c in range(3)
    ]
    result = View(rows, columns).image(image)
    # Each axis rounds once to whole grey levels, with weights of 1/128.
    assert np.abs(result - np.stack(expected, axis=-1)).max() <= 2.1


def test_nothing_is_changed_without_augmentation() -> None:
    example = random_example(0, 11, 14)
    result = augment(example, np.random.default_rng(0), NO_AUGMENTATION)
    for key in ("image", "mask", "instances"):
        np.testing.assert_array_equal(result[key], example[key])
        assert result[key].dtype == example[key].dtype
        assert not np.shares_memory(result[key], example[key])


def test_input_is_never_written_to() -> None:
    example = random_example(0, 16, 16)
    for array in (example["image"], example["mask"], example["instances"]):
        array.setflags(write=False)
    for seed in range(20):
        options = AugmentOptions(jitter=1, colour=1, invert=0.5, grey=0.5)
        result = augment(example, np.random.default_rng(seed), options, crop=(8, 8))
        assert result["image"].flags.c_contiguous
        assert result["mask"].flags.c_contiguous


def test_same_generator_state_same_variant() -> None:
    example = random_example(0, 20, 20)
    first, second, third = (
        augment(example, np.random.default_rng(seed), AugmentOptions(), (16, 16))["image"]
        for seed in (4, 4, 5)
    )
    np.testing.assert_array_equal(first, second)
    assert not np.array_equal(first, third)


def test_jitter_leaves_geometry_alone() -> None:
    example = random_example(0, 20, 20)
    loud = AugmentOptions(jitter=1, colour=1, invert=0.5, grey=0.5)
    quiet = AugmentOptions(jitter=0, colour=0)
    for seed in range(10):
        a = augment(example, np.random.default_rng(seed), loud)
        b = augment(example, np.random.default_rng(seed), quiet)
        np.testing.assert_array_equal(a["instances"], b["instances"])
        assert not np.array_equal(a["image"], b["image"])


def test_invert_and_grey() -> None:
    image = random_example(0, 9, 9)["image"]
    rng = np.random.default_rng(0)
    negative = jitter_colours(image, rng, AugmentOptions(jitter=0, colour=0, invert=1))
    np.testing.assert_array_equal(negative, 255 - image)
    grey = jitter_colours(image, rng, AugmentOptions(jitter=0, colour=0, grey=1)).astype(int)
    luma = image @ np.array([0.299, 0.587, 0.114])
    assert np.abs(grey - luma[..., None]).max() <= 0.51


def test_intensity_jitter_is_monotonic_and_keeps_grey_images_grey() -> None:
    ramp = np.repeat(np.arange(256, dtype=np.uint8)[None, :, None], 3, axis=2)
    for seed in range(50):
        options = AugmentOptions(jitter=1, colour=0)
        result = jitter_colours(ramp, np.random.default_rng(seed), options).astype(int)
        assert (np.diff(result[0], axis=0) >= 0).all()
        assert (result == result[..., :1]).all()
        assert result.max() - result.min() > 100


def test_hue_keeps_the_luma() -> None:
    image = random_example(0, 12, 12)["image"].astype(float)
    luma = np.array([0.299, 0.587, 0.114])
    for angle in (-1.0, -0.2, 0.4, 1.0):
        matrix = _hue_matrix(angle, 1.3)[:, :3]
        turned = image @ matrix.T
        np.testing.assert_allclose(turned @ luma, image @ luma)
        assert np.abs(turned - image).max() > 2
    np.testing.assert_allclose(_hue_matrix(0.7, 1.6)[:, :3] @ np.ones(3), np.ones(3))
    np.testing.assert_allclose(_hue_matrix(0.0, 1.0)[:, :3], np.eye(3), atol=1e-12)


@pytest.mark.parametrize(
    ("options", "name"),
    [
        ({"scale": (1.4, 0.7)}, "scale"),
        ({"scale": (0.0, 1.0)}, "scale"),
        ({"jitter": 1.5}, "jitter"),
        ({"colour": -0.1}, "colour"),
        ({"invert": 2.0}, "invert"),
        ({"grey": float("nan")}, "grey"),
    ],
)
def test_bad_options_are_named(options: dict, name: str) -> None:
    with pytest.raises(InputError, match=f"option {name} is"):
        AugmentOptions(**options)
