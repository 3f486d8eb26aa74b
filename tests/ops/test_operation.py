"""Choosing engines, refusing what does not fit, and refusing derivatives."""

from typing import Any

import jax
import jax.extend
import jax.numpy as jnp
import numpy as np
import pytest

from mbu_jax import ops
from mbu_jax.errors import InputError
from mbu_jax.ops.operation import Engine, Operation, known_platform, platform_known
from mbu_jax.ops.specs import ConvSpec
from mbu_jax.packing import PackedHead, PackedStem


def an_operation() -> Operation:
    """Adds a number that tells which engine ran; the middle one lacks something."""
    operation = Operation("add", lambda x, layer, **options: x)
    operation.register(Engine("xla", lambda x, layer: x + 1))
    operation.register(Engine("lacking", lambda x, layer: x + 2, absent=lambda: "no compiler"))
    operation.register(Engine("gpu", lambda x, layer: x + 3, platforms=("cuda", "rocm")))
    return operation


def test_the_last_engine_that_can_run_is_taken() -> None:
    operation = an_operation()
    assert operation(jnp.zeros(1), None).tolist() == [1]
    assert operation(jnp.zeros(1), None, implementation="xla").tolist() == [1]
    operation.register(Engine("new", lambda x, layer: x + 4, platforms=("cpu",)))
    # Compiled code is kept for each implementation, so ask in a new trace.
    assert jax.jit(lambda x: operation(x, None))(jnp.zeros(1)).tolist() == [4]


def test_the_choice_gives_its_reason() -> None:
    choice = an_operation().choose("cpu")
    assert choice.engine.name == "xla"
    assert choice.reason == "the best on cpu; lacking: no compiler"
    assert an_operation().choose("cuda").engine.name == "gpu"
    assert an_operation().choose("cpu", "xla").reason == "asked for"


def test_an_engine_asked_for_is_never_replaced() -> None:
    operation = an_operation()
    for name, message in (
        ("none", "unknown implementation 'none' of add; choose one of gpu, lacking, xla"),
        ("gpu", "'gpu' of add cannot run: it runs on cuda, rocm, not on cpu"),
        ("lacking", "'lacking' of add cannot run: no compiler"),
    ):
        with pytest.raises(InputError, match=message):
            operation(jnp.zeros(1), None, implementation=name)
        with pytest.raises(InputError, match=message):
            jax.jit(lambda x, name=name: operation(x, None, implementation=name))(jnp.zeros(1))


def test_an_engine_asked_for_on_one_platform_leaves_the_others_their_best() -> None:
    operation = an_operation()
    assert operation(jnp.zeros(1), None, implementation="gpu@cuda").tolist() == [1]
    assert operation.choose("cuda", "gpu@cuda").reason == "asked for"
    assert operation.choose("cpu", "gpu@cuda") == operation.choose("cpu")
    with pytest.raises(InputError, match="unknown implementation 'none@cpu'"):
        operation(jnp.zeros(1), None, implementation="none@cpu")
    with pytest.raises(InputError, match="unknown implementation 'none@cuda'"):
        operation.choose("cpu", "none@cuda")
    with pytest.raises(InputError, match=r"'gpu@cpu' of add cannot run: it runs on cuda, rocm"):
        operation(jnp.zeros(1), None, implementation="gpu@cpu")


def test_no_engine_at_all_is_an_error() -> None:
    operation = Operation("nothing", lambda x, layer: x)
    operation.register(Engine("gpu", lambda x, layer: x, platforms=("cuda",)))
    with pytest.raises(InputError, match="nothing has no engine on cpu"):
        operation(jnp.zeros(1), None)


