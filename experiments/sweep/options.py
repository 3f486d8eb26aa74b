"""Options of the sweep, and how large it is at each scale."""

import dataclasses
import math
from pathlib import Path
from typing import Literal

from experiments.sweep.plan import LAYERS, Series, permutation_series, subset_series
from mbu_jax.data.augment import NO_AUGMENTATION
from mbu_jax.data.pipeline import PipelineOptions
from mbu_jax.errors import InputError
from mbu_jax.train.config import PRESETS, ModelOptions, TrainConfig, check_process, check_seed
from mbu_jax.train.rundir import read_unet

_ALL = 2**LAYERS
_MEMORY_SHARE = 0.8  # of a device, since programs need more than what was counted


@dataclasses.dataclass(frozen=True)
class SweepOptions:
    """Train networks that mask different layers, side by side, and value the masking of each."""

    scale: Literal["smoke", "small", "paper"] = "small"
    """Size: smoke takes a minute and shows nothing, small suits two CPU cores, paper GPUs."""

    dataset: Literal["synthetic", "nuclei", "carvana", "isic"] | None = None
    """What to train on; by default nuclei at small, carvana at paper, synthetic at smoke."""

    data_dir: Path | None = None
    """The dataset's archive, the folder it lies in, or its unpacked copy."""

    prepared_dir: Path | None = None
    """Where prepared datasets are kept; by default where TFDS keeps its own."""

    initial: Path | None = None
    """Directory of a finished run, usually a full_precision one, whose best weights every network
    starts from; it is then of that width, and trained for a third of the epochs."""

    permutations: int | None = None
    """Random orders in which layers are masked one after the other, 13 networks each, every order
    with a seed of its own; besides these the order of cost. By default 2 at smoke, 8 at small. A
    finished sweep goes on where more are given."""

    members: int | None = None
    """Instead of orders: so many of the 4096 configurations, those by cost and random others; all
    4096 by default at paper. Shapley values need all."""

    seeds: int = 1
    """With members: how often all of them are trained, with seeds that count up."""

    seed: int = 0
    """The first seed; also of what is chosen at random."""

    chunk_members: int | None = None
    """Networks that are trained at a time; by default 13, on a GPU as many as its memory holds."""

    at_once: int | None = None
    """Networks of a chunk that a device computes together; by default one on a CPU, all of them
    elsewhere."""

    out: Path | None = None
    """Folder of the report; by default results/sweep/SCALE. An interrupted sweep there is resumed;
    chunks of networks lie in its folder runs."""

    process_index: int = 0
    """Which of several processes this is; each trains its share of chunks into the same folder."""

    process_count: int = 1
    """How many processes there are."""

    dry_run: bool = False
    """Only list the chunks, and which of them are finished."""

    def __post_init__(self) -> None:
        """Check every range.

        Raises:
          InputError: naming the option.
        """
        if self.permutations is not None and self.members is not None:
            raise InputError("permutations and members are both given; choose one")
        for name in ("permutations", "seeds", "chunk_members", "at_once"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise InputError(f"{name} is {value}; give a number of at least 1")
        if self.members is not None and not LAYERS + 1 <= self.members <= _ALL:
            raise InputError(f"members is {self.members}; give a number from 13 to {_ALL}")
        check_seed(self.seed)
        check_process(self.process_index, self.process_count)

    @property
    def folder(self) -> Path:
        """Of the report."""
        return self.out or Path("results", "sweep", self.scale)


@dataclasses.dataclass(frozen=True)
class Sweep:
    """What is to be trained.

    Attributes:
      recipe: options of every network's training but for its precisions and seed.
      series: the networks.
      exhaustive: whether every series holds all configurations.
    """

    recipe: TrainConfig
    series: list[Series]
    exhaustive: bool


_SMOKE = dataclasses.replace(
    PRESETS["quick"],
    train_images=12,
    epochs=2,
    batch_size=4,
    eval_batch_size=16,
    checkpoint_steps=3,
    ema_decay=0.9,
    recalibrate=2,
    model=ModelOptions(width=4),
    data=dataclasses.replace(PRESETS["quick"].data, image_size=(32, 32), crop=(32, 32)),
    optimizer=dataclasses.replace(PRESETS["quick"].optimizer, warmup_steps=2),
)
_SMALL = dataclasses.replace(
    PRESETS["small"],
    epochs=7,
    recalibrate=20,
    checkpoint_steps=100,
    model=ModelOptions(width=16),
)
_PAPER = dataclasses.replace(
    PRESETS["paper"],
    dataset="carvana",
    recalibrate=20,
    checkpoint_steps=1000,
    data=PipelineOptions(image_size=(640, 959), augment=NO_AUGMENTATION),
)
_SCALES = {"smoke": (_SMOKE, 2, None), "small": (_SMALL, 8, None), "paper": (_PAPER, None, _ALL)}


def chosen_sweep(options: SweepOptions) -> Sweep:
    """Look the scale up and put the options of the command line into it.

    Args:
      options: the command line.

    Returns:
      What is to be trained.

    Raises:
      InputError: for a seed given to orders, which have their own, or an initial run that there is
        not.
    """
    recipe, permutations, members = _SCALES[options.scale]
    if options.permutations is not None or options.members is not None:
        permutations, members = options.permutations, options.members
    recipe = dataclasses.replace(
        recipe,
        dataset=options.dataset or recipe.dataset,
        data_dir=options.data_dir,
        prepared_dir=options.prepared_dir,
        recalibrate_varied=False,  # of whole images, as the rows of the other studies
    )
    if options.initial is not None:
        recipe = _starting_from(options.initial, recipe)
    if permutations is not None:
        if options.seeds > 1:
            raise InputError("seeds goes with members; every permutation has a seed of its own")
        return Sweep(recipe, permutation_series(permutations, options.seed), exhaustive=False)
    assert members is not None, "a scale has one or the other"
    series = subset_series(members, options.seed, options.seeds)
    return Sweep(recipe, series, exhaustive=members == _ALL)


def _starting_from(run: Path, recipe: TrainConfig) -> TrainConfig:
    best = PRESETS["best"]
    return dataclasses.replace(
        recipe,
        initial=run,
        epochs=max(1, recipe.epochs // 3),
        model=dataclasses.replace(
            recipe.model,
            width=read_unet(run).width,
            density=best.model.density,
        ),
        optimizer=dataclasses.replace(best.optimizer, warmup_steps=recipe.optimizer.warmup_steps),
    )


def members_in_memory(member_bytes: int, free_bytes: int, devices: int) -> int:
    """Choose how many networks to train at a time.

    Args:
      member_bytes: what one takes while it is trained.
      free_bytes: memory of a device.
      devices: how many there are.

    Returns:
      A multiple of the devices.

    Raises:
      InputError: if not even one fits on each.
    """
    each = math.floor(_MEMORY_SHARE * free_bytes / member_bytes)
    if each < 1:
        raise InputError(
            f"one network takes {member_bytes / 2**30:.1f} GiB but a device has "
            f"{free_bytes / 2**30:.1f}; choose a smaller scale"
        )
    return each * devices
