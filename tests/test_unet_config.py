"""The network's configuration: presets, JSON, and what is refused."""

import dataclasses
import json
import math
from collections.abc import Callable
from typing import Any

import jax
import pytest
from flax import nnx

from mbu_jax.architecture import LAYER_NAMES
from mbu_jax.errors import InputError
from mbu_jax.layers import QuantizationOptions
from mbu_jax.unet import UNet, UNetConfig
from tests.unet_models import CONFIGS


def abstract_parameters(config: UNetConfig) -> dict[str, Any]:
    model = nnx.eval_shape(lambda: UNet(config, rngs=nnx.Rngs(0)))
    return nnx.to_pure_dict(nnx.state(model, nnx.Param))


def count(parameters: Any) -> int:
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(parameters))


def test_parameter_count_of_the_paper() -> None:
    parameters = abstract_parameters(UNetConfig())
    weights = [p for path, p in jax.tree.leaves_with_path(parameters) if "weight" in str(path[-1])]
    assert len(weights) == 23
    assert count(weights) == 14_776_064
    assert f"{count(weights) / 1e6:.2f}" == "14.78"
    channels = 2 * (64 + 128 + 256 + 512 + 512 + 256 + 128 + 64 + 64) + 512 + 256 + 128 + 64
    assert count(parameters) == count(weights) + 2 * channels + 1
    assert parameters["up_c1"]["conv1"]["weight"].shape == (3, 3, 1024, 256)
    assert parameters["down_c4"]["conv2"]["weight"].shape == (3, 3, 512, 512)
    assert parameters["up_ct1"]["conv"]["weight"].shape == (2, 2, 512, 512)
    full = abstract_parameters(UNetConfig.preset("full_precision"))
    assert count(full) == count(parameters) - (512 + 256 + 128 + 64)


ONLY = {name: (precision,) * 12 for name, precision in (
    ("full_precision", "float32"), ("int8", "int8"), ("int4", "int4"),
    ("all_masked", "masked"), ("binary", "binary"), ("pow2", "pow2"), ("ttq", "ttq"),
)}  # fmt: skip
CHEAPEST = ("up_ct4", "up_ct3", "up_ct2", "up_ct1", "up_c3", "down_c1", "up_c2", "down_c2",
            "up_c4", "up_c1", "down_c4", "down_c3")  # fmt: skip


@pytest.mark.parametrize("name", ONLY)
def test_presets_of_one_precision(name: Any) -> None:
    config = UNetConfig.preset(name, width=8, in_channels=1, classes=4, dtype="bfloat16")
    assert config.precisions == ONLY[name]
    assert config.quantization.activation_bits == (32 if name == "full_precision" else 1)
    sizes = (config.width, config.in_channels, config.classes, config.dtype)
    assert sizes == (8, 1, 4, "bfloat16")


@pytest.mark.parametrize("masked_layers", [0, 1, 6, 12])
def test_mbu_masks_the_cheapest_layers(masked_layers: int) -> None:
    config = UNetConfig.preset("mbu", masked_layers=masked_layers)
    masked = {n for n, p in zip(LAYER_NAMES, config.precisions, strict=True) if p == "masked"}
    assert masked == set(CHEAPEST[:masked_layers])
    assert set(config.precisions) <= {"masked", "binary"}
    assert (config.width, config.quantization.activation_bits) == (64, 1)


def test_a_preset_takes_other_quantization() -> None:
    options = QuantizationOptions(activation_bits=2, ternarizer="density", density=0.3)
    assert UNetConfig.preset("mbu", quantization=options).quantization == options
    full = UNetConfig.preset("full_precision", quantization=options).quantization
    assert full == dataclasses.replace(options, activation_bits=32)
    assert UNetConfig.preset("mbu") == UNetConfig.preset("mbu", masked_layers=6)


@pytest.mark.parametrize(
    "call",
    [
        lambda unknown: UNetConfig.preset(unknown),
        lambda _: UNetConfig.preset("mbu", masked_layers=13),
        lambda _: UNetConfig.preset("mbu", masked_layers=-1),
        lambda unknown: UNetConfig.preset(unknown, masked_layers=2),
        lambda _: UNetConfig.preset("binary", width=0),
    ],
)
def test_bad_presets_are_told(call: Callable[[Any], UNetConfig]) -> None:
    with pytest.raises(InputError, match=r"'int3'; choose one of full_precision|13|-1|width is 0"):
        call("int3")


@pytest.mark.parametrize("name", ONLY)
def test_only_mbu_takes_a_number_of_masked_layers(name: Any) -> None:
    with pytest.raises(
        InputError, match=r"^masked_layers is 2, but .* leave it out, or choose mbu$"
    ):
        UNetConfig.preset(name, masked_layers=2)


