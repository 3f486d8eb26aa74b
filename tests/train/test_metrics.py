import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mbu_jax.train.metrics import SegmentationScores, confusion_counts, predict_classes


def pixels(mask: np.ndarray, value: int) -> set[tuple[int, ...]]:
    return {where for where in np.ndindex(mask.shape) if mask[where] == value}


def overlap(predicted: set, true: set) -> dict[str, float]:
    """Every score of one image and class, from the sets of its pixels."""
    both, either = predicted & true, predicted | true
    if not either:
        return dict.fromkeys(("dice", "iou", "precision", "recall"), 1.0)
    return {
        "dice": 2 * len(both) / (len(predicted) + len(true)),
        "iou": len(both) / len(either),
        "precision": len(both) / len(predicted) if predicted else 0.0,
        "recall": len(both) / len(true) if true else 0.0,
    }


def random_masks(seed: int, classes: int, count: int = 6) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    truth = rng.integers(0, classes, (count, 5, 7)).astype(np.uint8)
    prediction = rng.integers(0, classes, (count, 5, 7)).astype(np.uint8)
    truth[0] = prediction[0] = 0  # empty against empty
    truth[1] = 0  # nothing there
    prediction[2] = 0  # nothing predicted
    return truth, prediction


@pytest.mark.parametrize("foreground", [1, 3])
def test_scores_are_those_of_pixel_sets(foreground):
    truth, prediction = random_masks(0, foreground + 1)
    counts = confusion_counts(
        jnp.asarray(prediction), jnp.asarray(truth), foreground_classes=foreground
    )
    assert counts.dtype == jnp.int32
    scores = SegmentationScores()
    scores.add(counts, ids=[f"image {i}" for i in range(len(truth))])
    expected = []
    for t, p in zip(truth, prediction, strict=True):
        by_class = [overlap(pixels(p, k), pixels(t, k)) for k in range(1, foreground + 1)]
        expected.append({n: np.mean([c[n] for c in by_class]) for n in by_class[0]})

    for i, (row, wanted) in enumerate(zip(scores.per_image(), expected, strict=True)):
        assert row == pytest.approx(wanted | {"id": f"image {i}"})
    result = scores.result()
    for name in ("dice", "iou", "precision", "recall"):
        column = [row[name] for row in expected]
        assert result[name] == pytest.approx(np.mean(column))
        assert result[f"{name}_std"] == pytest.approx(np.std(column))
    p, r = result["precision"], result["recall"]
    assert result["f1"] == pytest.approx(2 / (1 / p + 1 / r))
    pooled = [
        len(pixels(prediction, k) & pixels(truth, k))
        / len(pixels(prediction, k) | pixels(truth, k))
        for k in range(1, foreground + 1)
    ]
    assert result["pooled_iou"] == pytest.approx(np.mean(pooled))
    assert result["images"] == 6


def test_empty_cases():
    def score(counts):
        scores = SegmentationScores()
        scores.add(np.array([[counts]]))
        return scores.result()

    empty = score([0, 0, 0])
    assert all(empty[n] == 1 for n in ("dice", "iou", "f1", "precision", "recall", "pooled_iou"))
    for missed_or_excess in ([0, 5, 0], [0, 0, 5]):
        result = score(missed_or_excess)
        assert all(result[n] == 0 for n in ("dice", "iou", "f1", "precision", "recall"))


def test_padding_rows_never_count():
    counts = np.array([[[3, 1, 1]], [[0, 0, 0]], [[0, 9, 9]]])
    padded, alone = SegmentationScores(), SegmentationScores()
    padded.add(counts, weight=np.array([1, 0, 0], np.float32), ids=["a", "", ""])
    alone.add(counts[:1], ids=["a"])
    assert padded.result() == alone.result()
    assert padded.per_image() == alone.per_image()


def test_batches_and_order_change_no_bit():
    counts = np.random.default_rng(1).integers(0, 1000, (50, 2, 3))
    together, apart = SegmentationScores(), SegmentationScores()
    together.add(counts)
    for row in counts[::-1]:
        apart.add(row[None])
    assert together.result() == apart.result()


@settings(max_examples=50, deadline=None)
@given(
    st.lists(
        st.lists(st.tuples(*[st.integers(0, 20)] * 3), min_size=2, max_size=2),
        min_size=1,
        max_size=8,
    )
)
def test_f1_is_never_below_mean_dice(counts):
    scores = SegmentationScores()
    scores.add(np.array(counts))
    result = scores.result()
    assert result["f1"] >= result["dice"] - 1e-12


def test_f1_is_not_mean_dice():
    scores = SegmentationScores()
    scores.add(np.array([[[5, 5, 0]], [[5, 0, 5]]]))  # one image in excess, one in want
    result = scores.result()
    assert result["dice"] == pytest.approx(2 / 3)
    assert result["f1"] == pytest.approx(3 / 4)


@pytest.mark.parametrize("classes", [1, 2, 4])
def test_counts_from_logits_under_jit(classes):
    logits = np.random.default_rng(2).normal(size=(3, 4, 6, classes)).astype(np.float32)
    truth = np.random.default_rng(3).integers(0, max(2, classes), (3, 4, 6)).astype(np.uint8)
    chosen = np.array(
        [
            [[int(p[0] > 0) if classes == 1 else max(range(classes), key=p.__getitem__) for p in r]]
            for image in logits
            for r in image
        ]
    ).reshape(truth.shape)
    assert np.array_equal(predict_classes(jnp.asarray(logits)), chosen)
    counts = jax.jit(confusion_counts)(jnp.asarray(logits), jnp.asarray(truth))
    assert counts.shape == (3, max(1, classes - 1), 3)
    for b, f in np.ndindex(counts.shape[:2]):
        p, t = pixels(chosen[b], f + 1), pixels(truth[b], f + 1)
        assert counts[b, f].tolist() == [len(p & t), len(p - t), len(t - p)]


def test_zero_logit_is_background():
    assert predict_classes(jnp.zeros((1, 1, 1, 1))).tolist() == [[[0]]]


@pytest.mark.parametrize(
    ("counts", "weight", "ids"),
    [
        (np.zeros((2, 3)), None, None),
        (np.zeros((2, 1, 3)), np.ones(1), None),
        (np.zeros((2, 1, 3)), np.array([1, 0.5]), None),
        (np.zeros((2, 1, 3)), None, ["a"]),
        (np.zeros((2, 1, 3)), None, ["a", "a"]),
    ],
)
def test_wrong_rows_are_refused(counts, weight, ids):
    with pytest.raises(ValueError, match=r"counts|rows|weights|twice"):
        SegmentationScores().add(counts, weight, ids)


def test_no_image_has_no_score():
    with pytest.raises(ValueError, match="no image"):
        SegmentationScores().result()
