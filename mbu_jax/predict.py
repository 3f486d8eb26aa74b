"""Segment images of any size and number: tiles with overlap, flips, masks or instance labels."""

# ruff: noqa: F722 (shapes are written as strings)

import functools
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from jaxtyping import Float32, UInt8

from mbu_jax.architecture import SIZE_MULTIPLE, padded_size
from mbu_jax.chosen_engines import chosen_engines
from mbu_jax.errors import InputError
from mbu_jax.inference import infer
from mbu_jax.instances import label_instances
from mbu_jax.packing import PackedUNet, check_packed
from mbu_jax.tiling import blend_weights, exact_overlap, tile_starts

type Segmenter = PackedUNet | Callable[[Any], Any]
"""A packed network, or any function from images [B, H, W, C] to logits [B, H, W, classes]."""

_FLIPS = ((1, 1), (1, -1), (-1, 1), (-1, -1))


def predict(
    params: Segmenter,
    images: Any,
    *,
    tile: int = 1024,
    overlap: int | None = None,
    flips: bool = False,
    instances: bool = False,
    return_logits: bool = False,
    implementation: str | None = None,
    batch_size: int | None = None,
) -> Any:
    """Segment one image, or any number of images of any sizes.

    An image larger than a tile is cut into overlapping tiles, whose logits are blended. With an
    overlap of 192 pixels, the default for tiles of at least 384, the result is that of the whole
    image at once, bit for bit: that is twice what the network looks past a seam
    (`mbu_jax.tiling.seam_reach`). Less overlap is faster and may differ near seams. A device
    holds one batch of tiles at a time, however large the image; logits are put together on the
    host, 4 (classes + 1) bytes a pixel.

    Args:
      params: what `mbu_jax.pack` or `mbu_jax.load_packed` gave, whose tiles are spread over all
        devices of this process; or a function from images [B, H, W, C] to logits
        [B, H, W, classes], such as a `UNet` in evaluation mode, which gets whole batches.
      images: [H, W, C], [B, H, W, C], or a list or iterator of [H, W, C]; uint8, or floating in
        [0, 1].
      tile: side of a tile in pixels, a multiple of 16. The network is compiled once for all larger
        images, and once for every smaller size, rounded up to 16: where sizes vary much, a
        smaller tile saves compiling.
      overlap: pixels that neighbouring tiles share, a multiple of 16 below ``tile``. By default
        192, but at most half a tile.
      flips: average the logits over the image and its three mirror images; four times the work.
      instances: give labels of objects instead of classes, see
        `mbu_jax.instances.label_instances` (call it yourself to change its parameters).
      return_logits: give the logits instead.
      implementation: engine of a packed network; the best for the device by default.
      batch_size: tiles at once on each device; by default 1 on a CPU and 8 elsewhere.

    Returns:
      For one image an array, for several a list of arrays. For an iterator, such as a video's
      frames, an iterator: an image is read when it is needed, and a batch is all that is held.
      An array is uint8 [H, W] class indices (one class: 1 where the logit is above 0; more: the
      largest logit); with ``instances`` uint16 [H, W] labels, 0 being the background (uint32
      beyond 65535 objects); with ``return_logits`` float32 [H, W, classes].

    Raises:
      InputError: for what is no network, or an option that does not fit, at once; for an image,
        when it is reached.

    Example:
      >>> brightness = lambda x: x[..., :1] - 0.5
      >>> images = [np.zeros((20, 30, 3), np.float32), np.ones((700, 40, 3), np.float32)]
      >>> [mask.mean() for mask in predict(brightness, images)]
      [np.float64(0.0), np.float64(1.0)]
      >>> masks = predict(brightness, iter(images))
      >>> next(masks).shape
      (20, 30)

    Source: Ronneberger et al., "U-Net", 2015, section 2 (overlap-tile); the flips are test-time
    augmentation as in Isensee et al., "nnU-Net", 2021.
    """
    if not callable(params):
        check_packed(params)
    if instances and return_logits:
        raise InputError("instances and return_logits exclude each other; choose one")
    overlap = _checked_overlap(tile, overlap)
    if batch_size is None:
        batch_size = 1 if jax.default_backend() == "cpu" else 8
    if batch_size < 1:
        raise InputError(f"batch_size is {batch_size}; it must be at least 1")
    channels = None
    if isinstance(params, PackedUNet):
        channels = params.config.in_channels
        devices = jax.local_devices()
        batch_size *= len(devices)
        segment = _over_devices(params, implementation, devices)
    elif implementation is None:
        segment = functools.partial(_on_one_device, params)
    else:
        raise InputError("implementation chooses the engine of a packed network; leave it out")
    one = hasattr(images, "ndim") and images.ndim == 3
    checked = (
        _checked_image(image, index, channels)
        for index, image in enumerate([images] if one else images)
    )
    results = _logits(segment, checked, tile, overlap, flips, batch_size)
    if not return_logits:
        results = map(logits_to_mask, results)
    if instances:
        results = map(label_instances, results)
    if isinstance(images, Iterator):
        return results
    return next(results) if one else list(results)


