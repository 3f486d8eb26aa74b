"""The training run: epochs of updates, evaluations, checkpoints and what is left at the end."""

import contextlib
import dataclasses
import math
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
from tqdm import tqdm

from mbu_jax.data import eval_batches, train_batches
from mbu_jax.data.pipeline import TrainIterator, epoch_length
from mbu_jax.errors import InputError
from mbu_jax.train.checkpoints import Checkpoints, check_run, has_checkpoint, load_run
from mbu_jax.train.cluster import failing_together, gather_ids
from mbu_jax.train.config import ADDED_LATER, OF_MBU_ALONE, RESUMABLE, TrainConfig
from mbu_jax.train.evaluation import Evaluator
from mbu_jax.train.images import batches_seed, open_images, some_images, statistics_batches
from mbu_jax.train.initial import initial_weights
from mbu_jax.train.layer_statistics import layer_statistics
from mbu_jax.train.meter import EpochMeter
from mbu_jax.train.metrics import SCORES, SegmentationScores
from mbu_jax.train.optimizer import learning_rate_schedule, make_optimizer
from mbu_jax.train.pictures import plot_curves
from mbu_jax.train.recorder import Recorder
from mbu_jax.train.report import write_report
from mbu_jax.train.rundir import RunDirectory
from mbu_jax.train.state import Network, TrainState, Tree
from mbu_jax.train.step import Teacher, data_mesh, make_train_step, replicate, shard_batch

type _Update = tuple[int, dict[str, jax.Array], np.ndarray]


def _describe(facts: Mapping[str, Any]) -> str:
    """State what was found in a user's own data."""
    images, classes = facts["images"], facts["classes"]
    told = "objects of one class" if classes == 1 else f"classes 0 to {classes - 1}"
    return (
        f"{images['train']} images to train on and {images['validation']} for validation, split by "
        f"{facts['split_by']}; masks of {told}"
    )


class TrainingDiverged(InputError):
    """The loss is not a finite number any more."""


