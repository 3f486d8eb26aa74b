import importlib
import itertools
import re
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mbu_jax.errors import InputError
from mbu_jax.inference import infer
from mbu_jax.instances import label_instances
from mbu_jax.predict import logits_to_mask, predict
from mbu_jax.tiling import seam_reach
from mbu_jax.unet import UNetConfig
from tests.random_packed import random_packed

REACH = seam_reach()


def mix(*parts: np.ndarray | np.uint32) -> Any:
    """Hash numbers into one: any change of any part changes the result."""
    mixed = np.full((), 0x9E3779B9, np.uint32)
    for part in parts:
        mixed = (mixed ^ np.asarray(part)) * np.uint32(0x85EBCA6B)
        mixed = mixed ^ (mixed >> np.uint32(15))
    return mixed


def conv3x3(x: np.ndarray) -> np.ndarray:
    padded = np.pad(x, ((0, 0), (1, 1), (1, 1)), constant_values=7)
    height, width = x.shape[1:]
    return mix(*(padded[:, i : i + height, j : j + width] for i in range(3) for j in range(3)))


def double_conv(x: np.ndarray) -> np.ndarray:
    return conv3x3(conv3x3(x))


def up_conv2x2(x: np.ndarray) -> np.ndarray:
    up = x.repeat(2, 1).repeat(2, 2)
    rows, columns = np.indices(up.shape[1:], np.uint32)
    return mix(up, rows % 2, columns % 2)


def whole_image(images: np.ndarray) -> np.ndarray:
    """Three logits a pixel from a network wired as the U-Net, of hashes instead of sums.

    Exact in any order, and no dependence can hide behind a threshold.
    """
    images = np.asarray(images)
    _, height, width, _ = images.shape
    border = ((0, 0), (0, -height % 16), (0, -width % 16), (0, 0))
    x = np.pad(images.astype(np.uint32), border, mode="edge")
    skips, x = [], double_conv(mix(*np.moveaxis(x, -1, 0)))
    for _ in range(4):
        skips.append(x)
        x = double_conv(mix(*(x[:, i::2, j::2] for i in range(2) for j in range(2))))
    for skip in reversed(skips):
        x = double_conv(mix(skip, up_conv2x2(x)))
    hashes = np.stack([mix(x, np.uint32(k)) for k in range(3)], axis=-1)[:, :height, :width]
    return (hashes >> np.uint32(8)).astype(np.float32) / 2**23 - 1


