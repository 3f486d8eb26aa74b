"""A GPU in NumPy: JAX programs on the CPU whose kernels run as compiled PTX."""

import dataclasses
import functools
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Self

import jax
import jax_triton
import numpy as np
import pytest
from jax import Array
from numpy.typing import NDArray

from mbu_jax.ops.bitsliced import pixels
from mbu_jax.ops.bitsliced_lists.primitive import OPERATION as BITSLICED_LISTS
from mbu_jax.ops.conv3x3.primitive import OPERATION as CONV3X3
from mbu_jax.ops.gpu.target import compute_capability
from mbu_jax.ops.head.primitive import OPERATION as HEAD
from mbu_jax.ops.max_pool2x2.primitive import OPERATION as MAX_POOL2X2
from mbu_jax.ops.pack_bits.primitive import OPERATION as PACK_BITS
from mbu_jax.ops.stem.primitive import OPERATION as STEM
from mbu_jax.ops.up_conv2x2.primitive import OPERATION as UP_CONV2X2
from tests.ptx.program import Program, launch
from tests.triton_kernels.compiled import Pairs, compiled

OPERATIONS = (
    *(CONV3X3, UP_CONV2X2, MAX_POOL2X2, HEAD, STEM, PACK_BITS, BITSLICED_LISTS),
    *(pixels.CONV, pixels.MAX_POOL2X2, pixels.HEAD, pixels.STEM),
)


@dataclasses.dataclass
class Kernel:
    """A kernel that a program called, but for its target."""

    function: Any
    types: tuple[str, ...]
    sizes: Pairs
    constants: Pairs
    options: Pairs

    @classmethod
    def called(
        cls,
        *arrays: Array,
        kernel: Any,
        out_type: jax.ShapeDtypeStruct,
        backend_options: Mapping[str, Any],
        **parameters: int,
    ) -> Self:
        """The kernel of a call of `jax_triton.triton_call`."""
        constant = {parameter.name for parameter in kernel.params if parameter.is_constexpr}
        return cls(
            function=kernel,
            types=(*(array.dtype.name for array in arrays), out_type.dtype.name),
            sizes=tuple((k, v) for k, v in parameters.items() if k not in constant),
            constants=tuple((k, v) for k, v in parameters.items() if k in constant),
            options=tuple(backend_options.items()),
        )

    def compiled(self, target: int) -> Any:
        return compiled(self.function, self.types, self.sizes, self.constants, self.options, target)


@contextmanager
def gpu(target: int) -> Iterator[list[Kernel]]:
    """Let engines made for CUDA run on the CPU, with kernels compiled for a compute capability.

    Yields:
      The kernels that programs call; those that JAX has lowered before are not among them.
    """
    called: list[Kernel] = []
    with pytest.MonkeyPatch.context() as patch, compute_capability(target):
        for operation in OPERATIONS:
            made = [engine for engine in operation.engines if engine.platforms == ("cuda",)]
            names = {engine.name for engine in made}
            engines = [
                *(engine for engine in operation.engines if engine.name not in names),
                *(
                    dataclasses.replace(engine, platforms=("cpu",), absent=lambda: None)
                    for engine in made
                ),
            ]
            patch.setattr(operation, "engines", engines)
        patch.setattr(jax_triton, "triton_call", functools.partial(_triton_call, called))
        yield called


def _triton_call(
    called: list[Kernel],
    *arrays: Array,
    kernel: Any,
    out_type: jax.ShapeDtypeStruct,
    grid: int,
    name: str,
    compute_capability: int,
    backend_options: Mapping[str, Any],
    **parameters: int,
) -> Array:
    assert name == kernel.__name__
    call = Kernel.called(
        *arrays, kernel=kernel, out_type=out_type, backend_options=backend_options, **parameters
    )
    called.append(call)

    def run(*inputs: Array) -> NDArray[Any]:
        # What the kernel leaves out stays full of ones.
        size = int(np.prod(out_type.shape)) * out_type.dtype.itemsize
        result = np.full(size, 0xFF, np.uint8).view(out_type.dtype).reshape(out_type.shape)
        built = call.compiled(compute_capability)
        sizes = [value for _, value in call.sizes if value != 1]
        # JAX hands out views of its own memory, which a kernel must not write.
        copies = [np.array(array) for array in inputs]
        launch(
            _program(built.asm["ptx"]),
            (grid,),
            [*copies, *sizes, result],
            shared_bytes=built.metadata.shared,
        )
        for copy, array in zip(copies, inputs, strict=True):
            np.testing.assert_array_equal(copy, array, err_msg="the kernel wrote its input")
        return result

    return jax.pure_callback(run, out_type, *arrays)


@functools.cache
def _program(text: str) -> Program:
    return Program.parse(text)
