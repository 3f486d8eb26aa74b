"""Training the networks of a chunk, from the beginning or from where that was interrupted."""

import contextlib
import dataclasses
import hashlib
import itertools
import json
import shutil
import time
from pathlib import Path
from typing import Any, cast

import jax
import numpy as np
from tqdm import tqdm

from experiments.sweep.options import members_in_memory
from experiments.sweep.plan import LAYERS, Chunk
from experiments.timing import machine
from mbu_jax.architecture import LAYER_NAMES
from mbu_jax.data import eval_batches, train_batches
from mbu_jax.data.pipeline import TrainIterator, epoch_length
from mbu_jax.errors import InputError
from mbu_jax.files import to_json, write_bytes_atomic
from mbu_jax.train.checkpoints import Checkpoints
from mbu_jax.train.config import TrainConfig
from mbu_jax.train.images import batches_seed, open_images, some_images, statistics_batches
from mbu_jax.train.initial import initial_weights
from mbu_jax.train.meter import EpochMeter
from mbu_jax.train.metrics import SCORES
from mbu_jax.train.optimizer import make_optimizer
from mbu_jax.train.population import Population, members_mesh
from mbu_jax.train.state import Network, TrainState, Tree
from mbu_jax.train.step import Metrics

_CURVES = ("loss", "dice", "grad_norm", "weight_norm")


class SweepTrainer:
    """Trains chunk after chunk by one recipe, with programs that are compiled once.

    A network of a chunk is what ``experiments.train`` gives with the recipe's options, the chunk's
    seed and the network's precisions, at the end of training.

    Args:
      recipe: options of the training; those of single layers and the seed are not read.
      folder: of chunks and their checkpoints.
      at_once: see `Population`.

    Attributes:
      origin: what every network of a sweep has in common: ``content`` and ``start``, digests of the
        images and of the weights to start from, None for those that have none.
      total_steps: updates of every network.

    Raises:
      InputError: for data or options that cannot be used.
    """

    def __init__(self, recipe: TrainConfig, folder: Path, at_once: int | None = None) -> None:
        self._recipe = recipe
        self._folder = folder
        dataset, self._images = open_images(recipe, "train")
        _, self._validation_images = open_images(recipe, "validation")
        self._config = recipe.model.build()
        network = Network.build(self._config)
        self._start: Tree | None = None
        if recipe.initial is not None:
            self._start, _ = initial_weights(recipe.initial, network, some_images(self._images))
        # What all chunks must have in common, whichever process trains them, and when.
        self.origin = {
            "content": dataset.facts.get("content"),
            "start": None if self._start is None else _digest(self._start),
        }
        self.total_steps = epoch_length(self._images, recipe.batch_size, recipe.epochs)
        self._last_epoch = epoch_length(self._images, recipe.batch_size, recipe.epochs - 1)
        optimizer = make_optimizer(
            recipe.optimizer,
            self.total_steps,
            latent_mask=lambda params: network.latent_mask(cast(Tree, params)),
        )
        self._mesh = members_mesh()
        self._population = Population(
            self._config,
            optimizer,
            recipe.loss,
            self._mesh,
            clip=recipe.clip_latent,
            ema_decay=recipe.ema_decay,
            at_once=at_once,
        )

    def largest_chunk(self) -> int:
        """Choose how many networks to train at a time.

        Returns:
          As many as the devices' memory holds; on a CPU, which computes them one after the other,
          the networks of one order.

        Raises:
          InputError: if a device cannot hold one.
        """
        memory = self._mesh.devices.flat[0].memory_stats()
        if memory is None:
            return LAYERS + 1
        with contextlib.closing(self._batches(seed=0)) as batches:
            needed = self._population.member_bytes(next(batches))
        return members_in_memory(needed, memory["bytes_limit"], self._mesh.size)

    def train(self, chunk: Chunk, title: str) -> None:
        """Train a chunk and write its file, then remove its checkpoints.

        Args:
          chunk: the networks.
          title: shown beside the progress bar.

        Raises:
          InputError: where a loss stops being finite, or a checkpoint cannot be read or written.
        """
        padding = self._population.padded(len(chunk.masks)) - len(chunk.masks)
        masked = np.array([*chunk.masks, *itertools.repeat(chunk.masks[-1], padding)])
        checkpoints = self._folder / chunk.name
        with (
            contextlib.closing(self._batches(chunk.seed)) as batches,
            Checkpoints(checkpoints, keep_last=1) as kept,
        ):
            state, meter, seconds = self._fit(masked, chunk, batches, kept, title)
        start = time.perf_counter()
        scores, zeros = self._evaluate(masked, chunk.seed, state)
        means = meter.means()
        head: dict[str, Any] = {"chunk": chunk.index, "series": chunk.series, "seed": chunk.seed}
        head |= self.origin
        head |= {"training_seconds": seconds, "evaluation_seconds": time.perf_counter() - start}
        lines: list[dict[str, Any]] = [head | {"updates": self.total_steps, "machine": machine()}]
        for member, mask in enumerate(chunk.masks):
            lines.append(
                {
                    "masked": [name for name, m in zip(LAYER_NAMES, mask, strict=True) if m],
                    "scores": {name: scores[member][name] for name in SCORES},
                    "last_epoch": {name: means[f"{member} {name}"] for name in _CURVES},
                    "zeros": {name: int(counts[member]) for name, counts in zeros.items()},
                }
            )
        text = "".join(to_json(line) + "\n" for line in lines)
        write_bytes_atomic(self._folder / f"{chunk.name}.jsonl", text.encode())
        shutil.rmtree(checkpoints)

    def _fit(
        self,
        masked: np.ndarray,
        chunk: Chunk,
        batches: TrainIterator,
        kept: Checkpoints,
        title: str,
    ) -> tuple[TrainState, EpochMeter, float]:
        state = self._population.create(len(masked), chunk.seed, self._start)
        meter, earlier, step = EpochMeter(), 0.0, 0
        if kept.last is not None:
            state, position = kept.load(kept.last, state)
            batches.set_state(position["batches"])
            meter, earlier = EpochMeter.from_json(position["meter"]), position["seconds"]
            step = int(state.step)
        start = time.perf_counter()
        every = self._recipe.checkpoint_steps
        unread: tuple[int, list[Metrics]] | None = None
        bar = tqdm(
            desc=title,
            initial=step,
            total=self.total_steps,
            unit="update",
            mininterval=1.0,
            leave=False,
            disable=None,
        )
        with bar:
            while step < self.total_steps:
                state, metrics = self._population.update(masked, state, next(batches))
                step += 1
                # The update before is read while this one runs, so that devices never wait.
                self._read(unread, chunk, meter, bar)
                unread = step, metrics
                if every and step % every == 0 and step < self.total_steps:
                    self._read(unread, chunk, meter, bar)
                    unread = None
                    seconds = earlier + time.perf_counter() - start
                    position = {"batches": batches.get_state(), "meter": meter.to_json()}
                    kept.save(state, position | {"seconds": seconds})
            self._read(unread, chunk, meter, bar)
        return state, meter, earlier + time.perf_counter() - start

    def _read(
        self, update: tuple[int, list[Metrics]] | None, chunk: Chunk, meter: EpochMeter, bar: tqdm
    ) -> None:
        """Take an update's figures into the last epoch's means; refuse those not finite."""
        if update is None:
            return
        step, groups = update
        values = {name: np.concatenate([metrics[name] for metrics in groups]) for name in _CURVES}
        finite = np.logical_and.reduce([np.isfinite(v) for v in values.values()])
        if not finite.all():
            mask = chunk.masks[min(int(np.argmin(finite)), len(chunk.masks) - 1)]
            masked = [name for name, m in zip(LAYER_NAMES, mask, strict=True) if m]
            raise InputError(
                f"the loss, gradient or weights of update {step} of seed {chunk.seed} are not "
                f"finite where {', '.join(masked) or 'nothing'} is masked; no sweep by this recipe "
                "can be finished: choose another --seed or --scale"
            )
        if step > self._last_epoch:
            meter.add(
                {
                    f"{member} {name}": float(value)
                    for name, by_member in values.items()
                    for member, value in enumerate(by_member)
                }
            )
        bar.set_postfix(loss=f"{np.mean(values['loss']):.3f}", refresh=False)
        bar.update()

    def _evaluate(
        self, masked: np.ndarray, seed: int, state: TrainState
    ) -> tuple[list[dict[str, Any]], dict[str, np.ndarray]]:
        params: Any = state.ema if self._recipe.ema_decay else state.params
        stats: Any = state.stats
        if self._recipe.recalibrate:
            batches = statistics_batches(self._images, dataclasses.replace(self._recipe, seed=seed))
            stats = self._population.recalibrated_stats(masked, params, batches)
        batches = eval_batches(self._validation_images, batch_size=self._recipe.eval_batch_size)
        bar = tqdm(batches, desc="validation", unit="batch", leave=False, disable=None)
        scores = self._population.scores(masked, params, stats, bar)
        return [one.result() for one in scores], self._population.zeros(masked, params)

    def _batches(self, seed: int) -> TrainIterator:
        recipe = dataclasses.replace(self._recipe, seed=seed)
        return train_batches(
            self._images, recipe.data, batch_size=recipe.batch_size, seed=batches_seed(recipe)
        )