def picture(height: int, width: int, seed: int = 0) -> np.ndarray:
    """Blobs of all sizes, so that seams have something to differ in."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (-(-height // 16), -(-width // 16), 3))
    blobs = coarse.repeat(16, 0).repeat(16, 1)[:height, :width]
    return ((blobs + rng.integers(0, 256, (height, width, 3))) // 2).astype(np.uint8)


@pytest.mark.parametrize("size", [(330, 289), (500, 90), (257, 17)])
def test_tiles_give_what_the_whole_image_gives(size):
    image = picture(*size)
    whole = whole_image(image[None])[0]
    logits = predict(whole_image, image, tile=256, overlap=192, return_logits=True)
    assert logits.dtype == np.float32
    np.testing.assert_array_equal(logits, whole)
    mask = predict(whole_image, image, tile=256, overlap=192)
    assert mask.dtype == np.uint8
    np.testing.assert_array_equal(mask, whole.argmax(-1))


def test_the_default_gives_what_the_whole_image_gives():
    image = picture(1100, 40)
    whole = whole_image(image[None])[0]
    np.testing.assert_array_equal(predict(whole_image, image), whole.argmax(-1))


def test_less_overlap_differs_near_the_seams_alone():
    image = picture(512, 512)
    whole = whole_image(image[None])[0]
    logits = predict(whole_image, image, tile=256, overlap=0, return_logits=True)
    near = np.zeros(image.shape[:2], bool)
    near[256 - REACH : 256 + REACH] = True
    near[:, 256 - REACH : 256 + REACH] = True
    np.testing.assert_array_equal(logits[~near], whole[~near])
    assert (logits[near] != whole[near]).mean() > 0.999


# Compiling is the cost of the next test; this takes a third of the time.
QUICKLY = {"xla_backend_optimization_level": 0}


def test_the_devices_share_the_tiles_of_a_packed_network(monkeypatch):
    """Every tile has the bits that one device gives it alone."""
    params = random_packed(UNetConfig(width=4), seed=1)
    module = importlib.import_module("mbu_jax.predict")
    batches, programs = [], {}

    def compiled(params, implementation, pixels):
        batches.append(pixels)
        if pixels.shape not in programs:
            lowered = infer_on_devices.lower(params, implementation, pixels)
            programs[pixels.shape] = lowered.compile(compiler_options=QUICKLY)
        logits = programs[pixels.shape](params, pixels)
        assert logits.sharding.is_equivalent_to(pixels.sharding, logits.ndim)
        return logits

    infer_on_devices = module._infer
    monkeypatch.setattr(module, "_infer", compiled)
    images = [picture(96, 64), picture(30, 20, seed=1)]
    found = predict(params, images, tile=32, overlap=0, batch_size=2, return_logits=True)

    devices = jax.local_devices()
    assert len(devices) == 2
    assert len(batches) == 2  # of seven tiles
    for pixels in batches:
        shards = [(shard.device, shard.data.shape) for shard in pixels.addressable_shards]
        assert shards == [(device, (2, 32, 32, 3)) for device in devices]
    (program,) = programs.values()
    assert not re.findall("all-gather|all-to-all|all-reduce|permute", program.as_text())

    tiles = [tile for row in np.split(images[0], 3) for tile in np.split(row, 2, axis=1)]
    tiles.append(np.pad(images[1], ((0, 2), (0, 12), (0, 0)), mode="edge"))
    alone = jax.jit(infer).lower(params, jnp.asarray(tiles[0])).compile(compiler_options=QUICKLY)
    *parts, small = (np.asarray(alone(params, jnp.asarray(tile))) for tile in tiles)
    rows = [np.concatenate(parts[i : i + 2], axis=1) for i in (0, 2, 4)]
    for ours, expected in zip(found, (np.concatenate(rows), small[:30, :20]), strict=True):
        assert ours.std() > 0
        np.testing.assert_array_equal(ours, expected)


def test_a_packed_network_refuses_what_it_cannot_segment():
    params = random_packed(UNetConfig(width=4), seed=1)
    with pytest.raises(InputError, match=r"image 0 has shape .*give \[H, W, 3\]"):
        predict(params, picture(30, 20)[..., :2])
    with pytest.raises(InputError, match="unknown implementation 'magic'"):
        predict(params, picture(30, 20), implementation="magic")
    with pytest.raises(InputError, match="unknown implementation 'magic'"):
        predict(params, iter([picture(30, 20)]), implementation="magic")  # before an image is read


def test_the_default_overlap_is_exact_and_at_most_half_a_tile():
    cuts: list[int] = []

    def record(tiles):
        cuts.append(1)
        return brightness(tiles)

    image = np.zeros((16, 1000, 3), np.uint8)
    for tile, count in ((512, 3), (256, 7), (1024, 1)):
        cuts.clear()
        predict(record, image, tile=tile, batch_size=1)
        assert len(cuts) == count, tile


def flipped(function, image: np.ndarray) -> np.ndarray:
    """Mean over four mirror images, by NumPy's own functions."""
    turns = (lambda a: a, np.fliplr, np.flipud, lambda a: np.flipud(np.fliplr(a)))
    return np.mean([t(np.asarray(function(t(image)[None]))[0]) for t in turns], axis=0)


@pytest.mark.parametrize("size", [(61, 43), (300, 43)])
def test_flips_average_the_logits_of_mirror_images(size):
    image = picture(*size)
    logits = predict(whole_image, image, tile=256, overlap=192, flips=True, return_logits=True)
    expected = flipped(whole_image, image)
    np.testing.assert_allclose(logits, expected, rtol=0, atol=1e-6)
    assert np.abs(logits - whole_image(image[None])[0]).max() > 0.1


def brightness(images):
    return np.asarray(images)[..., :1].astype(np.float32) - 100.5


class Counting:
    """Threshold on the first channel, remembering what came in and how much was compiled."""

    def __init__(self) -> None:
        self.shapes: list[tuple[int, ...]] = []
        self.alive = 0

    def __call__(self, images):
        self.shapes.append(images.shape)
        return brightness(images)


SIZES = ((33, 40), (16, 16), (48, 33), (130, 70), (1, 1), (64, 64))


@pytest.mark.parametrize("batch_size", [1, 3, 8])
@pytest.mark.parametrize("flips", [False, True])
def test_any_number_of_any_size_in_order(batch_size, flips):
    images = [picture(*size, seed=i) for i, size in enumerate(SIZES)]
    masks = predict(brightness, images, tile=64, flips=flips, batch_size=batch_size)
    assert len(masks) == len(images)
    for mask, image in zip(masks, images, strict=True):
        np.testing.assert_array_equal(mask, image[..., 0] > 100)


def test_one_array_and_several_read_as_such():
    images = np.stack([picture(20, 30, seed) for seed in range(3)])
    expected = (images[..., 0] > 100).astype(np.uint8)
    np.testing.assert_array_equal(predict(brightness, images[0]), expected[0])
    np.testing.assert_array_equal(predict(brightness, jnp.asarray(images[0])), expected[0])
    for several in (images, jnp.asarray(images), list(images), tuple(images)):
        masks = predict(brightness, several)
        assert isinstance(masks, list)
        np.testing.assert_array_equal(masks, expected)
    np.testing.assert_array_equal(list(predict(brightness, iter(images))), expected)
    assert predict(brightness, []) == []
    lone = predict(brightness, images[:1])
    assert isinstance(lone, list)
    assert lone[0].shape == (20, 30)


