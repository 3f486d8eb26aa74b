"""Random networks, and what each of their parts gives, beside what the oracle says."""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import Array
from numpy.typing import NDArray

from mbu_jax.architecture import LAYER_NAMES
from mbu_jax.convolution import max_pool2x2
from mbu_jax.layers import LatentWeight, NormActivation, QuantizationOptions
from mbu_jax.unet import UNet, UNetConfig
from tests.oracles.network import UNetOracle

# Each of the seven precisions on some pair of 3x3 convolutions and on some transposed one.
ONE_MIX = ("int8", "int4", "int2", "pow2", "masked", "binary", "int8", "float32", "float32",
           "masked", "pow2", "binary")  # fmt: skip
OTHER_MIX = ("float32", "masked", "binary", "int8", "int4", "int2", "binary", "pow2", "int2",
             "int4", "masked", "int8")  # fmt: skip

CONFIGS = {
    "one bit": UNetConfig(width=4, precisions=ONE_MIX),
    "one bit, density": UNetConfig(
        width=5, in_channels=1, classes=3, precisions=OTHER_MIX,
        quantization=QuantizationOptions(ternarizer="density", density=0.2),
    ),
    "two bits": UNetConfig(
        width=4, precisions=OTHER_MIX, quantization=QuantizationOptions(activation_bits=2)
    ),
    "two bits, twn": UNetConfig(
        width=4, in_channels=4, classes=2, precisions=ONE_MIX,
        quantization=QuantizationOptions(activation_bits=2, ternarizer="twn"),
    ),
}  # fmt: skip


def dyadic(values: NDArray) -> Array:
    """Multiples of 1/64: sums of their products are exact in float32, in any order."""
    return jnp.asarray(np.rint(64 * values) / 64, jnp.float32)


def plain_model(config: UNetConfig, seed: int = 0) -> UNet:
    """A network with random weights and fresh BatchNorms, drawn by NumPy: nothing is compiled."""
    rng = np.random.default_rng(seed)
    structure, state = nnx.split(nnx.eval_shape(lambda: UNet(config, rngs=nnx.Rngs(0))))
    state = jax.tree.map(lambda leaf: jnp.asarray(np.zeros(leaf.shape, leaf.dtype)), state)
    model = nnx.merge(structure, state)
    for path, variable in nnx.iter_graph(model):
        if not isinstance(variable, nnx.Variable):
            continue
        shape = variable[...].shape
        if isinstance(variable, LatentWeight):
            ties = rng.choice(np.array([-1, -0.5, 0, 0.375, 0.5, 0.75, 1]), shape)
            drawn = np.clip(0.4 * rng.normal(size=shape), -1, 1)
            latent = np.where(rng.random(shape) < 0.1, ties, drawn)
            variable.set_value(jnp.asarray(latent, jnp.float32))
        elif path[-1] == "weight":
            fan_in = math.prod(shape[:-1])
            variable.set_value(dyadic(rng.normal(size=shape) * math.sqrt(2 / fan_in)))
        elif path[-1] in ("scale", "var"):
            variable.set_value(jnp.asarray(np.ones(shape, np.float32)))
        elif path[-2:] == ("head", "bias"):
            variable.set_value(dyadic(rng.normal(size=shape)))
    return model


def random_model(config: UNetConfig, seed: int = 0) -> UNet:
    """A network whose BatchNorms flip, silence and saturate some of their channels."""
    rng = np.random.default_rng(seed)
    model = plain_model(config, seed)
    for _, module in nnx.iter_modules(model):
        if isinstance(module, NormActivation):
            (channels,) = module.norm.mean[...].shape
            kind = rng.integers(0, 10, channels)
            gamma = np.where(kind == 0, 0, rng.normal(size=channels))
            gamma = np.where(kind == 1, 1e-20 * gamma, gamma)
            # Where beta is 0 and the mean whole, accumulators lie exactly on the threshold.
            exact = rng.random(channels) < 0.3
            mean = 4 * rng.normal(size=channels)
            values = {
                "scale": gamma,
                "bias": np.where(exact, 0, 0.5 * rng.normal(size=channels)),
                "mean": np.where(exact, np.rint(mean), mean),
                "var": 10 ** rng.uniform(-1, 4, channels),
            }
            for name, value in values.items():
                getattr(module.norm, name).set_value(jnp.asarray(value, jnp.float32))
    return model


def random_images(config: UNetConfig, *shape: int, seed: int = 0) -> NDArray:
    size = (*shape, config.in_channels)
    """Multiples of 1/64 for the float network, of 1/255 for those that see 256 levels."""
    most = 64 if config.quantization.activation_bits == 32 else 255
    return (np.random.default_rng(seed).integers(0, most + 1, size) / most).astype(np.float32)


def part_by_part(model: UNet, images: Array) -> dict[str, Array]:
    """Output of every convolution and activation on images of a padded size."""
    seen = {}

    def double_conv(name: str, x: Array) -> Array:
        block = getattr(model, name)
        seen[f"{name}.conv1"] = y = block.conv1(x)
        seen[f"{name}.norm1"] = x = block.norm1(y)
        seen[f"{name}.conv2"] = y = block.conv2(x)
        seen[f"{name}.norm2"] = x = block.norm2(y)
        return x

    def up(name: str, x: Array) -> Array:
        block = getattr(model, name)
        seen[f"{name}.conv"] = y = block.conv(x)
        if not block.quantized:
            return block(x)
        seen[f"{name}.norm"] = x = block.norm(y)
        return x

    skips = [double_conv("stem", images)]
    for name in ("down_c1", "down_c2", "down_c3", "down_c4"):
        skips.append(double_conv(name, max_pool2x2(skips[-1])))
    y = skips.pop()
    for number in "1234":
        y = jnp.concatenate([skips.pop(), up(f"up_ct{number}", y)], axis=-1)
        y = double_conv(f"up_c{number}", y)
    seen["logits"] = model.head(y)
    return seen


@nnx.jit
def answer_and_parts(model: UNet, images: Array) -> tuple[Array, dict[str, Array]]:
    _, height, width, _ = images.shape
    border = ((0, 0), (0, -height % 16), (0, -width % 16), (0, 0))
    return model(images), part_by_part(model, jnp.pad(images, border, mode="edge"))


# Compiling is the cost of these tests; this takes a third of the time.
QUICKLY = {"xla_backend_optimization_level": 0}


def run(
    model: UNet, images: NDArray, options: dict[str, Any] | None = None
) -> tuple[Array, dict[str, NDArray]]:
    """The network's own answer, and what each part gives."""
    operands = (model, jnp.asarray(images))
    compiled = answer_and_parts.lower(*operands).compile(compiler_options=options)
    logits, seen = compiled(*operands)
    return logits, {name: np.asarray(value) for name, value in seen.items()}


def oracle_of(model: UNet) -> UNetOracle:
    config = model.config
    return UNetOracle(
        params=jax.tree.map(np.asarray, nnx.to_pure_dict(nnx.state(model))),
        precisions=dict(zip(LAYER_NAMES, config.precisions, strict=True)),
        bits=config.quantization.activation_bits,
        ternarizer=config.quantization.ternarizer,
        density=config.quantization.density,
    )
