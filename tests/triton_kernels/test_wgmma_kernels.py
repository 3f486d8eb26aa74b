"""The convolutions that warpgroups multiply: machine code, and compiled PTX against the oracle."""

import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from triton import knobs

from mbu_jax import ops
from mbu_jax.ops.specs import ConvSpec
from tests.triton_kernels.compiled import Sass, compiled
from tests.triton_kernels.simulated import gpu
from tests.triton_kernels.test_convolution_kernels import expected
from triton_kernels import wgmma_conv3x3, wgmma_tiles, wgmma_up_conv2x2
from triton_kernels.wgmma_tiles import Tile, best_slab, fits

SPECS = [
    ConvSpec("one_pixel", (1, 1, 1), (64,), 64, "masked"),
    ConvSpec("two_words", (2, 9, 17), (60,), 64, "masked"),
    ConvSpec("two_words_two_bits", (1, 17, 7), (33, 20), 64, "masked", 2),
    ConvSpec("nine_words_two_bits", (2, 5, 9), (40, 202), 128, "masked", 2),
    ConvSpec("three_words", (1, 9, 10), (96,), 64, "binary"),
    ConvSpec("four_words_two_bits", (1, 10, 9), (64, 33), 40, "binary", 2),
    ConvSpec("six_words", (1, 7, 17), (170,), 128, "binary"),
    ConvSpec("sixteen_words", (1, 3, 5), (256, 256), 64, "binary", 2),
    ConvSpec("four_words", (2, 5, 7), (128,), 33, "masked", side=2),
    ConvSpec("eight_words", (3, 1, 25), (250,), 30, "binary", side=2),
    ConvSpec("sixteen_words", (1, 9, 8), (512,), 64, "binary", 2, side=2),
]


def check(spec: ConvSpec) -> list[dict[str, int]]:
    """Compare with the oracle, and give the constants of the kernels that it took."""
    x, layer = spec.arguments(seed=1)
    operation = ops.up_conv2x2 if layer.transposed else ops.conv3x3
    with gpu(90) as called:
        words = operation(x, layer, implementation="bmma")
    assert {kernel.function.__name__[:5] for kernel in called} == {"wgmma"}
    np.testing.assert_array_equal(words, expected(x, layer))
    return [dict(kernel.constants) for kernel in called]


@pytest.mark.parametrize(
    "spec", SPECS, ids=[f"{spec.name}_{spec.precision}_{spec.side}x{spec.side}" for spec in SPECS]
)
def test_a_product_of_warpgroups_gives_every_bit(spec: ConvSpec) -> None:
    check(spec)


TILES = [
    (Tile(8, 2, 1), ConvSpec("tall", (1, 19, 9), (64,), 32, "masked")),
    (Tile(16, 2, 2), ConvSpec("wide", (1, 9, 18), (64,), 64, "masked")),
    (Tile(8, 4, 2), ConvSpec("tallest", (1, 33, 9), (96,), 64, "binary")),
    (Tile(16, 4, 4), ConvSpec("square", (2, 17, 18), (160,), 128, "masked")),
    (Tile(32, 4, 1), ConvSpec("widest", (1, 9, 33), (128,), 32, "binary", 2)),
    (Tile(8, 4, 4), ConvSpec("up", (1, 17, 31), (128,), 64, "masked", 2, side=2)),
]


@pytest.mark.parametrize(("tile", "spec"), TILES, ids=[spec.name for _, spec in TILES])
def test_every_tile_gives_every_bit(
    tile: Tile, spec: ConvSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wgmma_tiles, "fits", lambda *_, **__: True)
    for choice in ("best_tile", "best_stretch"):
        monkeypatch.setattr(wgmma_tiles, choice, lambda *_, **__: tile)
    for constants in check(spec):
        assert constants["WARPGROUPS"] == tile.warpgroups
        assert constants["GROUPS"] == tile.groups
        assert constants.get("COLUMNS", 8) == tile.columns


