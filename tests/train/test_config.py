import dataclasses
import re
from functools import partial
from pathlib import Path
from typing import get_args

import pytest

from experiments import command
from mbu_jax.architecture import LAYER_NAMES, unet_layers
from mbu_jax.data.augment import NO_AUGMENTATION
from mbu_jax.errors import InputError
from mbu_jax.masking import cost_ranking, mask_cheapest, nonzero_cost, nonzero_macs
from mbu_jax.train.config import ADDED_LATER, PRESETS, RESUMABLE, ModelOptions, TrainConfig
from mbu_jax.train.optimizer import learning_rate_schedule, make_optimizer
from mbu_jax.unet import ModelPreset

TRAIN_IMAGES = {"synthetic": 512, "nuclei": 480}


def names(config: object, prefix: str = "") -> set[str]:
    """Dotted names of all options, and of the groups that they are in."""
    found = set()
    for field in dataclasses.fields(config):  # pyrefly: ignore[bad-argument-type]
        value = getattr(config, field.name)
        found.add(prefix + field.name)
        if dataclasses.is_dataclass(value):
            found |= names(value, f"{prefix}{field.name}.")
    return found


@pytest.mark.parametrize("name", PRESETS)
def test_presets_build(name):
    config = PRESETS[name]
    unet = config.model.build()
    assert unet.classes == 1
    updates = -(-TRAIN_IMAGES[config.dataset] // config.batch_size) * config.epochs
    make_optimizer(config.optimizer, updates)
    schedule = learning_rate_schedule(config.optimizer, updates)
    assert 0 < float(schedule(0)) <= config.optimizer.learning_rate * 1.0001


def test_the_default_preset_needs_nothing():
    name, config = next(iter(PRESETS.items()))
    assert (name, config.dataset, config.data_dir) == ("quick", "synthetic", None)
    assert {"quick", "small", "best", "paper"} == PRESETS.keys()
    assert PRESETS["small"].dataset == "nuclei"


def test_the_paper_preset_is_appendix_a4():
    config = PRESETS["paper"]
    assert (config.epochs, config.batch_size) == (30, 2)
    assert config.data.image_size == (512, 512)
    assert config.data.crop is None
    assert config.data.augment == NO_AUGMENTATION
    assert config.model.width == 64
    optimizer = config.optimizer
    assert (optimizer.optimizer, optimizer.learning_rate) == ("adam", 1e-5)
    assert (optimizer.schedule, optimizer.warmup_steps) == ("constant", 0)
    assert (optimizer.clip_norm, optimizer.weight_decay) == (1.0, 1e-8)
    assert (optimizer.momentum, optimizer.latent_rate) == (0.9, 1.0)
    assert config.ema_decay == 0
    assert config.clip_latent


def test_resumable_options_exist():
    assert names(TrainConfig()) >= RESUMABLE


@pytest.mark.parametrize(
    "option",
    ["seed", "epochs", "train_images", "model.width", "optimizer", "data.crop", "loss.teacher"],
)
def test_what_changes_the_training_is_not_resumable(option):
    assert option in names(TrainConfig())
    parts = option.split(".")
    assert not {".".join(parts[: i + 1]) for i in range(len(parts))} & RESUMABLE


@pytest.mark.parametrize(
    "bad",
    [
        {"epochs": 0},
        {"batch_size": 0},
        {"eval_batch_size": -1},
        {"eval_every": 0},
        {"keep_checkpoints": 0},
        {"checkpoint_steps": -1},
        {"recalibrate": -1},
        {"recalibrate_varied": True},
        {"samples": -1},
        {"seed": -1},
        {"seed": 2**63},
        {"train_images": 0},
        {"ema_decay": 1.0, "recalibrate": 1},
        {"ema_decay": -0.1, "recalibrate": 1},
        {"ema_decay": 0.9},
    ],
)
def test_values_out_of_range_are_named(bad):
    with pytest.raises(InputError, match=next(iter(bad))) as caught:
        TrainConfig(**bad)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("--process-count 2 --process-index 1", "no coordinator.*--coordinator HOST:PORT"),
        ("--process-index 1", "process 1 of 1 does not exist"),
        ("--coordinator a:1 --process-count 2 --process-index 2", "process 2 of 2 does not exist"),
        ("--coordinator a:1 --process-count 2 --process-index -1", "process -1 of 2 does not"),
        ("--coordinator a:1 --process-count 0", "process_count is 0"),
        *(
            (
                f"--coordinator {address}",
                "coordinator is .*; give HOST:PORT .* a port from 1 to 65535",
            )
            for address in ("foo", "a:", ":1", "a:notaport", "a:0", "a:65536", "a:b:1", "tcp://a:1")
        ),
    ],
)
def test_processes_that_cannot_meet_are_refused(given, said):
    with pytest.raises(InputError, match=said) as caught:
        command.parse(TrainConfig, PRESETS, given.split())
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("address", ["localhost:1234", "10.0.0.1:65535", "[::1]:1"])
def test_processes_meet_at_an_address(address):
    arguments = ["--coordinator", address, "--process-count", "2"]
    assert command.parse(TrainConfig, PRESETS, arguments).cluster.coordinator == address


