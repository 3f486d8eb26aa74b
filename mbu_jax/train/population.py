"""Networks that differ in which layers are masked, trained side by side as one program."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from numpy.typing import NDArray

from mbu_jax.architecture import LAYER_NAMES
from mbu_jax.train.config import LossOptions
from mbu_jax.train.metrics import SegmentationScores, confusion_counts
from mbu_jax.train.state import Network, TrainState, Tree
from mbu_jax.train.step import Metrics, make_update
from mbu_jax.train.switched import SwitchedNetwork
from mbu_jax.unet import UNetConfig

type Masked = NDArray[np.bool_]
type Groups = Sequence[Tree]

_MEMBERS, _ALIKE = P("members"), P()


def members_mesh() -> Mesh:
    """Make a mesh of this process's devices along one axis, ``members``.

    Returns:
      The mesh.

    Example:
      >>> members_mesh().axis_names
      ('members',)
    """
    devices = jax.local_devices()
    return jax.make_mesh(
        (len(devices),), ("members",), axis_types=(AxisType.Auto,), devices=devices
    )


class Population:
    """Networks of one size on the same images, each with its own choice of masked layers.

    Every member is what `mbu_jax.train.loop.Trainer` trains of its configuration alone, up to the
    rounding of another program. Members are spread over devices and never exchange anything.

    Args:
      config: sizes and quantization; its precisions are not read.
      optimizer: Optax transformation, for each member on its own.
      loss: weights of the loss's parts; without a teacher.
      mesh: from `members_mesh`.
      clip: whether to clip latent weights to [-1, 1] after an update.
      ema_decay: decay of the moving average of weights; 0 for none.
      at_once: members of a device that one program computes together (``vmap``), group after
        group. None is what suits the device: on a CPU one, elsewhere all.

    Example:
      >>> population = Population(
      ...     UNetConfig(width=4), optax.adam(1e-3), LossOptions(), members_mesh()
      ... )
      >>> state = population.create(4, seed=0)
      >>> sum(len(group["head"]["bias"]) for group in state.params)
      4
    """

    def __init__(
        self,
        config: UNetConfig,
        optimizer: optax.GradientTransformation,
        loss: LossOptions,
        mesh: Mesh,
        *,
        clip: bool = True,
        ema_decay: float = 0.0,
        at_once: int | None = None,
    ) -> None:
        self._config = config
        self._mesh = mesh
        self._averages = ema_decay > 0
        self._optimizer = optimizer
        # Convolutions of four members at once take 1.3 times as long as one after the other there;
        # benchmarks/results/cpu/population_update.json, by experiments.benchmark_population.
        if at_once is None and mesh.devices.flat[0].platform == "cpu":
            at_once = 1
        self._group = at_once and at_once * mesh.size

        def each(function: Callable[..., Any], masked: Array, *trees: Any) -> Any:
            """Apply a function of a member's network and trees to all members of a group."""

            def one(switches: Array, *own: Any) -> Any:
                return function(SwitchedNetwork.build_switched(config, switches), *own)

            # Not lax.map over groups: inside loops, XLA's convolutions are slower on a CPU.
            return jax.vmap(one)(masked, *trees)

        def update(
            masked: Array, own: tuple[Any, ...], step: Array, batch: dict[str, Array]
        ) -> tuple[tuple[Any, ...], Metrics]:
            def one(network: Network, *own: Any) -> tuple[tuple[Any, ...], Metrics]:
                change = make_update(network, optimizer, loss, clip=clip, ema_decay=ema_decay)
                new, metrics = change(TrainState(step, *own), batch, ())
                return (new.params, new.stats, new.opt_state, new.ema), metrics

            return each(one, masked, *own)

        def batch_stats(masked: Array, params: Tree, stats: Tree, images: Array) -> Tree:
            def one(network: Network, params: Tree, stats: Tree) -> Tree:
                return network.apply_training(params, stats, images)[1]

            return each(one, masked, params, stats)

        def counts(masked: Array, weights: tuple[Tree, ...], batch: dict[str, Array]) -> Array:
            def one(network: Network, params: Tree, stats: Tree, thresholds: Tree) -> Array:
                logits = network.apply_evaluation(params, stats, thresholds, batch["image"])
                return confusion_counts(logits, batch["mask"])

            return each(one, masked, *weights)

        def zeros(masked: Array, params: Tree) -> dict[str, Array]:
            def one(network: Network, params: Tree) -> dict[str, Array]:
                return {
                    name: jnp.sum(layer.quantized_weight() == 0, dtype=jnp.int32)
                    for name, layer in network.quantized_layers(params).items()
                }

            return each(one, masked, params)

        self._update = self._compile(update, (_MEMBERS, _MEMBERS, _ALIKE, _ALIKE), 1)
        self._batch_stats = self._compile(batch_stats, (_MEMBERS, _MEMBERS, _MEMBERS, _ALIKE))
        self._counts = self._compile(counts, (_MEMBERS, _MEMBERS, _ALIKE))
        self._zeros = self._compile(zeros, (_MEMBERS, _MEMBERS))

    def padded(self, members: int) -> int:
        """Round a number of members up to what groups on all devices divide.

        Args:
          members: how many are wanted.

        Returns:
          M of the methods below, at least as many.
        """
        unit = self._group or self._mesh.size
        return -(-members // unit) * unit

    def create(self, members: int, seed: int, start: Tree | None = None) -> TrainState:
        """Initialize members as any network of this seed is.

        Args:
          members: M, how many; see `padded`.
          seed: of the initialization.
          start: parameters that all members have instead of random ones.

        Returns:
          State of all members: ``step`` is a scalar; ``params``, ``stats``, ``opt_state`` and
          ``ema`` are lists with a tree for each group, whose arrays have a leading axis of members.

        Raises:
          ValueError: if groups do not divide the members.
        """
        if members != self.padded(members):
            raise ValueError(f"{members} members do not make whole groups; see `padded`")
        size = self._group or members
        _, params, stats = Network.create(self._config, seed)
        params = params if start is None else start
        ema = params if self._averages else None
        fields = jax.device_get((params, stats, self._optimizer.init(params), ema))
        alike = jax.tree.map(lambda x: np.broadcast_to(x, (size, *np.shape(x))), fields)
        groups = [self._place(alike, _MEMBERS) for _ in range(members // size)]
        return _joined(self._place(np.int32(0), _ALIKE), groups)

    def update(
        self, masked: Masked, state: TrainState, batch: Mapping[str, Any]
    ) -> tuple[TrainState, list[Metrics]]:
        """Make one update of every member on the same images.

        Args:
          masked: boolean [M, 12], the `LAYER_NAMES` that each member masks.
          state: of `create` or an earlier update; donated, do not use it again.
          batch: ``image`` and ``mask``.

        Returns:
          The new state, and for each group the metrics of `make_train_step`, float32 [members].
        """
        images = self._images(batch)
        groups, metrics = [], []
        for switches, own in zip(self._switches(masked), _parts(state), strict=True):
            new, figures = self._update(switches, own, state.step, images)
            groups.append(new)
            metrics.append(figures)
        return _joined(state.step + 1, groups), metrics

    def recalibrated_stats(
        self, masked: Masked, params: Groups, batches: Iterable[Mapping[str, Any]]
    ) -> Groups:
        """Re-estimate BatchNorm statistics as the plain mean over training batches.

        Args:
          masked: boolean [M, 12].
          params: parameters of each group.
          batches: training batches, at least 1.

        Returns:
          BatchNorm statistics of each group; see `mbu_jax.train.evaluation.Evaluator`.
        """
        momentum = 0.9  # of `NormActivation`: new = 0.9 old + 0.1 batch, old being 0 here
        shapes = Network.build(self._config).initial_stats
        size = self._group or len(masked)
        zero = jax.tree.map(lambda s: np.zeros((size, *s.shape), s.dtype), shapes)
        zero = self._place(zero, _MEMBERS)
        totals, count = [zero] * len(params), 0
        for batch in batches:
            count += 1
            image = self._images(batch)["image"]
            for group, switches in enumerate(self._switches(masked)):
                new = self._batch_stats(switches, params[group], zero, image)
                totals[group] = jax.tree.map(jnp.add, totals[group], new)
        return [jax.tree.map(lambda s: s / ((1 - momentum) * count), total) for total in totals]

    def scores(
        self, masked: Masked, params: Groups, stats: Groups, batches: Iterable[Mapping[str, Any]]
    ) -> list[SegmentationScores]:
        """Score every member in evaluation mode.

        Args:
          masked: boolean [M, 12].
          params: parameters of each group.
          stats: BatchNorm statistics of each group.
          batches: evaluation batches (``image``, ``mask``, ``weight``, ``id``).

        Returns:
          The scores of each member.

        Raises:
          ValueError: where a statistic is not finite.
        """
        thresholds = [self._folded(*own) for own in zip(params, stats, strict=True)]
        groups = list(zip(self._switches(masked), params, stats, thresholds, strict=True))
        scores = [SegmentationScores() for _ in masked]
        for batch in batches:
            images = self._images(batch)
            counts = [self._counts(switches, tuple(own), images) for switches, *own in groups]
            for member, rows in zip(scores, np.concatenate(counts), strict=True):
                member.add(rows, batch["weight"], batch["id"])
        return scores

    def zeros(self, masked: Masked, params: Groups) -> dict[str, NDArray[np.int32]]:
        """Count the zeros among the quantized weights.

        Args:
          masked: boolean [M, 12].
          params: parameters of each group.

        Returns:
          Number of zeros of every quantized convolution, by its name, [M].
        """
        counts = [
            jax.device_get(self._zeros(switches, own))
            for switches, own in zip(self._switches(masked), params, strict=True)
        ]
        return {name: np.concatenate([group[name] for group in counts]) for name in counts[0]}

    def _folded(self, params: Tree, stats: Tree) -> Tree:
        """Thresholds of a group's members; they are made one by one, on the host."""
        network = Network.build(self._config)
        own = jax.device_get((params, stats))
        members = len(jax.tree.leaves(own)[0])
        folded = [
            jax.device_get(network.fold(*jax.tree.map(lambda x, m=m: x[m], own)))
            for m in range(members)
        ]
        return self._place(jax.tree.map(lambda *x: np.stack(x), *folded), _MEMBERS)

    def _switches(self, masked: Masked) -> list[Array]:
        size = self._group or len(masked)
        parts = np.split(masked, len(masked) // size)
        return [self._place(part, _MEMBERS) for part in parts]

    def member_bytes(self, batch: Mapping[str, Any]) -> int:
        """Measure the memory of one member's update; compiles a program for that.

        Args:
          batch: ``image`` and ``mask``.

        Returns:
          Bytes of a device: the state before and after, and what the compiler keeps in between.
        """
        members = self._mesh.size
        switches = self._place(np.zeros((members, len(LAYER_NAMES)), bool), _MEMBERS)
        state = self.create(self.padded(members), seed=0)
        own = jax.tree.map(lambda x: x[:members], _parts(state)[0])
        program = self._update.lower(switches, own, state.step, self._images(batch)).compile()
        sizes = program.memory_analysis()
        inside = sizes.temp_size_in_bytes + sizes.output_size_in_bytes - sizes.alias_size_in_bytes
        return sizes.argument_size_in_bytes + inside

    def _images(self, batch: Mapping[str, Any]) -> dict[str, Array]:
        return self._place({name: batch[name] for name in ("image", "mask")}, _ALIKE)

    def _place(self, tree: Any, spec: P) -> Any:
        return jax.device_put(tree, NamedSharding(self._mesh, spec))

    def _compile(self, function: Callable[..., Any], inputs: Any, *donated: int) -> Any:
        local = jax.shard_map(
            function, mesh=self._mesh, in_specs=inputs, out_specs=_MEMBERS, check_vma=False
        )
        return jax.jit(local, donate_argnums=donated)


def _joined(step: Array, groups: Sequence[tuple[Any, ...]]) -> TrainState:
    params, stats, opt_state, ema = cast(Any, map(list, zip(*groups, strict=True)))
    return TrainState(step, params, stats, opt_state, None if ema[0] is None else ema)


def _parts(state: TrainState) -> list[tuple[Any, ...]]:
    fields: Any = state.params, state.stats, state.opt_state
    ema = [None] * len(state.params) if state.ema is None else state.ema
    return list(zip(*fields, ema, strict=True))
