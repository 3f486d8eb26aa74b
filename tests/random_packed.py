"""Packed networks with random bits, for tests of what is done with one."""

import dataclasses
from typing import Any

import numpy as np

from mbu_jax.packing import PackedConv, PackedHead, PackedStem, PackedUNet, unet_template
from mbu_jax.packing.layouts import valid_bits
from mbu_jax.unet import UNetConfig


def random_packed(config: UNetConfig, *, density: float = 0.3, seed: int = 0) -> PackedUNet:
    """Draw every bit and threshold by NumPy, thresholds where about half of the sums pass."""
    rng = np.random.default_rng(seed)
    template = unet_template(config)
    levels = 2**config.quantization.activation_bits - 1
    steps = np.arange(levels) - (levels - 1) / 2

    def bits(shape: tuple[int, ...], share: float) -> Any:
        return np.packbits(rng.random((*shape, 32)) < share, axis=-1).view("<u4")[..., 0]

    def conv(spec: PackedConv) -> PackedConv:
        shape, used = spec.positive.shape, valid_bits(spec.segments)
        chosen = bits(shape, 1.0 if spec.negative is None else density) & used
        positive = bits(shape, 0.5) & chosen
        exponent: Any = None
        if spec.exponent is not None:
            high = bits(shape, 0.3) & chosen
            exponent = np.stack([bits(shape, 0.3) & chosen & ~high, high])
        spread = np.sqrt(chosen.size / spec.out_channels * density * spec.in_channels)
        middle = rng.normal(size=spec.theta.shape[1:]) * spread / 4
        theta = np.rint(middle + np.multiply.outer(steps, np.full(spec.theta.shape[1], spread)))
        return dataclasses.replace(
            spec,
            positive=positive,
            negative=None if spec.negative is None else chosen & ~positive,
            exponent=exponent,
            theta=theta.astype(np.int32),
        )

    def normal(spec: Any) -> Any:
        return (np.rint(rng.normal(size=spec.shape) * 64) / 64).astype(np.float32)

    stem_weight: Any = np.rint(rng.normal(size=template.stem.weight.shape) * 100)
    stem_middle = rng.normal(size=config.width) * 9e4
    return PackedUNet(
        config=config,
        stem=PackedStem(
            weight=stem_weight.astype(np.int16),
            theta=np.rint(stem_middle + 9e4 * steps[:, None]).astype(np.int32),
        ),
        convs={name: conv(spec) for name, spec in template.convs.items()},
        head=PackedHead(weight=normal(template.head.weight), bias=normal(template.head.bias)),
    ).validate()