def logits_to_mask(
    logits: Float32[np.ndarray, "H W classes"],
) -> UInt8[np.ndarray, "H W"]:
    """Choose the class of every pixel.

    Args:
      logits: float32 [H, W, classes], at most 256 classes.

    Returns:
      uint8 [H, W]: for one class, 1 where the logit is above 0; else the class with the largest
      logit, the first of equals.

    Raises:
      InputError: for more than 256 classes.

    Example:
      >>> logits_to_mask(np.array([[[-1.0], [2.0]]], np.float32))
      array([[0, 1]], dtype=uint8)
    """
    classes = logits.shape[-1]
    if classes > 256:
        raise InputError(f"{classes} classes do not fit 8-bit masks; ask for return_logits")
    if classes == 1:
        return (logits[..., 0] > 0).astype(np.uint8)
    return logits.argmax(axis=-1).astype(np.uint8)


def _over_devices(
    params: PackedUNet, implementation: str | None, devices: Sequence[jax.Device]
) -> Callable[[np.ndarray], Array]:
    """The packed network on each of the devices; every one segments its part of a batch."""
    if implementation is not None:  # refuses one that is unknown or cannot run
        chosen_engines(params, (SIZE_MULTIPLE, SIZE_MULTIPLE), implementation, None, None)
    mesh = jax.make_mesh((len(devices),), ("tiles",), (AxisType.Auto,), devices=devices)
    split = NamedSharding(mesh, PartitionSpec("tiles"))
    params = jax.device_put(params, NamedSharding(mesh, PartitionSpec()))
    return lambda pixels: _infer(params, implementation, jax.device_put(pixels, split))


def _on_one_device(function: Callable[[Any], Any], pixels: np.ndarray) -> Any:
    return function(jax.device_put(pixels))


@functools.partial(jax.jit, static_argnums=1)
def _infer(params: PackedUNet, implementation: str | None, images: Array) -> Array:
    return infer(params, images, implementation=implementation)


def _checked_overlap(tile: int, overlap: int | None) -> int:
    if tile < SIZE_MULTIPLE or tile % SIZE_MULTIPLE:
        raise InputError(f"tile is {tile}; choose a multiple of {SIZE_MULTIPLE}, such as 1024")
    if overlap is None:
        half = tile // 2 // SIZE_MULTIPLE * SIZE_MULTIPLE
        return min(exact_overlap(), half)
    if overlap % SIZE_MULTIPLE or not 0 <= overlap < tile:
        raise InputError(
            f"overlap is {overlap}; choose a multiple of {SIZE_MULTIPLE} from 0 to "
            f"{tile - SIZE_MULTIPLE}, below the tile's {tile}"
        )
    return overlap


def _checked_image(image: Any, index: int, channels: int | None) -> np.ndarray:
    image = np.asarray(image)
    if image.ndim != 3 or 0 in image.shape or channels not in (None, image.shape[-1]):
        wanted = "C" if channels is None else channels
        raise InputError(f"image {index} has shape {image.shape}; give [H, W, {wanted}]")
    if image.dtype == np.uint8:
        return image
    if not jnp.issubdtype(image.dtype, jnp.floating):  # bfloat16 is none of NumPy's
        raise InputError(
            f"image {index} has dtype {image.dtype}; give uint8, or floating in [0, 1]"
        )
    low, high = image.min(), image.max()
    if not (low >= 0 and high <= 1):  # also where either is no number
        raise InputError(
            f"image {index} has values from {low} to {high}; give uint8, or floating in [0, 1]"
        )
    return image.astype(np.float32, copy=False)


