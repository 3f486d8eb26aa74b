"""How the weights move: optimizer, learning-rate schedule, clipping, decay and averaging."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp
import optax

from mbu_jax.errors import InputError

Mask = Callable[[optax.Params], Any]


@dataclass(frozen=True)
class OptimizerOptions:
    """How the weights move.

    Example:
      >>> options = OptimizerOptions(optimizer="adamw", learning_rate=1e-3, schedule="cosine")

    Raises:
      InputError: If a value makes no sense; the message names the option.
    """

    optimizer: Literal["adam", "adamw", "rmsprop"] = "adam"
    """Update rule; adam and rmsprop decay through the gradient, adamw beside it."""

    learning_rate: float = 1e-3
    """Largest step size."""

    schedule: Literal["constant", "cosine"] = "cosine"
    """How the step size changes after the warm-up."""

    warmup_steps: int = 0
    """Updates during which the step size grows linearly from near 0."""

    final_learning_rate: float = 0.0
    """Where cosine ends, as a fraction of the largest step size."""

    weight_decay: float = 0.0
    """Pull of the weight matrices towards 0; biases and normalisation are left alone."""

    decay_latent_weights: bool = False
    """Also pull the latent weights behind quantised ones."""

    latent_rate: float = 1.0
    """Step size of latent weights as a multiple of the others'; they act only through thresholds
    some tenths away, so that the usual step sizes leave most of them where they started."""

    latent_l1: float = 0.0
    """Pull of latent weights towards 0, where masked ones get lost, as a share of the step size;
    beside the update rule, so that it is the same for small gradients and large ones."""

    momentum: float = 0.9
    """Of rmsprop; 0 turns it off."""

    clip_norm: float = 1.0
    """Largest global norm of a gradient; 0 turns clipping off."""

    def __post_init__(self) -> None:
        """Check every value."""
        annotations = type(self).__annotations__
        for name in ("optimizer", "schedule"):
            known = get_args(annotations[name])
            if getattr(self, name) not in known:
                raise InputError(
                    f"{name} must be one of {', '.join(known)}, not {getattr(self, name)!r}"
                )
        if not (self.learning_rate > 0 and math.isfinite(self.learning_rate)):
            raise InputError(f"learning_rate must be positive, not {self.learning_rate}")
        if self.warmup_steps < 0:
            raise InputError(f"warmup_steps must not be negative, but is {self.warmup_steps}")
        for name in ("weight_decay", "clip_norm", "latent_l1"):
            value = getattr(self, name)
            if not (value >= 0 and math.isfinite(value)):
                raise InputError(f"{name} must be finite and not negative, but is {value}")
        if not 0 <= self.final_learning_rate <= 1:
            raise InputError(
                f"final_learning_rate must lie between 0 and 1, not at {self.final_learning_rate}"
            )
        if not (self.latent_rate > 0 and math.isfinite(self.latent_rate)):
            raise InputError(f"latent_rate must be positive, not {self.latent_rate}")
        if not 0 <= self.momentum < 1:
            raise InputError(f"momentum must be at least 0 and below 1, not {self.momentum}")


def learning_rate_schedule(
    options: OptimizerOptions, total_steps: int
) -> Callable[[jax.typing.ArrayLike], jax.Array]:
    """Say how large a step each update takes.

    Args:
      options: ``learning_rate``, ``schedule``, ``warmup_steps`` and ``final_learning_rate``.
      total_steps: The number of updates in the whole run.

    Returns:
      A function from the number of updates done (0 before the first) to the step size, float32:
      update t < warmup_steps takes (t + 1) / warmup_steps of the largest; cosine then falls from
      the largest to the final step size, which it reaches after the last update.

    Raises:
      InputError: If there is no update left after the warm-up.

    Example:
      >>> schedule = learning_rate_schedule(OptimizerOptions(warmup_steps=4), total_steps=100)
      >>> round(float(schedule(0)), 6)
      0.00025
    """
    if total_steps < 1:
        raise InputError(f"a run needs at least one update, not {total_steps}; raise epochs")
    warmup, largest = options.warmup_steps, options.learning_rate
    if warmup >= total_steps:
        raise InputError(
            f"warmup_steps is {warmup} but the whole run has {total_steps} updates; "
            "lower warmup_steps or raise epochs"
        )
    final = options.final_learning_rate if options.schedule == "cosine" else 1.0

    def schedule(updates_done: jax.typing.ArrayLike) -> jax.Array:
        done = jnp.asarray(updates_done).astype(jnp.float32)
        growth = jnp.minimum((done + 1) / max(warmup, 1), 1.0)
        progress = jnp.clip((done - warmup) / (total_steps - warmup), 0.0, 1.0)
        fall = final + (1 - final) * 0.5 * (1 + jnp.cos(math.pi * progress))
        return largest * growth * fall

    return schedule


def decay_matrices(params: optax.Params) -> Any:
    """Choose what weight decay may touch: arrays of two axes or more.

    Kernels of convolutions qualify; biases and the scales and shifts of BatchNorm do not.

    Args:
      params: Any tree of arrays.

    Returns:
      A tree of booleans of the same structure.

    Example:
      >>> decay_matrices({"kernel": jnp.ones((3, 3, 4, 8)), "bias": jnp.ones(8)})
      {'bias': False, 'kernel': True}
    """
    return jax.tree.map(lambda p: jnp.ndim(p) >= 2, params)


def make_optimizer(
    options: OptimizerOptions,
    total_steps: int,
    *,
    decay_mask: Mask = decay_matrices,
    latent_mask: Mask | None = None,
) -> optax.GradientTransformation:
    """Build the optimizer: clip the gradient's global norm, then apply the update rule.

    ``adam`` and ``rmsprop`` are those of the paper's training: weight decay joins the gradient
    before the rule normalises it, and RMSprop (smoothing 0.99) keeps its momentum on the
    normalised gradient. ``adamw`` adds the decay after normalising.

    Args:
      options: What to build.
      total_steps: The number of updates in the whole run.
      decay_mask: Which parameters weight decay may pull, as a function from the parameters to a
        tree of booleans.
      latent_mask: Which parameters are latent weights behind quantised ones, likewise. These are
        not pulled unless ``decay_latent_weights`` or ``latent_l1`` says so, because their size
        matters only against a threshold: a pull towards 0 would mask or flip weights, not shrink
        them. Their steps are ``latent_rate`` times the others'.

    Returns:
      An Optax transformation; its state counts the updates for the schedule.

    Raises:
      InputError: See :func:`learning_rate_schedule`.

    Example:
      >>> params = {"kernel": jnp.ones((3, 3, 4, 8)), "bias": jnp.zeros(8)}
      >>> transformation = make_optimizer(OptimizerOptions(), total_steps=100)
      >>> state = transformation.init(params)

    Source: MBU-Net, Appendix A, Table A.1 (the rules and their settings).
    """

    def mask(params: optax.Params) -> Any:
        chosen = decay_mask(params)
        if latent_mask is None or options.decay_latent_weights:
            return chosen
        return jax.tree.map(lambda c, latent: c and not latent, chosen, latent_mask(params))

    clip = optax.clip_by_global_norm(options.clip_norm) if options.clip_norm else optax.identity()
    decay = (
        optax.add_decayed_weights(options.weight_decay, mask)
        if options.weight_decay
        else optax.identity()
    )
    step = optax.scale_by_learning_rate(learning_rate_schedule(options, total_steps))
    if latent_mask is not None and options.latent_rate != 1:
        step = optax.chain(step, optax.masked(optax.scale(options.latent_rate), latent_mask))
    if latent_mask is not None and options.latent_l1:
        pull = optax.masked(optax.stateless(_add_signs(options.latent_l1)), latent_mask)
        step = optax.chain(pull, step)
    match options.optimizer:
        case "adam":
            parts = (clip, decay, optax.scale_by_adam(), step)
        case "adamw":
            parts = (clip, optax.scale_by_adam(), decay, step)
        case "rmsprop":
            normalise = optax.scale_by_rms(decay=0.99, eps=1e-8, eps_in_sqrt=False)
            momentum = optax.trace(options.momentum) if options.momentum else optax.identity()
            parts = (clip, decay, normalise, momentum, step)
    return _with_standard_promotion(optax.chain(*parts))


def _add_signs(strength: float) -> Callable[[optax.Updates, optax.Params | None], optax.Updates]:
    """The gradient of an L1 norm, added to normalised gradients."""
    return lambda updates, params: jax.tree.map(
        lambda u, p: u + strength * jnp.sign(p), updates, params
    )


def _with_standard_promotion(
    transformation: optax.GradientTransformation,
) -> optax.GradientTransformation:
    """Let Optax's Adam, which raises a float to an integer power, run under strict promotion."""

    def update(
        updates: optax.Updates, state: optax.OptState, params: optax.Params | None = None
    ) -> tuple[optax.Updates, optax.OptState]:
        with jax.numpy_dtype_promotion("standard"):
            return transformation.update(updates, state, params)

    return optax.GradientTransformation(transformation.init, update)


