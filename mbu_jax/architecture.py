"""The shape of the U-Net as plain data, shared by the modules, the masking strategy and reports.

Shape letters: H and W are the height and width of the image, c is the width of the network.
"""

from dataclasses import dataclass

from mbu_jax.errors import InputError

SIZE_MULTIPLE = 16
"""Four poolings by two: images are padded to this multiple in both directions."""

LAYER_NAMES: tuple[str, ...] = (
    "down_c1",
    "down_c2",
    "down_c3",
    "down_c4",
    "up_ct1",
    "up_c1",
    "up_ct2",
    "up_c2",
    "up_ct3",
    "up_c3",
    "up_ct4",
    "up_c4",
)
"""The twelve configurable layers in execution order; the stem and the head are fixed."""


@dataclass(frozen=True)
class ConvShape:
    """One convolution of the network.

    Attributes:
      name: name of the convolution inside its layer.
      kernel: side of the square kernel, in pixels.
      in_channels: channels of the input.
      out_channels: channels of the output.
      scale: the image size divided by the size of the output.
      transposed: whether it is a transposed convolution, whose stride equals its kernel.

    Example:
      >>> ConvShape("conv1", kernel=3, in_channels=3, out_channels=64, scale=1).weights
      1728
    """

    name: str
    kernel: int
    in_channels: int
    out_channels: int
    scale: int
    transposed: bool = False

    @property
    def weights(self) -> int:
        """Number of weights, biases and normalisation excluded."""
        return self.kernel**2 * self.in_channels * self.out_channels

    def macs(self, height: int, width: int) -> int:
        """Count the multiply-accumulates that one image takes.

        Args:
          height: H of the image in pixels; padded as the network pads it.
          width: W of the image in pixels; padded as the network pads it.

        Returns:
          Multiply-accumulates, those on padding included.

        Example:
          >>> up = ConvShape("up", 2, in_channels=8, out_channels=8, scale=1, transposed=True)
          >>> up.macs(16, 16) == 16 * 16 * 8 * 8
          True
        """
        padded_height, padded_width = padded_size(height, width)
        pixels = (padded_height // self.scale) * (padded_width // self.scale)
        # With a stride equal to the kernel, each output pixel meets exactly one tap.
        taps = 1 if self.transposed else self.kernel**2
        return pixels * taps * self.in_channels * self.out_channels


@dataclass(frozen=True)
class LayerShape:
    """One named layer: convolutions that share a weight precision.

    Attributes:
      name: ``stem``, ``head`` or one of ``LAYER_NAMES``.
      convs: its convolutions in execution order.
      configurable: whether its precision may be chosen; false for the stem and the head.

    Example:
      >>> unet_layers(width=64)[1].weights == 9 * (64 * 128 + 128 * 128)
      True
    """

    name: str
    convs: tuple[ConvShape, ...]
    configurable: bool = True

    @property
    def weights(self) -> int:
        """Number of weights of all its convolutions."""
        return sum(conv.weights for conv in self.convs)

    def macs(self, height: int, width: int) -> int:
        """Count the multiply-accumulates that one image takes.

        Args:
          height: H of the image in pixels.
          width: W of the image in pixels.

        Returns:
          The sum over its convolutions.
        """
        return sum(conv.macs(height, width) for conv in self.convs)


def padded_size(height: int, width: int) -> tuple[int, int]:
    """Round an image size up to what the four poolings divide.

    Args:
      height: H of the image in pixels, at least 1.
      width: W of the image in pixels, at least 1.

    Returns:
      Height and width, each the next multiple of ``SIZE_MULTIPLE``.

    Raises:
      InputError: the size is not positive.

    Example:
      >>> padded_size(959, 640)
      (960, 640)
    """
    if height < 1 or width < 1:
        raise InputError(f"image size {height}x{width}: height and width must be at least 1 pixel")
    return -(-height // SIZE_MULTIPLE) * SIZE_MULTIPLE, -(-width // SIZE_MULTIPLE) * SIZE_MULTIPLE


def unet_layers(width: int = 64, in_channels: int = 3, classes: int = 1) -> tuple[LayerShape, ...]:
    """Describe every layer of the U-Net in execution order.

    Args:
      width: c, the channels at full resolution.
      in_channels: channels of the image.
      classes: channels of the logits.

    Returns:
      ``stem``, the twelve layers of ``LAYER_NAMES``, ``head``.

    Raises:
      InputError: one of the three is smaller than 1.

    Example:
      >>> [layer.name for layer in unet_layers()][:3]
      ['stem', 'down_c1', 'down_c2']
      >>> sum(layer.weights for layer in unet_layers(width=64))
      14776064

    Source: the paper's Figure A.2, its channel counts pinned by Table A.4.
    """
    for option, value in (("width", width), ("in_channels", in_channels), ("classes", classes)):
        if value < 1:
            raise InputError(f"{option} is {value}; it must be at least 1")
    c = width
    return (
        _double_conv("stem", in_channels, c, scale=1, configurable=False),
        _double_conv("down_c1", c, 2 * c, scale=2),
        _double_conv("down_c2", 2 * c, 4 * c, scale=4),
        _double_conv("down_c3", 4 * c, 8 * c, scale=8),
        _double_conv("down_c4", 8 * c, 8 * c, scale=16),
        _transposed("up_ct1", 8 * c, scale=8),
        _double_conv("up_c1", 16 * c, 4 * c, scale=8),
        _transposed("up_ct2", 4 * c, scale=4),
        _double_conv("up_c2", 8 * c, 2 * c, scale=4),
        _transposed("up_ct3", 2 * c, scale=2),
        _double_conv("up_c3", 4 * c, c, scale=2),
        _transposed("up_ct4", c, scale=1),
        _double_conv("up_c4", 2 * c, c, scale=1),
        LayerShape("head", (ConvShape("conv", 1, c, classes, scale=1),), configurable=False),
    )


def _double_conv(
    name: str, in_channels: int, out_channels: int, scale: int, configurable: bool = True
) -> LayerShape:
    convs = (
        ConvShape("conv1", 3, in_channels, out_channels, scale),
        ConvShape("conv2", 3, out_channels, out_channels, scale),
    )
    return LayerShape(name, convs, configurable)


def _transposed(name: str, channels: int, scale: int) -> LayerShape:
    return LayerShape(name, (ConvShape("conv", 2, channels, channels, scale, transposed=True),))
