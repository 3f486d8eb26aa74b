"""Whole networks on the `bitsliced` engine, and what JAX does to its operations."""

import functools
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax import Array
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from mbu_jax.activations import model_with_activations
from mbu_jax.errors import InputError
from mbu_jax.inference import infer, infer_with_activations, pack
from mbu_jax.layers import QuantizationOptions
from mbu_jax.ops.bitsliced import library, pixels
from mbu_jax.packing import PackedHead, channels_to_pixels, pixels_to_channels, word_count
from mbu_jax.unet import UNetConfig
from tests.ops.bitsliced_digest import arguments, stems
from tests.oracles import packed_network
from tests.random_packed import random_packed
from tests.unet_models import QUICKLY, random_images, random_model

COLLECTIVES = r"all-gather|all-to-all|all-reduce|collective-permute"
BITSLICED = functools.partial(infer, implementation="bitsliced")


@pytest.mark.parametrize(
    ("preset", "bits", "size"),
    [("binary", 1, (2, 35, 17)), ("mbu", 2, (1, 1, 70)), ("all_masked", 1, (1, 15, 1))],
)
def test_every_layer_is_the_models(preset: Any, bits: int, size: tuple[int, int, int]) -> None:
    options = QuantizationOptions(activation_bits=bits)
    model = random_model(UNetConfig.preset(preset, width=5, quantization=options), seed=bits)
    model.eval()
    params = pack(model)
    images = jnp.asarray(random_images(model.config, *size))

    def compiled(run: Any, *operands: Any) -> Any:
        return run.lower(*operands).compile(compiler_options=QUICKLY)(*operands)

    run = jax.jit(functools.partial(infer_with_activations, implementation="bitsliced"))
    logits, words = compiled(run, params, images)
    expected, expected_words = compiled(nnx.jit(model_with_activations), model, images)
    assert words.keys() == expected_words.keys()
    for name in words:
        np.testing.assert_array_equal(words[name], expected_words[name], err_msg=name)
    np.testing.assert_array_equal(logits, expected)
    assert np.unique(logits).size > 1


MIXED = UNetConfig(width=4, precisions=("binary", "masked", "pow2") * 4)


def test_mapped_networks_and_an_exported_one_give_every_bit() -> None:
    params, other = random_packed(MIXED), random_packed(MIXED, seed=1)
    rng = np.random.default_rng(0)
    images = jnp.asarray(rng.integers(0, 256, (1, 16, 16, 3)).astype(np.uint8))
    run = jax.jit(BITSLICED)
    both = jax.tree.map(lambda *leaves: np.stack(leaves), params, other)
    mapped = jax.jit(jax.vmap(BITSLICED, in_axes=(0, None)))(both, images)
    expected = run(params, images)
    np.testing.assert_array_equal(mapped[0], expected)
    np.testing.assert_array_equal(mapped[1], run(other, images))
    assert (mapped[0] != mapped[1]).any()
    taken = [jax.export.DisabledSafetyCheck.custom_call(name) for name in library.TARGETS]
    export = jax.export.export(
        jax.jit(functools.partial(BITSLICED, params)), platforms=["cpu"], disabled_checks=taken
    )
    restored = jax.export.deserialize(export(images).serialize())
    np.testing.assert_array_equal(restored.call(images), expected)


def test_one_program_is_exported_for_several_platforms() -> None:
    params = random_packed(MIXED)
    images = jnp.zeros((1, 16, 16, 3), jnp.uint8)
    run = jax.jit(functools.partial(infer, params))
    taken = [jax.export.DisabledSafetyCheck.custom_call(name) for name in library.TARGETS]
    export = jax.export.export(run, platforms=["cpu", "cuda"], disabled_checks=taken)
    np.testing.assert_array_equal(export(images).call(images), run(images))


def test_the_engine_asked_for_never_falls_back() -> None:
    images = jax.ShapeDtypeStruct((1, 16, 16, 3), jnp.uint8)
    run = jax.jit(functools.partial(BITSLICED, random_packed(MIXED)))
    with pytest.raises(InputError, match="'bitsliced' of pixel_stem cannot run: it runs on cuda"):
        jax.export.export(run, platforms=["rocm"])(images)


