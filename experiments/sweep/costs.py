"""What a network of masked and binary layers costs, as a device multiplies or skips zeros."""

import functools
from collections.abc import Mapping

from experiments.sweep.plan import Mask
from mbu_jax.architecture import LAYER_NAMES, ConvShape, LayerShape, unet_layers
from mbu_jax.masking import dense_operations, nonzero_macs


@functools.cache
def quantized_convolutions(width: int) -> dict[str, tuple[str, ConvShape]]:
    """Look up the convolutions whose weights are quantized.

    Args:
      width: c of the network.

    Returns:
      By name, such as ``down_c1.conv2``, the layer and the convolution's shape.
    """
    return {
        f"{layer.name}.{conv.name}": (layer.name, conv)
        for layer in unet_layers(width)
        for conv in layer.convs
        if layer.name in LAYER_NAMES or f"{layer.name}.{conv.name}" == "stem.conv2"
    }


def dense_cost(mask: Mask, width: int, image_size: tuple[int, int]) -> int:
    """Count operations where zeros are multiplied too: a masked layer takes two products.

    Args:
      mask: the masked layers.
      width: c of the network.
      image_size: height and width in pixels.

    Returns:
      Operations of the one-bit convolutions on one image, counted as `dense_operations` does. The
      stem's second convolution is always masked.
    """
    masked = dict(zip(LAYER_NAMES, mask, strict=True)) | {"stem": True}
    return sum(
        (2 if masked[layer] else 1) * dense_operations(_alone(name, conv), *image_size)
        for name, (layer, conv) in quantized_convolutions(width).items()
    )


def nonzero_cost_of(
    mask: Mask, zeros: Mapping[str, int], width: int, image_size: tuple[int, int]
) -> float:
    """Count multiply-accumulates where zeros are skipped, as the bit-sliced engine does.

    Args:
      mask: the masked layers.
      zeros: number of zero weights by convolution.
      width: c of the network.
      image_size: height and width in pixels.

    Returns:
      One-bit multiply-accumulates on one image; see `mbu_jax.masking.nonzero_macs`, which plans
      half of a binary layer's weights.
    """
    masked = dict(zip(LAYER_NAMES, mask, strict=True)) | {"stem": True}
    convs = quantized_convolutions(width)
    height, breadth = image_size
    counts = nonzero_macs(
        [_alone(name, conv) for name, (_, conv) in convs.items()],
        {name: "masked" if masked[layer] else "binary" for name, (layer, _) in convs.items()},
        density={name: 1 - zeros[name] / conv.weights for name, (_, conv) in convs.items()},
        height=height,
        width=breadth,
    )
    return sum(counts.values())


def zero_shares(zeros: Mapping[str, int], width: int) -> dict[str, float]:
    """Add convolutions up to layers.

    Args:
      zeros: number of zero weights by convolution.
      width: c of the network.

    Returns:
      Share of zeros by layer, the stem's second convolution among them.
    """
    counts: dict[str, list[int]] = {}
    for name, (layer, conv) in quantized_convolutions(width).items():
        total = counts.setdefault(layer, [0, 0])
        total[0] += zeros[name]
        total[1] += conv.weights
    return {layer: count / weights for layer, (count, weights) in counts.items()}


def _alone(name: str, conv: ConvShape) -> LayerShape:
    return LayerShape(name, (conv,))
