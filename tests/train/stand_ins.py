"""What stands in for the compiled parts of a training run, so that nothing is compiled."""

import dataclasses
import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from mbu_jax.data import open_source
from mbu_jax.data.pipeline import PipelineOptions, resize
from mbu_jax.train.config import ModelOptions, TrainConfig
from mbu_jax.train.metrics import SegmentationScores
from mbu_jax.train.optimizer import OptimizerOptions

DATA = PipelineOptions(image_size=(32, 32), crop=(32, 32))
# Three updates an epoch: two epochs and a bit of the next would be one batch too many.
TINY = TrainConfig(
    train_images=10,
    epochs=2,
    batch_size=4,
    samples=0,
    model=ModelOptions(width=4),
    data=DATA,
    optimizer=OptimizerOptions(warmup_steps=0),
)


class Interrupted(Exception):
    """What ends a run in the middle here."""


def digest(array: Any) -> str:
    return hashlib.sha256(np.asarray(array).tobytes()).hexdigest()


class Updates:
    """Stands in for the compiled update: counts, and remembers what it was given."""

    def __init__(self) -> None:
        self.batches: list[str] = []
        self.stop_at: int | None = None
        self.no_number_at: int | None = None

    def make(self, *_: Any, **__: Any) -> Any:
        return self.update

    def update(self, state: Any, batch: dict[str, jax.Array]) -> Any:
        step = int(state.step) + 1
        if step == self.stop_at:
            raise Interrupted
        self.batches.append(digest(batch["image"]))
        params = jax.tree.map(lambda p: p, state.params)
        params["head"]["bias"] = params["head"]["bias"] + 1
        loss = jnp.float32(np.nan if step == self.no_number_at else 1 / step)
        metrics = {"loss": loss, "dice": jnp.float32(0.5), "sign_flip_rate/a": jnp.float32(0.25)}
        return dataclasses.replace(state, step=state.step + 1, params=params), metrics


class Evaluator:
    """Stands in for the evaluation: the more updates, the better."""

    seen: ClassVar[list[list[str]]] = []

    def __init__(self, network: Any, _: Any) -> None:
        self.stats = jax.tree.map(lambda s: jnp.zeros(s.shape), network.initial_stats)

    def recalibrated_stats(self, params: Any, batches: Any) -> Any:
        del params
        self.seen.append([digest(batch["image"]) for batch in batches])
        return self.stats

    def scores(self, params: Any, stats: Any, batches: Any) -> SegmentationScores:
        done = int(np.asarray(params["head"]["bias"])[0])
        scores = SegmentationScores()
        for batch in batches:
            counts = np.tile([done, 1, 1], (len(batch["id"]), 1, 1))
            scores.add(counts, batch["weight"], batch["id"])
        return scores


class Small:
    """A few of the images, so that each is generated once for all tests here."""

    def __init__(self, split: str) -> None:
        source = open_source("synthetic", split)
        self.ids = source.ids[:12]
        self.classes, self.facts = source.classes, source.facts
        self.examples = [resize(source[index], (32, 32)) for index in range(12)]

    def __len__(self) -> int:
        return 12

    def __getitem__(self, index: int) -> Any:
        return dict(self.examples[index])

    def __iter__(self) -> Iterator[Any]:
        return map(dict, self.examples)


def tiny(workdir: Path, **changes: Any) -> TrainConfig:
    return dataclasses.replace(TINY, workdir=workdir, **changes)


def saved(workdir: Path) -> list[int]:
    return sorted(int(path.name) for path in (workdir / "checkpoints").iterdir())