@pytest.mark.parametrize(
    "config", [*CONFIGS.values(), UNetConfig(), UNetConfig.preset("full_precision", classes=7)]
)
def test_a_configuration_survives_json(config: UNetConfig) -> None:
    back = UNetConfig.from_dict(json.loads(json.dumps(config.to_dict())))
    assert back == config
    assert hash(back) == hash(config)


WHOLE = "must be (a whole number of )?at least 1"
BAD_FIELDS = [
    *((name, value, f"{name} is .*{WHOLE}") for name in ("width", "in_channels", "classes")
      for value in (0, -3, 4.0, "4", None, True, [4], math.nan)),
    *(("precisions", value, "precisions is .*; give a tuple with one entry for each of down_c1")
      for value in (None, "masked", 5, [], ["masked"] * 11, ["masked"] * 13, {"down_c1": "int8"})),
    ("precisions", ["int3"] + ["masked"] * 11, "down_c1 has unknown precision 'int3'; choose"),
    ("precisions", ["masked"] * 11 + [None], "up_c4 has unknown precision None; choose"),
    *(("dtype", value, "dtype is .*; choose float32 or bfloat16")
      for value in ("float16", None, 3, ["float32"])),
    *(("quantization", value, "quantization is .*, not a table")
      for value in (None, "x", [1], 3)),
    ("quantization", {}, "quantization lacks activation_bits"),
    ("depth", 4, "the network's configuration has unknown depth"),
]  # fmt: skip
BAD_OPTIONS = [
    *(("activation_bits", value, "activation_bits is .*; choose 1, 2 or 32")
      for value in (0, 3, -1, 1.0, "1", None, True, [1])),
    ("activation_bits", 32, "activation_bits 32 goes with float32 weights in every layer"),
    *(("density", value, "density is .*; choose a share between 0 and 1")
      for value in (0.0, 1.0, -0.1, 1.5, math.nan, "0.1", None, True, [0.1])),
    *((name, value, f"{name} is .*; choose one of {known}")
      for name, known in (("weight_gradient", "clipped, approx_sign, swish_sign"),
                          ("activation_gradient", "clipped, approx_sign, swish_sign"),
                          ("ternarizer", "fixed, twn, density"))
      for value in ("third", None, 1, ["clipped"])),
    ("levels", 3, "quantization has unknown levels"),
]  # fmt: skip


@pytest.mark.parametrize(("field", "value", "message"), BAD_FIELDS)
def test_a_bad_field_is_named(field: str, value: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        UNetConfig.from_dict(UNetConfig().to_dict() | {field: value})


@pytest.mark.parametrize(("field", "value", "message"), BAD_OPTIONS)
def test_a_bad_option_is_named(field: str, value: Any, message: str) -> None:
    fields = UNetConfig().to_dict()
    fields["quantization"][field] = value
    with pytest.raises(InputError, match=message):
        UNetConfig.from_dict(fields)


OF_LAYERS_TOO = [one for one in BAD_OPTIONS if one[0] != "levels" and one[1] != 32]


@pytest.mark.parametrize(("field", "value", "message"), OF_LAYERS_TOO)
def test_a_bad_option_is_named_where_it_is_made(field: str, value: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        QuantizationOptions(**{field: value})


@pytest.mark.parametrize("field", [f.name for f in dataclasses.fields(UNetConfig)])
def test_a_missing_field_is_named(field: str) -> None:
    fields = UNetConfig().to_dict()
    del fields[field]
    with pytest.raises(InputError, match=f"lacks {field}; restore config.json"):
        UNetConfig.from_dict(fields)


@pytest.mark.parametrize("fields", [None, [], "masked", 3])
def test_something_else_than_a_table_is_told(fields: Any) -> None:
    with pytest.raises(InputError, match=r"not a table of options; restore config\.json"):
        UNetConfig.from_dict(fields)


def test_sums_beyond_exact_integers_are_refused() -> None:
    """The widest sum has 16 c channels, nine taps, the largest activation and weight."""
    for precision, level in (("int8", 127), ("int4", 7), ("pow2", 4), ("masked", 1)):
        for bits, activation in ((1, 1), (2, 3)):
            widest = (2**24 - 1) // (16 * 9 * activation * level)
            sizes: dict[str, Any] = {
                "precisions": (precision,) * 12,
                "quantization": QuantizationOptions(activation_bits=bits),
            }
            assert UNetConfig(width=widest, **sizes).width == widest
            with pytest.raises(InputError, match=rf"width {widest + 1} lets sums reach .*2\^24"):
                UNetConfig(width=widest + 1, **sizes)


def test_quantization_must_be_options() -> None:
    bad: Any = {"activation_bits": 1}
    with pytest.raises(InputError, match=r"quantization is .*; give QuantizationOptions"):
        UNetConfig(quantization=bad)
