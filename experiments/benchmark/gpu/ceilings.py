"""Programs that measure what the device can do at most."""

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from experiments.benchmark.gpu.programs import Machine, touched
from mbu_jax.ops.gpu.calls import call

_COPIED_WORDS = 2**28  # 1 GiB, far more than any cache
_MATRIX = 8192
_BLOCKS = 16 * 132  # whole waves on the largest devices
_NO_MATRICES = (75, 100)  # capabilities before 80 lack m16n8k256, those from 100 on emulate it
_WARPGROUPS = 90  # the only capability whose warpgroups multiply one-bit matrices


@dataclasses.dataclass(frozen=True)
class Ceiling:
    """One rate.

    Attributes:
      name: ``copy``, ``bf16``, ``lop3``, ``popc``, ``bmma``, ``wgmma``, and ``turn``, which is
        no rate but what a turn of a repeated layer takes that is not the layer.
      unit: that is counted.
      amount: units of one repetition.
      repeats: repetitions in a call.
      inputs: shapes of random bits, or of normal numbers.
      program: of no weights and the inputs.
    """

    name: str
    unit: str
    amount: float
    repeats: int
    inputs: list[jax.ShapeDtypeStruct]
    program: bytes


def ceilings(machine: Machine, repeats: int, *, small: bool = False) -> Iterator[Ceiling]:
    """Export them.

    Args:
      machine: what for; kernels only for a GPU.
      repeats: turns of a repeated layer.
      small: whether arrays are tiny, to see that it works.

    Yields:
      The programs.
    """
    words = 2**12 if small else _COPIED_WORDS
    side = 32 if small else _MATRIX

    def made(
        name: str,
        unit: str,
        amount: float,
        function: Callable[[list[Array], list[Array]], Any],
        *inputs: jax.ShapeDtypeStruct,
        repeats: int = 1,
    ) -> Ceiling:
        program = machine.export(function, [], list(inputs))
        return Ceiling(name, unit, amount, repeats, list(inputs), program)

    copied = jax.ShapeDtypeStruct((words,), np.uint32)
    yield made("copy", "bytes", 8.0 * words, lambda _, x: x[0] + jnp.uint32(1), copied)
    matrix = jax.ShapeDtypeStruct((side, side), jnp.bfloat16)
    yield made("bf16", "MAC", float(side) ** 3, lambda _, x: x[0] @ x[1], matrix, matrix)

    def turns(_: list[Array], x: list[Array]) -> Array:
        return jax.lax.fori_loop(0, repeats, lambda _, y: touched(y, y + jnp.uint32(1)), x[0])

    one = jax.ShapeDtypeStruct((32,), np.uint32)
    yield made("turn", "turns", 1.0, turns, one, repeats=repeats)
    if machine.platform != "cuda":
        return
    from triton_kernels import ceilings as kernels

    blocks, threads = (4 if small else _BLOCKS), kernels.threads()
    seeds = jax.ShapeDtypeStruct((threads,), np.uint32)
    warps = threads // 32
    kinds: list[tuple[str, str, Any, int, float]] = [
        ("lop3", "instructions", kernels.lop3_kernel, 2048, threads * kernels.LOP3_A_TURN),
        ("popc", "instructions", kernels.popc_kernel, 1024, threads * kernels.POPC_A_TURN),
    ]
    capability = machine.compute_capability
    if capability is not None and _NO_MATRICES[0] < capability < _NO_MATRICES[1]:
        macs = warps * kernels.MMA_A_TURN * kernels.MMA_MACS
        kinds.append(("bmma", "MAC", kernels.bmma_kernel, 64, macs))
    if capability == _WARPGROUPS:
        macs = warps // 4 * kernels.WGMMA_A_TURN * kernels.WGMMA_MACS
        kinds.append(("wgmma", "MAC", kernels.wgmma_kernel, 64, macs))
    for name, unit, kernel, loops, amount in kinds:
        launch = kernels.launch(kernel, blocks=blocks, turns=loops)
        result = jax.ShapeDtypeStruct((blocks, threads), np.uint32)
        yield made(
            name,
            unit,
            float(amount) * blocks * loops,
            lambda _, x, launch=launch, result=result: call(launch, result, x[0]),
            seeds,
        )