class Trainer:
    """One training run, from an empty directory or from where it was interrupted.

    Args:
      config: all options.

    Attributes:
      run: the run's directory.
      leads: whether this process is the one that writes there.
      validation_images: the data source that scores are of.
      total_steps: updates from beginning to end.
      step: updates done.
      state: what they have led to.

    Raises:
      InputError: for data, options or a directory that cannot be used.

    Example:
      >>> from mbu_jax.train.config import PRESETS
      >>> config = dataclasses.replace(PRESETS["quick"], epochs=3, batch_size=8)
      >>> trainer = Trainer(config)  # then trainer.fit() returns the scores
      >>> trainer.total_steps, trainer.run.path
      (192, PosixPath('runs/synthetic-mbu'))
    """

    def __init__(self, config: TrainConfig) -> None:
        self.config = config
        self.leads = jax.process_index() == 0
        self.mesh = data_mesh()
        self.run = RunDirectory(self._workdir())
        initial = None if has_checkpoint(self.run) else config.initial
        with failing_together("data"):
            self._check_batch_sizes()
            for run in filter(None, (initial, config.loss.teacher)):
                check_run(run)  # here, since all processes meet where it is loaded
            dataset, self._train_images = open_images(config, "train")
            _, self.validation_images = open_images(config, "validation")
            unet = config.model.build(classes=dataset.classes)
            self.network, params, stats = Network.create(unet, config.seed)
            self.total_steps = self._epoch_end(config.epochs)
            # Where nothing is trained, a schedule that nobody follows.
            scheduled = self.total_steps if config.epochs else config.optimizer.warmup_steps + 1
            self._learning_rate = learning_rate_schedule(config.optimizer, scheduled)
            with contextlib.closing(self._train_batches(workers=0, prefetch=0)) as batches:
                next(batches)  # refuses its images of different sizes before anything is written
        if initial is not None:
            params, stats = initial_weights(initial, self.network, some_images(self._train_images))
            if not (config.epochs or config.recalibrate) and stats is self.network.initial_stats:
                raise InputError(
                    "--epochs 0 estimates no BatchNorm statistics for weights that are quantized "
                    "at the start; give --recalibrate 20, for instance"
                )
        teacher, teacher_step = self._load_teacher()
        with failing_together("workdir"):
            self._claim_directory(dataset.facts, teacher_step)
        if "split_by" in dataset.facts:
            self._say(_describe(dataset.facts))
        optimizer = make_optimizer(
            config.optimizer,
            scheduled,
            latent_mask=lambda params: self.network.latent_mask(cast(Tree, params)),
        )
        self._update = make_train_step(
            self.network,
            optimizer,
            config.loss,
            self.mesh,
            clip=config.clip_latent,
            ema_decay=config.ema_decay,
            teacher=teacher,
        )
        self._evaluator = Evaluator(self.network, self.mesh)
        self.step = 0
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
        self._batches = self._train_batches()
        self._meter = EpochMeter()
        # By its update, so that the best weights need not be scored again where they are the last.
        self._validated: dict[int, SegmentationScores] = {}

    def fit(self) -> dict[str, Any]:
        """Train to the end, resuming if there is something to resume.

        Returns:
          The validation scores of the best checkpoint, as written to ``eval.json``.

        Raises:
          TrainingDiverged: if the loss stops being finite; the message has update and image ids.
          InputError: if a checkpoint cannot be read or written; earlier ones are untouched.
        """
        with contextlib.ExitStack() as stack:
            stack.enter_context(contextlib.closing(self._batches))
            with failing_together("alone"):
                if self.leads:
                    stack.enter_context(self.run.alone())
            checkpoints = stack.enter_context(
                Checkpoints(self.run.checkpoints, self.config.keep_checkpoints)
            )
            self._resume(checkpoints)
            with self._recorder() as recorder:
                begin = 0
                for epoch, evaluate in self._epochs():
                    if self.step < self._epoch_end(epoch):
                        speed = self._train(epoch, begin, checkpoints)
                        scores = self._validate() if evaluate else None
                        self._record(recorder, epoch, speed, scores)
                        self._meter = EpochMeter()
                        self._save(checkpoints, None if scores is None else scores["dice"])
                    begin = self._epoch_end(epoch)
            if not self.config.epochs and checkpoints.last is None:
                self._save(checkpoints, self._validate()["dice"])
        return self._report()

    def _epochs(self) -> Iterator[tuple[int, bool]]:
        """Epochs that an update ends with, and whether an evaluation is due after it.

        Of fewer images than a batch holds, one update ends several epochs; the last is named.
        """
        epochs, due = self.config.epochs, False
        for epoch in range(1, epochs + 1):
            due |= epoch % self.config.eval_every == 0 or epoch == epochs
            if epoch == epochs or self._epoch_end(epoch) < self._epoch_end(epoch + 1):
                yield epoch, due
                due = False

    def _resume(self, checkpoints: Checkpoints) -> None:
        if checkpoints.last is None:
            return
        self.state, position = checkpoints.load(checkpoints.last, self.state)
        self.step = int(self.state.step)
        self._batches.set_state(position["batches"])
        self._meter = EpochMeter.from_json(position["progress"])
        self._say(f"resuming {self.run.path} at update {self.step} of {self.total_steps}")

    def _train(self, epoch: int, begin: int, checkpoints: Checkpoints) -> float:
        """Make the updates that are left of an epoch; return the images per second."""
        first, start = self.step, time.perf_counter()
        end = self._epoch_end(epoch)
        size, every = self.config.batch_size, self.config.checkpoint_steps
        bar = tqdm(
            desc=f"epoch {epoch}/{self.config.epochs}",
            initial=(self.step - begin) * size,
            total=(end - begin) * size,
            unit="img",
            mininterval=1.0,
            leave=False,
            disable=self._no_bar,
        )
        with bar:
            unread: _Update | None = None
            while self.step < end:
                batch = next(self._batches)
                self.state, metrics = self._update(self.state, shard_batch(batch, self.mesh))
                self.step += 1
                # The update before is read while this one runs, so that devices never wait.
                self._read(unread, bar)
                unread = self.step, metrics, batch["id"]
                if every and self.step % every == 0 and self.step < end:
                    self._read(unread, bar)
                    unread = None
                    self._save(checkpoints)
            self._read(unread, bar)
        return (end - first) * size / (time.perf_counter() - start)

    def _read(self, update: _Update | None, bar: tqdm) -> None:
        """Take an update's figures into the means, or stop the run if they are not finite."""
        if update is None:
            return
        step, metrics, ids = update
        values = {name: float(value) for name, value in jax.device_get(metrics).items()}
        if not all(map(math.isfinite, values.values())):
            raise TrainingDiverged(
                f"the loss, gradient or weights of update {step} are not finite (images "
                f"{', '.join(gather_ids(ids))}); lower --learning-rate, or look at those images; "
                "the last checkpoint is intact"
            )
        self._meter.add(values)
        bar.set_postfix(loss=f"{values['loss']:.3f}", dice=f"{values['dice']:.3f}", refresh=False)
        bar.update(self.config.batch_size)

    def _validate(self) -> dict[str, Any]:
        """Score the weights on the validation images, their statistics recalibrated if asked."""
        params = self.state.params if self.state.ema is None else self.state.ema
        if self.config.recalibrate:
            batches = statistics_batches(
                self._train_images,
                self.config,
                process_index=jax.process_index(),
                process_count=jax.process_count(),
            )
            stats = self._evaluator.recalibrated_stats(params, batches)
            self.state = dataclasses.replace(self.state, stats=stats)
        scores = self._scores(params, self.state.stats)
        self._validated = {self.step: scores}
        return scores.result()

    def _record(
        self, recorder: Recorder | None, epoch: int, speed: float, scores: dict[str, Any] | None
    ) -> None:
        """Log an epoch: a line to read, the numbers, the curves."""
        values = self._meter.means()
        line = f"epoch {epoch}/{self.config.epochs}  loss {values['loss']:.4f}"
        line += f"  Dice {values['dice']:.4f}"
        if scores is not None:
            line += "  validation Dice {dice:.4f}  IoU {iou:.4f}  F1 {f1:.4f}".format(**scores)
        self._say(f"{line}  ({speed:.0f} images/s)")
        if recorder is None:
            return
        layers = layer_statistics(self.network, jax.device_get(self.state.params))
        layers |= {name: values.pop(name) for name in list(values) if "/" in name}
        values["images_per_second"] = speed
        values["learning_rate"] = float(self._learning_rate(self.step - 1))
        recorder.write(self.step, epoch, "train", values)
        recorder.write(self.step, epoch, "layers", layers)
        if scores is not None:
            recorder.write(self.step, epoch, "validation", {k: scores[k] for k in SCORES})
        plot_curves(self.run.metrics, self.run.curves)

    def _report(self) -> dict[str, Any]:
        """Score the best checkpoint, write eval.json and the pictures."""
        network, params, stats, step = load_run(self.run.path, "best")
        if (scores := self._validated.get(step)) is None:
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

    def _scores(self, params: Tree, stats: Tree) -> SegmentationScores:
        batches: Iterable[dict[str, np.ndarray]] = eval_batches(
            self.validation_images,
            batch_size=self.config.eval_batch_size,
            multiple=self.mesh.size,
            process_index=jax.process_index(),
            process_count=jax.process_count(),
        )
        bar = tqdm(batches, desc="validation", unit="batch", leave=False, disable=self._no_bar)
        return self._evaluator.scores(params, stats, bar)

    def _save(self, checkpoints: Checkpoints, dice: float | None = None) -> None:
        position = {"batches": self._batches.get_state(), "progress": self._meter.to_json()}
        checkpoints.save(self.state, position, dice)

    def _train_batches(self, **other: Any) -> TrainIterator:
        return train_batches(
            self._train_images,
            dataclasses.replace(self.config.data, **other),
            batch_size=self.config.batch_size,
            seed=batches_seed(self.config),
            process_index=jax.process_index(),
            process_count=jax.process_count(),
        )

    def _epoch_end(self, epoch: int) -> int:
        """Updates after which every image has been seen this many times."""
        return epoch_length(self._train_images, self.config.batch_size, epoch)

    def _check_batch_sizes(self) -> None:
        for name in ("batch_size", "eval_batch_size"):
            size = getattr(self.config, name)
            if size % self.mesh.size:
                raise InputError(
                    f"{name} is {size}; give a multiple of the {self.mesh.size} devices"
                )

    def _load_teacher(self) -> tuple[Teacher, int] | tuple[None, None]:
        """The teacher and its checkpoint's step."""
        if self.config.loss.teacher is None:
            return None, None
        network, params, stats, step = load_run(self.config.loss.teacher)
        theirs, ours = network.config.classes, self.network.config.classes
        if theirs != ours:
            raise InputError(
                f"--teacher {self.config.loss.teacher} has {theirs} channels of logits and the data"
                f" ask for {ours}; give a run of the same classes"
            )
        weights = params, stats, network.fold(params, stats)
        return Teacher(network, replicate(weights, self.mesh)), step

    def _workdir(self) -> Path:
        data = self.config.dataset
        if data == "folder" and self.config.data_dir is not None:
            data = self.config.data_dir.expanduser().absolute().name
        return self.config.workdir or Path("runs", f"{data}-{self.config.model.network}")

    def _claim_directory(self, facts: Mapping[str, Any], teacher_step: int | None) -> None:
        if not self.leads:
            return
        described = dataclasses.asdict(self.config)
        described |= {"workdir": self.run.path, "unet": self.network.config.to_dict()}
        # What it does, whether or not it was asked for.
        described["recalibrate_varied"] = self.config.varied_statistics
        # What a run that is resumed must find unchanged, besides its options.
        unchanged: dict[str, Any] = {}
        if facts:
            described["found"] = facts
            unchanged["found.content"] = facts["content"]
        if teacher_step is not None:
            unchanged["teacher_step"] = described["teacher_step"] = teacher_step
        for name in ("data_dir", "prepared_dir"):  # for scoring it from another place
            if described[name] is not None:
                described[name] = described[name].expanduser().absolute()
        may_differ = RESUMABLE
        if self.config.model.network != "mbu":
            # Runs of earlier versions may state them, to no effect.
            may_differ |= {f"model.{name}" for name in OF_MBU_ALONE}
        self.run.create_or_resume(described, may_differ, ADDED_LATER | unchanged)

    @contextlib.contextmanager
    def _recorder(self) -> Iterator[Recorder | None]:
        """The log, cut back to where the run resumes; on the process that leads."""
        if not self.leads:
            yield None
            return
        with Recorder(self.run.path, self.config.tensorboard) as recorder:
            recorder.truncate_after(self.step)
            yield recorder

    @property
    def _no_bar(self) -> bool | None:
        """For tqdm: None hides bars where standard error is no terminal."""
        return None if self.leads else True

    def _say(self, line: str) -> None:
        if self.leads:
            print(line, flush=True)
