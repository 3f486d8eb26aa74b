"""Where a packed network's time goes: its convolutions' times and their non-zero products."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from mbu_jax.architecture import unet_layers
from mbu_jax.packing import PackedUNet

NETWORK, REST = "network", "stem, pools, head"


def account(params: PackedUNet, size: int, rounds: Sequence[dict[str, float]]) -> dict[str, Any]:
    """Bring the times of single convolutions together with their work.

    Args:
      params: the network.
      size: height and width of the image.
      rounds: of each round, seconds by convolution, and of the whole ``network``.

    Returns:
      By convolution ``seconds`` of every round, their ``median``, ``nonzero_macs``
      (multiplications by weights that are not 0, for one image) and ``nonzero_macs_per_second``;
      the whole ``network`` likewise; and what of its median is left for ``stem, pools, head``.
    """
    config = params.config
    shapes = {
        f"{layer.name}.{conv.name}": conv
        for layer in unet_layers(config.width, config.in_channels, config.classes)
        for conv in layer.convs
    }
    work = {
        name: round(shapes[name].macs(size, size) * params.convs[name].density)
        for name in params.conv_names
    }
    lines = {name: _line([r[name] for r in rounds], macs) for name, macs in work.items()}
    convolutions = sum(line["median"] for line in lines.values())
    whole = _line([r[NETWORK] for r in rounds], sum(work.values()))
    return {**lines, REST: {"median": whole["median"] - convolutions}, NETWORK: whole}


def _line(seconds: list[float], macs: int) -> dict[str, Any]:
    median = float(np.median(seconds))
    return {
        "seconds": seconds,
        "median": median,
        "nonzero_macs": macs,
        "nonzero_macs_per_second": macs / median,
    }
