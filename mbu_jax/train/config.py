"""The options of a training run, and the presets that name good sets of them."""

import dataclasses
import math
import re
from functools import partial
from pathlib import Path
from typing import Any, Literal

from mbu_jax.architecture import LAYER_NAMES, unet_layers
from mbu_jax.data.augment import NO_AUGMENTATION, AugmentOptions
from mbu_jax.data.pipeline import PipelineOptions
from mbu_jax.errors import InputError
from mbu_jax.layers import Precision, QuantizationOptions
from mbu_jax.masking import (
    CostModel,
    cost_scores,
    mask_cheapest,
    mask_within_budget,
    nonzero_cost,
    nonzero_macs,
)
from mbu_jax.quantizers import SteGradient, Ternarizer
from mbu_jax.train.optimizer import OptimizerOptions
from mbu_jax.unet import ModelPreset, UNetConfig


@dataclasses.dataclass(frozen=True)
class ModelOptions:
    """The network."""

    network: ModelPreset = "mbu"
    """Row of the paper's Table 1; mbu masks the cheapest layers and leaves the rest binary. Not in
    there: pow2, weights of 0, ±1, ±2 and ±4, and ttq, ternary ones of learned scales, which cannot
    be packed."""

    width: int = 64
    """Channels at full resolution; the widest layers have eight times as many."""

    activation_bits: int = 1
    """1 (sign) or 2 (levels -3, -1, 1, 3); full_precision ignores it."""

    masked_layers: int = 6
    """How many layers mbu masks, cheapest first."""

    masking_cost: Literal["paper", "nonzeros"] = "paper"
    """What is cheap to mask: a low score of the paper's, or what saves most multiply-accumulates
    where zeros are skipped, as the bitsliced engine does; planned with --density."""

    mask_budget: float | None = None
    """Instead of a number: as many as keep within this the sum of scores (paper), or the whole
    network's multiply-accumulates at 512x512 in 10^9 (nonzeros), which all layers keep best below
    half density."""

    layer_precision: tuple[str, ...] = ()
    """Exceptions for single layers, as up_c4=int8; see --network for the rest."""

    weight_gradient: SteGradient = "clipped"
    """Straight-through gradient of the weights."""

    activation_gradient: SteGradient = "clipped"
    """Straight-through gradient of the activations."""

    ternarizer: Ternarizer = "fixed"
    """Threshold of masked weights: 0.5 (fixed), 0.7 mean(abs(w)) (twn), whatever keeps --density,
    or 0.05 max(abs(w)) (max), which the authors of ttq take for it."""

    density: float = 0.1
    """Share of non-zeros: at the start, and throughout with --ternarizer density."""

    dtype: Literal["float32", "bfloat16"] = "float32"
    """Arithmetic of the full-precision parts; quantized networks are evaluated in float32."""

    def build(self, *, classes: int = 1) -> UNetConfig:
        """Make the network's configuration.

        Args:
          classes: channels of the logits.

        Returns:
          The configuration.

        Raises:
          InputError: where an option is out of range, or chooses layers of a network other than
            mbu; the message names it.

        Example:
          >>> ModelOptions(network="binary", layer_precision=("up_c4=int8",)).build().precisions[-1]
          'int8'
        """
        if self.mask_budget is not None and not math.isfinite(self.mask_budget):
            raise InputError(f"mask_budget is {self.mask_budget}; give a finite number")
        if self.network != "mbu":
            self._refuse_choice_of_layers()
        quantization = QuantizationOptions(
            activation_bits=self.activation_bits,
            weight_gradient=self.weight_gradient,
            activation_gradient=self.activation_gradient,
            ternarizer=self.ternarizer,
            density=self.density,
        )
        config = UNetConfig.preset(
            self.network,
            quantization=quantization,
            width=self.width,
            classes=classes,
            dtype=self.dtype,
        )
        precisions: tuple[Precision, ...] = config.precisions
        if self.network == "mbu":
            masked = self._masked()
            precisions = tuple("masked" if name in masked else "binary" for name in LAYER_NAMES)
        return dataclasses.replace(config, precisions=self._with_exceptions(precisions))

    def _refuse_choice_of_layers(self) -> None:
        for name in OF_MBU_ALONE:
            value = getattr(self, name)
            if value != getattr(ModelOptions, name):
                raise InputError(
                    f"{name} is {value}, but only --network mbu chooses layers; leave it out, or "
                    "add --network mbu"
                )

    def _masked(self) -> tuple[str, ...]:
        layers, budget = unet_layers(self.width), self.mask_budget
        plan = {"density": self.density, "activation_bits": self.activation_bits}
        cost: CostModel = cost_scores
        if self.masking_cost == "nonzeros":
            cost = partial(nonzero_cost, **plan)
        if budget is None:
            return mask_cheapest(layers, self.masked_layers, cost=cost)
        if self.masking_cost == "nonzeros":
            binary = sum(
                nonzero_macs(layers, dict.fromkeys(LAYER_NAMES, "binary"), **plan).values()
            )
            least = binary + sum(min(0, change) for change in cost(layers).values())
            if not budget * 1e9 >= least:
                raise InputError(
                    f"mask_budget is {budget:g}; whatever is masked, this network takes at least "
                    f"{math.ceil(least / 1e7) / 100:g}; give at least that, or a lower --density"
                )
            budget = budget * 1e9 - binary
        return mask_within_budget(layers, budget, cost=cost)

    def _with_exceptions(self, precisions: tuple[Precision, ...]) -> tuple[Precision, ...]:
        chosen: dict[str, str] = dict(zip(LAYER_NAMES, precisions, strict=True))
        for exception in self.layer_precision:
            name, equals, precision = exception.partition("=")
            if not equals or name not in chosen:
                raise InputError(
                    f"layer_precision {exception!r} is not LAYER=PRECISION; layers are "
                    f"{', '.join(LAYER_NAMES)}"
                )
            chosen[name] = precision
        return tuple(chosen.values())  # pyrefly: ignore[bad-return]  (UNetConfig checks them)