def test_two_engines_of_one_name_are_refused_where_both_would_run() -> None:
    operation = an_operation()
    for platforms in (None, ("cpu", "cuda")):
        for name in ("xla", "gpu"):
            with pytest.raises(ValueError, match="already"):
                operation.register(Engine(name, lambda x, layer: x, platforms=platforms))
    operation.register(Engine("gpu", lambda x, layer: x + 5, platforms=("cpu",)))
    assert operation(jnp.zeros(1), None, implementation="gpu").tolist() == [5]
    assert operation.choose("cuda", "gpu").engine.platforms == ("cuda", "rocm")
    with pytest.raises(InputError, match=r"'gpu' of add cannot run: it runs on .*, not on tpu"):
        operation.choose("tpu", "gpu")
    with pytest.raises(InputError, match="choose one of gpu, lacking, xla"):
        operation.choose("cpu", "none")


def test_an_engine_may_run_only_where_it_is_asked_for() -> None:
    operation = an_operation()
    operation.register(Engine("shy", lambda x, layer: x + 6, automatic=False))
    assert operation.choose("cpu").engine.name == "xla"
    assert "shy" not in operation.choose("cpu").reason
    assert operation(jnp.zeros(1), None, implementation="shy").tolist() == [6]


def arranging_operation(seen: list[Any]) -> Operation:
    """Multiplies rows by the layer's sum, which is arranged, and adds the layer's size."""

    def arrange(x: Any, layer: Any, **_: Any) -> Any:
        seen.append(layer["w"])
        assert not hasattr(x, "at")
        return layer["w"].sum()

    operation = Operation("scale", lambda x, layer, **_: x)
    operation.register(
        Engine(
            "sum",
            lambda x, layer, total, add=0: x * total + (layer["w"].size + add),
            platforms=("cpu", "cuda"),
            arrange=arrange,
        )
    )
    return operation


def test_weights_are_arranged_in_the_primitive_or_before_it() -> None:
    x, layer = jnp.ones((2, 3)), {"w": jnp.array([1.0, 4.0])}
    seen: list[Any] = []
    operation = arranging_operation(seen)
    run = jax.jit(lambda x, layer: operation(x, layer, add=10))
    inside = run(x, layer)
    assert inside.tolist() == [[17] * 3] * 2
    assert "reduce_sum" not in str(jax.make_jaxpr(run)(x, layer))
    with known_platform("cpu"):
        assert platform_known() == "cpu"
        assert "reduce_sum" in str(jax.make_jaxpr(run)(x, layer))
        np.testing.assert_array_equal(run(x, layer), inside)
        np.testing.assert_array_equal(operation(x, layer, add=10), inside)
        assert isinstance(seen.pop(), jax.Array)
    assert platform_known() is None


def test_known_weights_are_arranged_once_while_tracing() -> None:
    x, layer = jnp.ones((2, 3)), {"w": jnp.array([1.0, 4.0])}
    seen: list[Any] = []
    operation = arranging_operation(seen)
    with known_platform("cpu"):
        traced = jax.make_jaxpr(jax.vmap(lambda x: operation(x, layer)))(x)
    assert [float(constant) for constant in traced.consts] == [5]
    assert "reduce_sum" not in str(traced)
    run = jax.jit(jax.extend.core.jaxpr_as_fun(traced))
    assert run(x)[0].tolist() == [[7] * 3] * 2
    assert len(seen) == 1


def test_mapped_layers_are_arranged_one_by_one() -> None:
    operation = arranging_operation([])
    layers = {"w": jnp.array([[1.0, 4.0], [2.0, 5.0]])}
    expected = jax.vmap(operation, in_axes=(None, 0))(jnp.ones((2, 3)), layers)
    assert expected[:, 0, 0].tolist() == [7, 9]
    with known_platform("cpu"):
        mapped = jax.vmap(operation, in_axes=(None, 0))(jnp.ones((2, 3)), layers)
    np.testing.assert_array_equal(mapped, expected)


