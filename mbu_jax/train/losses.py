"""What training minimises: cross-entropy plus Dice, and agreement with a teacher."""

# ruff: noqa: F722 (shapes are written as strings)

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int

from mbu_jax.errors import InputError


def losses_per_image(
    logits: Float[Array, "B H W classes"], mask: Int[Array, "B H W"]
) -> dict[str, Float[Array, " B"]]:
    """Compute the parts of the segmentation loss for every image.

    Args:
      logits: Floating point [B, H, W, classes]; widened to float32 before anything else. One
        class stands for the object (sigmoid); of several, class 0 is the background (softmax).
      mask: Integer [B, H, W], the true class of every pixel; with one logit class, 1 is object.

    Returns:
      Two float32 [B]: the cross-entropy averaged over pixels, in nats, called ``"bce"`` (one
      class) or ``"ce"`` (several); and ``"dice"``, the soft Dice loss in [0, 1],
      1 - (I + 1) / ((P + T) / 2 + 1) with I the sum of probability times truth, P of probability,
      T of truth, averaged over the foreground classes.

    Example:
      >>> losses_per_image(jnp.zeros((2, 4, 4, 1)), jnp.ones((2, 4, 4), jnp.uint8))["bce"]
      Array([0.6931472, 0.6931472], dtype=float32)
    """
    logits = logits.astype(jnp.float32)
    labels = mask.astype(jnp.int32)
    if logits.shape[-1] == 1:
        name, truth = "bce", (labels == 1).astype(jnp.float32)[..., None]
        pixel = optax.losses.sigmoid_binary_cross_entropy(logits, truth)[..., 0]
    else:
        name, truth = "ce", jax.nn.one_hot(labels, logits.shape[-1], dtype=jnp.float32)
        pixel = optax.losses.softmax_cross_entropy_with_integer_labels(logits, labels)
    dice = optax.losses.dice_loss(logits, truth, ignore_background=True)
    return {name: jnp.mean(pixel, axis=(1, 2)), "dice": dice}


def segmentation_loss(
    logits: Float[Array, "B H W classes"],
    mask: Int[Array, "B H W"],
    *,
    cross_entropy_weight: float = 1.0,
    dice_weight: float = 1.0,
) -> tuple[Float[Array, ""], dict[str, Float[Array, ""]]]:
    """Weigh cross-entropy and Dice into one number to minimise.

    Args:
      logits: Floating point [B, H, W, classes], see :func:`losses_per_image`.
      mask: Integer [B, H, W], the true class of every pixel.
      cross_entropy_weight: Factor of the cross-entropy.
      dice_weight: Factor of the Dice loss.

    Returns:
      The weighted sum, float32 [], and its unweighted parts ``{"bce" or "ce", "dice"}``, float32
      [] each; all are means over the images.

    Example:
      >>> loss, parts = segmentation_loss(jnp.zeros((2, 4, 4, 1)), jnp.ones((2, 4, 4), jnp.uint8))
      >>> sorted(parts)
      ['bce', 'dice']
    """
    parts = {name: jnp.mean(loss) for name, loss in losses_per_image(logits, mask).items()}
    weights = {"bce": cross_entropy_weight, "ce": cross_entropy_weight, "dice": dice_weight}
    return sum((weights[name] * loss for name, loss in parts.items()), jnp.float32(0)), parts


def distillation_loss(
    logits: Float[Array, "B H W classes"],
    teacher_logits: Float[Array, "B H W classes"],
    temperature: float = 1.0,
) -> Float[Array, ""]:
    """Measure how far the softened predictions are from a teacher's.

    The Kullback-Leibler divergence from the teacher's distribution to the student's, both with
    logits divided by the temperature, times temperature squared, which keeps the size of the
    gradients. It is 0 where the two agree. No gradient reaches the teacher.

    Args:
      logits: The student's, floating point [B, H, W, classes]; one class means sigmoid.
      teacher_logits: The teacher's, of the same shape.
      temperature: Above 1 softens both predictions, so that small logits tell more.

    Returns:
      float32 [], in nats, the mean over pixels and images.

    Raises:
      InputError: If the temperature is not positive.

    Example:
      >>> distillation_loss(jnp.ones((1, 2, 2, 1)), jnp.ones((1, 2, 2, 1)), temperature=2.0)
      Array(0., dtype=float32)

    Source: Hinton, Vinyals and Dean, "Distilling the Knowledge in a Neural Network" (2015), §2.
    """
    if not temperature > 0:
        raise InputError(f"the distillation temperature must be positive, not {temperature}")
    teacher_logits = jax.lax.stop_gradient(teacher_logits)
    student = jax.nn.log_softmax(_as_softmax(logits) / temperature)
    teacher = jax.nn.log_softmax(_as_softmax(teacher_logits) / temperature)
    divergence = optax.losses.kl_divergence_with_log_targets(student, teacher)
    return jnp.mean(divergence) * temperature**2


def _as_softmax(logits: Array) -> Array:
    """Widen to float32, and one sigmoid logit z to the pair (0, z), the same as a softmax."""
    logits = logits.astype(jnp.float32)
    if logits.shape[-1] > 1:
        return logits
    return jnp.concatenate([jnp.zeros_like(logits), logits], axis=-1)
