"""Programs in the form in which they travel."""

import contextlib
import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax._src import config

from experiments.benchmark.gpu.stages import Specs, split
from mbu_jax.ops.gpu.target import compute_capability
from mbu_jax.ops.operation import known_platform

type Platform = Literal["cpu", "cuda"]

_KERNEL_CALL = jax.export.DisabledSafetyCheck.custom_call("triton_kernel_call_ffi")


@dataclasses.dataclass(frozen=True)
class Machine:
    """What programs are exported for.

    Attributes:
      platform: of JAX.
      compute_capability: of the GPU, 90 for an H100; None on a CPU.
    """

    platform: Platform
    compute_capability: int | None

    @contextlib.contextmanager
    def aimed(self) -> Iterator[None]:
        """Trace and lower for it.

        Yields:
          Nothing.
        """
        capability = self.compute_capability
        named = contextlib.nullcontext() if capability is None else compute_capability(capability)
        with named, known_platform(self.platform):
            yield

    def export(self, function: Callable[..., Any], *specs: Any) -> bytes:
        """Lower a function.

        Args:
          function: of arrays.
          *specs: shapes of what it takes.

        Returns:
          What ``jax.export.deserialize`` reads.
        """
        # Source lines are of no use elsewhere, and JAX has no public way to leave them out.
        with self.aimed(), config.traceback_in_locations_limit(0):
            exported = jax.export.export(
                jax.jit(function), platforms=(self.platform,), disabled_checks=(_KERNEL_CALL,)
            )(*specs)
        return bytes(exported.serialize())


def specs_of(arrays: Sequence[Any]) -> list[jax.ShapeDtypeStruct]:
    """Shapes of arrays.

    Args:
      arrays: of any kind.

    Returns:
      Their shapes and dtypes.
    """
    return [jax.ShapeDtypeStruct(array.shape, array.dtype) for array in arrays]


def network_programs(
    machine: Machine, function: Callable[..., Array], weights: Specs, images: jax.ShapeDtypeStruct
) -> tuple[bytes | None, bytes]:
    """Export a network.

    Args:
      machine: what for.
      function: of the weights and the images.
      weights: shapes.
      images: shape.

    Returns:
      A program of the weights that is run once, and one of what it gives and the images. The first
      is None where the second takes the weights as they are.
    """
    with machine.aimed():
        first, rest, between = split(lambda w, x: function(w, x[0]), weights, [images])
    if specs_of(between) == list(weights):
        return None, machine.export(function, list(weights), images)
    return (
        machine.export(first, list(weights)),
        machine.export(lambda prepared, x: rest(prepared, [x]), list(between), images),
    )


def repeated_program(
    machine: Machine, function: Callable[..., Array], weights: Specs, inputs: Specs, repeats: int
) -> bytes:
    """Export a layer that runs many times, so that starting the program does not count.

    Every turn changes one word of the input to one of the result before it, so that no turn can
    be left out or run beside another.

    Args:
      machine: what for.
      function: of the weights and the inputs.
      weights: shapes; what depends on them alone is computed before the turns.
      inputs: shapes.
      repeats: turns.

    Returns:
      A program of the weights and the inputs that gives a word.
    """
    with machine.aimed():
        first, rest, _ = split(function, weights, inputs)

    def program(weights: list[Array], inputs: list[Array]) -> Array:
        prepared = first(weights)

        def turn(_: Array, inputs: list[Array]) -> list[Array]:
            return [touched(inputs[0], rest(prepared, inputs)), *inputs[1:]]

        last = lax.fori_loop(0, repeats, turn, list(inputs))[0]
        return lax.slice(last, (0,) * last.ndim, (1,) * last.ndim)  # no input is copied to a result

    return machine.export(program, list(weights), list(inputs))


def touched(x: Array, y: Array) -> Array:
    """Put the first word of one array into another.

    Args:
      x: an array.
      y: an array.

    Returns:
      x with y's first word, of x's dtype, as its own.
    """
    word = lax.slice(y, (0,) * y.ndim, (1,) * y.ndim).reshape((1,) * x.ndim).astype(x.dtype)
    return lax.dynamic_update_slice(x, word, (jnp.int32(0),) * x.ndim)