@dataclasses.dataclass(frozen=True)
class LossOptions:
    """The loss: cross-entropy, Dice, and optionally a teacher."""

    cross_entropy_weight: float = 1.0
    """Weight of binary cross-entropy (one class) or softmax cross-entropy."""

    dice_weight: float = 1.0
    """Weight of the Dice loss."""

    teacher: Path | None = None
    """Directory of a finished run to distil from, usually a full_precision one."""

    teacher_weight: float = 1.0
    """Weight of the distillation loss."""

    temperature: float = 2.0
    """Softening of both predictions in the distillation loss."""

    def __post_init__(self) -> None:
        """Check every range.

        Raises:
          InputError: naming the option.
        """
        for name in ("cross_entropy_weight", "dice_weight", "teacher_weight"):
            if not 0 <= getattr(self, name) < math.inf:
                raise InputError(f"{name} is {getattr(self, name)}; give a number of at least 0")
        distilled = self.teacher is not None and self.teacher_weight
        if not (self.cross_entropy_weight or self.dice_weight or distilled):
            raise InputError("cross_entropy_weight and dice_weight are 0; give one of them")
        if not 0 < self.temperature < math.inf:
            raise InputError(f"temperature is {self.temperature}; give a number above 0")


def check_process(index: int, count: int) -> None:
    """Refuse a process that is none of those that share the work.

    Args:
      index: which process it is said to be, from 0.
      count: how many there are said to be.

    Raises:
      InputError: for no processes, or an index that is not below their number.

    Example:
      >>> check_process(1, 2)
    """
    if count < 1:
        raise InputError(f"process_count is {count}; give a number of at least 1")
    if not 0 <= index < count:
        raise InputError(
            f"process {index} of {count} does not exist; give an index from 0 to one less than "
            "process_count"
        )


def check_seed(seed: int) -> None:
    """Refuse a seed that random keys of JAX cannot be made of.

    Args:
      seed: of a training.

    Raises:
      InputError: below 0, or beyond 63 bits.

    Example:
      >>> check_seed(2**63 - 1)
    """
    if not 0 <= seed < 2**63:
        raise InputError(f"seed is {seed}; give a number from 0 to {2**63 - 1}")


