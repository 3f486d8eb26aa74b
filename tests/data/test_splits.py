"""The split of an image: fixed for ever, and about one in five for validation."""

import pytest

from mbu_jax.data.splits import SPLITS, VALIDATION_FRACTION, split_of


# SHA-256 written out by sha256sum: validation starts with less than 0x3333... (a fifth of 2^64).
@pytest.mark.parametrize(
    ("key", "split"),
    [
        ("image-0", "train"),
        ("image-1", "validation"),
        ("image-5", "validation"),
        ("image-8", "train"),
        ("00071198d059ba7f5914a526d124d28e6d010c92466da21d4a04cd5413362552", "train"),
        ("Zellkern-ä", "train"),
    ],
)
def test_never_changes(key, split):
    assert split_of(key) == split


def test_shares_are_as_documented():
    count = 20_000
    validation = sum(split_of(f"image {i}") == "validation" for i in range(count))
    # Five standard deviations of a fair draw.
    tolerance = 5 * (VALIDATION_FRACTION * (1 - VALIDATION_FRACTION) / count) ** 0.5
    assert validation / count == pytest.approx(VALIDATION_FRACTION, abs=tolerance)
    assert SPLITS == ("train", "validation")
