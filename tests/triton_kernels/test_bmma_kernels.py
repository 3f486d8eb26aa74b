"""The convolutions on Tensor Cores: machine code, and compiled PTX against the oracle."""

from typing import Any

import numpy as np
import pytest
from jaxlib import gpu_triton

from mbu_jax import ops
from mbu_jax.errors import InputError
from mbu_jax.ops.conv3x3 import arg_specs as conv_specs
from mbu_jax.ops.conv3x3.primitive import OPERATION
from mbu_jax.ops.gpu.target import compute_capability
from mbu_jax.ops.specs import ConvSpec
from mbu_jax.ops.up_conv2x2 import arg_specs as up_specs
from tests.triton_kernels.compiled import Sass, compiled
from tests.triton_kernels.simulated import gpu
from tests.triton_kernels.test_convolution_kernels import expected
from triton_kernels import bmma_conv3x3, bmma_tiles, bmma_up_conv2x2, wgmma_tiles

TARGETS = (75, 80, 86, 89, 90)
TYPES = ("uint32", "uint32", "int32", "uint32")

SPECS = [
    *((spec, target) for spec in conv_specs.ODD[1:4] for target in (75, 80, 90)),
    *((spec, 90) for spec in (conv_specs.ODD[0], *conv_specs.ODD[4:])),
    *((spec, target) for spec in up_specs.ODD[1:3] for target in (75, 80, 90)),
    *((spec, 86) for spec in (up_specs.ODD[0], up_specs.ODD[3])),
    (ConvSpec("two_bits", (1, 5, 9), (40,), 33, "binary", activation_bits=2), 80),
    (ConvSpec("two_bits", (1, 5, 9), (40,), 33, "binary", activation_bits=2), 90),
    (ConvSpec("four_words", (1, 9, 17), (64, 40), 70, "masked"), 75),
    (ConvSpec("four_words", (1, 9, 17), (64, 40), 70, "masked"), 90),
    (ConvSpec("ten_words", (1, 3, 9), (160, 130), 40, "binary"), 75),
    (ConvSpec("ten_words", (1, 3, 9), (160, 130), 40, "binary"), 90),
    (ConvSpec("eight_words", (2, 3, 9), (128, 100), 40, "masked", side=2), 80),
    (ConvSpec("eight_words", (2, 3, 9), (128, 100), 40, "binary", 2, side=2), 90),
]


@pytest.fixture(autouse=True)
def warps_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave to warps also what warpgroups would multiply."""
    monkeypatch.setattr(wgmma_tiles, "fits", lambda *_: False)


def check(spec: ConvSpec, target: int) -> None:
    x, layer = spec.arguments(seed=1)
    operation = ops.up_conv2x2 if layer.transposed else ops.conv3x3
    with gpu(target) as called:
        words = operation(x, layer, implementation="bmma")
    assert {kernel.function.__name__[:4] for kernel in called} == {"bmma"}
    np.testing.assert_array_equal(words, expected(x, layer))


@pytest.mark.parametrize(
    ("spec", "target"),
    SPECS,
    ids=[f"{spec.name}_{spec.side}x{spec.side}_sm{target}" for spec, target in SPECS],
)
def test_a_product_of_bits_gives_every_bit(spec: ConvSpec, target: int) -> None:
    check(spec, target)


@pytest.mark.parametrize("target", [80, 90])
@pytest.mark.parametrize("side", [3, 2])
def test_the_largest_tile_gives_every_bit(
    side: int, target: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bmma_tiles, "_PROGRAMS", 1)
    assert bmma_tiles.best_tile(1, 18, 9, 2).blocks == 4
    check(ConvSpec("large", (1, 18, 9), (64,), 40, "masked", side=side), target)


CODES = [
    *((bmma_conv3x3, 1, 16, 2, target) for target in TARGETS),
    *((bmma_conv3x3, 1, 2, 1, target) for target in (75, 80, 90)),
    *((bmma_conv3x3, 2, 16, 2, target) for target in (80, 90)),
    *((bmma_up_conv2x2, 1, 16, 2, target) for target in TARGETS),
    (bmma_conv3x3, 1, 8, 1, 90),
]


@pytest.mark.parametrize(("module", "planes", "words", "factors", "target"), CODES)
def test_machine_code_multiplies_bits_on_tensor_cores(
    module: Any, planes: int, words: int, factors: int, target: int
) -> None:
    taps = 9 if module is bmma_conv3x3 else 1
    form = bmma_tiles.best_form(target, taps, words)
    tile = bmma_tiles.best_tile(2, 512, 512, 2)
    assert tile.blocks == 4
    launch = module.launch(
        (2, 512, 512, planes, words), factors=factors, exponents=1, groups=2, form=form, tile=tile
    )
    kernel = compiled(
        launch.kernel,
        TYPES,
        tuple(launch.sizes.items()),
        tuple(launch.constants.items()),
        tuple(launch.options.items()),
        target,
    )
    code = Sass(kernel)
    instructions = [opcode for _, opcode, _ in code.instructions]
    opcodes = code.opcodes
    assert not opcodes.keys() & {"CALL", "LDL", "STL", "LDS", "STS", "IMMA", "POPC"}, opcodes
    assert code.stack == 0
    assert code.registers <= launch.registers
    shape = "88128" if target == 75 else {1: "168128", 2: "168256"}[form.lane_words]
    logic = "AND" if target == 90 else "XOR"
    products = [instruction for instruction in instructions if instruction.startswith("BMMA")]
    assert set(products) == {f"BMMA.{shape}.{logic}.POPC"}
    # A step of 4 blocks of pixels and of channels; with one factor by AND also a channel of ones.
    of_product = 2 * form.lane_words if target == 75 else 1
    of_step = 4 * 4 * factors + (4 if target == 90 and factors == 1 else 0)
    assert len(products) % (of_step * of_product) == 0
    steps = len(products) // (of_step * of_product)
    # Words of pixels, upper and lower, and of channels for each block, and pairs of thresholds.
    thresholds = 2 * 4 * (2**planes - 1)
    assert opcodes["LDG"] == steps * (2 * 4 + 4 * factors) + thresholds


@pytest.fixture
def with_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu_triton, "TritonKernel", object(), raising=False)


@pytest.mark.usefixtures("with_cuda")
def test_tensor_cores_that_emulate_bits_are_refused() -> None:
    for capability in (100, 120):
        with compute_capability(capability):
            with pytest.raises(InputError, match=rf"'bmma'.*{capability} have no one-bit products"):
                OPERATION.choose("cuda", "bmma")
            assert OPERATION.choose("cuda").engine.name == "popcount"


@pytest.mark.usefixtures("with_cuda")
def test_bmma_runs_where_it_is_asked_for() -> None:
    with compute_capability(90):
        assert OPERATION.choose("cuda", "bmma").engine.name == "bmma"
        assert OPERATION.choose("cuda").engine.name == "popcount"
    with pytest.raises(InputError, match="it runs on cuda, not on cpu"):
        OPERATION.choose("cpu", "bmma")