@dataclasses.dataclass(frozen=True)
class ClusterOptions:
    """Several processes, one per host; leave alone on one machine."""

    coordinator: str | None = None
    """HOST:PORT of process 0; every process is started with the same command."""

    process_index: int = 0
    """Which process this is, from 0; needs --process-count and --coordinator."""

    process_count: int = 1
    """How many processes there are; more than one need --coordinator."""

    def __post_init__(self) -> None:
        """Check that the processes can find each other.

        Raises:
          InputError: naming the option.
        """
        check_process(self.process_index, self.process_count)
        if self.process_count > 1 and self.coordinator is None:
            raise InputError(
                f"process_count is {self.process_count} but no coordinator is given, so every "
                "process would train alone; give --coordinator HOST:PORT of process 0"
            )
        if self.coordinator is not None and not _is_address(self.coordinator):
            raise InputError(
                f"coordinator is {self.coordinator}; give HOST:PORT of process 0, with a port from "
                "1 to 65535"
            )


def _is_address(text: str) -> bool:
    """Whether it is HOST:PORT; an IPv6 host is in brackets."""
    parts = re.fullmatch(r"([^\s:/\[\]]+|\[[^\s/\[\]]+\]):([0-9]{1,5})", text)
    return parts is not None and 1 <= int(parts[2]) <= 65535


@dataclasses.dataclass(frozen=True)
class TrainConfig:
    """Train a masked binary U-Net for image segmentation."""

    dataset: Literal["synthetic", "nuclei", "carvana", "isic", "folder"] = "synthetic"
    """What to train on; synthetic nuclei are generated and need nothing, folder is your own."""

    data_dir: Path | None = None
    """The dataset's archive, the folder it lies in, or its unpacked copy; for folder, your own one
    with images/ and masks/."""

    prepared_dir: Path | None = None
    """Where prepared datasets are kept; by default where TFDS keeps its own."""

    workdir: Path | None = None
    """Run directory; by default runs/DATASET-NETWORK, of your own data runs/FOLDER-NETWORK. An
    interrupted run there is resumed."""

    initial: Path | None = None
    """Directory of a run whose best checkpoint the weights start from: of a full_precision one,
    which is then quantized, or of a network with the same arrays. --epochs 0 only scores it, as the
    network that the options describe."""

    train_images: int | None = None
    """Use only this many training images, the first ones; by default all."""

    epochs: int = 30
    """Passes over the training images."""

    batch_size: int = 8
    """Images in one update, over all devices."""

    eval_batch_size: int = 8
    """Images evaluated at once, over all devices."""

    eval_every: int = 1
    """Epochs between evaluations on the validation images."""

    checkpoint_steps: int = 0
    """Also checkpoint every so many updates, besides every epoch's end."""

    keep_checkpoints: int = 2
    """How many of the last checkpoints to keep, besides the best one."""

    seed: int = 0
    """Of initialization, order and augmentation."""

    clip_latent: bool = True
    """Clip latent weights to [-1, 1] after each update."""

    ema_decay: float = 0.0
    """Evaluate an exponential moving average of the weights; 0 turns it off."""

    recalibrate: int = 0
    """Batches of training images to re-estimate BatchNorm statistics from before each evaluation;
    whole images are taken once each at most. 0 for none."""

    recalibrate_varied: bool | None = None
    """Take these cropped and varied as in training; otherwise they are without variation, and
    whole where --image-size is given. By default where activations have one bit and crops are
    smaller than --image-size: outside is -1 to them, and crops have more border."""

    samples: int = 8
    """Pictures of validation images written at the end."""

    tensorboard: bool = False
    """Also write TensorBoard event files."""

    model: ModelOptions = ModelOptions()
    data: PipelineOptions = PipelineOptions()
    optimizer: OptimizerOptions = OptimizerOptions()
    loss: LossOptions = LossOptions()
    cluster: ClusterOptions = ClusterOptions()

    def __post_init__(self):
        """Check every range.

        Raises:
          InputError: naming the option.
        """
        for name in ("epochs", "batch_size", "eval_batch_size", "eval_every", "keep_checkpoints"):
            least = 0 if name == "epochs" and self.initial is not None else 1
            if getattr(self, name) < least:
                raise InputError(
                    f"{name} is {getattr(self, name)}; give a number of at least {least}"
                )
        for name in ("checkpoint_steps", "recalibrate", "samples"):
            if getattr(self, name) < 0:
                raise InputError(f"{name} is {getattr(self, name)}; give a number of at least 0")
        check_seed(self.seed)
        if self.train_images is not None and self.train_images < 1:
            raise InputError(f"train_images is {self.train_images}; give a number of at least 1")
        if not 0 <= self.ema_decay < 1:
            raise InputError(f"ema_decay is {self.ema_decay}; give a number in [0, 1)")
        if self.recalibrate_varied and not self.recalibrate:
            raise InputError("recalibrate_varied needs recalibrate; give --recalibrate 200, say")
        if self.ema_decay and not self.recalibrate:
            raise InputError(
                "ema_decay needs recalibrate: averaged weights have BatchNorm statistics of their "
                "own; give --recalibrate 20, for instance"
            )

    @property
    def varied_statistics(self) -> bool:
        """Whether BatchNorm statistics are re-estimated from images as in training.

        Example:
          >>> config = PRESETS["small"]
          >>> config.varied_statistics
          True
          >>> model = dataclasses.replace(config.model, activation_bits=2)
          >>> dataclasses.replace(config, model=model).varied_statistics
          False
        """
        if self.recalibrate_varied is not None:
            return self.recalibrate_varied
        one_bit = self.model.build().quantization.activation_bits == 1
        return one_bit and self.data.cropped


