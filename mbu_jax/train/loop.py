"""The training run: epochs of updates, evaluations, checkpoints and what is left at the end."""

import dataclasses
import math
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
from tqdm import tqdm

from mbu_jax.data import eval_batches, open_source, train_batches
from mbu_jax.data.pipeline import PreparedImages, epoch_length
from mbu_jax.errors import InputError
from mbu_jax.train.checkpoints import Checkpoints, load_run
from mbu_jax.train.config import RESUMABLE, TrainConfig
from mbu_jax.train.evaluation import Evaluator, recalibrated_stats
from mbu_jax.train.layer_statistics import layer_statistics
from mbu_jax.train.meter import EpochMeter
from mbu_jax.train.metrics import SegmentationScores
from mbu_jax.train.optimizer import learning_rate_schedule, make_optimizer
from mbu_jax.train.pictures import plot_curves
from mbu_jax.train.recorder import Recorder
from mbu_jax.train.report import write_report
from mbu_jax.train.rundir import RunDirectory
from mbu_jax.train.state import Network, TrainState, Tree
from mbu_jax.train.step import Teacher, data_mesh, make_train_step, replicate, shard_batch

_SCORES = ("dice", "iou", "f1", "precision", "recall", "pooled_iou")


class TrainingDiverged(InputError):
    """The loss is not a finite number any more."""


