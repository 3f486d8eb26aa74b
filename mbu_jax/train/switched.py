"""A network whose layers are binary or masked as an array of booleans says."""

import dataclasses
from typing import Self, override

import jax
import jax.numpy as jnp
from jax import Array

from mbu_jax.architecture import LAYER_NAMES
from mbu_jax.layers import Conv3x3, Precision, QuantizationOptions, UpConv2x2, quantize_weight
from mbu_jax.train.state import Network, Tree
from mbu_jax.unet import UNetConfig


@dataclasses.dataclass(frozen=True, eq=False)
class SwitchedNetwork(Network):
    """A network with layers masked or binary by numbers, so that one program trains many.

    Its graph is the all-masked network with the fixed ternarizer and the clipped gradient. That
    quantizes integers -1, 0 and 1 to themselves and passes their gradient on, so the integers of
    either kind can be its latent weights.

    Attributes:
      masked: boolean [12], which of `LAYER_NAMES` are masked; may be traced.
      options: how the layers' own latent weights become these integers.

    Example:
      >>> config = UNetConfig(width=4)
      >>> network = SwitchedNetwork.build_switched(config, jnp.arange(12) >= 6)
      >>> _, params, _ = Network.create(config, seed=0)
      >>> layers = network.quantized_layers(params)
      >>> bool((layers["down_c1.conv1"].quantized_weight() == 0).any())
      False
      >>> bool((layers["up_c4.conv1"].quantized_weight() == 0).any())
      True
    """

    masked: Array
    options: QuantizationOptions

    @classmethod
    def build_switched(cls, config: UNetConfig, masked: Array) -> Self:
        """Lay out a network without drawing weights; works under transformations.

        Args:
          config: sizes and quantization; its precisions are not read.
          masked: boolean [12], which of `LAYER_NAMES` are masked.

        Returns:
          The structure, with the parameters of any network of these sizes and quantization.
        """
        network = Network.build(_passing_integers(config))
        fields = {f.name: getattr(network, f.name) for f in dataclasses.fields(Network)}
        return cls(**fields, masked=masked, options=config.quantization)

    @override
    def apply_training(self, params: Tree, stats: Tree, images: Array) -> tuple[Array, Tree]:
        return super().apply_training(self._integers(params), stats, images)

    @override
    def apply_evaluation(self, params: Tree, stats: Tree, thresholds: Tree, images: Array) -> Array:
        return super().apply_evaluation(self._integers(params), stats, thresholds, images)

    @override
    def quantized_layers(self, params: Tree) -> dict[str, Conv3x3 | UpConv2x2]:
        return super().quantized_layers(self._integers(params))

    def _integers(self, params: Tree) -> Tree:
        """The parameters, integers in place of latent weights."""
        names = set(super().quantized_layers(params))
        masked = dict(zip(LAYER_NAMES, self.masked, strict=True)) | {"stem": jnp.bool(True)}

        def quantize(path: tuple[jax.tree_util.DictKey, ...], value: Array) -> Array:
            *layer, leaf = (str(key.key) for key in path)
            if leaf != "weight" or ".".join(layer) not in names:
                return value
            ternary = quantize_weight(value, "masked", self.options)
            return jnp.where(
                masked[layer[0]], ternary, quantize_weight(value, "binary", self.options)
            )

        return jax.tree_util.tree_map_with_path(quantize, params)


def _passing_integers(config: UNetConfig) -> UNetConfig:
    quantization = dataclasses.replace(
        config.quantization, ternarizer="fixed", weight_gradient="clipped"
    )
    masked: tuple[Precision, ...] = ("masked",) * len(LAYER_NAMES)
    return dataclasses.replace(config, precisions=masked, quantization=quantization)
