"""One operation, several engines: a JAX primitive whose lowering asks a registry which one runs.

An engine is a Python function of traced arrays, so that of the `xla` engine is plain JAX and that
of another may be a foreign call. Callers see the operation alone.

An engine may want a layer's weights in an order of its own. Where nobody knows yet on which
platform a program will run, it orders them inside the primitive, whenever that runs; inside
`known_platform` outside it, once where the weights are known.
"""

import contextlib
import dataclasses
import functools
from collections.abc import Callable, Iterator
from typing import Any, Self

import jax
import jax.numpy as jnp
from jax import Array
from jax._src import dispatch
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir
from jax.sharding import NamedSharding, PartitionSpec

from mbu_jax.errors import InputError
from mbu_jax.ops.gpu import target

PLATFORMS = ("cpu", "cuda", "rocm", "tpu")

# Part of the key under which JAX keeps what it has traced and lowered.
_platform = jax.make_user_context(default_value=None)


@contextlib.contextmanager
def known_platform(platform: str | None) -> Iterator[None]:
    """Trace programs for one platform: engines are chosen and weights arranged while tracing.

    What is arranged of arrays that are known, not traced, becomes a constant of the program. That
    is then for this platform alone, on ``cuda`` with kernels for the compute capability at hand
    or named.

    Args:
      platform: ``cpu``, ``cuda``, ``rocm`` or ``tpu``, or None to choose while lowering again.

    Yields:
      Nothing.

    Example:
      >>> with known_platform("cuda"):
      ...     platform_known()
      'cuda'
    """
    with _platform(platform):
        yield


def platform_known() -> str | None:
    """Find the platform that programs are traced for.

    Returns:
      That of `known_platform`, or None.
    """
    return _platform.value


def default_platform() -> str:
    """Find the platform of the default device.

    Returns:
      ``cpu``, ``cuda``, ``rocm`` or ``tpu``, as engines call it.
    """
    chosen = jax.config.jax_default_device
    device = jax.devices(chosen)[0] if chosen is None or isinstance(chosen, str) else chosen
    if device.platform != "gpu":
        return device.platform
    return "rocm" if "rocm" in device.client.platform_version.lower() else "cuda"


def check_platform(platform: str, compute_capability: int | None) -> None:
    """Refuse a platform that there is not, and a GPU's compute capability for another.

    Args:
      platform: that a program is for.
      compute_capability: of its GPU, or None.

    Raises:
      InputError: naming what does not fit.

    Example:
      >>> check_platform("cuda", 90)
    """
    if platform not in PLATFORMS:
        raise InputError(f"platform is {platform!r}; choose one of {', '.join(PLATFORMS)}")
    if platform != "cuda" and compute_capability is not None:
        raise InputError(f"a program for {platform} has no compute capability; leave it out")


def check_implementation(implementation: str | None) -> None:
    """Refuse ``name@platform`` where a user names an engine: others would run without a word.

    Args:
      implementation: name of an engine, or None.

    Raises:
      InputError: it names a platform.

    Example:
      >>> check_implementation("xla")
    """
    if implementation is not None and "@" in implementation:
        name = implementation.partition("@")[0]
        raise InputError(f"implementation is {implementation!r}; name the engine alone, {name!r}")


@dataclasses.dataclass(frozen=True)
class Engine:
    """One way to run an operation.

    Attributes:
      name: what ``implementation`` calls it.
      run: function of (x, layer, **options), or of (x, layer, arranged, **options) where it
        arranges, that gives what the operation gives. The batch is axis 0 of x and of the result,
        and may be sharded: a foreign call must say how it is split, as `mbu_jax.ops.batches` does.
      platforms: where it runs; None is everywhere.
      absent: what it lacks on this machine, in words, or None where it can run.
      automatic: whether it may run without being asked for by name.
      arrange: function of (x, layer, **options) that gives a pytree of arrays, what `run` needs of
        the layer's values: `run` has their shapes alone. Of x it has shapes, too. What it gives
        may depend on all of x's shape but the batch, which other transformations change later.
    """

    name: str
    run: Callable[..., Array]
    platforms: tuple[str, ...] | None = None
    absent: Callable[[], str | None] = lambda: None
    automatic: bool = True
    arrange: Callable[..., Any] | None = None

    def runs_on(self, platform: str) -> bool:
        """Tell whether it is made for a platform.

        Args:
          platform: ``cpu``, ``cuda``, ``rocm`` or ``tpu``.

        Returns:
          Whether it is; something may be absent all the same.
        """
        return self.platforms is None or platform in self.platforms

    def obstacle(self, platform: str) -> str | None:
        """Say why it cannot run.

        Args:
          platform: ``cpu``, ``cuda``, ``rocm`` or ``tpu``.

        Returns:
          The reason, or None where it can.
        """
        if self.platforms is not None and not self.runs_on(platform):
            return f"it runs on {', '.join(self.platforms)}, not on {platform}"
        return self.absent()


