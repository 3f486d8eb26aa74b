"""Batches: every image seen equally, the same whoever makes them, resumable at any position."""

import dataclasses
import itertools
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mbu_jax.data import pipeline
from mbu_jax.data.augment import NO_AUGMENTATION, AugmentOptions
from mbu_jax.data.example import Example
from mbu_jax.data.pipeline import (
    PipelineOptions,
    PreparedImages,
    epoch_length,
    eval_batches,
    resize,
    train_batches,
)
from mbu_jax.errors import InputError

PLAIN = PipelineOptions(augment=NO_AUGMENTATION, prefetch=0)
RANDOM = PipelineOptions(crop=(8, 8), augment=AugmentOptions(), prefetch=0)


class FakeSource:
    """Random images of given sizes; it counts how often each is read."""

    def __init__(self, sizes: Sequence[tuple[int, int]]) -> None:
        self.sizes = sizes
        self.reads: Counter[int] = Counter()

    @property
    def ids(self) -> list[str]:
        return [f"image-{index}" for index in range(len(self.sizes))]

    def __len__(self) -> int:
        return len(self.sizes)

    def __iter__(self) -> Iterator[Example]:
        return map(self.__getitem__, range(len(self)))

    def __getitem__(self, index: int, /) -> Example:
        self.reads[index] += 1
        rng = np.random.default_rng(index)
        image = rng.integers(0, 256, (*self.sizes[index], 3), dtype=np.uint8)
        mask = rng.integers(0, 2, self.sizes[index], dtype=np.uint8)
        return Example(id=self.ids[index], image=image, mask=mask)


def source_of(count: int, size: tuple[int, int] = (12, 10)) -> FakeSource:
    return FakeSource([size] * count)


def take(batches: Iterable[dict], count: int) -> list[dict]:
    return list(itertools.islice(batches, count))


def assert_same(first: list[dict], second: list[dict]) -> None:
    assert len(first) == len(second)
    for a, b in zip(first, second, strict=True):
        assert a.keys() == b.keys()
        for key in a:
            assert a[key].dtype == b[key].dtype
            np.testing.assert_array_equal(a[key], b[key])


def rows(batches: list[dict]) -> list[str]:
    return [str(row) for batch in batches for row in batch["id"]]


def test_train_batch_has_the_documented_arrays() -> None:
    batch = next(train_batches(source_of(5), RANDOM, batch_size=4, seed=0))
    assert batch.keys() == {"image", "mask", "id"}
    assert (batch["image"].dtype, batch["image"].shape) == (np.uint8, (4, 8, 8, 3))
    assert (batch["mask"].dtype, batch["mask"].shape) == (np.uint8, (4, 8, 8))
    assert batch["id"].dtype.kind == "U"
    assert batch["id"].shape == (4,)
    assert all(array.flags.c_contiguous for array in batch.values())