def _digest(weights: Tree) -> str:
    """16 hex digits."""
    content = hashlib.sha256()
    for leaf in jax.tree.leaves(weights):
        content.update(np.asarray(leaf).tobytes())
    return content.hexdigest()[:16]


def finished(folder: Path, chunk: Chunk) -> bool:
    """Tell whether a chunk was trained.

    Args:
      folder: of the chunks.
      chunk: which.

    Returns:
      Whether its file is there.
    """
    return (folder / f"{chunk.name}.jsonl").exists()


def read_chunk(folder: Path, chunk: Chunk) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Read what training a chunk has left.

    Args:
      folder: of the chunks.
      chunk: a finished one.

    Returns:
      What is said of the chunk, and of each of its networks.

    Raises:
      InputError: for a file that is damaged or of another sweep.
    """
    path = folder / f"{chunk.name}.jsonl"
    try:
        head, *members = (json.loads(line) for line in path.read_text("utf-8").splitlines())
        masks = [tuple(name in m["masked"] for name in LAYER_NAMES) for m in members]
        same = masks == list(chunk.masks) and (head["series"], head["seed"]) == (
            chunk.series,
            chunk.seed,
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path} is damaged ({error}); remove it to train it again") from error
    if not same:
        raise InputError(f"{path} is of another sweep; remove it, or choose another --out")
    return head, members
