"""A program in two: what depends on the weights alone runs once, the rest for every batch."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
from jax import Array
from jax._src.interpreters import partial_eval
from jax.extend.core import jaxpr_as_fun

type Specs = Sequence[jax.ShapeDtypeStruct]


def split(
    function: Callable[..., Array], weights: Specs, inputs: Specs
) -> tuple[
    Callable[[list[Array]], list[Array]], Callable[[list[Array], list[Array]], Array], Specs
]:
    """Divide a function of weights and inputs.

    Args:
      function: of a list of arrays and a list of arrays, to an array.
      weights: shapes of the first.
      inputs: shapes of the second.

    Returns:
      A function of the weights that gives what the rest needs of them, a function of that and the
      inputs that gives the result, and the shapes of what is between the two.

    Example:
      >>> spec = jax.ShapeDtypeStruct((2,), "float32")
      >>> first, rest, _ = split(lambda w, x: w[0] * w[0] + x[0], [spec], [spec])
      >>> ones = jax.numpy.ones(2)
      >>> rest(first([ones]), [ones]).tolist()
      [2.0, 2.0]
    """
    traced = jax.make_jaxpr(lambda w, x: function(list(w), list(x)))(list(weights), list(inputs))
    unknown = [False] * len(weights) + [True] * len(inputs)
    # The division that JAX makes for derivatives; there is no public way to it.
    known, rest, _, _ = partial_eval.partial_eval_jaxpr_nounits(traced, unknown, instantiate=True)
    between = rest.in_avals[: len(rest.in_avals) - len(inputs)]

    def first(weights: list[Array]) -> list[Array]:
        return jaxpr_as_fun(known)(*weights)

    def second(prepared: list[Array], inputs: list[Array]) -> Array:
        (result,) = jaxpr_as_fun(rest)(*prepared, *inputs)
        return result

    return first, second, [_spec(a) for a in between]


def _spec(aval: Any) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(aval.shape, aval.dtype)


def flat(tree: Any) -> tuple[list[Any], Callable[[Sequence[Any]], Any]]:
    """Flatten a tree.

    Args:
      tree: of arrays.

    Returns:
      Its leaves, and the function that makes a tree of leaves again.
    """
    leaves, structure = jax.tree.flatten(tree)
    return leaves, lambda leaves: jax.tree.unflatten(structure, list(leaves))