@dataclasses.dataclass(frozen=True)
class Choice:
    """The engine that runs an operation, and why it and no other.

    Attributes:
      engine: the engine.
      reason: a short clause for a report.
    """

    engine: Engine
    reason: str


class Operation:
    """A JAX primitive of batched arrays and the parameters of one layer.

    Args:
      name: of the operation.
      shape: function of (x, layer, **options), leaves `jax.ShapeDtypeStruct`, that checks them
        and gives the result's `jax.ShapeDtypeStruct`.

    Example:
      >>> double = Operation("double", lambda x, layer: x)
      >>> double.register(Engine("xla", lambda x, layer: x + x))
      >>> double(jnp.ones((1, 2)), None).tolist()
      [[2.0, 2.0]]
    """

    def __init__(self, name: str, shape: Callable[..., jax.ShapeDtypeStruct]):
        self.name = name
        self.engines: list[Engine] = []
        self._shape = shape
        self._primitive = Primitive(f"mbu_{name}")
        self._primitive.def_impl(self._run_eagerly)
        self._primitive.def_abstract_eval(self._abstract)
        for platform in PLATFORMS:
            rule = functools.partial(self._lower, platform)
            mlir.register_lowering(self._primitive, rule, platform=platform)
        batching.primitive_batchers[self._primitive] = self._batch
        ad.primitive_jvps[self._primitive] = self._refuse_derivative
        # An engine's foreign call may have to tell the partitioner how it is split. JAX passes the
        # devices that this takes to primitives that it knows to need them; there is no public way
        # to be one.
        dispatch.prim_requires_devices_during_lowering.add(self._primitive)

    def __call__(
        self,
        x: Array | tuple[Array, ...],
        layer: Any,
        *,
        implementation: str | None = None,
        **options: Any,
    ) -> Array:
        """Apply the operation.

        Args:
          x: array whose axis 0 is the batch, or a tuple of such.
          layer: pytree of the layer's parameters.
          implementation: name of an engine, or None for the best that the device has;
            ``name@platform`` is that engine on that platform and the best on others.
          **options: hashable arguments of the engines.

        Returns:
          Array whose axis 0 is the batch.

        Raises:
          InputError: for arguments that do not fit, an unknown engine, one that cannot run here,
            or a derivative.
        """
        if implementation is not None:
            self._named(implementation)
        values, shapes, machine = layer, None, None
        if (platform := platform_known()) is not None:
            engine = self.choose(platform, implementation).engine
            implementation = engine.name
            kernels = platform == "cuda" and target.absent() is None
            machine = _Machine(platform, target.target() if kernels else None)
            if engine.arrange is not None:
                self._shape(_shapes(x), _shapes(layer), **options)  # arranging checks nothing
                # What is known is arranged now, on whichever device is here.
                with known_platform(None), jax.ensure_compile_time_eval():
                    values = engine.arrange(_shapes(x), layer, **options)
                shapes = _Static.of(_shapes(layer))
        leaves, tree = jax.tree.flatten((x, values))
        static = {
            "batched": len(jax.tree.leaves(x)),
            "tree": tree,
            "implementation": implementation,
            "options": (*options.items(),),
            "machine": machine,
            "arranged": shapes,
        }
        return self._primitive.bind(*leaves, **static)

    def register(self, engine: Engine) -> None:
        """Add an engine, before those that are there: the last one registered is preferred.

        Args:
          engine: the engine; its name must be new on each of its platforms.
        """
        for other in self.engines:
            shared = any(engine.runs_on(name) and other.runs_on(name) for name in PLATFORMS)
            if engine.name == other.name and shared:
                raise ValueError(f"{self.name} has an engine {engine.name!r} already")
        self.engines.insert(0, engine)

    def choose(self, platform: str, implementation: str | None = None) -> Choice:
        """Find the engine that runs.

        Args:
          platform: ``cpu``, ``cuda``, ``rocm`` or ``tpu``.
          implementation: name of an engine, or ``name@platform`` for that platform alone, or None
            for the best that can run.

        Returns:
          The engine and the reason.

        Raises:
          InputError: for an engine that is unknown or cannot run.
        """
        named = [] if implementation is None else self._named(implementation)
        if implementation is not None and implementation.partition("@")[2] in ("", platform):
            engine = next((engine for engine in named if engine.runs_on(platform)), named[0])
            if obstacle := engine.obstacle(platform):
                raise InputError(
                    f"implementation {implementation!r} of {self.name} cannot run: {obstacle}; "
                    "leave it out for the best that can"
                )
            return Choice(engine, "asked for")
        passed_over: list[str] = []
        reason = f"the best on {platform}"
        for engine in filter(lambda engine: engine.automatic, self.engines):
            obstacle = engine.obstacle(platform)
            if obstacle is None:
                return Choice(engine, "; ".join([reason, *passed_over]))
            if engine.runs_on(platform):
                passed_over.append(f"{engine.name}: {obstacle}")
        reasons = [f"{engine.name}: {engine.obstacle(platform)}" for engine in self.engines]
        raise InputError(f"{self.name} has no engine on {platform}: {'; '.join(reasons)}")

    def _named(self, implementation: str) -> list[Engine]:
        name = implementation.partition("@")[0]
        if named := [engine for engine in self.engines if engine.name == name]:
            return named
        known = ", ".join(dict.fromkeys(engine.name for engine in self.engines))
        raise InputError(
            f"unknown implementation {implementation!r} of {self.name}; choose one of {known}"
        )

    def _run_eagerly(self, *arrays: Array, **static: Any) -> Array:
        return _compiled(self._primitive, tuple(static.items()))(*arrays)

    def _abstract(
        self, *avals: Any, tree: Any, options: Any, arranged: "_Static | None", **_: Any
    ) -> Any:
        x, layer = _shapes(tree.unflatten(avals))
        out = self._shape(x, layer if arranged is None else arranged.tree(), **dict(options))
        # On a mesh of explicit axes types say how arrays are split: over the batch, as x is.
        batch = avals[0].sharding
        split = NamedSharding(batch.mesh, PartitionSpec(*batch.spec[:1]))
        return jax.core.ShapedArray(out.shape, out.dtype, sharding=split)

    def _lower(
        self, platform: str, context: Any, *values: Any, tree: Any, implementation: str | None,
        options: Any, machine: "_Machine | None", arranged: "_Static | None", **_: Any,
    ) -> Any:  # fmt: skip
        named = contextlib.nullcontext()
        if machine is not None:
            if machine.platform != platform:
                raise InputError(
                    f"{self.name} was traced for {machine.platform} and cannot run on {platform}"
                )
            if machine.compute_capability is not None:
                named = target.compute_capability(machine.compute_capability)
        with named:
            engine = self.choose(platform, implementation).engine

            def run(*leaves: Array) -> Array:
                x, layer = tree.unflatten(leaves)
                if engine.arrange is None:
                    return engine.run(x, layer, **dict(options))
                if arranged is not None:
                    return engine.run(x, arranged.tree(), layer, **dict(options))
                weights = engine.arrange(_shapes(x), layer, **dict(options))
                return engine.run(x, _shapes(layer), weights, **dict(options))

            # An engine is traced as if there were no mesh: the partitioner splits it afterwards.
            avals = [jax.core.ShapedArray(aval.shape, aval.dtype) for aval in context.avals_in]
            with jax.sharding.use_abstract_mesh(jax.sharding.AbstractMesh((), ())):
                whole = context.replace(avals_in=avals)
                return mlir.lower_fun(run, multiple_results=False)(whole, *values)

    def _batch(self, args: Any, axes: Any, *, batched: int, **static: Any) -> tuple[Array, int]:
        static["batched"] = batched
        if all(axis is None for axis in axes[batched:]):
            size = next(
                x.shape[axis] for x, axis in zip(args, axes, strict=True) if axis is not None
            )
            xs = [
                jnp.broadcast_to(x, (size, *x.shape)) if axis is None else jnp.moveaxis(x, axis, 0)
                for x, axis in zip(args[:batched], axes[:batched], strict=True)
            ]
            images = size * xs[0].shape[1]
            merged = [x.reshape(images, *x.shape[2:]) for x in xs]
            y = self._primitive.bind(*merged, *args[batched:], **static)
            return y.reshape(size, xs[0].shape[1], *y.shape[1:]), 0
        # Several networks at once share nothing, so one follows the other.
        mapped = {
            i: jnp.moveaxis(arg, axis, 0)
            for i, (arg, axis) in enumerate(zip(args, axes, strict=True))
            if axis is not None
        }

        def one(slices: dict[int, Array]) -> Array:
            whole = [slices.get(i, arg) for i, arg in enumerate(args)]
            return self._primitive.bind(*whole, **static)

        return jax.lax.map(one, mapped), 0

    def _refuse_derivative(self, *_: Any, **__: Any) -> Any:
        raise InputError(
            f"{self.name} of the packed network has no derivative; train with the model (UNet) "
            "and pack it afterwards"
        )


@dataclasses.dataclass(frozen=True)
class _Machine:
    """What a program was traced for.

    Attributes:
      platform: the platform.
      compute_capability: of its GPU, where kernels can be compiled for it.
    """

    platform: str
    compute_capability: int | None


@dataclasses.dataclass(frozen=True)
class _Static:
    """A pytree whose leaves are hashable, made hashable."""

    leaves: tuple[Any, ...]
    structure: Any

    @classmethod
    def of(cls, tree: Any) -> Self:
        leaves, structure = jax.tree.flatten(tree)
        return cls((*leaves,), structure)

    def tree(self) -> Any:
        return self.structure.unflatten(self.leaves)


@functools.cache
def _compiled(primitive: Primitive, static: tuple[tuple[str, Any], ...]) -> Callable[..., Array]:
    return jax.jit(functools.partial(primitive.bind, **dict(static)))


def _shapes(arrays: Any) -> Any:
    return jax.tree.map(lambda array: jax.ShapeDtypeStruct(array.shape, array.dtype), arrays)
