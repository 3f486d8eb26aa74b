import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from mbu_jax.errors import InputError
from mbu_jax.train.optimizer import (
    OptimizerOptions,
    ema_update,
    learning_rate_schedule,
    make_optimizer,
)

STEPS = 6


def params() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    return {
        "kernel": rng.normal(size=(3, 3, 2, 4)).astype(np.float32),
        "latent": rng.normal(size=(2, 4)).astype(np.float32),
        "scale": rng.normal(size=4).astype(np.float32),
    }


def gradients(step: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(step + 1)
    return {n: 3 * rng.normal(size=p.shape).astype(np.float32) for n, p in params().items()}


def is_latent(tree) -> dict[str, bool]:
    return {name: name == "latent" for name in tree}


def train(options: OptimizerOptions, **masks) -> dict[str, np.ndarray]:
    transformation = make_optimizer(options, STEPS, **masks)
    weights = jax.tree.map(jnp.asarray, params())
    state = transformation.init(weights)
    update = jax.jit(transformation.update)
    for step in range(STEPS):
        updates, state = update(gradients(step), state, weights)
        weights = optax.apply_updates(weights, updates)
    return jax.tree.map(np.asarray, weights)


def oracle(options: OptimizerOptions, decayed: set[str]) -> dict[str, np.ndarray]:
    """The textbook rules in float64, one weight at a time, constant step size."""
    weights = {n: p.astype(np.float64) for n, p in params().items()}
    first = {n: 0 * p for n, p in weights.items()}
    second = {n: 0 * p for n, p in weights.items()}
    for t in range(1, STEPS + 1):
        gs = {n: g.astype(np.float64) for n, g in gradients(t - 1).items()}
        norm = math.sqrt(sum(float((g**2).sum()) for g in gs.values()))
        for n, g in gs.items():
            if options.clip_norm and norm > options.clip_norm:
                g = g * options.clip_norm / norm
            pull = options.weight_decay * weights[n] if n in decayed else 0
            if options.optimizer != "adamw":
                g, pull = g + pull, 0
            if options.optimizer == "rmsprop":
                second[n] = 0.99 * second[n] + 0.01 * g**2
                first[n] = options.momentum * first[n] + g / (np.sqrt(second[n]) + 1e-8)
                move = first[n]
            else:
                first[n] = 0.9 * first[n] + 0.1 * g
                second[n] = 0.999 * second[n] + 0.001 * g**2
                move = first[n] / (1 - 0.9**t) / (np.sqrt(second[n] / (1 - 0.999**t)) + 1e-8)
            weights[n] = weights[n] - options.learning_rate * (move + pull)
    return weights


@pytest.mark.parametrize("clip_norm", [0.0, 1.0])
@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
@pytest.mark.parametrize("name", ["adam", "adamw", "rmsprop"])
def test_rules_are_the_textbooks(name, weight_decay, clip_norm):
    options = OptimizerOptions(
        optimizer=name,
        learning_rate=0.01,
        schedule="constant",
        weight_decay=weight_decay,
        clip_norm=clip_norm,
    )
    expected = oracle(options, {"kernel", "latent"})
    for weight, value in train(options).items():
        np.testing.assert_allclose(value, expected[weight], rtol=2e-5, atol=2e-6)


def test_rmsprop_without_momentum():
    options = OptimizerOptions(optimizer="rmsprop", schedule="constant", momentum=0.0)
    expected = oracle(options, set())
    np.testing.assert_allclose(train(options)["kernel"], expected["kernel"], rtol=2e-5, atol=2e-6)


@pytest.mark.parametrize("asked", [False, True])
def test_latent_weights_decay_only_when_asked(asked):
    options = OptimizerOptions(
        optimizer="adamw", schedule="constant", weight_decay=0.5, decay_latent_weights=asked
    )
    expected = oracle(options, {"kernel", "latent"} if asked else {"kernel"})
    trained = train(options, latent_mask=is_latent)
    for weight, value in trained.items():
        np.testing.assert_allclose(value, expected[weight], rtol=2e-5, atol=2e-6)
    assert np.allclose(trained["latent"], oracle(options, set())["latent"]) != asked


@pytest.mark.parametrize("name", ["adam", "adamw", "rmsprop"])
def test_an_l1_norm_pulls_latent_weights_whatever_their_gradients(name):
    """Each update takes the same share of the step size from the magnitude."""
    options = OptimizerOptions(
        optimizer=name, learning_rate=1e-3, schedule="constant", latent_rate=2.0, latent_l1=0.25
    )
    plain = train(dataclasses.replace(options, latent_l1=0.0), latent_mask=is_latent)
    pulled = train(options, latent_mask=is_latent)
    for weight in ("kernel", "scale"):
        np.testing.assert_array_equal(pulled[weight], plain[weight])
    start = params()["latent"]
    # None of these crosses 0 on its way, so the pull has one direction throughout.
    assert (np.sign(start) == np.sign(plain["latent"])).all()
    step = 2.0 * 1e-3 * 0.25
    expected = plain["latent"] - STEPS * step * np.sign(start)
    np.testing.assert_allclose(pulled["latent"], expected, rtol=2e-5, atol=2e-6)
    assert (np.abs(pulled["latent"]) < np.abs(plain["latent"])).all()


def test_decay_mask_can_be_chosen():
    options = OptimizerOptions(schedule="constant", optimizer="adamw", weight_decay=0.5)
    expected = oracle(options, {"scale"})
    trained = train(options, decay_mask=lambda tree: {n: n == "scale" for n in tree})
    for weight, value in trained.items():
        np.testing.assert_allclose(value, expected[weight], rtol=2e-5, atol=2e-6)


@pytest.mark.parametrize("warmup", [0, 1, 2, 5])
@pytest.mark.parametrize("kind", ["constant", "cosine"])
def test_schedule_values(kind, warmup):
    options = OptimizerOptions(
        learning_rate=0.3, schedule=kind, warmup_steps=warmup, final_learning_rate=0.1
    )
    schedule = jax.jit(learning_rate_schedule(options, 20))
    for step in range(21):
        if step < warmup:
            expected = 0.3 * (step + 1) / warmup
        elif kind == "constant":
            expected = 0.3
        else:
            turn = math.pi * (step - warmup) / (20 - warmup)
            expected = 0.03 + 0.27 * (1 + math.cos(turn)) / 2
        assert float(schedule(jnp.int32(step))) == pytest.approx(expected, rel=1e-5)
    assert float(schedule(jnp.int32(99))) == pytest.approx(expected, rel=1e-5)


def test_optimizer_follows_the_schedule():
    options = OptimizerOptions(learning_rate=0.01, warmup_steps=2, clip_norm=0.0)
    transformation = make_optimizer(options, STEPS)
    schedule = learning_rate_schedule(options, STEPS)
    weights = {"w": jnp.zeros(1)}
    state = transformation.init(weights)
    update = jax.jit(transformation.update)
    for step in range(STEPS):
        updates, state = update({"w": jnp.ones(1)}, state, weights)
        # Adam moves by exactly the step size while the gradient stays the same.
        (move,) = jax.tree.leaves(updates)
        assert -float(move[0]) == pytest.approx(float(schedule(step)), rel=1e-4)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"optimizer": "sgd"}, "optimizer must be one of adam, adamw, rmsprop"),
        ({"schedule": "linear"}, "schedule must be one of constant, cosine"),
        ({"learning_rate": 0.0}, "learning_rate must be positive"),
        ({"learning_rate": math.nan}, "learning_rate must be positive"),
        ({"learning_rate": math.inf}, "learning_rate must be positive"),
        ({"warmup_steps": -1}, "warmup_steps"),
        ({"weight_decay": -0.1}, "weight_decay"),
        ({"clip_norm": math.nan}, "clip_norm"),
        ({"momentum": 1.0}, "momentum"),
        ({"final_learning_rate": 1.5}, "final_learning_rate"),
    ],
)
def test_bad_options_are_named(options, said):
    with pytest.raises(InputError, match=said):
        OptimizerOptions(**options)


