"""The stem sums floats, in an order of the engine's: which bits may depend on it, and how many do.

A sum of n products in float32, in whatever order and fused or not, is off by at most
gamma_n sum |w| |x|, where gamma_n = n u / (1 - n u) and u = 2^-24 (Higham, "Accuracy and Stability
of Numerical Algorithms", 2002, §3.1). Two engines differ only where a threshold lies that near.
"""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
import pytest
from numpy.typing import NDArray

from mbu_jax import ops
from mbu_jax.packing import PackedStem
from tests.oracles import packed_network

ENGINES = ("xla",)
SIZE = (1, 90, 150)
GROUNDS = 6
GROUND = SIZE[1] // GROUNDS  # rows of one colour
CHANNELS = 3
OUTPUTS = 64
TERMS = 9 * CHANNELS


def gamma(n: int, unit: float) -> float:
    return n * unit / (1 - n * unit)


def patches_of(images: NDArray) -> NDArray:
    """[B, H, W, C] in [0, 1] to [B, H, W, 9 C] float32 in [-1, 1], 0 outside the image."""
    x = np.float32(2) * images - np.float32(1)
    _, height, width, _ = x.shape
    x = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    taps = [x[:, i : i + height, j : j + width] for i in range(3) for j in range(3)]
    return np.concatenate(taps, axis=-1)


def products(patches: NDArray, weight: NDArray) -> list[NDArray]:
    flat = weight.reshape(TERMS, -1)
    return [patches[..., n, None] * flat[n] for n in range(TERMS)]


def last_to_first(patches: NDArray, weight: NDArray) -> NDArray:
    return functools.reduce(np.add, reversed(products(patches, weight)))


def in_pairs(patches: NDArray, weight: NDArray) -> NDArray:
    terms = products(patches, weight)
    while len(terms) > 1:
        terms = [sum(terms[i + 1 : i + 2], start=terms[i]) for i in range(0, len(terms), 2)]
    return terms[0]


class Exact(NamedTuple):
    """Sums in float64, and how far from them a float32 sum may be."""

    y: NDArray
    bound: NDArray


def judge(patches: NDArray, weight: NDArray) -> Exact:
    x, w = patches.astype(np.float64), weight.astype(np.float64).reshape(TERMS, -1)
    # Products of float32 are exact in float64, its sums are not quite; an engine may lose what is
    # below the smallest normal float32.
    relative = gamma(TERMS, 2.0**-24) + gamma(TERMS, 2.0**-53)
    bound = relative * (np.abs(x) @ np.abs(w)) + TERMS * 2.0**-126
    return Exact(x @ w, bound)


def random_images(rng: np.random.Generator) -> NDArray:
    """Noise beside flat ground, as micrographs have it: there, one sum is that of many pixels."""
    pixels = rng.integers(0, 256, (*SIZE, CHANNELS)).astype(np.uint8)
    for top in range(0, SIZE[1], GROUND):
        pixels[:, top : top + GROUND, : SIZE[2] // 2] = rng.integers(0, 256, CHANNELS)
    return pixels.astype(np.float32) / np.float32(255)


def random_stem(
    rng: np.random.Generator, bits: int, patches: NDArray, *, on_sums: bool
) -> PackedStem:
    """Thresholds as BatchNorm leaves them, or on values that float32 sums really have."""
    weight = (rng.normal(size=(3, 3, CHANNELS, OUTPUTS)) * np.sqrt(2 / TERMS)).astype(np.float32)
    sign = rng.choice(np.array([-1, 1], np.float32), OUTPUTS)
    theta = rng.normal(size=(2**bits - 1, OUTPUTS)).astype(np.float32)
    if on_sums:
        pixels = patches[0, rng.choice(GROUNDS, 2**bits - 1) * GROUND + 1, 1]
        theta = sign * last_to_first(pixels, weight)
    arrays = weight, np.sort(theta, axis=0), sign
    return PackedStem(*map(jnp.asarray, arrays)).validate()


@pytest.mark.parametrize("sums", [last_to_first, in_pairs])
@pytest.mark.parametrize(("bits", "on_sums"), [(1, False), (2, False), (1, True), (2, True)])
@pytest.mark.parametrize("engine", ENGINES)
def test_only_bits_within_rounding_of_a_threshold_depend_on_the_order(
    engine: str, bits: int, on_sums: bool, sums: Callable[[NDArray, NDArray], NDArray]
) -> None:
    rng = np.random.default_rng(bits)
    images = random_images(rng)
    patches = patches_of(images)
    layer = random_stem(rng, bits, patches, on_sums=on_sums)
    weight, theta, sign = (np.asarray(field) for field in (layer.weight, layer.theta, layer.sign))

    def codes(y: NDArray) -> NDArray:
        return np.sum([sign * y >= level for level in theta.astype(y.dtype)], axis=0)

    words = np.asarray(ops.stem(jnp.asarray(images), layer, implementation=engine))
    ours = packed_network.read_codes(words, (OUTPUTS,))
    y32 = sums(patches, weight)
    assert y32.dtype == np.float32
    theirs = codes(y32)

    y, bound = judge(patches, weight)
    assert (np.abs(y32 - y) <= bound).all()
    lowest, highest = codes(y - sign * bound), codes(y + sign * bound)
    for found in (ours, theirs):
        assert ((lowest <= found) & (found <= highest)).all()
    different = ours != theirs
    distance = np.abs(sign * y - theta[:, None, None, None]).min(axis=0)
    assert (distance[different] <= bound[different]).all()

    share = different.mean()
    print(f"{different.sum()} of {different.size} codes differ, {(lowest < highest).sum()} could")
    if on_sums:
        assert share > 1e-4, "no sum lies on a threshold: nothing is shown"
    else:
        assert share < 1e-5
