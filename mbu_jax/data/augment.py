"""Random augmentation of an example in NumPy: image, mask and instances move together."""

import dataclasses
import math

import numpy as np
from PIL import Image

from mbu_jax.data.example import Example
from mbu_jax.errors import InputError

_LUMA = np.array([0.299, 0.587, 0.114])  # Rec. 601 weights of red, green, blue


@dataclasses.dataclass(frozen=True)
class AugmentOptions:
    """What is varied at random in a training example.

    Raises:
      InputError: for a value out of range; the message names the option.
    """

    flip: bool = True
    """Mirror left to right and top to bottom, each with probability 1/2."""

    rotate: bool = True
    """Turn by a random multiple of 90 degrees (of 180 where the output is not square)."""

    scale: tuple[float, float] = (0.7, 1.4)
    """Smallest and largest magnification, drawn log-uniformly; 1 1 keeps the size."""

    jitter: float = 0.5
    """Strength of the changes of brightness, contrast and gamma, 0 to 1."""

    colour: float = 0.3
    """Strength of the changes of channel gains, hue and saturation, 0 to 1; grey stays grey but
    for the gains."""

    invert: float = 0.0
    """Probability of the negative image, 0 to 1."""

    grey: float = 0.0
    """Probability of dropping the colour, 0 to 1."""

    def __post_init__(self) -> None:
        """Checks every range."""
        low, high = self.scale
        if not 0.1 <= low <= high <= 10:
            raise InputError(
                f"augment option scale is {self.scale}; give two factors, 0.1 <= low <= high <= 10"
            )
        for name in ("jitter", "colour", "invert", "grey"):
            value = getattr(self, name)
            if not 0 <= value <= 1:
                raise InputError(f"augment option {name} is {value}; give a number from 0 to 1")


NO_AUGMENTATION = AugmentOptions(flip=False, rotate=False, scale=(1.0, 1.0), jitter=0.0, colour=0.0)
"""Leaves every example as it is (a crop, where one is asked for, is still random)."""


def augment(
    example: Example,
    rng: np.random.Generator,
    options: AugmentOptions,
    crop: tuple[int, int] | None = None,
) -> Example:
    """Draws one random variant of an example.

    Scale, crop, flips and rotation are one resampling: bilinear for the image, nearest for the
    labels. Where the crop reaches past the image, the image is continued by reflection.

    Args:
      example: with instances or without.
      rng: the random generator to draw from; the same state gives the same variant.
      options: what to vary.
      crop: (h, w) of the result; None keeps the example's size.

    Returns:
      A new example of size `crop`, same types; the given one is not written to.

    Example:
      >>> rng = np.random.default_rng(0)
      >>> image, mask = np.zeros((96, 80, 3), np.uint8), np.zeros((96, 80), np.uint8)
      >>> blank = Example(id="blank", image=image, mask=mask)
      >>> augment(blank, rng, AugmentOptions(), crop=(64, 64))["mask"].shape
      (64, 64)
    """
    height, width = example["mask"].shape
    view = draw_view(rng, (height, width), crop or (height, width), options)
    image = jitter_colours(view.image(example["image"]), rng, options)
    variant = Example(id=example["id"], image=image, mask=view.labels(example["mask"]))
    if "instances" in example:
        variant["instances"] = view.labels(example["instances"])
    return variant


@dataclasses.dataclass(frozen=True)
class View:
    """A window on an image, perhaps magnified, mirrored and turned.

    Attributes:
      rows: float64 [h], the source row of each output row; pixel centres are whole numbers.
      columns: float64 [w], likewise.
      transposed: whether rows and columns change places after that.
    """

    rows: np.ndarray
    columns: np.ndarray
    transposed: bool = False

    def image(self, image: np.ndarray) -> np.ndarray:
        """Looks at an image, bilinearly.

        Args:
          image: uint8 [H, W, C].

        Returns:
          uint8 [h, w, C].
        """
        left, right = math.floor(self.columns.min()), math.floor(self.columns.max()) + 2
        columns = self.columns
        if left >= 0 and right <= image.shape[1]:
            # The rows are mixed first, so columns that the view does not show are left out of it.
            image, columns = image[:, left:right], columns - left
        return self._turned(_sample(_sample(image, self.rows, axis=0), columns, axis=1))

    def labels(self, labels: np.ndarray) -> np.ndarray:
        """Looks at labels, taking the nearest.

        Args:
          labels: [H, W], of any type.

        Returns:
          [h, w], of that type.
        """
        rows = _reflect(np.floor(self.rows + 0.5).astype(int), labels.shape[0])
        columns = _reflect(np.floor(self.columns + 0.5).astype(int), labels.shape[1])
        return self._turned(labels.take(rows, axis=0).take(columns, axis=1))

    def _turned(self, array: np.ndarray) -> np.ndarray:
        return np.ascontiguousarray(array.swapaxes(0, 1) if self.transposed else array)