class Trainer:
    """One training run, from an empty directory or from where it was interrupted.

    Args:
      config: all options; ``workdir`` must be set.

    Raises:
      InputError: for data, options or a directory that cannot be used.

    Example:
      >>> config = dataclasses.replace(PRESETS["quick"], workdir=Path("runs/quick"))
      >>> Trainer(config).fit()["dice"]
      0.93
    """

    def __init__(self, config: TrainConfig) -> None:
        self.config = config
        self.leads = jax.process_index() == 0
        self.mesh = data_mesh()
        devices = self.mesh.size
        for name in ("batch_size", "eval_batch_size"):
            if getattr(config, name) % devices:
                raise InputError(
                    f"{name} is {getattr(config, name)}; give a multiple of the {devices} devices"
                )
        self.train_images, self.validation_images = (
            PreparedImages(self._open(split), config.data.image_size, config.data.cache_gib)
            for split in ("train", "validation")
        )
        self.network, params, stats = Network.create(config.model.build(), config.seed)
        self.total_steps = self._epoch_end(config.epochs)
        self.learning_rate = learning_rate_schedule(config.optimizer, self.total_steps)
        optimizer = make_optimizer(
            config.optimizer,
            self.total_steps,
            latent_mask=lambda params: self.network.latent_mask(cast(Tree, params)),
        )
        teacher = self._teacher()
        self.run = self._claim_directory()
        self.state = replicate(
            TrainState(
                step=jnp.int32(0),
                params=params,
                stats=stats,
                opt_state=optimizer.init(params),
                ema=params if config.ema_decay else None,
            ),
            self.mesh,
        )
        self.update = make_train_step(
            self.network,
            optimizer,
            config.loss,
            self.mesh,
            clip=config.clip_latent,
            ema_decay=config.ema_decay,
            teacher=teacher,
        )
        self.evaluator = Evaluator(self.network, self.mesh)

    def fit(self) -> dict[str, Any]:
        """Train to the end, resuming if there is something to resume.

        Returns:
          The validation scores of the best checkpoint, as written to ``eval.json``.

        Raises:
          TrainingDiverged: if the loss stops being finite; the message has step and image ids.
          OSError: if something cannot be written; earlier checkpoints are untouched.
        """
        config = self.config
        batches = self._train_batches(config.seed)
        progress = EpochMeter()
        with Checkpoints(self.run.checkpoints, config.keep_checkpoints) as checkpoints:
            if checkpoints.last is not None:
                self.state, position = checkpoints.load(checkpoints.last, self.state)
                batches.set_state(position["batches"])
                progress = EpochMeter.from_json(position["progress"])
                self._say(f"resuming {self.run.path} at step {int(self.state.step)}")
            recorder = Recorder(self.run.path, config.tensorboard) if self.leads else None
            try:
                if recorder is not None:
                    recorder.truncate_after(int(self.state.step))
                for epoch in range(1, config.epochs + 1):
                    if int(self.state.step) < self._epoch_end(epoch):
                        self._epoch(epoch, batches, progress, recorder, checkpoints)
                        progress = EpochMeter()
            finally:
                batches.close()
                if recorder is not None:
                    recorder.close()
        return self._finish()

    def _epoch(
        self,
        epoch: int,
        batches: Any,
        progress: EpochMeter,
        recorder: Recorder | None,
        checkpoints: Checkpoints,
    ) -> None:
        config = self.config
        end = self._epoch_end(epoch)
        step = int(self.state.step)
        bar = tqdm(
            total=(end - self._epoch_end(epoch - 1)) * config.batch_size,
            initial=(step - self._epoch_end(epoch - 1)) * config.batch_size,
            desc=f"epoch {epoch}/{config.epochs}",
            unit="img",
            mininterval=1.0,
            leave=False,
            disable=not self.leads,
        )
        start = time.perf_counter()
        pending: tuple[int, dict[str, jax.Array], np.ndarray] | None = None
        with bar:
            while step < end:
                batch = next(batches)
                self.state, metrics = self.update(self.state, shard_batch(batch, self.mesh))
                # The last update is read while the next one runs, so that devices never wait.
                if pending is not None:
                    self._account(*pending, progress, bar)
                step += 1
                pending = (step, metrics, batch["id"])
                save_now = config.checkpoint_steps and step % config.checkpoint_steps == 0
                if save_now and step < end:
                    self._account(*pending, progress, bar)
                    pending = None
                    checkpoints.save(self.state, self._position(batches, progress))
            if pending is not None:
                self._account(*pending, progress, bar)
        seconds = time.perf_counter() - start

        values = progress.means()
        flips = {name: values.pop(name) for name in list(values) if "/" in name}
        values |= {
            "learning_rate": float(self.learning_rate(step - 1)),
            "images_per_second": progress.updates * config.batch_size / seconds,
        }
        line = (
            f"epoch {epoch}/{config.epochs}  loss {values['loss']:.4f}  Dice {values['dice']:.4f}"
        )
        result = None
        if epoch % config.eval_every == 0 or epoch == config.epochs:
            self._recalibrate()
            result = self._validate().result()
            line += "  validation " + "  ".join(
                f"{label} {result[name]:.4f}"
                for label, name in (("Dice", "dice"), ("IoU", "iou"), ("F1", "f1"))
            )
        if recorder is not None:
            layers = layer_statistics(self.network, jax.device_get(self.state.params))
            recorder.write(step, epoch, "train", values)
            recorder.write(step, epoch, "layers", layers | flips)
            if result is not None:
                scores = {name: result[name] for name in _SCORES}
                recorder.write(step, epoch, "validation", scores)
            plot_curves(self.run.metrics, self.run.curves)
        dice = None if result is None else result["dice"]
        checkpoints.save(self.state, self._position(batches, EpochMeter()), dice)
        self._say(f"{line}  ({seconds:.0f} s)")

    def _account(
        self,
        step: int,
        metrics: dict[str, jax.Array],
        ids: np.ndarray,
        progress: EpochMeter,
        bar: tqdm,
    ) -> None:
        """Take an update's figures into the means, or stop the run if they are not finite."""
        values = {name: float(value) for name, value in jax.device_get(metrics).items()}
        if not all(math.isfinite(value) for value in values.values()):
            raise TrainingDiverged(
                f"the loss or gradient of update {step} is not finite (images {', '.join(ids)}); "
                "lower --learning-rate, or look at those images; the last checkpoint is intact"
            )
        progress.add(values)
        bar.update(self.config.batch_size)
        bar.set_postfix(loss=f"{values['loss']:.3f}", dice=f"{values['dice']:.3f}", refresh=False)

    def _finish(self) -> dict[str, Any]:
        """Score the best checkpoint, write eval.json and the pictures."""
        network, params, stats, step = load_run(self.run.path, "best")
        scores = self._scores(params, stats)
        if self.leads:
            write_report(
                self.run.evaluation,
                self.run.samples,
                scores,
                self.validation_images,
                network.model(params, stats),
                self.config.samples,
                step=step,
                split="validation",
            )
        return scores.result()

    def _recalibrate(self) -> None:
        count = self.config.recalibrate
        if not count:
            return
        batches = self._train_batches(self.config.seed + 1)
        params = self.state.params if self.state.ema is None else self.state.ema
        stats = recalibrated_stats(self.network, params, batches, count, self.mesh)
        batches.close()
        self.state = dataclasses.replace(self.state, stats=replicate(stats, self.mesh))

    def _validate(self) -> SegmentationScores:
        params = self.state.params if self.state.ema is None else self.state.ema
        return self._scores(params, self.state.stats)

    def _scores(self, params: Any, stats: Any) -> SegmentationScores:
        batches: Iterator[dict[str, np.ndarray]] = eval_batches(
            self.validation_images,
            batch_size=self.config.eval_batch_size,
            process_index=jax.process_index(),
            process_count=jax.process_count(),
        )
        bar = tqdm(batches, desc="validation", unit="batch", leave=False, disable=not self.leads)
        return self.evaluator.scores(params, stats, bar)

    def _open(self, split: str) -> Any:
        config = self.config
        return open_source(
            config.dataset, split, data_dir=config.data_dir, prepared_dir=config.prepared_dir
        )

    def _train_batches(self, seed: int) -> Any:
        return train_batches(
            self.train_images,
            self.config.data,
            batch_size=self.config.batch_size,
            seed=seed,
            process_index=jax.process_index(),
            process_count=jax.process_count(),
        )

    def _epoch_end(self, epoch: int) -> int:
        """Updates after which every image has been seen this many times."""
        return epoch_length(self.train_images, self.config.batch_size, epoch) if epoch else 0

    def _teacher(self) -> Teacher | None:
        if self.config.loss.teacher is None:
            return None
        network, params, stats, _ = load_run(self.config.loss.teacher)
        thresholds = network.fold(params, stats)
        params, stats, thresholds = replicate((params, stats, thresholds), self.mesh)
        return lambda images: network.apply_evaluation(params, stats, thresholds, images)

    def _claim_directory(self) -> RunDirectory:
        config = self.config
        workdir = config.workdir or Path("runs", f"{config.dataset}-{config.model.network}")
        run = RunDirectory(workdir)
        if self.leads:
            described = dataclasses.asdict(config) | {
                "workdir": workdir,
                "unet": self.network.config.to_dict(),
            }
            run.create_or_resume(described, RESUMABLE)
        return run

    def _position(self, batches: Any, progress: EpochMeter) -> dict[str, Any]:
        return {"batches": batches.get_state(), "progress": progress.to_json()}

    def _say(self, line: str) -> None:
        if self.leads:
            tqdm.write(line)
