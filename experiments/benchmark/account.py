"""Where a packed network's time goes: its convolutions' times and their non-zero products."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from mbu_jax.architecture import unet_layers
from mbu_jax.packing import PackedUNet

NETWORK, REST = "network", "stem, pools, head"


def account(
    params: PackedUNet,
    size: int,
    rounds: Sequence[dict[str, float]],
    ceilings: Mapping[str, float],
) -> dict[str, Any]:
    """Bring the times of single convolutions together with their work.

    Args:
      params: the network.
      size: height and width of the image.
      rounds: of each round, seconds by convolution, and of the whole ``network``.
      ceilings: rates that one core cannot pass, as `mbu_jax.ops.bitsliced.ceilings.Ceilings` has
        them, on the core that took these times.

    Returns:
      By convolution ``seconds`` of every round, their ``median``, ``nonzero_macs``
      (multiplications by weights that are not 0, for one image), ``nonzero_macs_per_second``,
      and ``floor_seconds``: what adding takes, or reading planes from the first-level cache if
      that is longer. The whole ``network`` likewise; and what of its median is left for
      ``stem, pools, head``.
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
    # Each bit of an activation is a plane of its own.
    rate = min(ceilings["adders"], ceilings["l1"]) / params.activation_bits
    lines = {name: _line([r[name] for r in rounds], macs, rate) for name, macs in work.items()}
    convolutions = sum(line["median"] for line in lines.values())
    whole = _line([r[NETWORK] for r in rounds], sum(work.values()), rate)
    return {**lines, REST: {"median": whole["median"] - convolutions}, NETWORK: whole}


def _line(seconds: list[float], macs: int, rate: float) -> dict[str, Any]:
    median = float(np.median(seconds))
    return {
        "seconds": seconds,
        "median": median,
        "nonzero_macs": macs,
        "nonzero_macs_per_second": macs / median,
        "floor_seconds": macs / rate,
    }
