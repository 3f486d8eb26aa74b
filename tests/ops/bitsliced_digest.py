"""A digest of what the `bitsliced` engine gives, to compare processes: run as a program.

Prints the instructions, the threads of XLA's pool, and the digest.
"""

import hashlib
from collections.abc import Iterable, Iterator
from pathlib import Path

import jax.numpy as jnp
import numpy as np
from jax import Array
from numpy.typing import NDArray

from mbu_jax.ops.bitsliced import library, pixels
from mbu_jax.ops.conv3x3 import arg_specs as conv_specs
from mbu_jax.ops.specs import ConvSpec
from mbu_jax.ops.up_conv2x2 import arg_specs as up_specs
from mbu_jax.packing import PackedConv, PackedHead, PackedStem

SPECS = (
    ConvSpec("binary", (2, 9, 70), (40,), 33, "binary"),
    ConvSpec("masked_two_bits", (1, 5, 257), (33,), 9, "masked", 2, density=0.2),
    ConvSpec("pow2_columns", (1, 3, 100), (700,), 5, "pow2", 2, density=0.05),
    ConvSpec("transposed", (2, 5, 48), (65,), 34, "masked", side=2),
    ConvSpec("transposed_binary", (1, 3, 33), (20,), 3, "binary", 2, side=2),
    *conv_specs.ODD,
    *up_specs.ODD,
)


def arguments() -> Iterator[tuple[tuple[Array, Array], PackedConv, int]]:
    """Pixel-packed planes, a layer and a width for every case."""
    for seed, spec in enumerate(SPECS):
        _, layer = spec.arguments(seed)
        batch, height, width = spec.size
        shape = (batch, spec.activation_bits, sum(spec.segments), height, width)
        bits = np.random.default_rng(seed).random(shape, np.float32) < 0.5
        whole = np.pad(bits, [(0, 0)] * 4 + [(0, -width % 32)])
        planes = jnp.asarray(np.packbits(whole, axis=-1, bitorder="little").view("<u4"))
        first = spec.segments[0]
        yield (planes[:, :, :first], planes[:, :, first:]), layer, width


def stems() -> Iterator[tuple[PackedStem, Array]]:
    """A stem and the levels of images for each number of planes."""
    rng = np.random.default_rng(0)
    for planes, size in ((1, (2, 19, 70, 3)), (2, (1, 9, 33, 1))):
        outputs = 5
        weight = rng.integers(-1000, 1001, (3, 3, size[-1], outputs)).astype(np.int16)
        theta = np.sort(rng.normal(0, 2e5, (2**planes - 1, outputs)).astype(np.int32), axis=0)
        levels = rng.integers(0, 256, size).astype(np.uint8)
        layer = PackedStem(jnp.asarray(weight), jnp.asarray(theta)).validate()
        yield layer, jnp.asarray(levels)


def head_of(channels: int) -> PackedHead:
    """A head of two classes."""
    weight = np.arange(2 * channels).reshape(-1, 2) % 13 - 6
    return PackedHead(jnp.asarray(weight, jnp.float32), jnp.ones(2, jnp.float32))


def answers() -> Iterator[Array]:
    """What the engine gives: stems, and every case's convolution, its pool and its head."""
    for layer, levels in stems():
        yield pixels.STEM(levels, layer)
    for pair, layer, width in arguments():
        planes = pixels.CONV(pair, layer, width=width)
        yield planes
        width = 2 * width if layer.transposed else width
        yield pixels.HEAD(planes, head_of(layer.out_channels), width=width)
        if planes.shape[3] % 2 == width % 2 == 0:
            yield pixels.MAX_POOL2X2(planes, None, width=width)


def digest(arrays: Iterable[Array | NDArray]) -> str:
    """SHA-256 of their bytes."""
    seen = hashlib.sha256()
    for array in arrays:
        seen.update(np.asarray(array).tobytes())
    return seen.hexdigest()


def pool_threads() -> int:
    """Threads that XLA shares operations out to, by the names that it gives them."""
    names = [path.read_text().strip() for path in Path("/proc/self/task").glob("*/comm")]
    return names.count("tf_XLAEigen")


if __name__ == "__main__":
    assert library.absent() is None, library.absent()
    print(library.instructions(), digest(answers()), pool_threads())