def test_no_arrays_at_all_are_mapped() -> None:
    operation, weights = an_operation(), {"w": jnp.ones((0, 3))}
    assert jax.vmap(lambda x: operation(x, None))(jnp.ones((0, 2, 5))).shape == (0, 2, 5)
    mapped = jax.vmap(arranging_operation([]), in_axes=(None, 0))(jnp.ones((2, 3)), weights)
    assert mapped.shape == (0, 2, 3)


def test_what_was_traced_for_one_platform_is_refused_on_another() -> None:
    operation = arranging_operation([])
    with (
        known_platform("cuda"),
        pytest.raises(InputError, match="scale was traced for cuda and cannot run on cpu"),
    ):
        operation(jnp.ones((1, 1)), {"w": jnp.ones(1)})
    with (
        known_platform("rocm"),
        pytest.raises(InputError, match="scale has no engine on rocm: sum: it runs on cpu, cuda"),
    ):
        operation(jnp.ones((1, 1)), {"w": jnp.ones(1)})


X, CONV = ConvSpec("", (1, 2, 2), (40,), 8, "masked").arguments(seed=0)
_, UP = ConvSpec("", (1, 2, 2), (40,), 8, "masked", side=2).arguments(seed=0)
STEM = PackedStem(jnp.ones((3, 3, 3, 4), jnp.int16), jnp.zeros((1, 4), jnp.int32))
HEAD = PackedHead(jnp.ones((40, 1)), jnp.zeros(1))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: ops.conv3x3(X[..., :1], CONV), "1 planes of 1 words a pixel.*takes 1 of 2"),
        (lambda: ops.conv3x3(jnp.concatenate([X, X], axis=3), CONV), "2 planes of 2 words"),
        (lambda: ops.conv3x3(X[0], CONV), "conv3x3 takes channel-packed words"),
        (lambda: ops.conv3x3(X.astype(jnp.int32), CONV), "conv3x3 takes channel-packed words"),
        (lambda: ops.conv3x3(X, UP), "conv3x3 takes a layer of 3x3 kernels"),
        (lambda: ops.up_conv2x2(X, CONV), "up_conv2x2 takes a layer of 2x2 kernels"),
        (lambda: ops.up_conv2x2(X[..., :1], UP), "its layer takes 1 of 2"),
        (lambda: ops.max_pool2x2(X[:, :1]), "even height and width, not 1x2"),
        (lambda: ops.max_pool2x2(X[0]), "max_pool2x2 takes channel-packed words"),
        (lambda: ops.pack_bits(jnp.zeros((1, 1, 1, 1))), "not float32"),
        (lambda: ops.pack_bits(jnp.zeros((1, 1), jnp.uint8)), r"not uint8\[1, 1\]"),
        (lambda: ops.pack_bits(jnp.zeros((1, 1, 1, 1), jnp.uint8), bits=3), "bits must be 1 or 2"),
        (lambda: ops.stem(jnp.zeros((1, 2, 2, 4), jnp.uint8), STEM), r"uint8 \[B, H, W, 3\]"),
        (lambda: ops.stem(jnp.zeros((1, 2, 2, 3)), STEM), "not float32"),
        (lambda: ops.head(X[..., :1], HEAD), "1 words a pixel; its layer takes 2"),
        (lambda: ops.conv3x3(X, CONV, implementation="fast"), "unknown implementation 'fast'"),
    ],
)
def test_arguments_that_do_not_fit_are_refused(call: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        jax.eval_shape(call)


def test_an_exported_operation_gives_the_same() -> None:
    x, layer = ConvSpec("", (1, 2, 3), (4,), 2, "binary").arguments(seed=0)
    run = jax.jit(lambda x: ops.conv3x3(x, layer, implementation="xla"))
    np.testing.assert_array_equal(jax.export.export(run)(x).call(x), run(x))


def test_a_derivative_is_refused() -> None:
    with pytest.raises(InputError, match=r"head .* has no derivative; train with the model"):
        jax.grad(lambda layer: ops.head(X, layer).sum())(HEAD)