@given(
    images=st.integers(1, 13),
    batch_size=st.integers(1, 6),
    epochs=st.integers(1, 4),
    seed=st.integers(0, 2**40),
)
@settings(max_examples=25, deadline=None)
def test_every_epoch_holds_every_image_once(
    images: int, batch_size: int, epochs: int, seed: int
) -> None:
    source = source_of(images)
    batches = list(train_batches(source, PLAIN, batch_size=batch_size, seed=seed, epochs=epochs))
    assert len(batches) == epoch_length(source, batch_size, epochs)
    seen = rows(batches)
    assert epochs * images <= len(seen) < epochs * images + batch_size
    for epoch in range(epochs):
        assert sorted(seen[epoch * images : (epoch + 1) * images]) == sorted(source.ids)
    remainder = seen[epochs * images :]
    assert max(Counter(remainder).values(), default=0) <= -(-batch_size // images)


def test_orders_differ_between_epochs_and_seeds() -> None:
    def order(seed: int) -> list[str]:
        return rows(take(train_batches(source_of(40), PLAIN, batch_size=40, seed=seed), 2))

    first = order(0)
    assert first == order(0)
    assert first[:40] != first[40:]
    assert first[:40] != source_of(40).ids
    # A seed one higher must not start with the epoch that the other seed has second.
    assert first[40:] != order(1)[:40]
    assert first[:40] != order(1)[:40]


def test_images_arrive_unchanged_without_augmentation() -> None:
    source = source_of(7)
    for batch in take(train_batches(source, PLAIN, batch_size=3, seed=0), 5):
        for image, mask, name in zip(batch["image"], batch["mask"], batch["id"], strict=True):
            example = source[source.ids.index(str(name))]
            np.testing.assert_array_equal(image, example["image"])
            np.testing.assert_array_equal(mask, example["mask"])


def test_an_image_is_varied_anew_each_time() -> None:
    batches = take(train_batches(source_of(1), RANDOM, batch_size=1, seed=0), 6)
    assert len({batch["image"].tobytes() for batch in batches}) == 6


@pytest.mark.parametrize("process_count", [2, 4])
def test_processes_share_each_batch_of_one_process(process_count: int) -> None:
    whole = take(train_batches(source_of(11), RANDOM, batch_size=8, seed=3), 5)
    parts = [
        take(
            train_batches(
                source_of(11),
                RANDOM,
                batch_size=8,
                seed=3,
                process_index=index,
                process_count=process_count,
            ),
            5,
        )
        for index in range(process_count)
    ]
    together = [
        {key: np.concatenate([part[key] for part in batch]) for key in batch[0]}
        for batch in zip(*parts, strict=True)
    ]
    assert_same(together, whole)


@pytest.mark.parametrize("prefetch", [0, 1, 3])
def test_resumes_in_the_middle_of_an_epoch(prefetch: int) -> None:
    options = PipelineOptions(crop=(8, 8), prefetch=prefetch)
    batches = train_batches(source_of(10), options, batch_size=4, seed=1, epochs=4)
    before = take(batches, 3)
    state = json.loads(json.dumps(batches.get_state()))
    after = list(batches)
    assert len(after) == 7

    resumed = train_batches(source_of(10), options, batch_size=4, seed=1, epochs=4)
    resumed.set_state(state)
    assert resumed.get_state() == state
    assert_same(list(resumed), after)

    batches.set_state({"next_batch": 0})
    assert_same(take(batches, 3), before)
    batches.close()


def test_finite_stream_stays_finished() -> None:
    batches = train_batches(source_of(4), PLAIN, batch_size=2, seed=0, epochs=1)
    assert len(list(batches)) == 2
    with pytest.raises(StopIteration):
        next(batches)
    again = train_batches(source_of(4), PLAIN, batch_size=2, seed=0, epochs=1)
    again.set_state(batches.get_state())
    with pytest.raises(StopIteration):
        next(again)


def test_workers_make_the_same_batches_and_resume() -> None:
    """One state serves both: it is saved without workers and continued with two, and back."""
    alone = train_batches(source_of(10), RANDOM, batch_size=4, seed=1, epochs=2)
    expected = list(alone)
    options = PipelineOptions(crop=(8, 8), workers=2, prefetch=1)
    helped = train_batches(source_of(10), options, batch_size=4, seed=1, epochs=2)
    helped.set_state({"next_batch": 1})
    first = take(helped, 2)
    state = helped.get_state()
    assert_same(first, expected[1:3])
    assert_same(list(helped), expected[3:])
    helped.close()
    alone.set_state(state)
    assert_same(list(alone), expected[3:])


@pytest.mark.parametrize(
    "state", [{"next_batch": -1}, {"next_batch": 6}, {"next_batch": "2"}, {"next_index": 2}]
)
def test_foreign_state_is_refused(state: dict) -> None:
    batches = train_batches(source_of(10), PLAIN, batch_size=2, seed=0, epochs=1)
    with pytest.raises(InputError, match="data position"):
        batches.set_state(state)


def test_images_are_decoded_once_if_they_fit() -> None:
    source = source_of(6)
    take(train_batches(source, PLAIN, batch_size=6, seed=0), 3)
    assert source.reads == dict.fromkeys(range(6), 1)

    fit_two = PipelineOptions(
        augment=NO_AUGMENTATION, prefetch=0, cache_gib=2.5 * (12 * 10 * 4) / 2**30
    )
    source = source_of(6)
    limited = take(train_batches(source, fit_two, batch_size=6, seed=0), 3)
    assert sorted(source.reads.values()) == [1, 1, 3, 3, 3, 3]
    assert_same(limited, take(train_batches(source_of(6), PLAIN, batch_size=6, seed=0), 3))


def test_images_of_several_sizes_need_a_crop_or_a_size() -> None:
    source = FakeSource([(12, 10), (9, 14)])
    with pytest.raises(InputError, match="differ in size; set crop or image_size"):
        next(train_batches(source, PLAIN, batch_size=2, seed=0))
    cropped = next(train_batches(source, RANDOM, batch_size=2, seed=0))
    assert cropped["image"].shape == (2, 8, 8, 3)
    options = PipelineOptions(image_size=(16, 20), augment=NO_AUGMENTATION, prefetch=0)
    assert next(train_batches(source, options, batch_size=2, seed=0))["mask"].shape == (2, 16, 20)


def test_unvaried_images_are_whole_and_as_they_are() -> None:
    varied = dataclasses.replace(RANDOM, image_size=(12, 10))
    batches = take(train_batches(source_of(4), varied.unvaried(), batch_size=4, seed=0), 2)
    assert_same(batches, take(train_batches(source_of(4), PLAIN, batch_size=4, seed=0), 2))
    source = FakeSource([(12, 10), (9, 14)])
    assert RANDOM.unvaried() == PipelineOptions(crop=(8, 8), augment=NO_AUGMENTATION, prefetch=0)
    assert next(train_batches(source, RANDOM.unvaried(), batch_size=2, seed=0))


def test_resize_averages_the_image_and_picks_the_mask() -> None:
    checks = (np.indices((40, 40)).sum(axis=0) % 2).astype(np.uint8)
    image = np.repeat(200 * checks[..., None], 3, axis=2)
    halves = np.zeros((40, 40), np.uint8)
    halves[:, 20:] = 1
    small = resize(Example(id="a", image=image, mask=halves), (10, 20))
    assert small["image"].shape == (10, 20, 3)
    # Without antialiasing the checks would alias to 0 or 200.
    assert np.abs(small["image"].astype(int) - 100).max() < 15
    np.testing.assert_array_equal(small["mask"], np.repeat([[0] * 10 + [1] * 10], 10, axis=0))


def test_prepared_images_protect_what_they_keep() -> None:
    images = PreparedImages(source_of(2))
    assert images.ids == source_of(2).ids
    with pytest.raises(ValueError, match="read-only"):
        images[0]["image"][0] = 0


sizes = st.sampled_from([(6, 5), (5, 6), (7, 7)])


@given(
    source=st.lists(sizes, min_size=1, max_size=17).map(FakeSource),
    rows_each=st.integers(1, 4),
    process_count=st.sampled_from([1, 2, 3]),
    image_size=st.none() | st.just((4, 8)),
)
@settings(max_examples=50, deadline=None)
def test_evaluation_sees_each_image_once_over_all_processes(
    source: FakeSource,
    rows_each: int,
    process_count: int,
    image_size: tuple[int, int] | None,
) -> None:
    shares = [
        list(
            eval_batches(
                source,
                batch_size=rows_each * process_count,
                image_size=image_size,
                process_index=index,
                process_count=process_count,
            )
        )
        for index in range(process_count)
    ]
    seen: Counter[str] = Counter()
    for parts in zip(*shares, strict=True):  # strict: as many batches in every process
        assert len({part["image"].shape for part in parts}) == 1
        for part in parts:
            assert part["weight"].dtype == np.float32
            for image, mask, name, weight in zip(
                part["image"], part["mask"], part["id"], part["weight"], strict=True
            ):
                example = source[source.ids.index(str(name))]
                if image_size is None:
                    np.testing.assert_array_equal(image, example["image"])
                    np.testing.assert_array_equal(mask, example["mask"])
                assert weight in (0, 1)
                seen[str(name)] += int(weight)
    assert seen == dict.fromkeys(source.ids, 1)


def test_evaluation_order_is_fixed_and_only_the_last_batch_of_a_size_is_padded() -> None:
    source = FakeSource([(6, 5)] * 5 + [(8, 8)] + [(6, 5)])
    first, second = (list(eval_batches(source, batch_size=4)) for _ in range(2))
    assert_same(first, second)
    assert [batch["id"].tolist() for batch in first] == [
        ["image-0", "image-1", "image-2", "image-3"],
        ["image-4", "image-6", "image-6", "image-6"],
        ["image-5", "image-5", "image-5", "image-5"],
    ]
    assert [batch["weight"].tolist() for batch in first] == [
        [1, 1, 1, 1],
        [1, 1, 0, 0],
        [1, 0, 0, 0],
    ]


def test_evaluation_computes_no_more_images_than_devices_ask_for() -> None:
    source = FakeSource([(6, 5)] * 5 + [(8, 8)] + [(9, 9)] * 3)
    batches = list(eval_batches(source, batch_size=4, multiple=2))
    # Of 6x5 there is a full batch, whose program serves the rest.
    assert [batch["weight"].tolist() for batch in batches] == [
        [1, 1, 1, 1],
        [1, 0, 0, 0],
        [1, 0],
        [1, 1, 1, 0],
    ]
    halves = [
        list(eval_batches(source, batch_size=4, multiple=2, process_count=2, process_index=i))
        for i in range(2)
    ]
    for batch, *parts in zip(batches, *halves, strict=True):
        for key in batch:
            np.testing.assert_array_equal(batch[key], np.concatenate([part[key] for part in parts]))
    with pytest.raises(InputError, match="give a positive multiple of 2"):
        eval_batches(source, batch_size=4, multiple=3, process_count=2)


def test_images_of_many_sizes_do_not_wait_for_each_other_for_ever(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    source = FakeSource([(6, 5), (8, 8), (6, 5), (9, 9), (6, 5), (6, 5)])
    monkeypatch.setattr(pipeline, "_WAITING_BYTES", 4 * (6 * 5 + 8 * 8 + 6 * 5) - 1)
    batches = list(eval_batches(source, batch_size=2, multiple=1))
    assert [batch["id"].tolist() for batch in batches] == [
        ["image-0", "image-2"],
        ["image-1"],
        ["image-3"],
        ["image-4", "image-5"],
    ]


def test_training_on_prepared_images_decodes_once() -> None:
    source = source_of(4, (20, 20))
    images = PreparedImages(source, image_size=(12, 10))
    options = dataclasses.replace(RANDOM, image_size=(12, 10))
    take(train_batches(images, options, batch_size=4, seed=0), 3)
    take(train_batches(images, options.unvaried(), batch_size=4, seed=1), 3)
    list(images)
    assert source.reads == dict.fromkeys(range(4), 1)
    expected = take(train_batches(source, options, batch_size=4, seed=0), 3)
    assert_same(take(train_batches(images, options, batch_size=4, seed=0), 3), expected)
    smaller = dataclasses.replace(options, image_size=(9, 8))
    expected = take(train_batches(PreparedImages(images, (9, 8)), smaller, batch_size=4, seed=0), 1)
    assert_same(take(train_batches(images, smaller, batch_size=4, seed=0), 1), expected)


def test_evaluating_prepared_images_decodes_once() -> None:
    source = source_of(5)
    images = PreparedImages(source, image_size=(6, 6))
    first, second = (list(eval_batches(images, batch_size=2)) for _ in range(2))
    assert_same(first, second)
    assert source.reads == dict.fromkeys(range(5), 1)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"batch_size": 0}, "batch size 0"),
        ({"batch_size": 5, "process_count": 2}, "give a positive multiple of 2"),
        ({"batch_size": 4, "process_count": 2, "process_index": 2}, "process 2 of 2"),
        ({"batch_size": 4, "source": source_of(0)}, "data set is empty"),
    ],
)
def test_bad_batches_are_refused_at_once(arguments: dict, message: str) -> None:
    source = arguments.pop("source", source_of(4))
    with pytest.raises(InputError, match=message):
        train_batches(source, PLAIN, seed=0, **arguments)
    with pytest.raises(InputError, match=message):
        eval_batches(source, **arguments)


