"""What the page shows of an image: the mask that the predict command writes, and latencies."""

import dataclasses
from pathlib import Path

import jax
import numpy as np
from flax import nnx

from experiments.benchmark.models import random_model
from experiments.model_file import load_for_pictures, network_size
from experiments.predict import mask_of_size, network_input
from experiments.timing import compare, time_interleaved
from mbu_jax.data.frames import PICTURE_SUFFIXES, read_frames
from mbu_jax.drawing import draw_overlay
from mbu_jax.errors import InputError
from mbu_jax.predict import predict
from mbu_jax.prepare import prepare
from mbu_jax.summary import Summary, summary
from mbu_jax.unet import UNetConfig


@dataclasses.dataclass(frozen=True)
class Segmentation:
    """A picture and what the network finds in it.

    Attributes:
      image: uint8 [H, W, 3].
      mask: uint8 [H, W] class indices.
      overlay: uint8 [H, W, 3], the mask drawn over the image.
      pictures: how many the file holds; the first one was segmented.
    """

    image: np.ndarray
    mask: np.ndarray
    overlay: np.ndarray
    pictures: int


@dataclasses.dataclass(frozen=True)
class Latency:
    """One image's time through a network.

    Attributes:
      name: of the network.
      seconds: of every round.
      median: of these.
      ratio: median over rounds of the time over the packed network's in that round.
    """

    name: str
    seconds: tuple[float, ...]
    median: float
    ratio: float


class Segmenter:
    """A packed network, and the full-precision one of its width to compare its speed with.

    Args:
      model: the packed network's file.
      implementation: engine; None takes the best of the device.
      max_pixels: pictures of more are refused.
      timing_size: height and width at which both are timed.
      rounds: how often each is timed.

    Attributes:
      params: the packed network.

    Raises:
      InputError: for a file or an engine that cannot be used.
    """

    def __init__(
        self,
        model: Path,
        *,
        implementation: str | None,
        max_pixels: int,
        timing_size: tuple[int, int],
        rounds: int,
    ) -> None:
        self.params = load_for_pictures(model)
        self._size = network_size(None, self.params)
        self._implementation = implementation
        self._max_pixels = max_pixels
        self._timing_size = timing_size
        self._rounds = rounds
        shape = (1, *timing_size, self.params.config.in_channels)
        self._packed = prepare(self.params, shape, implementation=implementation)
        config = self.params.config
        # Time does not depend on weights, so that they need no training.
        full = UNetConfig.preset(
            "full_precision",
            width=config.width,
            in_channels=config.in_channels,
            classes=config.classes,
        )
        graph, state = nnx.split(random_model(full, density=0.5))
        images = jax.ShapeDtypeStruct(shape, np.uint8)
        program = jax.jit(lambda state, x: nnx.merge(graph, state)(x))
        self._float = program.lower(state, images).compile()
        self._float_state = state
        self.time(np.zeros((*timing_size, 3), np.uint8))  # compiles, and touches all memory

    def segment(self, path: Path) -> Segmentation:
        """Segment a picture file as ``experiments.predict`` does.

        Args:
          path: the file.

        Returns:
          Its first picture, mask and overlay.

        Raises:
          InputError: if it is no picture, damaged or too large.
        """
        if path.suffix.lower() not in PICTURE_SUFFIXES:
            raise InputError(f"{path.name} is no picture; drop a PNG, JPEG, GIF, TIFF or BMP file")
        frames = read_frames(path)
        image = next(frames.images)
        height, width = image.shape[:2]
        if height * width > self._max_pixels:
            raise InputError(
                f"{path.name} has {width}x{height} pixels, more than this page takes; cut it, start"
                " the demo with a larger --max-megapixels, or use experiments.predict"
            )
        pixels = network_input(image, self._size, self.params.config.in_channels)
        logits = predict(
            self.params, pixels, return_logits=True, implementation=self._implementation
        )
        mask = mask_of_size(logits, (height, width))
        return Segmentation(image, mask, draw_overlay(image, mask), frames.count or 1)

    def time(self, image: np.ndarray) -> list[Latency]:
        """Time both networks in turn on one image, scaled to the timing's size.

        Args:
          image: uint8 [H, W, 3].

        Returns:
          The packed network and the full-precision one.
        """
        pixels = network_input(image, self._timing_size, self.params.config.in_channels)
        batch = jax.device_put(pixels[None])

        def packed() -> None:
            jax.block_until_ready(self._packed(batch))

        def full() -> None:
            jax.block_until_ready(self._float(self._float_state, batch))

        calls = {"packed": packed, "float32": full}
        for call in calls.values():
            call()
        rows = compare(time_interleaved(calls, self._rounds))
        return [
            Latency(name, tuple(row["seconds"]), row["median"], row["ratio"])
            for name, row in rows.items()
        ]

    def layers(self, image: np.ndarray) -> Summary:
        """Describe the network's layers for an image, as ``experiments.summary`` does.

        Args:
          image: uint8 [H, W, 3].

        Returns:
          Work, bytes and engine of every layer.
        """
        height, width = self._size or image.shape[:2]
        return summary(self.params, image_size=(height, width), implementation=self._implementation)
