"""What the GPU benchmark runs: rows, shifts, images, layers and their work."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.benchmark.carried import images, shifts
from experiments.benchmark.gpu.layers import layer_programs
from experiments.benchmark.gpu.rows import GpuRow, rows_of
from experiments.benchmark.gpu.stages import split
from mbu_jax.errors import InputError
from mbu_jax.ops.gpu.target import compute_capability
from mbu_jax.unet import UNetConfig
from tests.random_packed import random_packed


def test_the_work_of_a_layer_is_counted() -> None:
    params = random_packed(UNetConfig.preset("binary", width=32))
    work = {
        engine: {made.name: made.work for made in layer_programs(params, engine, 2, 16, 32)}
        for engine in ("xla", "bmma")
    }
    conv = params.convs["down_c1.conv2"]
    assert conv.precision == "binary"
    macs = 2 * 8 * 16 * 9 * 64 * 64
    assert work["bmma"]["down_c1.conv2"]["bmma_macs"] == macs
    with compute_capability(90):
        on_h100 = {made.name: made.work for made in layer_programs(params, "bmma", 2, 16, 32)}
    kinds = {name: [kind for kind in work if kind != "bytes"] for name, work in on_h100.items()}
    assert kinds["down_c1.conv2"] == ["bmma_macs"]  # too few words
    assert kinds["down_c4.conv2"] == ["wgmma_macs"]
    assert on_h100["down_c4.conv2"]["wgmma_macs"] == work["bmma"]["down_c4.conv2"]["bmma_macs"]
    # Input and output of 2 words a pixel, weights, thresholds.
    moved = 2 * (2 * 8 * 16 * 2 * 4) + 9 * 64 * 2 * 4 + 64 * 4
    assert work["xla"]["down_c1.conv2"] == {"bytes": moved}


def test_a_function_is_divided_by_what_it_depends_on() -> None:
    def function(weights: list[jax.Array], inputs: list[jax.Array]) -> jax.Array:
        return jnp.sort(weights[0] * weights[1])[:3] + inputs[0]

    specs = [jax.ShapeDtypeStruct((5,), np.float32)] * 2
    first, rest, between = split(function, specs, [jax.ShapeDtypeStruct((3,), np.float32)])
    assert [spec.shape for spec in between] == [(3,)]
    weights = [jnp.arange(5.0), jnp.arange(5.0)[::-1]]
    x = jnp.ones(3)
    np.testing.assert_array_equal(rest(first(weights), [x]), function(weights, [x]))


def test_images_of_a_batch_differ_and_repeat() -> None:
    picture = np.random.default_rng(0).integers(0, 256, (20, 24, 3), dtype=np.uint8)
    batch = images.batch_of(picture, 10)
    assert len({images.digest(image.astype(np.float32)) for image in batch}) == images.DISTINCT
    np.testing.assert_array_equal(batch[0], picture)
    np.testing.assert_array_equal(batch[9], batch[1])


def test_rows_that_memory_cannot_hold_take_shifts() -> None:
    rows = [{"name": str(i), "bytes_per_pixel": need} for i, need in enumerate((1, 40, 30, 20))]
    found = shifts.divide(rows, 10**9, 80 * 10**9)
    assert [[row["name"] for row in shift] for shift in found] == [["0", "1", "3"], ["2"]]
    assert shifts.divide(rows, 10**9, None) == [rows]


def test_every_network_has_rows_and_those_that_are_compared_come_first() -> None:
    rows = rows_of(None, ["bmma", "popcount", "bitsliced"], main=True)
    names = [row.name for row in rows]
    assert {"mbu:auto", "all_masked-2bit:bitsliced", "binary:popcount", "xla-bf16"} <= set(names)
    assert {row.engine for row in rows[:4]} == {"auto"}
    assert {row.engine for row in rows[4:7]} == {"fp16"}
    # On a GPU of 80 GB these are alive at once, in the largest batch.
    entries = [row.entry({}) for row in rows]
    together = shifts.divide(entries, 64 * 512 * 512, 80 * 10**9)[0]
    assert [entry["name"] for entry in together][:7] == names[:7]
    assert GpuRow.parse("binary:auto").implementation is None
    assert len(rows_of(None, ["bmma", "popcount", "bitsliced"], main=False)) < len(rows)
    for bad in (["nonsense"], ["mbu:magic"], ["xla-fp16", "xla-fp16"], []):
        with pytest.raises(InputError):
            rows_of(bad, ["bmma"], main=True)
