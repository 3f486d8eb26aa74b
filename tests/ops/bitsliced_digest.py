"""A digest of what the `bitsliced` engine gives, to compare processes: run as a program."""

import hashlib
from collections.abc import Iterator

import jax.numpy as jnp
import numpy as np
from jax import Array

from mbu_jax.ops.bitsliced import library, pixels
from mbu_jax.ops.specs import ConvSpec
from mbu_jax.packing import PackedConv, PackedHead, PackedStem

SPECS = (
    ConvSpec("binary", (2, 9, 70), (40,), 33, "binary"),
    ConvSpec("masked_two_bits", (1, 5, 257), (33,), 9, "masked", 2, density=0.2),
    ConvSpec("pow2_columns", (1, 3, 100), (700,), 5, "pow2", 2, density=0.05),
    ConvSpec("transposed", (2, 5, 48), (65,), 34, "masked", side=2),
    ConvSpec("transposed_binary", (1, 3, 33), (20,), 3, "binary", 2, side=2),
)


def arguments() -> Iterator[tuple[tuple[Array, Array], PackedConv, int]]:
    """Pixel-packed planes, a layer and a width for every case."""
    for seed, spec in enumerate(SPECS):
        _, layer = spec.arguments(seed)
        batch, height, width = spec.size
        shape = (batch, spec.activation_bits, spec.segments[0], height, width)
        bits = np.random.default_rng(seed).random(shape, np.float32) < 0.5
        whole = np.pad(bits, [(0, 0)] * 4 + [(0, -width % 32)])
        planes = jnp.asarray(np.packbits(whole, axis=-1, bitorder="little").view("<u4"))
        yield (planes, planes[:, :, :0]), layer, width


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


def digest() -> str:
    """SHA-256 of stems, convolutions, pools and heads with the library's instructions."""
    seen = hashlib.sha256()
    for layer, levels in stems():
        seen.update(np.asarray(pixels.STEM(levels, layer)).tobytes())
    for pair, layer, width in arguments():
        planes = pixels.CONV(pair, layer, width=width)
        seen.update(np.asarray(planes).tobytes())
        width = 2 * width if layer.transposed else width
        weight = np.arange(2 * layer.out_channels).reshape(-1, 2) % 13 - 6
        head = PackedHead(jnp.asarray(weight, jnp.float32), jnp.ones(2, jnp.float32))
        seen.update(np.asarray(pixels.HEAD(planes, head, width=width)).tobytes())
        if planes.shape[3] % 2 == width % 2 == 0:
            seen.update(np.asarray(pixels.MAX_POOL2X2(planes, None, width=width)).tobytes())
    return seen.hexdigest()


if __name__ == "__main__":
    assert library.absent() is None, library.absent()
    print(library.instructions(), digest())