def test_run_must_outlast_the_warmup():
    with pytest.raises(InputError, match="warmup_steps is 10 but the whole run has 10 updates"):
        make_optimizer(OptimizerOptions(warmup_steps=10), 10)
    with pytest.raises(InputError, match="at least one update"):
        make_optimizer(OptimizerOptions(), 0)


def test_average_follows_the_formula():
    rng = np.random.default_rng(3)
    expected = rng.normal(size=4)
    ema = {"w": jnp.asarray(expected, jnp.float32), "count": jnp.int32(0)}
    update = jax.jit(ema_update, static_argnames="decay")
    for step in range(30):
        new = rng.normal(size=4)
        ema = update(ema, {"w": jnp.asarray(new, jnp.float32), "count": jnp.int32(step)}, 0.6, step)
        keep = min(0.6, (1 + step) / (10 + step))
        expected = keep * expected + (1 - keep) * new
    np.testing.assert_allclose(ema["w"], expected, rtol=1e-5)
    assert int(ema["count"]) == 29


def test_average_keeps_its_dtype():
    ema = ema_update({"w": jnp.zeros(2, jnp.bfloat16)}, {"w": jnp.ones(2, jnp.float32)}, 0.9, 0)
    assert ema["w"].dtype == jnp.bfloat16


def test_latent_weights_step_faster_by_the_asked_factor():
    plain, fast = (
        train(OptimizerOptions(clip_norm=0, latent_rate=rate), latent_mask=is_latent)
        for rate in (1.0, 5.0)
    )
    for name, latent in is_latent(params()).items():
        moved = plain[name] - params()[name]
        np.testing.assert_allclose(
            fast[name] - params()[name], moved * (5 if latent else 1), rtol=1e-4, atol=1e-6
        )
