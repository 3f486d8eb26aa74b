"""The generated nuclei: pure functions of their seed, exact truth, and no threshold solves them."""

import pickle

import numpy as np
import pytest
from scipy import ndimage
from skimage.filters import threshold_otsu

from mbu_jax.data.example import Example
from mbu_jax.data.synthetic import MODALITIES, generate_example, synthetic_source
from mbu_jax.data.synthetic.texture import sensor_noise, smooth_noise
from mbu_jax.errors import InputError


def same(a: Example, b: Example) -> bool:
    return a["id"] == b["id"] and all(
        np.array_equal(a[key], b[key]) for key in ("image", "mask", "instances")
    )


@pytest.mark.parametrize("modality", MODALITIES)
@pytest.mark.parametrize("image_size", [(128, 128), (33, 97)])
def test_types_shapes_and_truth(modality: str, image_size: tuple[int, int]) -> None:
    for index in range(6):
        example = generate_example("train", index, image_size=image_size, modality=modality)
        image, mask, instances = example["image"], example["mask"], example["instances"]
        assert (image.dtype, image.shape) == (np.uint8, (*image_size, 3))
        assert (mask.dtype, mask.shape) == (np.uint8, image_size)
        assert (instances.dtype, instances.shape) == (np.uint16, image_size)
        np.testing.assert_array_equal(mask, instances > 0)
        numbers, areas = np.unique(instances, return_counts=True)
        np.testing.assert_array_equal(numbers, np.arange(numbers.size))
        assert areas[1:].min() >= 16
        # A low standard deviation would mean that nothing was painted, or that all is clipped.
        assert image.std() > 4
        assert np.mean(image == 255) < 0.5


def test_an_example_depends_on_seed_split_and_index_alone() -> None:
    np.random.seed(1)  # noqa: NPY002 (the global generator must not matter)
    first = generate_example("train", 7, seed=5)
    np.random.seed(2)  # noqa: NPY002
    generate_example("train", 6, seed=5)
    assert same(first, generate_example("train", 7, seed=5))
    others = [
        generate_example("train", 8, seed=5),
        generate_example("validation", 7, seed=5),
        generate_example("train", 7, seed=6),
    ]
    for other in others:
        assert not np.array_equal(first["mask"], other["mask"])


def test_modalities_have_the_documented_shares_and_colours() -> None:
    kinds = []
    for example in synthetic_source("train", train_examples=300, image_size=(48, 48)):
        red, green, blue = np.moveaxis(example["image"].astype(int), -1, 0)
        if np.array_equal(red, green) and np.array_equal(green, blue):
            light = np.median(example["image"][example["mask"] == 0]) > 100
            kinds.append("bright_field" if light else "fluorescence")
        else:
            kinds.append("histology")
    shares = {kind: kinds.count(kind) / 300 for kind in MODALITIES}
    expected = {"fluorescence": 0.8, "histology": 0.12, "bright_field": 0.08}
    for kind, share in expected.items():
        assert shares[kind] == pytest.approx(share, abs=0.03)


def test_nuclei_touch_in_some_images_and_lie_apart_in_others() -> None:
    touching = []
    for index in range(30):
        example = generate_example("train", index, modality="fluorescence")
        blobs = ndimage.label(example["mask"])[1]
        touching.append(blobs < example["instances"].max())
    assert 5 < sum(touching) < 30


def test_otsu_does_not_solve_it() -> None:
    bright, told = [], []
    for example in synthetic_source("validation"):
        grey, truth = example["image"].astype(float).mean(axis=2), example["mask"] > 0
        above = grey > threshold_otsu(grey)
        scores = [2 * (p & truth).sum() / (p.sum() + truth.sum()) for p in (above, ~above)]
        bright.append(scores[0])
        told.append(max(scores))
    assert np.mean(bright) == pytest.approx(0.74, abs=0.01)
    assert np.mean(told) == pytest.approx(0.93, abs=0.01)


def test_source_has_the_documented_splits() -> None:
    train, validation = synthetic_source("train"), synthetic_source("validation")
    both = synthetic_source("all")
    assert (len(train), len(validation), len(both)) == (512, 64, 576)
    assert [*train.ids, *validation.ids] == list(both.ids) == sorted(set(both.ids))
    assert validation[3]["id"] == validation.ids[3]
    assert same(both[512 + 3], validation[3])


def test_source_pickles() -> None:
    source = synthetic_source("validation", seed=9, image_size=(40, 48), validation_examples=3)
    copy = pickle.loads(pickle.dumps(source))
    assert len(copy) == 3
    assert all(same(a, b) for a, b in zip(copy, source, strict=True))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"split": "test"}, "split 'test'"),
        ({"split": "train", "seed": -1}, "seed is -1"),
        ({"split": "train", "image_size": (31, 64)}, "at least 32"),
        ({"split": "train", "train_examples": 0}, "train_examples is 0"),
    ],
)
def test_bad_arguments_are_named(arguments: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        synthetic_source(**arguments)


def test_unknown_modality_is_named() -> None:
    with pytest.raises(InputError, match="'x-ray' does not exist"):
        generate_example("train", 0, modality="x-ray")


def test_smooth_noise_has_unit_variance_and_the_asked_spacing() -> None:
    noise = smooth_noise(np.random.default_rng(0), (512, 512), 4)
    assert noise.dtype == np.float32
    assert noise.mean() == pytest.approx(0, abs=0.05)
    assert noise.std() == pytest.approx(1, abs=0.05)
    near = np.corrcoef(noise[:, :-1].ravel(), noise[:, 1:].ravel())[0, 1]
    far = np.corrcoef(noise[:, :-24].ravel(), noise[:, 24:].ravel())[0, 1]
    assert near > 0.9
    assert abs(far) < 0.05


def test_sensor_noise_grows_with_the_signal() -> None:
    flat = np.stack([np.zeros((200, 200)), np.ones((200, 200))]).astype(np.float32)
    dark, bright = sensor_noise(np.random.default_rng(0), flat, photons=100, read=0.03)
    assert dark.std() == pytest.approx(0.03, rel=0.05)
    assert bright.std() == pytest.approx(np.hypot(0.1, 0.03), rel=0.05)
