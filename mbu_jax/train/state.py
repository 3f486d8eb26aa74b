"""What training changes, as one pytree, and the fixed structure around it."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jax import Array

from mbu_jax.layers import Conv3x3, Folded, LatentWeight, UpConv2x2
from mbu_jax.unet import UNet, UNetConfig

type Tree = dict[str, Any]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TrainState:
    """Everything that one update changes; a checkpoint holds exactly this and the data position.

    Nothing in an update is random: order and augmentation follow from the seed and the position
    in the data, so no random key is part of the state.

    Attributes:
      step: int32 scalar, updates done.
      params: nested dictionary of float32 arrays.
      stats: BatchNorm's running means and variances, nested likewise.
      opt_state: of the Optax transformation.
      ema: moving average of params, or None.
    """

    step: Array
    params: Tree
    stats: Tree
    opt_state: optax.OptState
    ema: Tree | None


@dataclasses.dataclass(frozen=True, eq=False)
class Network:
    """The network's structure apart from its numbers, so that a state can be run by a function.

    Attributes:
      config: sizes and precisions.
      training: NNX graph definition in training mode.
      evaluation: the same in evaluation mode.
      params: shape and dtype of every parameter.
      initial_stats: BatchNorm statistics at the start.
      thresholds: placeholder thresholds; evaluation replaces them.
    """

    config: UNetConfig
    training: nnx.GraphDef[UNet]
    evaluation: nnx.GraphDef[UNet]
    params: Tree
    initial_stats: Tree
    thresholds: Tree

    @classmethod
    @functools.cache
    def build(cls, config: UNetConfig) -> "Network":
        """Lay out a network without drawing weights.

        Args:
          config: sizes and precisions.

        Returns:
          The structure, the same object for the same configuration: compiled functions know it.

        Example:
          >>> Network.build(UNetConfig(width=4)).params["head"]["weight"].shape
          (4, 1)
        """
        model = nnx.eval_shape(lambda: UNet(config, rngs=nnx.Rngs(0)))
        training = nnx.graphdef(model)
        nnx.Module.eval(model)  # not UNet's own, which folds: there are no numbers yet
        evaluation = nnx.graphdef(model)
        params = nnx.to_pure_dict(nnx.state(model, nnx.Param))
        stats, thresholds = _draw(config, jax.random.key(0), (nnx.BatchStat, Folded))
        return cls(config, training, evaluation, params, stats, thresholds)

    @classmethod
    def create(cls, config: UNetConfig, seed: int) -> tuple["Network", Tree, Tree]:
        """Lay out a network and initialize it.

        Args:
          config: sizes and precisions.
          seed: of the initialization.

        Returns:
          The structure, the parameters and the BatchNorm statistics.

        Example:
          >>> network, params, stats = Network.create(UNetConfig(width=4), seed=0)
          >>> params["head"]["weight"].shape
          (4, 1)
        """
        network = cls.build(config)
        # Threefry, the default, takes a second to compile for each of some twenty shapes.
        (params,) = _draw(config, jax.random.key(seed, impl="rbg"), (nnx.Param,))
        return network, params, network.initial_stats

    def apply_training(self, params: Tree, stats: Tree, images: Array) -> tuple[Array, Tree]:
        """Run in training mode: normalize by batch statistics.

        Args:
          params: parameters.
          stats: running statistics before the batch.
          images: [B, H, W, C] uint8 or float.

        Returns:
          Logits [B, H, W, classes] and the running statistics after the batch.
        """
        model = nnx.merge(self.training, params, stats, self.thresholds)
        logits = model(images)
        return logits, nnx.to_pure_dict(nnx.state(model, nnx.BatchStat))

    def fold(self, params: Tree, stats: Tree) -> Tree:
        """Fold BatchNorm into thresholds; outside ``jit``.

        Args:
          params: parameters, concrete arrays.
          stats: running statistics, concrete arrays.

        Returns:
          The thresholds for `apply_evaluation`.

        Raises:
          ValueError: where a statistic is not finite.
        """
        model = nnx.merge(self.evaluation, params, stats, self.thresholds)
        model.fold()
        return nnx.to_pure_dict(nnx.state(model, Folded))

    def apply_evaluation(self, params: Tree, stats: Tree, thresholds: Tree, images: Array) -> Array:
        """Run in evaluation mode: compare with thresholds, as the packed network does.

        Args:
          params: parameters.
          stats: running statistics (only a full-precision network still reads them).
          thresholds: from `fold`.
          images: [B, H, W, C] uint8 or float.

        Returns:
          Logits [B, H, W, classes].
        """
        return nnx.merge(self.evaluation, params, stats, thresholds)(images)

    def model(self, params: Tree, stats: Tree) -> UNet:
        """Assemble the module in evaluation mode.

        Args:
          params: parameters, concrete arrays.
          stats: running statistics, concrete arrays.

        Returns:
          A `UNet` whose thresholds are folded.
        """
        return nnx.merge(self.evaluation, params, stats, self.fold(params, stats))

    def quantized_layers(self, params: Tree) -> dict[str, Conv3x3 | UpConv2x2]:
        """Look up the convolutions that have latent weights; works under ``jit``.

        Args:
          params: parameters.

        Returns:
          Module by name, such as ``down_c1.conv2``; its ``quantized_weight()`` are integers.

        Example:
          >>> network, params, _ = Network.create(UNetConfig(width=4), seed=0)
          >>> len(network.quantized_layers(params))
          21
        """
        model = nnx.merge(self.training, params, self.initial_stats, self.thresholds)
        return {
            ".".join(map(str, path)): module
            for path, module in nnx.iter_modules(model)
            if isinstance(module, Conv3x3 | UpConv2x2) and isinstance(module.weight, LatentWeight)
        }

    def latent_mask(self, params: Tree) -> Tree:
        """Tell which parameters are latent weights behind quantized ones.

        Args:
          params: parameters.

        Returns:
          Nested dictionary of booleans like params.
        """
        names = set(self.quantized_layers(params))

        def is_latent(path: tuple[jax.tree_util.DictKey, ...], _: Any) -> bool:
            *layer, leaf = (str(key.key) for key in path)
            return leaf == "weight" and ".".join(layer) in names

        return jax.tree_util.tree_map_with_path(is_latent, params)


@functools.partial(jax.jit, static_argnums=(0, 2))  # one program instead of a hundred small ones
def _draw(config: UNetConfig, key: Array, kinds: tuple[type[nnx.Variable], ...]) -> list[Tree]:
    """Initial numbers of these kinds of variables; XLA leaves out the drawing of the others."""
    model = UNet(config, rngs=nnx.Rngs(key))
    return [nnx.to_pure_dict(nnx.state(model, kind)) for kind in kinds]


def clip_latent(params: Tree, latent: Tree) -> Tree:
    """Clip latent weights to [-1, 1], the range in which their gradients flow.

    Args:
      params: parameters.
      latent: booleans of the same structure; see `Network.latent_mask`.

    Returns:
      Parameters with latent weights clipped.

    Example:
      >>> clip_latent({"w": jnp.array([2.0]), "b": jnp.array([2.0])}, {"w": True, "b": False})
      {'b': Array([2.], dtype=float32), 'w': Array([1.], dtype=float32)}
    """
    return jax.tree.map(lambda p, is_latent: jnp.clip(p, -1, 1) if is_latent else p, params, latent)