class _Canvas:
    """One image, mirrored or not, whose logits come in tile by tile."""

    def __init__(self, image: np.ndarray, tile: int, overlap: int) -> None:
        self.image = image
        height, width = padded_size(*image.shape[:2])
        self.tile = min(tile, height), min(tile, width)
        self.overlap = overlap
        rows, columns = (tile_starts(n, tile, overlap) for n in (height, width))
        self.starts = [(y, x) for y in rows for x in columns]
        self.missing = len(self.starts)
        self.end = rows[-1], columns[-1]
        self.weight = np.zeros(image.shape[:2], np.float32)
        self.logits = np.zeros((0, 0, 0), np.float32)

    def cut(self, y: int, x: int) -> np.ndarray:
        """One tile [h, w, C], padded as the network pads: bottom and right, the edge repeated."""
        h, w = self.tile
        part = self.image[y : y + h, x : x + w]
        return np.pad(part, ((0, h - part.shape[0]), (0, w - part.shape[1]), (0, 0)), mode="edge")

    def add(self, y: int, x: int, logits: np.ndarray) -> None:
        """Blend in the logits [h, w, classes] of the tile cut at (y, x)."""
        if not self.logits.size:
            self.logits = np.zeros((*self.image.shape[:2], logits.shape[-1]), np.float32)
        weights = [
            blend_weights(side, self.overlap, before=start > 0, after=start < end)
            for side, start, end in zip(self.tile, (y, x), self.end, strict=True)
        ]
        h, w = self.tile
        total, mean = self.weight[y : y + h, x : x + w], self.logits[y : y + h, x : x + w]
        h, w = total.shape  # without the padding
        weight = weights[0][:h, None] * weights[1][None, :w]
        total += weight
        share = np.divide(weight, total, out=np.zeros_like(weight), where=total > 0)
        # A running mean: where tiles agree on a logit it stays that very number.
        mean += share[..., None] * (logits[:h, :w] - mean)
        self.missing -= 1


def _logits(
    segment: Callable[[Any], Any],
    images: Iterable[np.ndarray],
    tile: int,
    overlap: int,
    flips: bool,
    batch_size: int,
) -> Iterator[np.ndarray]:
    """Logits of every image, in order; a batch is as often filled up by the next image's tiles."""
    waiting: deque[list[_Canvas]] = deque()
    batch: list[tuple[_Canvas, int, int, np.ndarray]] = []
    for image in images:
        canvases = [
            _Canvas(image[::down, ::right], tile, overlap)
            for down, right in (_FLIPS if flips else _FLIPS[:1])
        ]
        waiting.append(canvases)
        for canvas in canvases:
            for y, x in canvas.starts:
                pixels = canvas.cut(y, x)
                if batch and not _alike(pixels, batch[0][-1]):
                    _run(segment, batch, batch_size)
                batch.append((canvas, y, x, pixels))
                if len(batch) == batch_size:
                    _run(segment, batch, batch_size)
        while waiting and not any(canvas.missing for canvas in waiting[0]):
            yield _merged(waiting.popleft())
    if batch:
        _run(segment, batch, batch_size)
    for canvases in waiting:
        yield _merged(canvases)


def _alike(one: np.ndarray, other: np.ndarray) -> bool:
    return one.shape == other.shape and one.dtype == other.dtype


def _run(
    segment: Callable[[Any], Any],
    batch: list[tuple[_Canvas, int, int, np.ndarray]],
    batch_size: int,
) -> None:
    """Segment a batch and hand out its logits; a short batch is filled up, so as not to compile."""
    pixels = np.zeros((batch_size, *batch[0][-1].shape), batch[0][-1].dtype)
    for row, (*_, part) in zip(pixels, batch, strict=False):
        row[...] = part
    logits = np.asarray(segment(pixels))
    for (canvas, y, x, _), tile_logits in zip(batch, logits, strict=False):
        canvas.add(y, x, tile_logits)
    batch.clear()


def _merged(canvases: list[_Canvas]) -> np.ndarray:
    if len(canvases) == 1:
        return canvases[0].logits
    upright = [
        canvas.logits[::down, ::right]
        for canvas, (down, right) in zip(canvases, _FLIPS, strict=True)
    ]
    return np.mean(upright, axis=0, dtype=np.float32)
