"""What evaluation uses in place of parameters and statistics, and when it is made."""

import jax
from flax import nnx

from mbu_jax.errors import InputError
from mbu_jax.layers.latent_weights import QuantizationOptions


class Folded(nnx.Variable):
    """What evaluation uses instead of parameters and statistics; made by `fold`, never trained."""


class Folding(nnx.Module):
    """A layer that evaluates with numbers folded from those it trains.

    Args:
      options: quantization; with ``activation_bits=32`` nothing is folded.

    Attributes:
      use_running_average: False in training; `flax.nnx.Module.eval` sets it. The numbers are those
        of the last `fold`: call that (or `UNet.eval`) after the parameters change.
    """

    def __init__(self, options: QuantizationOptions):
        self.options = options
        self.use_running_average = False

    def fold(self) -> None:
        """Recompute what evaluation uses from parameters and running statistics.

        Raises:
          InputError: under ``jit`` or another transformation, where values are not known.
        """
        if self.options.activation_bits == 32:
            return
        if any(isinstance(value, jax.core.Tracer) for value in jax.tree.leaves(nnx.state(self))):
            raise InputError(
                "thresholds are folded in float64, outside jit; call the model's eval() or fold() "
                "before the transformed function, not in it"
            )
        self._fold()

    def _fold(self) -> None:
        raise NotImplementedError


def fold(model: nnx.Module) -> None:
    """Refresh what all layers of a model evaluate with; call it before the model's ``eval()``.

    `UNet.eval` does it for you. In a model of your own that was never folded, no logit is
    finite in evaluation mode, so that it cannot pass for a trained one.

    Args:
      model: any module, with `Folding` layers anywhere in it.

    Raises:
      InputError: under ``jit`` or another transformation, where values are not known.

    Example:
      >>> from mbu_jax.layers import Head
      >>> model = nnx.Sequential(Head(4, 2, QuantizationOptions(), rngs=nnx.Rngs(0)))
      >>> fold(model)
      >>> model.eval()
      >>> bool(jax.numpy.isfinite(model(jax.numpy.ones((1, 2, 2, 4)))).all())
      True
    """
    for _, module in nnx.iter_modules(model):
        if isinstance(module, Folding):
            module.fold()
