"""The networks that are timed: trained ones that were given, random ones otherwise."""

import dataclasses
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Any

import numpy as np

from experiments.benchmark.config import NetworkOptions
from experiments.benchmark.models import random_model
from experiments.model_file import model_file
from mbu_jax.errors import InputError
from mbu_jax.inference import pack
from mbu_jax.layers import QuantizationOptions
from mbu_jax.packing import PackedUNet
from mbu_jax.saving import load_packed
from mbu_jax.train.checkpoints import load_run
from mbu_jax.unet import UNet, UNetConfig

_DEFAULT_WIDTH = 64


@dataclasses.dataclass(frozen=True)
class FloatNetwork:
    """The full-precision network.

    Attributes:
      model: in evaluation mode.
      source: where its weights are from.
      random: whether they are random.
    """

    model: UNet
    source: str
    random: bool = False


@dataclasses.dataclass(frozen=True)
class PackedNetwork:
    """A packed network, and the model that it came from where there is one.

    Attributes:
      packed: the network.
      model: the model in evaluation mode, or None.
      source: where the weights are from.
      random: whether they are random.
    """

    packed: PackedUNet
    model: UNet | None
    source: str
    random: bool = False

    @property
    def density(self) -> float:
        """Share of non-zeros among the weights of all packed convolutions."""
        convs = [self.packed.convs[name] for name in self.packed.conv_names]
        weights = [np.prod(conv.positive.shape[:3]) * conv.in_channels for conv in convs]
        nonzeros = [conv.density * n for conv, n in zip(convs, weights, strict=True)]
        return float(sum(nonzeros) / sum(weights))


class Networks:
    """Finds or draws networks by name, all of the same width, channels and classes.

    Args:
      options: which trained networks there are.

    Raises:
      InputError: for a file that is none, or networks that do not go together.
    """

    def __init__(self, options: NetworkOptions) -> None:
        self._options = options
        self._float = None if options.run is None else _trained(options.run)
        self._packed: dict[str, PackedNetwork] = {}
        for path in options.packed:
            network = _given(path)
            name = network_name(network.packed.config)
            if name in self._packed:
                raise InputError(f"--packed names two {name} networks; give one of each kind")
            self._packed[name] = network
        configs = [network.packed.config for network in self._packed.values()]
        if self._float is not None:
            configs.append(self._float.model.config)
        self._sizes = _common_sizes(configs, options.width)

    @property
    def given(self) -> list[str]:
        """Names of the packed networks that were given."""
        return list(self._packed)

    def check_used(self, names: Collection[str]) -> None:
        """Refuse trained networks that would not be timed, and a score of none.

        Args:
          names: of the networks that rows have.

        Raises:
          InputError: naming the network and a row that would have it.
        """
        for name, network in self._packed.items():
            if name not in names:
                raise InputError(
                    f"--packed {network.source} is a network {name}, which no row has; add one to "
                    f"--rows, such as {name}:xla, or leave it out"
                )
        run, score = self._options.run, self._options.score
        if run is None or "full_precision" in names:
            return
        if not score:
            raise InputError(
                f"--run {run} is a network full_precision, which no row has; add one to --rows, "
                "such as xla-fp32, or leave it out"
            )
        if not self._packed:
            raise InputError(
                "--score scores trained networks, which no row has; add one of --run to --rows, "
                "such as xla-fp32, or give a packed network with --packed"
            )

    @property
    def in_channels(self) -> int:
        """Channels of the images."""
        return self._sizes["in_channels"]

    def full_precision(self) -> FloatNetwork:
        """Give the float network.

        Returns:
          The trained one, or one with random weights.
        """
        if self._float is None:
            config = _preset("full_precision", QuantizationOptions(), self._sizes)
            model = random_model(config, self._options.density)
            self._float = FloatNetwork(model, "random weights", random=True)
        return self._float

    def packed(self, name: str, density: float | None = None) -> PackedNetwork:
        """Give a packed network.

        Args:
          name: ``binary``, ``all_masked``, ``mbu`` or ``pow2``, with ``-2bit`` behind for two-bit
            activations.
          density: share of non-zeros of masked weights, random whatever was trained; by default
            the trained network, or the configured density.

        Returns:
          The network.
        """
        if density is None and name in self._packed:
            return self._packed[name]
        wanted = self._options.density if density is None else density
        preset, _, two = name.partition("-")
        quantization = QuantizationOptions(activation_bits=2 if two else 1)
        config = _preset(preset, quantization, self._sizes)
        model = random_model(config, wanted)
        masked = (
            "" if preset in ("binary", "pow2") else f", {100 * wanted:g} % non-zero where masked"
        )
        return PackedNetwork(pack(model), model, f"random weights{masked}", random=True)


def network_name(config: UNetConfig) -> str:
    """Name the kind of a packed network.

    Args:
      config: of the network.

    Returns:
      ``binary``, ``all_masked``, ``pow2`` or ``mbu`` (a mixture), with ``-2bit`` behind for
      two-bit activations.

    Example:
      >>> network_name(UNetConfig.preset("binary"))
      'binary'
    """
    alone = config.precisions[0] if len(set(config.precisions)) == 1 else ""
    name = {"binary": "binary", "masked": "all_masked", "pow2": "pow2"}.get(alone, "mbu")
    return name + ("-2bit" if config.quantization.activation_bits == 2 else "")


def _preset(name: str, quantization: QuantizationOptions, sizes: dict[str, Any]) -> UNetConfig:
    return UNetConfig.preset(
        name,  # pyrefly: ignore[bad-argument-type]  (checked there)
        quantization=quantization,
        **sizes,
    )


def _trained(run: Path) -> FloatNetwork:
    network, params, stats, _ = load_run(run)
    if network.config.quantization.activation_bits < 32:
        raise InputError(
            f"--run {run} is no full_precision network; give its model with --packed, or train "
            "with --network full_precision"
        )
    return FloatNetwork(network.model(params, stats), str(run))


def _given(path: Path) -> PackedNetwork:
    packed = load_packed(model_file(path))
    if not path.is_dir():
        return PackedNetwork(packed, None, str(path))
    network, params, stats, _ = load_run(path)
    return PackedNetwork(packed, network.model(params, stats), str(path))


def _common_sizes(configs: Iterable[UNetConfig], width: int | None) -> dict[str, int]:
    default = {"width": _DEFAULT_WIDTH if width is None else width, "in_channels": 3, "classes": 1}
    found = [{name: getattr(config, name) for name in default} for config in configs] or [default]
    if any(sizes != found[0] for sizes in found):
        raise InputError(
            "the networks of --run and --packed differ in width, channels or classes, so their "
            "times cannot be compared; give networks of one shape"
        )
    if width not in (None, found[0]["width"]):
        raise InputError(
            f"--width is {width} but the networks given have {found[0]['width']}; leave it out"
        )
    if found[0]["in_channels"] not in (1, 3):
        raise InputError(
            f"the networks given take images of {found[0]['in_channels']} channels; pictures have "
            "1 or 3"
        )
    return found[0]