def test_tiles_of_all_large_images_have_one_shape():
    seen = Counting()
    sizes = ((100, 130), (65, 300), (64, 64), (80, 64))
    predict(seen, [picture(*size) for size in sizes], tile=64, batch_size=4)
    assert set(seen.shapes) == {(4, 64, 64, 3)}


def test_small_images_are_padded_as_the_network_pads_them():
    seen = Counting()
    predict(seen, [picture(5, 17), picture(16, 32), picture(3, 20)], tile=64, batch_size=1)
    assert set(seen.shapes) == {(1, 16, 32, 3)}


def test_a_batch_goes_on_with_the_next_image():
    seen = Counting()
    predict(seen, [picture(32, 32)] * 8, tile=32, batch_size=4)
    assert len(seen.shapes) == 2


def test_images_are_read_as_results_are_taken():
    read = []

    def camera():
        for number in itertools.count():
            read.append(number)
            yield np.full((16, 16, 3), number, np.uint8)

    stream = predict(brightness, camera(), batch_size=2)
    assert isinstance(stream, Iterator)
    assert [mask.max() for mask in itertools.islice(stream, 4)] == [0, 0, 0, 0]
    assert len(read) <= 6


def test_the_device_holds_one_batch_whatever_the_image():
    held = []

    def measure(images):
        held.append(sum(a.nbytes for a in jax.live_arrays() if a.shape[-1:] == (5,)))
        return brightness(images)

    predict(measure, np.zeros((40, 40, 5), np.uint8), tile=64, batch_size=2)
    small = max(held)
    held.clear()
    predict(measure, np.zeros((700, 200, 5), np.uint8), tile=64, batch_size=2)
    assert len(held) > 50
    # The batch at work and, until it is let go, the one before.
    assert max(held) <= 2 * 2 * 64 * 64 * 5
    assert small <= max(held)


def test_instances_are_labels_of_the_mask():
    image = np.zeros((40, 60, 3), np.uint8)
    image[5:15, 5:15] = 255
    image[20:30, 40:50] = 255
    labels = predict(brightness, image, instances=True)
    assert labels.dtype == np.uint16
    assert labels.max() == 2
    np.testing.assert_array_equal(labels, label_instances(predict(brightness, image)))


def test_masks_are_the_classes():
    logits = np.array([[[1, 3, 2], [5, 5, 0]]], np.float32)
    assert logits_to_mask(logits).tolist() == [[1, 0]]
    assert logits_to_mask(logits[..., :1] - 1).tolist() == [[0, 1]]
    with pytest.raises(InputError, match="257 classes"):
        logits_to_mask(np.zeros((1, 1, 257), np.float32))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"tile": 0}, "tile is 0; choose a multiple of 16"),
        ({"tile": 100}, "tile is 100"),
        ({"overlap": 8}, "overlap is 8; choose a multiple of 16 from 0 to 1008"),
        ({"overlap": 1024}, "overlap is 1024"),
        ({"overlap": -16}, "overlap is -16"),
        ({"batch_size": 0}, "batch_size is 0"),
        ({"instances": True, "return_logits": True}, "exclude each other"),
        ({"implementation": "xla"}, "implementation chooses the engine of a packed network"),
    ],
)
def test_bad_options_are_told_before_any_image_is_read(options, said):
    with pytest.raises(InputError, match=said):
        predict(brightness, iter([]), **options)


@pytest.mark.parametrize(
    ("image", "said"),
    [
        (np.zeros((4, 4), np.uint8), r"image 1 has shape \(4, 4\); give \[H, W, C\]"),
        (np.zeros((0, 4, 3), np.uint8), r"image 1 has shape \(0, 4, 3\)"),
        (np.zeros((4, 4, 3), np.uint16), "image 1 has dtype uint16; give uint8"),
        (np.full((4, 4, 3), 200.0), "image 1 has values from 200.0 to 200.0"),
        (np.full((4, 4, 3), -0.5), "image 1 has values from -0.5"),
        (np.full((4, 4, 3), np.nan), "image 1 has values from nan"),
    ],
)
def test_bad_images_are_named(image, said):
    with pytest.raises(InputError, match=said):
        predict(brightness, [picture(4, 4), image])


def test_float_images_are_taken_as_they_are():
    image = np.random.default_rng(0).random((20, 20, 3))
    logits = predict(lambda x: x[..., :2], image, return_logits=True)
    np.testing.assert_array_equal(logits, image[..., :2].astype(np.float32))
