"""How large a study is: what every run of it shares."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from experiments.study.options import StudyOptions
from mbu_jax.data.augment import NO_AUGMENTATION
from mbu_jax.data.pipeline import PipelineOptions
from mbu_jax.train.config import PRESETS, ModelOptions, TrainConfig

# Height and width, the paper's Table A.3.
_PAPER_SIZES = {"nuclei": (512, 512), "carvana": (640, 959), "isic": (480, 640)}


@dataclasses.dataclass(frozen=True)
class Scale:
    """A size of study.

    Attributes:
      name: smoke, small or paper.
      config: options of a run before its row changes some.
      seeds: how many of every row.
      start: options, by dotted name, of networks that start from the full-precision one of their
        seed; None where all start from random weights.
      best: options, by dotted name, of the networks trained as well as is known here, which start
        from full precision.
      masked_counts: numbers of masked layers along the paper's priority list.
      float_options: what full precision is trained with instead, by dotted name.
      image_size: height and width of the image that packed networks are timed on.
      rounds: how often they are timed.
    """

    name: str
    config: TrainConfig
    seeds: int = 3
    start: Mapping[str, Any] | None = None
    best: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    masked_counts: tuple[int, ...] = (0, 2, 4, 6, 8, 10, 12)
    float_options: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    image_size: int = 512
    rounds: int = 20

    @property
    def tuning_epochs(self) -> int:
        """Epochs of training that starts from trained weights; by default half of the others."""
        return max(1, self.config.epochs // 2) if self.start is None else self.start["epochs"]

    @property
    def best_epochs(self) -> int:
        """Epochs of the networks that are trained as well as is known."""
        return self.best.get("epochs", self.config.epochs)

    @property
    def remarks(self) -> tuple[str, ...]:
        """What a reader of any study's table must know of the training."""
        config = self.config
        whole = f"{config.epochs} epochs"
        if self.start is None:
            training = (
                f"Every network starts from random weights and is trained for {whole}, unless its "
                "row says otherwise."
            )
        else:
            training = (
                f"Full precision is trained for {whole} from random weights. Every other network "
                "starts from the full-precision one of its seed and is trained for "
                f"{self.tuning_epochs} epochs more, unless its row says otherwise."
            )
        if config.eval_every >= config.epochs:
            known = (
                "Scored once, at the end; but step sizes and what the best networks are trained "
                "with were chosen with scores of such images in sight."
            )
            return training, known
        every = "epoch" if config.eval_every == 1 else f"{config.eval_every} epochs"
        chosen = (
            f"Each score is the best of those after every {every}, on the images that chose it."
        )
        return training, chosen


_SMOKE = dataclasses.replace(
    PRESETS["quick"],
    train_images=8,
    epochs=1,
    batch_size=4,
    eval_batch_size=16,
    recalibrate=0,
    samples=0,
    model=ModelOptions(width=4),
    data=PipelineOptions(image_size=(32, 32), crop=(32, 32), augment=NO_AUGMENTATION),
    optimizer=dataclasses.replace(PRESETS["quick"].optimizer, warmup_steps=0),
)

# Of weights that are trained already.
_FURTHER = {
    "epochs": 8,
    "optimizer": PRESETS["best"].optimizer,
    "model.density": PRESETS["best"].model.density,
}

SCALES = {
    scale.name: scale
    for scale in (
        Scale("smoke", _SMOKE, seeds=1, masked_counts=(0, 6, 12), image_size=32, rounds=3),
        Scale(
            "small",
            # Scored once, at the end, so that validation images choose nothing.
            # All have statistics of all training images, whole, so that rows differ in one thing.
            dataclasses.replace(
                PRESETS["small"],
                eval_every=PRESETS["small"].epochs,
                recalibrate=58,
                recalibrate_varied=False,
            ),
            start=_FURTHER,
            best={**_FURTHER, "epochs": PRESETS["best"].epochs},
            float_options={"optimizer.learning_rate": 2e-3},
        ),
        Scale(
            "paper",
            PRESETS["paper"],
            best={
                **_FURTHER,
                "epochs": PRESETS["paper"].epochs,
                "batch_size": 8,
                "recalibrate": 20,
            },
            masked_counts=tuple(range(13)),
            # Appendix A.4.1: full precision is trained with RMSprop, the others with Adam.
            float_options={
                "optimizer.optimizer": "rmsprop",
                "optimizer.learning_rate": PRESETS["paper"].optimizer.learning_rate,
            },
        ),
    )
}


def chosen_scale(options: StudyOptions) -> Scale:
    """Look a scale up and put the dataset of the command line into it.

    Args:
      options: the command line.

    Returns:
      The scale; its runs keep their best and their last checkpoint.
    """
    scale = SCALES[options.scale]
    config = dataclasses.replace(
        scale.config,
        dataset=options.dataset or scale.config.dataset,
        data_dir=options.data_dir,
        prepared_dir=options.prepared_dir,
        keep_checkpoints=1,
    )
    if scale.name == "paper" and config.dataset in _PAPER_SIZES:
        size = _PAPER_SIZES[config.dataset]
        config = dataclasses.replace(config, data=dataclasses.replace(config.data, image_size=size))
    return dataclasses.replace(
        scale,
        config=config,
        seeds=options.seeds or scale.seeds,
        rounds=options.rounds or scale.rounds,
    )
