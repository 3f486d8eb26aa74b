import numpy as np
import pytest
from skimage.measure import label

from mbu_jax.errors import InputError
from mbu_jax.instances import label_instances


def disc(shape: tuple[int, int], y: float, x: float, radius: float) -> np.ndarray:
    rows, columns = np.mgrid[: shape[0], : shape[1]]
    return np.hypot(rows - y, columns - x) < radius


SHAPE = (60, 90)
CENTRES = ((15, 20), (15, 36), (42, 70))


@pytest.fixture
def touching() -> np.ndarray:
    """Two discs that overlap, and one apart."""
    return np.logical_or.reduce([disc(SHAPE, y, x, 10) for y, x in CENTRES]).astype(np.uint8)


def test_touching_objects_are_cut_where_they_are_equally_near(touching):
    labels = label_instances(touching)
    assert label(touching).max() == 2
    assert labels.dtype == np.uint16
    assert [labels[c] for c in CENTRES] == [1, 2, 3]
    np.testing.assert_array_equal(labels > 0, touching > 0)
    columns = np.mgrid[: SHAPE[0], : SHAPE[1]][1]
    assert columns[labels == 1].max() <= 28
    assert columns[labels == 2].min() >= 28


def test_every_object_is_one_piece(touching):
    labels = label_instances(touching)
    for value in (1, 2, 3):
        assert label(labels == value).max() == 1


def test_distant_middles_only(touching):
    assert label_instances(touching, min_distance=20).max() == 2


def test_small_objects_are_left_out(touching):
    touching[55:57, 2:5] = 1
    assert label_instances(touching).max() == 4
    labels = label_instances(touching, min_size=7)
    assert labels.max() == 3
    assert not labels[55:57, 2:5].any()


def test_smoothing_keeps_a_ragged_object_whole():
    rng = np.random.default_rng(0)
    rows, columns = np.mgrid[:80, :80]
    angle = np.arctan2(rows - 40, columns - 40)
    radius = 25 + 3 * np.interp(angle, np.linspace(-np.pi, np.pi, 40), rng.normal(size=40))
    ragged = np.hypot(rows - 40, columns - 40) < radius
    assert label_instances(ragged, smoothing=0, min_distance=1).max() > 1
    assert label_instances(ragged, smoothing=5, min_distance=5).max() == 1


@pytest.mark.parametrize(
    "mask",
    [
        np.zeros((5, 7), np.uint8),
        np.ones((5, 7), np.uint8),
        np.eye(6, dtype=np.uint8),
        np.array([[1]], np.uint8),
        np.tile(np.array([[1, 0]], np.uint8), (1, 9)),
        np.kron(np.eye(3, dtype=np.uint8), np.ones((4, 6), np.uint8)),
    ],
    ids=["empty", "full", "diagonal", "pixel", "columns", "plateaus"],
)
def test_each_separate_part_gets_a_label(mask):
    labels = label_instances(mask)
    assert labels.shape == mask.shape
    np.testing.assert_array_equal(labels > 0, mask > 0)
    assert labels.max() >= label(mask, connectivity=1).max()
    assert sorted(np.unique(labels[labels > 0])) == list(range(1, labels.max() + 1))


def test_classes_are_never_joined():
    mask = np.zeros((20, 40), np.uint8)
    mask[4:16, 4:16] = 2
    mask[4:16, 16:28] = 1
    labels = label_instances(mask)
    assert labels.max() == 2
    assert (labels[mask == 2] == 1).all()
    assert (labels[mask == 1] == 2).all()


def test_many_objects_need_wider_numbers():
    mask = np.zeros((514, 514), np.uint8)
    mask[::2, ::2] = 1
    labels = label_instances(mask, smoothing=0)
    assert labels.dtype == np.uint32
    assert labels.max() == 257 * 257


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"min_distance": 0}, "min_distance is 0"),
        ({"smoothing": -1.0}, "smoothing is -1.0"),
        ({"smoothing": float("nan")}, "smoothing is nan"),
        ({"smoothing": float("inf")}, "smoothing is inf"),
        ({"min_size": -1}, "min_size is -1"),
    ],
)
def test_bad_parameters(arguments, said):
    with pytest.raises(InputError, match=said):
        label_instances(np.zeros((4, 4), np.uint8), **arguments)


@pytest.mark.parametrize("mask", [np.zeros((4, 4)), np.zeros((4, 4, 1), np.uint8)])
def test_bad_masks(mask):
    with pytest.raises(InputError, match="give an integer image"):
        label_instances(mask)
