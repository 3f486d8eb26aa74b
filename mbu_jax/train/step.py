"""One update, one SPMD program: the batch is split over devices, the state is on each."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from mbu_jax.train.config import LossOptions
from mbu_jax.train.losses import distillation_loss, segmentation_loss
from mbu_jax.train.metrics import confusion_counts
from mbu_jax.train.optimizer import ema_update
from mbu_jax.train.state import Network, TrainState, Tree, clip_latent

type Metrics = dict[str, Array]


@dataclasses.dataclass(frozen=True)
class Teacher:
    """A trained network whose predictions another one learns.

    Attributes:
      network: the structure.
      weights: parameters, BatchNorm statistics and thresholds, on every device of the mesh.
    """

    network: Network
    weights: tuple[Tree, Tree, Tree]


def data_mesh() -> Mesh:
    """Make a mesh of all devices of all processes along one axis, ``data``.

    Returns:
      The mesh.

    Example:
      >>> data_mesh().axis_names
      ('data',)
    """
    return jax.make_mesh((jax.device_count(),), ("data",), axis_types=(AxisType.Auto,))


def shard_batch(batch: Mapping[str, Any], mesh: Mesh) -> dict[str, Array]:
    """Lay this process's part of a batch on its devices.

    Args:
      batch: arrays with a leading batch axis; entries that are not numbers (ids) are left out.
      mesh: from `data_mesh`; its size must divide the global batch.

    Returns:
      Global arrays, split over ``data`` along the first axis.

    Example:
      >>> shard_batch({"mask": np.zeros((4, 8, 8), np.uint8)}, data_mesh())["mask"].shape
      (4, 8, 8)
    """
    sharding = NamedSharding(mesh, P("data"))
    return {
        name: jax.make_array_from_process_local_data(sharding, value)
        for name, value in batch.items()
        if np.issubdtype(value.dtype, np.number)
    }


def replicate[T](tree: T, mesh: Mesh) -> T:
    """Copy a tree of arrays to every device of the mesh.

    Args:
      tree: of arrays, equal on every process.
      mesh: from `data_mesh`.

    Returns:
      The tree, of global arrays.
    """
    sharding = NamedSharding(mesh, P())
    return jax.tree.map(
        lambda x: jax.make_array_from_callback(x.shape, sharding, np.asarray(x).__getitem__), tree
    )


def make_update(
    network: Network,
    optimizer: optax.GradientTransformation,
    loss: LossOptions,
    *,
    clip: bool = True,
    ema_decay: float = 0.0,
    teacher: Network | None = None,
) -> Callable[[TrainState, dict[str, Array], tuple[Tree, ...]], tuple[TrainState, Metrics]]:
    """Write one update as a function to compile.

    Args:
      network: the structure.
      optimizer: Optax transformation.
      loss: weights of the loss's parts.
      clip: whether to clip latent weights to [-1, 1] after the update.
      ema_decay: decay of the moving average; used where the state has one.
      teacher: structure of the network whose predictions are distilled, or None.

    Returns:
      Function of (state, {"image", "mask"}, the teacher's weights or an empty tuple) giving the
      new state and the metrics of `make_train_step`.
    """

    def objective(
        params: Tree, stats: Tree, batch: dict[str, Array], taught: Array | None
    ) -> tuple[Array, Any]:
        logits, stats = network.apply_training(params, stats, batch["image"])
        total, parts = segmentation_loss(
            logits,
            batch["mask"],
            cross_entropy_weight=loss.cross_entropy_weight,
            dice_weight=loss.dice_weight,
        )
        parts["dice_loss"] = parts.pop("dice")
        if taught is not None:
            parts["distillation"] = distillation_loss(logits, taught, loss.temperature)
            total += loss.teacher_weight * parts["distillation"]
        return total, (stats, {"loss": total} | parts | _batch_dice(logits, batch["mask"]))

    def update(
        state: TrainState, batch: dict[str, Array], teacher_weights: tuple[Tree, ...]
    ) -> tuple[TrainState, Metrics]:
        taught = None
        if teacher is not None:
            params, stats, thresholds = teacher_weights
            taught = teacher.apply_evaluation(params, stats, thresholds, batch["image"])
        gradient = jax.grad(objective, has_aux=True)
        grads, (stats, metrics) = gradient(state.params, state.stats, batch, taught)
        updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
        params = cast(Tree, optax.apply_updates(state.params, updates))
        if clip:
            params = clip_latent(params, network.latent_mask(params))
        before = _signs(network, state.params)
        for name, signs in _signs(network, params).items():
            changed = signs != before[name]
            metrics[f"sign_flip_rate/{name}"] = jnp.mean(changed.astype(jnp.float32))
        metrics["grad_norm"] = optax.tree.norm(grads)
        # The only figure that shows a NaN in front of a quantizer, which makes it -1.
        metrics["weight_norm"] = optax.tree.norm(params)
        ema = state.ema
        if ema is not None:
            ema = ema_update(ema, params, ema_decay, state.step)
        new = dataclasses.replace(
            state,
            step=state.step + 1,
            params=params,
            stats=stats,
            opt_state=opt_state,
            ema=ema,
        )
        return new, metrics

    return update


def _signs(network: Network, params: Tree) -> dict[str, Array]:
    """Of the quantized weights: the magnitudes that TTQ and integers take change all the time."""
    layers = network.quantized_layers(params)
    return {name: jnp.sign(layer.quantized_weight()) for name, layer in layers.items()}


def make_train_step(
    network: Network,
    optimizer: optax.GradientTransformation,
    loss: LossOptions,
    mesh: Mesh,
    *,
    clip: bool = True,
    ema_decay: float = 0.0,
    teacher: Teacher | None = None,
) -> Callable[[TrainState, dict[str, Array]], tuple[TrainState, Metrics]]:
    """Compile one update.

    Args:
      network: the structure.
      optimizer: Optax transformation.
      loss: weights of the loss's parts.
      mesh: from `data_mesh`.
      clip: whether to clip latent weights to [-1, 1] after the update.
      ema_decay: decay of the moving average; used where the state has one.
      teacher: network whose predictions are distilled, or None.

    Returns:
      Function of (state, {"image", "mask"}) giving the new state and float32 scalars: loss, its
      parts (bce or ce, dice_loss, distillation), dice (the predictions' mean score), grad_norm,
      weight_norm (after the update), and ``sign_flip_rate/<layer>``, the share of quantized
      weights whose sign, -1, 0 or +1, changed.
      The state given is donated: do not use it again.
    """
    replicated, split = NamedSharding(mesh, P()), NamedSharding(mesh, P("data"))
    update = jax.jit(
        make_update(
            network,
            optimizer,
            loss,
            clip=clip,
            ema_decay=ema_decay,
            teacher=None if teacher is None else teacher.network,
        ),
        in_shardings=(replicated, split, replicated),
        out_shardings=(replicated, replicated),
        donate_argnums=0,
    )
    # An argument, since a constant would be compiled in and cannot span several processes.
    weights = () if teacher is None else teacher.weights
    return lambda state, batch: update(state, batch, weights)


def _batch_dice(logits: Array, mask: Array) -> Metrics:
    """Mean per-image Dice of the predictions, for the progress bar and the curves."""
    counts = confusion_counts(logits, mask).astype(jnp.float32)
    overlap, errors = 2 * counts[..., 0], counts[..., 1] + counts[..., 2]
    dice = jnp.where(overlap + errors > 0, overlap / jnp.maximum(overlap + errors, 1), 1)
    return {"dice": jnp.mean(dice)}


def make_eval_step(network: Network, mesh: Mesh) -> Callable[[Tree, Tree, Tree, Array], Array]:
    """Compile the evaluation-mode network.

    Args:
      network: the structure.
      mesh: from `data_mesh`.

    Returns:
      Function of (params, stats, thresholds, images) giving logits, split like the images.
    """
    replicated, split = NamedSharding(mesh, P()), NamedSharding(mesh, P("data"))
    return jax.jit(
        network.apply_evaluation,
        in_shardings=(replicated, replicated, replicated, split),
        out_shardings=split,
    )