def test_exceptions_for_single_layers():
    config = ModelOptions(network="binary", layer_precision=("up_c4=int8", "down_c1=pow2")).build()
    expected = dict.fromkeys(LAYER_NAMES, "binary") | {"up_c4": "int8", "down_c1": "pow2"}
    assert dict(zip(LAYER_NAMES, config.precisions, strict=True)) == expected


@pytest.mark.parametrize(
    ("exception", "said"),
    [
        ("up_c4", "LAYER=PRECISION"),
        ("up_c9=int8", "layers are down_c1"),
        ("up_c4=int3", "up_c4 has unknown precision 'int3'"),
    ],
)
def test_a_wrong_exception_is_told(exception, said):
    with pytest.raises(InputError, match=said):
        ModelOptions(layer_precision=(exception,)).build()


def test_a_mask_budget_replaces_the_number_of_layers():
    layers = unet_layers()
    assert ModelOptions(mask_budget=0.0).build() == ModelOptions(masked_layers=0).build()
    everything = ModelOptions(mask_budget=100.0).build()
    assert set(everything.precisions) == {"masked"}
    masked = [
        name
        for name, precision in zip(
            LAYER_NAMES, ModelOptions(masked_layers=4).build().precisions, strict=True
        )
        if precision == "masked"
    ]
    assert set(masked) == set(mask_cheapest(layers, 4))


@pytest.mark.parametrize("budget", [float("nan"), float("inf")])
def test_a_mask_budget_is_finite(budget):
    for options in (ModelOptions(), ModelOptions(masking_cost="nonzeros"), ModelOptions("binary")):
        with pytest.raises(InputError, match=f"mask_budget is {budget}; give a finite number"):
            dataclasses.replace(options, mask_budget=budget).build()


def masked_by(options):
    chosen = zip(LAYER_NAMES, options.build().precisions, strict=True)
    return {name for name, precision in chosen if precision == "masked"}


def test_a_cost_that_skips_zeros_masks_other_layers():
    layers = unet_layers(32)
    for k in (0, 1, 5, 12):
        options = ModelOptions(width=32, masked_layers=k, masking_cost="nonzeros")
        assert masked_by(options) == set(mask_cheapest(layers, k, cost=nonzero_cost))
    assert masked_by(ModelOptions(masked_layers=1)) == {"up_ct4"}
    nonzeros = ModelOptions(masked_layers=1, masking_cost="nonzeros")
    assert masked_by(nonzeros) == {"up_c4"}
    # Denser than a binary layer's rarer sign, masking costs again.
    assert masked_by(dataclasses.replace(nonzeros, density=0.9)) < {
        "up_ct1", "up_ct2", "up_ct3", "up_ct4",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"masked_layers": 3}, "masked_layers is 3"),
        ({"masked_layers": 0}, "masked_layers is 0"),
        ({"masking_cost": "nonzeros"}, "masking_cost is nonzeros"),
        ({"mask_budget": 0.0}, "mask_budget is 0.0"),
    ],
)
def test_only_mbu_chooses_layers(options, said):
    for network in get_args(ModelPreset):
        ModelOptions(network=network, width=32).build()
        chosen = ModelOptions(network=network, width=32, **options)
        if network == "mbu":
            chosen.build()
            continue
        remedy = "but only --network mbu chooses layers; leave it out, or add --network mbu"
        with pytest.raises(InputError, match=f"^{said}, {remedy}$"):
            chosen.build()