def built(module: Any, planes: int, words: int, factors: int, tile: Tile) -> Any:
    taps = 9 if module is wgmma_conv3x3 else 1
    slab = best_slab(taps, words, factors)
    launch = module.launch(
        (2, 512, 512, planes, words), factors=factors, groups=4, slab=slab, tile=tile
    )
    return compiled(
        launch.kernel,
        ("uint32", "uint32", "int32", "uint32"),
        tuple(launch.sizes.items()),
        tuple(launch.constants.items()),
        tuple(launch.options.items()),
        90,
    )


CODES = [
    (wgmma_conv3x3, 1, 16, 2, Tile(16, 4, 4)),
    (wgmma_conv3x3, 2, 16, 1, Tile(16, 4, 4)),
    (wgmma_conv3x3, 2, 2, 2, Tile(8, 1, 2)),
    (wgmma_up_conv2x2, 2, 16, 2, Tile(8, 4, 4)),
]


@pytest.mark.parametrize(("module", "planes", "words", "factors", "tile"), CODES)
def test_machine_code_multiplies_by_warpgroups(
    module: Any, planes: int, words: int, factors: int, tile: Tile, tmp_path: Path
) -> None:
    kernel = built(module, planes, words, factors, tile)
    code = Sass(kernel)
    assert code.stack == 0
    assert code.registers <= tile.registers
    instructions = [opcode for _, opcode, _ in code.instructions]
    opcodes = [instruction.split(".")[0] for instruction in instructions]
    assert not set(opcodes) & {"CALL", "LDL", "STL", "BMMA", "IMMA", "POPC"}
    places = [i for i, opcode in enumerate(opcodes) if opcode == "BGMMA"]
    channels = 32 * tile.groups + (16 if factors == 1 else 0)
    assert {instructions[i] for i in places} == {f"BGMMA.64x{channels}x256.AND.POPC"}
    # A slab's products follow each other, with additions of addresses between them and no waits.
    steps = best_slab(9 if module is wgmma_conv3x3 else 1, words, factors).steps
    assert len(places) % steps == 0
    for first in range(0, len(places), steps):
        of_slab = opcodes[places[first] : places[first + steps - 1] + 1]
        assert "WARPGROUP" not in of_slab
        # What a descriptor takes; the next slab's loads may stand between products as well.
        assert "R2UR" not in of_slab
        assert sum(opcode in ("UIADD3", "UMOV") for opcode in of_slab) <= 4 * steps
    assert "wgmma" not in assembled(kernel, tmp_path), "ptxas makes products wait for each other"


def assembled(kernel: Any, folder: Path) -> str:
    """What ptxas says of a kernel."""
    (folder / "kernel.ptx").write_text(kernel.asm["ptx"])
    ptxas = knobs.nvidia.ptxas_blackwell.path
    command = [ptxas, "--gpu-name=sm_90a", "kernel.ptx", "-o", "kernel.cubin"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True)
    return done.stdout + done.stderr


def test_layers_whose_products_would_be_padding_stay_with_warps() -> None:
    def chosen(capability: int, words: int, factors: int, groups: int = 2, taps: int = 9) -> bool:
        return fits(capability, taps, words, factors, exponents=1, groups=groups)

    assert [words for words in range(1, 17) if not chosen(90, words, factors=2)] == [1, 5]
    assert [words for words in range(1, 9) if not chosen(90, words, factors=1)] == [1, 2, 5]
    assert [words for words in range(1, 9) if not chosen(90, words, factors=2, taps=1)] == [1, 2, 5]
    assert not chosen(90, 4, factors=2, groups=3)
    assert not fits(90, 9, 4, 2, exponents=3, groups=2)
    assert not any(chosen(capability, 4, factors=2) for capability in (75, 80, 86, 89, 100, 120))


@pytest.mark.parametrize("words", range(1, 40))
def test_a_slab_is_what_the_kernels_take(words: int) -> None:
    for taps, factors in ((9, 1), (9, 2), (1, 1), (1, 2)):
        slab = best_slab(taps, words, factors)
        assert slab.words in ((2, 4, 8, 16) if taps == 9 and factors == 2 else (4, 8, 16))
        assert slab.pieces * taps >= 2
        assert 0 <= slab.idle(words) < 1