def ema_update[T](ema: T, params: T, decay: float, step: jax.typing.ArrayLike) -> T:
    """Move an exponential moving average of the parameters by one update.

    The average starts as a copy of the parameters. So that it soon forgets them, the decay is
    held back early: min(decay, (1 + t) / (10 + t)) after t updates.

    Args:
      ema: The average, a tree of arrays.
      params: The parameters after the update, of the same structure. Leaves that are not floating
        point are taken over as they are.
      decay: How much of the average stays, in [0, 1); 0.999 averages some thousand updates.
      step: t, the number of updates done before this one; a Python or int32 number.

    Returns:
      The new average; floating-point leaves keep their dtype.

    Example:
      >>> ema_update({"w": jnp.zeros(2)}, {"w": jnp.ones(2)}, decay=0.999, step=0)
      {'w': Array([0.9, 0.9], dtype=float32)}
    """
    done = jnp.asarray(step).astype(jnp.float32)
    keep = jnp.minimum(jnp.float32(decay), (1 + done) / (10 + done))

    def move(old: jax.Array, new: jax.Array) -> jax.Array:
        if not jnp.issubdtype(old.dtype, jnp.floating):
            return new
        wide = old.astype(jnp.float32)
        return (wide + (1 - keep) * (new.astype(jnp.float32) - wide)).astype(old.dtype)

    return jax.tree.map(move, ema, params)