def draw_view(
    rng: np.random.Generator,
    size: tuple[int, int],
    crop: tuple[int, int],
    options: AugmentOptions,
) -> View:
    """Draws magnification, position, mirroring and rotation.

    Args:
      rng: the random generator to draw from.
      size: (H, W) of the image.
      crop: (h, w) of the view.
      options: what to vary.

    Returns:
      The view. Without a change of scale it falls on whole pixels.
    """
    # Every draw is made whatever the options, so that one option does not shift the others' draws.
    chance = rng.random(6)
    low, high = options.scale
    factor = math.exp(math.log(low) + chance[0] * (math.log(high) - math.log(low)))
    turns = int(chance[1] * 4) if options.rotate else 0
    if crop[0] != crop[1]:
        turns -= turns % 2
    # A quarter turn is a transposition and a mirroring, a half turn two mirrorings.
    transposed = turns % 2 == 1
    mirrored_rows = (turns in (1, 2)) ^ (options.flip and chance[2] < 0.5)
    mirrored_columns = (turns in (2, 3)) ^ (options.flip and chance[3] < 0.5)
    rows = _window(size[0], crop[0], factor, chance[4])
    columns = _window(size[1], crop[1], factor, chance[5])
    return View(
        rows[::-1] if mirrored_rows else rows,
        columns[::-1] if mirrored_columns else columns,
        transposed,
    )


def _window(length: int, output: int, factor: float, chance: float) -> np.ndarray:
    """Source coordinates [output] of a window that lies in the source, or around it if larger."""
    slack = math.floor(length - output / factor)
    start = min(slack, 0) + math.floor(chance * (abs(slack) + 1))
    return start + (np.arange(output) + 0.5) / factor - 0.5


def _reflect(index: np.ndarray, length: int) -> np.ndarray:
    """Folds indices into [0, length) by mirroring at the outer edges of the border pixels."""
    folded = index % (2 * length)
    return np.where(folded < length, folded, 2 * length - 1 - folded)


def _sample(array: np.ndarray, position: np.ndarray, axis: int) -> np.ndarray:
    """Linear interpolation of uint8 along one axis at real positions, rounded to uint8."""
    low = np.floor(position)
    first = _reflect(low.astype(int), array.shape[axis])
    if np.array_equal(low, position):
        return array.take(first, axis=axis)
    second = _reflect(low.astype(int) + 1, array.shape[axis])
    # 7-bit weights: 255 * 128 + 64 fits uint16, which is much faster than float here.
    weight = np.rint((position - low) * 128).astype(np.uint16)
    weight = weight.reshape((-1, *(1,) * (array.ndim - 1 - axis)))
    mixed = array.take(first, axis=axis) * (128 - weight) + array.take(second, axis=axis) * weight
    return ((mixed + 64) >> 7).astype(np.uint8)


def jitter_colours(
    image: np.ndarray, rng: np.random.Generator, options: AugmentOptions
) -> np.ndarray:
    """Varies brightness, contrast, gamma, channel gains, hue and saturation; no pixel moves.

    At full strength brightness, contrast, gamma and saturation change by a factor of up to 1.6
    either way, gains by up to 1.35, and hue by up to 60 degrees.

    Args:
      image: uint8 [H, W, 3].
      rng: the random generator to draw from.
      options: `jitter`, `colour`, `invert` and `grey` count here.

    Returns:
      uint8 [H, W, 3].
    """
    contrast, gamma, brightness, hue, saturation, *gains = rng.uniform(-1, 1, 8)
    inverted, grey = rng.random(2) < (options.invert, options.grey)
    if (options.colour or grey) and not _is_grey(image):
        angle = options.colour * hue * math.pi / 3
        strength = 0.0 if grey else 1.6 ** (options.colour * saturation)
        matrix = tuple(_hue_matrix(angle, strength).ravel())
        image = np.array(Image.fromarray(image).convert("RGB", matrix))
    if options.jitter or options.colour or inverted:
        # All of these act on each value alone: a table of 256 entries for each channel does them.
        value = np.arange(256) / 255
        value = value ** (1.6 ** (options.jitter * gamma))
        # About the image's own mean: about mid-grey it would wipe out a dark image's dim nuclei.
        mean = image.mean() / 255
        value = (value - mean) * 1.6 ** (options.jitter * contrast) + mean
        value = value * 1.6 ** (options.jitter * brightness)
        table = value * 1.35 ** (options.colour * np.array(gains)[:, None])
        table = np.rint(255 * np.clip(table, 0, 1)).astype(np.uint8)
        table = 255 - table if inverted else table
        image = np.stack([table[c].take(image[..., c]) for c in range(3)], axis=-1)
    return image


def _is_grey(image: np.ndarray) -> bool:
    red, green, blue = np.moveaxis(image, -1, 0)
    return np.array_equal(red, green) and np.array_equal(green, blue)


def _hue_matrix(angle: float, saturation: float) -> np.ndarray:
    """Turns colours about the grey axis by `angle` radians and scales their distance to it.

    Returns:
      float64 [3, 4]: a matrix on (red, green, blue) and an offset of zeros. Luma and grey stay.
    """
    # Rodrigues' rotation about (1, 1, 1).
    along = np.full((3, 3), 1 / 3)
    cross = np.array([[0, -1, 1], [1, 0, -1], [-1, 1, 0]]) / math.sqrt(3)
    turn = math.cos(angle) * np.eye(3) + math.sin(angle) * cross + (1 - math.cos(angle)) * along
    luma = np.tile(_LUMA, (3, 1))
    without_luma = np.eye(3) - luma
    matrix = luma + saturation * without_luma @ turn @ without_luma
    return np.hstack([matrix, np.zeros((3, 1))])