RESUMABLE = frozenset(
    {"workdir", "data_dir", "prepared_dir", "tensorboard", "samples", "keep_checkpoints"}
    | {"checkpoint_steps", "cluster", "data.workers", "data.prefetch", "data.cache_gib"}
    | {"eval_batch_size"}
)
"""Options that may differ when a run is resumed: they do not change what is trained."""

OF_MBU_ALONE = ("masked_layers", "masking_cost", "mask_budget")
"""Options of `ModelOptions` that choose layers; every network but mbu refuses them."""

ADDED_LATER: dict[str, Any] = {
    "model.masking_cost": "paper",
    "initial": None,
    "optimizer.latent_l1": 0.0,
    "recalibrate_varied": False,
}
"""Options that runs of earlier versions did not have, and what those did."""

_ADAM = OptimizerOptions(
    optimizer="adam",
    learning_rate=5e-3,
    latent_rate=6.0,
    schedule="cosine",
    warmup_steps=50,
    clip_norm=1.0,
)

_SMALL = TrainConfig(
    dataset="nuclei",
    epochs=28,
    batch_size=8,
    eval_every=14,
    recalibrate=200,  # of crops; whole images are taken once each, in 58
    model=ModelOptions(width=32),
    data=PipelineOptions(image_size=(256, 256), crop=(64, 64)),
    optimizer=_ADAM,
)

PRESETS: dict[str, TrainConfig] = {
    "quick": TrainConfig(
        epochs=8,
        batch_size=8,
        eval_every=4,
        recalibrate=20,
        model=ModelOptions(width=32),
        data=PipelineOptions(
            crop=(64, 64), augment=AugmentOptions(scale=(1.0, 1.0), jitter=0.2, colour=0.1)
        ),
        optimizer=_ADAM,
    ),
    "small": _SMALL,
    "best": dataclasses.replace(
        _SMALL,
        model=ModelOptions(network="all_masked", activation_bits=2, width=32, density=0.3),
        optimizer=dataclasses.replace(_ADAM, learning_rate=4e-3, latent_rate=3.0),
    ),
    "paper": TrainConfig(
        dataset="nuclei",
        epochs=30,
        batch_size=2,
        eval_batch_size=2,
        model=ModelOptions(width=64),
        data=PipelineOptions(
            image_size=(512, 512),
            augment=NO_AUGMENTATION,
        ),
        optimizer=OptimizerOptions(
            optimizer="adam",
            learning_rate=1e-5,
            schedule="constant",
            weight_decay=1e-8,
            clip_norm=1.0,
        ),
    ),
}
"""Named sets of options: the embedded default, two CPU cores on real data, the quantised network
that scores best there when it starts from full precision (``--initial RUN``), and the paper's
own."""