def test_bad_seed_and_epochs_are_refused() -> None:
    with pytest.raises(InputError, match="seed is -1"):
        train_batches(source_of(2), PLAIN, batch_size=2, seed=-1)
    with pytest.raises(InputError, match="epochs is 0"):
        train_batches(source_of(2), PLAIN, batch_size=2, seed=0, epochs=0)


@pytest.mark.parametrize(
    ("options", "name"),
    [
        ({"crop": (0, 8)}, "crop"),
        ({"image_size": (8, -1)}, "image_size"),
        ({"image_size": (2**14 + 1, 8)}, "image_size"),
        ({"workers": -1}, "workers"),
        ({"prefetch": -1}, "prefetch"),
        ({"cache_gib": -0.5}, "cache_gib"),
        ({"cache_gib": float("nan")}, "cache_gib"),
        ({"cache_gib": float("inf")}, "cache_gib"),
    ],
)
def test_bad_options_are_named(options: dict, name: str) -> None:
    with pytest.raises(InputError, match=f"option {name} is"):
        PipelineOptions(**options)


@pytest.mark.parametrize("size", [(0, 5), (5, 2**14 + 1)])
def test_a_size_out_of_range_is_told_before_an_image_is_read(size: tuple[int, int]) -> None:
    said = f"image_size is {size[0]} {size[1]}; give a height and width of 1 to 16384"
    with pytest.raises(InputError, match=said):
        PreparedImages(source_of(2), size)
