"""The fixed train/validation split: a function of one key, never of the set around it."""

import hashlib
from typing import Literal

Split = Literal["train", "validation"]

SPLITS: tuple[Split, Split] = ("train", "validation")
VALIDATION_FRACTION = 0.2


def split_of(key: str) -> Split:
    """Tells which split an image belongs to.

    A hash of the key decides: a ``split_fraction`` below ``VALIDATION_FRACTION`` is validation. The
    answer for one key therefore never changes when others are added or removed, and needs
    neither a list nor a seed. (A field of view has the key of its first tile, so removing that one
    may move the others.)

    Args:
      key: what must not be torn apart: an image's id, or the id of the group it belongs to (the
        car, for Carvana, whose 16 views would otherwise leak between the splits, or the field of
        view that nuclei are tiles of).

    Returns:
      ``"train"`` or ``"validation"``.

    Example:
      >>> split_of("image-3"), split_of("image-5")
      ('train', 'validation')
    """
    return "validation" if split_fraction(key) < VALIDATION_FRACTION else "train"


def split_fraction(key: str) -> float:
    """Where a key stands among all: what ``split_of`` compares with the share of validation.

    Args:
      key: as for ``split_of``.

    Returns:
      In [0, 1): the first eight bytes of the key's SHA-256 as a fraction of 2^64.

    Example:
      >>> split_fraction("image-3") > VALIDATION_FRACTION > split_fraction("image-5")
      True
    """
    digest = hashlib.sha256(key.encode()).digest()
    return int.from_bytes(digest[:8], "big") / 2**64
