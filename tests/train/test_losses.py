import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mbu_jax.errors import InputError
from mbu_jax.train.losses import distillation_loss, losses_per_image, segmentation_loss


def probabilities(logits: np.ndarray) -> np.ndarray:
    """[B, H, W, classes] in float64; a single class gains its complement as class 0."""
    logits = logits.astype(np.float64)
    if logits.shape[-1] == 1:
        logits = np.concatenate([np.zeros_like(logits), logits], axis=-1)
    powers = np.exp(logits)
    return powers / powers.sum(axis=-1, keepdims=True)


def oracle(logits: np.ndarray, mask: np.ndarray) -> tuple[list[float], list[float]]:
    """Cross-entropy and Dice of every image, pixel by pixel."""
    entropies, dices = [], []
    for p, t in zip(probabilities(logits), mask, strict=True):
        entropies.append(np.mean([-math.log(p[(*at, t[at])]) for at in np.ndindex(t.shape)]))
        classes = [
            1 - (p[..., k][t == k].sum() + 1) / ((p[..., k].sum() + (t == k).sum()) / 2 + 1)
            for k in range(1, p.shape[-1])
        ]
        dices.append(np.mean(classes))
    return entropies, dices


def example(classes: int, dtype=np.float32) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(classes)
    logits = rng.normal(size=(3, 6, 5, classes)).astype(dtype)
    mask = rng.integers(0, max(2, classes), (3, 6, 5)).astype(np.uint8)
    mask[0] = 0
    return logits, mask


@pytest.mark.parametrize(("classes", "name"), [(1, "bce"), (2, "ce"), (3, "ce")])
def test_losses_are_the_oracles(classes, name):
    logits, mask = example(classes)
    entropy, dice = oracle(logits, mask)
    parts = jax.jit(losses_per_image)(jnp.asarray(logits), jnp.asarray(mask))
    assert sorted(parts) == sorted([name, "dice"])
    np.testing.assert_allclose(parts[name], entropy, rtol=1e-5)
    np.testing.assert_allclose(parts["dice"], dice, rtol=1e-5)

    loss, means = jax.jit(
        lambda z, m: segmentation_loss(z, m, cross_entropy_weight=0.25, dice_weight=2.0)
    )(logits, mask)
    assert loss.shape == ()
    np.testing.assert_allclose(means[name], np.mean(entropy), rtol=1e-5)
    np.testing.assert_allclose(means["dice"], np.mean(dice), rtol=1e-5)
    np.testing.assert_allclose(loss, 0.25 * np.mean(entropy) + 2 * np.mean(dice), rtol=1e-5)


@pytest.mark.parametrize("classes", [1, 3])
def test_bfloat16_logits_are_widened_first(classes):
    logits, mask = example(classes)
    narrow = jnp.asarray(logits, jnp.bfloat16)
    loss, parts = segmentation_loss(narrow, jnp.asarray(mask))
    wide, _ = segmentation_loss(narrow.astype(jnp.float32), jnp.asarray(mask))
    assert loss.dtype == jnp.float32
    assert all(part.dtype == jnp.float32 for part in parts.values())
    assert float(loss) == float(wide)
    assert distillation_loss(narrow, narrow, 2.0).dtype == jnp.float32


def test_huge_logits_stay_finite():
    logits = jnp.array([1e4, -1e4, 1e4, -1e4]).reshape(1, 2, 2, 1)
    mask = jnp.array([[[1, 0], [0, 1]]], jnp.uint8)
    loss, gradient = jax.jit(jax.value_and_grad(lambda z: segmentation_loss(z, mask)[0]))(logits)
    assert np.isfinite(loss)
    assert np.isfinite(gradient).all()
    assert float(distillation_loss(logits, -logits, 1.0)) == pytest.approx(1e4)


def test_perfect_prediction_costs_nothing():
    mask = jnp.array([[[1, 0], [0, 1]]], jnp.uint8)
    logits = jnp.where(mask[..., None] == 1, 50.0, -50.0)
    assert float(segmentation_loss(logits, mask)[0]) == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("classes", [1, 3])
@pytest.mark.parametrize("temperature", [1.0, 3.0])
def test_distillation_is_scaled_divergence(classes, temperature):
    student, _ = example(classes)
    teacher = np.random.default_rng(9).normal(size=student.shape).astype(np.float32)
    q, p = probabilities(teacher / temperature), probabilities(student / temperature)
    expected = temperature**2 * np.mean(np.sum(q * (np.log(q) - np.log(p)), axis=-1))
    loss = distillation_loss(jnp.asarray(student), jnp.asarray(teacher), temperature)
    assert float(loss) == pytest.approx(expected, rel=1e-4)
    assert float(distillation_loss(jnp.asarray(teacher), jnp.asarray(teacher), temperature)) == 0


def test_no_gradient_reaches_the_teacher():
    student, _ = example(1)
    gradients = jax.jit(jax.grad(distillation_loss, argnums=(0, 1)))(
        jnp.asarray(student), jnp.ones((3, 6, 5, 1))
    )
    assert np.abs(gradients[0]).max() > 0
    assert np.abs(gradients[1]).max() == 0


@pytest.mark.parametrize("temperature", [0.0, -1.0, math.nan])
def test_temperature_must_be_positive(temperature):
    with pytest.raises(InputError, match="temperature must be positive"):
        distillation_loss(jnp.zeros((1, 1, 1, 1)), jnp.zeros((1, 1, 1, 1)), temperature)