@pytest.mark.parametrize("engine", ["xla", "bitsliced"])
@pytest.mark.parametrize("name", ["conv", "max_pool2x2", "head"])
def test_engines_of_operations_on_pixels_agree(name: str, engine: str) -> None:
    pair, layer, width = next(arguments())
    if name == "conv":
        operation, x = pixels.CONV, pair
    else:
        operation, x = getattr(pixels, name.upper()), pair[0]
        width -= width % 2
        x = x[..., : x.shape[3] // 2 * 2, : word_count(width)]
        x = channels_to_pixels(pixels_to_channels(x, width), x.shape[2])
    weight = jnp.arange(pair[0].shape[2] * 2, dtype=jnp.float32).reshape(-1, 2) - 3
    layer = {"conv": layer, "max_pool2x2": None, "head": PackedHead(weight, weight[0])}[name]
    expected = operation(x, layer, width=width)
    np.testing.assert_array_equal(operation(x, layer, implementation=engine, width=width), expected)
    assert np.unique(expected).size > 1


@pytest.mark.parametrize("engine", ["xla", "bitsliced"])
@pytest.mark.parametrize("index", [0, 1])
def test_stems_are_their_definition(index: int, engine: str) -> None:
    layer, levels = list(stems())[index]
    planes = pixels.STEM(levels, layer, implementation=engine)
    words = pixels_to_channels(planes, levels.shape[2])
    codes = packed_network.stem(np.asarray(levels), layer)
    expected = packed_network.write_codes(codes, layer.activation_bits)
    np.testing.assert_array_equal(words, expected)
    assert np.unique(codes).size == 2**layer.activation_bits


WITHOUT_THE_LIBRARY = """
import warnings
from pathlib import Path
import jax.numpy as jnp
import numpy as np
from mbu_jax.errors import InputError
from mbu_jax.inference import infer
from mbu_jax.ops.bitsliced import library
from mbu_jax.unet import UNetConfig
from tests.random_packed import random_packed

library._LIBRARY = Path("nowhere")
params, images = random_packed(UNetConfig(width=4)), jnp.zeros((1, 16, 16, 3), jnp.uint8)
with warnings.catch_warnings(record=True) as warned:
    warnings.simplefilter("always")
    logits = [infer(params, images) for _ in range(2)]
np.testing.assert_array_equal(logits[1], infer(params, images, implementation="xla"))
print([str(one.message) for one in warned if one.category is UserWarning])
try:
    infer(params, images, implementation="bitsliced")
except InputError as error:
    print(error)
"""


def test_without_the_library_xla_runs_and_says_so_once() -> None:
    run = subprocess.run(
        [sys.executable, "-c", WITHOUT_THE_LIBRARY],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=True,
    )
    said, refused = run.stdout.splitlines()
    assert said.count("the bitsliced engine cannot run, so xla does: its library was not") == 1
    assert "'bitsliced' of pixel_stem cannot run: its library was not compiled" in refused


def an_operation(name: str) -> tuple[Any, tuple[Any, ...]]:
    """A function of the batched arrays alone, and those."""
    pair, layer, width = next(arguments())
    if name == "stem":
        first, levels = next(stems())
        return lambda x: pixels.STEM(x, first), (levels,)
    if name == "conv":
        return lambda first, second: pixels.CONV((first, second), layer, width=width), pair
    if name == "pool":
        pair = (pair[0][:, :, :, :8],)
        return lambda x: pixels.MAX_POOL2X2(x, None, width=width), pair
    head = PackedHead(jnp.linspace(-4, 4, 66).reshape(33, 2).round(), jnp.ones(2))
    return lambda x: pixels.HEAD(x, head, width=width), (pair[0][:, :, :33],)


@pytest.mark.parametrize("name", ["stem", "conv", "pool", "head"])
def test_a_batch_split_over_devices_stays_split(name: str) -> None:
    run, batched = an_operation(name)
    expected = run(*batched)
    mesh = jax.make_mesh((2,), ("data",), axis_types=(AxisType.Auto,))
    spec = PartitionSpec("data")
    split = NamedSharding(mesh, spec)
    placed = jax.device_put(batched, split)
    program = jax.jit(run).lower(*placed).compile()
    assert not re.findall(COLLECTIVES, program.as_text() or "")
    found = program(*placed)
    assert found.sharding.is_equivalent_to(split, found.ndim)
    np.testing.assert_array_equal(found, expected)
    by_hand = jax.jit(jax.shard_map(run, mesh=mesh, in_specs=spec, out_specs=spec))
    np.testing.assert_array_equal(by_hand(*placed), expected)


def test_rows_split_over_devices_are_gathered() -> None:
    run, (first, second) = an_operation("conv")
    rows = first[:, :, :, :8], second[:, :, :, :8]
    mesh = jax.make_mesh((2,), ("rows",), axis_types=(AxisType.Auto,))
    split = NamedSharding(mesh, PartitionSpec(None, None, None, "rows"))
    np.testing.assert_array_equal(jax.jit(run)(*jax.device_put(rows, split)), run(*rows))


def test_a_derivative_is_refused() -> None:
    planes = jnp.zeros((1, 1, 3, 2, 1), jnp.uint32)

    def total(weight: Array) -> Array:
        return pixels.HEAD(planes, PackedHead(weight, jnp.zeros(2)), width=5).sum()

    with pytest.raises(InputError, match="train with the model"):
        jax.grad(total)(jnp.zeros((3, 2)))