def test_a_preset_of_another_network_takes_a_number_of_layers_with_mbu():
    def model(*more):
        given = ["--preset", "best", "--masked-layers", "3", *more]
        return command.parse(TrainConfig, PRESETS, given).model

    with pytest.raises(InputError, match="only --network mbu chooses layers"):
        model().build()
    chosen = model("--network", "mbu")
    assert len(masked_by(chosen)) == 3
    assert (chosen.width, chosen.activation_bits) == (32, 2)


@pytest.mark.parametrize(("density", "bits"), [(0.1, 1), (0.6, 1), (0.6, 2)])
def test_a_budget_of_multiply_accumulates_is_the_networks(density, bits):
    def planned(masked):
        precisions = {name: "masked" if name in masked else "binary" for name in LAYER_NAMES}
        counts = nonzero_macs(unet_layers(32), precisions, density=density, activation_bits=bits)
        return sum(counts.values()) / 1e9

    options = ModelOptions(width=32, masking_cost="nonzeros", density=density, activation_bits=bits)
    least, most = sorted((planned(()), planned(LAYER_NAMES)))
    everything = masked_by(dataclasses.replace(options, mask_budget=most + 1e-6))
    assert everything == set(LAYER_NAMES)
    middle = (least + most) / 2
    found = masked_by(dataclasses.replace(options, mask_budget=middle))
    assert planned(found) <= middle
    if density > 0.5:
        ranking = cost_ranking(
            unet_layers(32), cost=partial(nonzero_cost, density=density, activation_bits=bits)
        )
        assert found == set(ranking[: len(found)])
        assert planned(ranking[: len(found) + 1]) > middle
    for budget in (least - 0.01, -1.0):
        message = (
            r"^mask_budget is .* takes at least (.*); give at least that, or a lower --density$"
        )
        with pytest.raises(InputError, match=message) as caught:
            dataclasses.replace(options, mask_budget=budget).build()
    said = float(re.sub(message, r"\1", str(caught.value)))
    assert least <= said < least + 0.011
    dataclasses.replace(options, mask_budget=said).build()


def test_the_command_line_takes_a_cost():
    arguments = ["--masking-cost", "nonzeros", "--mask-budget", "20"]
    model = command.parse(TrainConfig, PRESETS, arguments).model
    assert (model.masking_cost, model.mask_budget) == ("nonzeros", 20.0)
    with pytest.raises(InputError, match="masking-cost"):
        command.parse(TrainConfig, PRESETS, ["--masking-cost", "guess"])


def test_added_options_exist_and_stand_for_the_default():
    for option, value in ADDED_LATER.items():
        default = TrainConfig()
        for part in option.split("."):
            default = getattr(default, part)
        if option == "recalibrate_varied":
            default = default if default is not None else TrainConfig().varied_statistics
        assert value == default


def test_options_reach_the_network():
    config = ModelOptions(
        network="all_masked", width=8, activation_bits=2, ternarizer="density", density=0.3
    ).build(classes=3)
    assert (config.width, config.classes) == (8, 3)
    quantization = config.quantization
    assert quantization.activation_bits == 2
    assert (quantization.ternarizer, quantization.density) == ("density", 0.3)
    assert (
        ModelOptions(network="full_precision", activation_bits=1).build()
        == ModelOptions(network="full_precision", activation_bits=2).build()
    )


def test_the_teacher_is_a_path():
    assert TrainConfig().loss.teacher is None
    given = command.parse(TrainConfig, PRESETS, ["--teacher", "runs/a"])
    assert given.loss.teacher == Path("runs/a")


def test_a_teacher_alone_may_be_followed():
    arguments = ["--cross-entropy-weight", "0", "--dice-weight", "0", "--teacher", "runs/a"]
    assert command.parse(TrainConfig, PRESETS, arguments).loss.dice_weight == 0
    with pytest.raises(InputError, match="give one of them"):
        command.parse(TrainConfig, PRESETS, [*arguments, "--teacher-weight", "0"])
