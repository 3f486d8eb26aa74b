"""Checkpoints of a run: the best one and the last few, written whole or not at all (Orbax)."""

import contextlib
import functools
import os
import re
import shutil
import sys
import time
from collections.abc import Iterator
from logging import LogRecord, getLogger
from pathlib import Path
from typing import Any, Literal, Self, cast

import jax
import orbax.checkpoint.experimental.v1 as ocp
from absl import logging

from mbu_jax.errors import InputError
from mbu_jax.train.rundir import RunDirectory, read_unet
from mbu_jax.train.state import Network, TrainState, Tree
from mbu_jax.unet import UNetConfig

Which = Literal["best", "last"]
_READ_ERRORS = (ValueError, KeyError, TypeError, OSError)
_MOST_LOOKS, _BETWEEN_LOOKS = 100, 0.05  # seconds
_policies = ocp.training.preservation_policies


class Checkpoints:
    """The checkpoints of one run.

    A checkpoint is written to a temporary folder and renamed when complete, so a killed process
    or a full disk leaves the earlier ones as they were.

    Args:
      folder: where they are kept; made if missing.
      keep_last: how many of the latest to keep, besides the best by validation Dice.
      read_only: leave the folder as it is: a run may be at work there.

    Example:
      >>> params = {"w": jax.numpy.ones(3)}
      >>> state = TrainState(jax.numpy.int32(7), params, stats={}, opt_state=(), ema=None)
      >>> with Checkpoints("runs/a/checkpoints", keep_last=2) as checkpoints:
      ...     checkpoints.save(state, position={"next_batch": 7}, dice=0.8)
      ...     loaded, position = checkpoints.load(checkpoints.last, like=state)
      >>> loaded.params["w"].tolist(), position
      ([1.0, 1.0, 1.0], {'next_batch': 7})
    """

    def __init__(
        self, folder: str | os.PathLike[str], keep_last: int = 2, *, read_only: bool = False
    ) -> None:
        best = _policies.BestN(
            get_metric_fn=lambda metrics: metrics["dice"],
            n=1,
            keep_checkpoints_without_metrics=False,
        )
        self._folder = Path(folder).absolute()
        self._writes = not read_only and jax.process_index() == 0
        self._remove_unfinished()
        # Orbax's own annotations of policies and states do not admit what its guides pass.
        keep: Any = _policies.AnyPreservationPolicy([_policies.LatestN(keep_last), best])
        self._checkpointer = ocp.training.Checkpointer(
            str(self._folder),
            preservation_policy=keep,
        )

    @property
    def last(self) -> int | None:
        """Step of the latest complete checkpoint, None if there is none."""
        latest = self._checkpointer.latest
        return None if latest is None else latest.step

    @property
    def best(self) -> int | None:
        """Step of the checkpoint with the highest validation Dice; the latest if none has one."""
        scored = [c for c in self._checkpointer.checkpoints if c.metrics]
        if not scored:
            return self.last
        return max(scored, key=lambda c: cast(dict[str, float], c.metrics)["dice"]).step

    def save(self, state: TrainState, position: dict[str, Any], dice: float | None = None) -> None:
        """Write a checkpoint, then remove those no longer kept.

        Args:
          state: what to save.
          position: JSON: where the data and the log stand.
          dice: validation Dice of this state, if it was evaluated.

        Raises:
          InputError: if it cannot be written, for instance on a full disk; earlier checkpoints
            are untouched.
        """
        step = int(state.step)
        try:
            with _quiet():
                self._checkpointer.save(
                    step,
                    cast(Any, state),
                    force=True,
                    metrics=None if dice is None else {"dice": dice},
                    custom_metadata=position,
                )
        except (OSError, ValueError) as error:
            reason = _of_the_system(error)
            if reason is None:
                raise
            raise InputError(
                f"checkpoint {self._folder / str(step)} cannot be written ({reason}); mend that "
                "and run the same command again: the earlier checkpoints are intact"
            ) from error

    def load(self, step: int, like: TrainState) -> tuple[TrainState, dict[str, Any]]:
        """Read a checkpoint back.

        Args:
          step: which one.
          like: a state of the same structure, whose shapes and shardings are taken over.

        Returns:
          The state and the position saved with it.

        Raises:
          InputError: if the checkpoint is damaged or of another network.
        """
        wanted = jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), like
        )
        position = self._metadata(step).custom_metadata
        if not position:
            raise self._unreadable(step, "it does not tell where the data stands")
        return self._read(step, wanted), dict(cast(dict[str, Any], position))

    def load_weights(self, step: int, network: Network) -> tuple[Tree, Tree]:
        """Read only the weights to evaluate and the statistics that belong to them.

        A run that averages its weights estimates the average's statistics where it scores it.
        In a checkpoint between two scores they are of the weights as trained, so it gives those.

        Args:
          step: which checkpoint.
          network: the structure, whose shapes are checked.

        Returns:
          Parameters and BatchNorm statistics, on the first local device.

        Raises:
          InputError: if the checkpoint is damaged or of another network.
        """
        found = self._metadata(step)
        saved: Any = found.metadata
        if not isinstance(saved, dict) or not {"params", "stats", "opt_state"} <= saved.keys():
            raise self._unreadable(step, "it is not a training state")
        ours = network.params, network.initial_stats
        if _shapes((saved["params"], saved["stats"])) != _shapes(ours):
            raise self._unreadable(step, "it belongs to another network")
        device = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
        wanted = jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=device), saved
        )
        wanted["opt_state"] = jax.tree.map(lambda _: ocp.PLACEHOLDER, saved["opt_state"])
        restored = self._read(step, wanted)
        averaged = restored.get("ema") if found.metrics else None
        return (restored["params"] if averaged is None else averaged), restored["stats"]

    def _metadata(self, step: int) -> Any:
        try:
            with _quiet():
                found = self._checkpointer.metadata(step)
                if found.metadata is None:
                    raise ValueError("its data is damaged")
                return found
        except _READ_ERRORS as error:
            raise self._unreadable(step, error) from error

    def _read(self, step: int, wanted: Any) -> Any:
        try:
            with _quiet():
                return self._checkpointer.load(step, wanted)
        except _READ_ERRORS as error:
            raise self._unreadable(step, error) from error

    def _unreadable(self, step: int, why: object) -> InputError:
        folder = self._checkpointer.directory / str(step)
        while isinstance(why, BaseException) and why.__cause__ is not None:
            why = why.__cause__  # Orbax wraps what happened in what it was about to do
        reason = str(why).partition("\n")[0]
        return InputError(
            f"checkpoint {folder} cannot be read ({reason}); remove that folder to go on from an "
            "earlier one"
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        # Closing after a failure fails again, in the same way but less clearly.
        with contextlib.nullcontext() if kind is None else contextlib.suppress(Exception), _quiet():
            self._checkpointer.close()
        self._remove_unfinished()

    def _remove_unfinished(self) -> None:
        # Orbax would do it in the background, at the risk of meeting what is being written.
        if not self._writes:
            return
        # Where one array cannot be written, the work on others goes on for a moment, and brings
        # back what is removed under it: look again until nothing is there.
        for _ in range(_MOST_LOOKS):
            unfinished = list(self._folder.glob("*.orbax-checkpoint-tmp*"))
            if not unfinished:
                break
            for folder in unfinished:
                shutil.rmtree(folder, ignore_errors=True)
            time.sleep(_BETWEEN_LOOKS)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep from the terminal what Orbax and TensorStore print besides the error they raise."""
    _pass_over_abandoned_work()
    verbosity = logging.get_verbosity()
    logging.set_verbosity(logging.FATAL)
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)


@functools.cache
def _pass_over_abandoned_work() -> None:
    """Let errors that nobody waits for go unreported, once and for the rest of the process.

    Where one array fails, TensorStore's work on the others fails later, at the latest when the
    process ends: some in futures that nobody reads, some after their event loop has closed, some
    in threads of Orbax that are not joined any more.
    """
    report = sys.unraisablehook

    def unraisable(event: "sys.UnraisableHookArgs") -> None:
        if "Event loop is closed" not in str(event.exc_value):
            report(event)

    def unread(record: LogRecord) -> bool:
        error = record.exc_info[1] if record.exc_info else None
        # TensorStore's errors begin with their status: "OUT_OF_RANGE: ...".
        tensorstore = isinstance(error, ValueError) and re.match(r"[A-Z_]+: ", str(error))
        # The words of asyncio about a future, those of Orbax about its thread.
        abandoned = re.search(r"never retrieved|_SignalingThread\.run", record.getMessage())
        return not (abandoned and (tensorstore or isinstance(error, OSError)))

    sys.unraisablehook = unraisable
    for logger in getLogger("asyncio"), logging.get_absl_logger():
        logger.addFilter(unread)


def _of_the_system(error: OSError | ValueError) -> str | None:
    """What the operating system said; TensorStore, below Orbax, tells it only in the text."""
    if isinstance(error, OSError):
        return error.strerror or str(error)
    code = re.search(r"\[os_error_code='(\d+)'\]", str(error))
    return code and os.strerror(int(code[1]))


def _shapes(tree: Any) -> Any:
    return jax.tree.map(lambda x: x.shape, tree)


def has_checkpoint(run: RunDirectory) -> bool:
    """Tell from names alone whether a run holds a complete checkpoint.

    Where several processes train, Orbax waits for all of them; this does not.

    Args:
      run: its directory, which need not exist.

    Returns:
      Whether there is one.

    Example:
      >>> has_checkpoint(RunDirectory("runs/none"))
      False
    """
    with contextlib.suppress(OSError):  # a name that is too long, which is told where it is made
        return any(path.name.isdigit() for path in run.checkpoints.glob("*"))
    return False


def check_run(workdir: str | os.PathLike[str]) -> UNetConfig:
    """Refuse what `load_run` cannot load, as far as is seen without other processes.

    Args:
      workdir: the run directory.

    Returns:
      The structure of the run's network.

    Raises:
      InputError: if there is no run, or no checkpoint in it.

    Example:
      >>> run = RunDirectory("runs/begun")
      >>> run.create_or_resume({"unet": UNetConfig(width=4).to_dict()})
      False
      >>> check_run("runs/begun")
      Traceback (most recent call last):
      ...
      mbu_jax.errors.InputError: runs/begun holds no checkpoint yet; train it first
    """
    run = RunDirectory(workdir)
    unet = read_unet(run.path)
    if not has_checkpoint(run):
        raise InputError(f"{run.path} holds no checkpoint yet; train it first")
    return unet


def load_run(
    workdir: str | os.PathLike[str], which: Which = "best"
) -> tuple[Network, Tree, Tree, int]:
    """Load the network of a finished or running run.

    Args:
      workdir: the run directory.
      which: the checkpoint with the best validation Dice, or the last one.

    Returns:
      The structure, the parameters to evaluate (the moving average where the run keeps one and
      scored it there), their BatchNorm statistics, and the checkpoint's step.

    Raises:
      InputError: if there is no run, or no readable checkpoint in it.

    Example:
      >>> network, params, stats = Network.create(UNetConfig(width=4), seed=0)
      >>> run = RunDirectory("runs/tiny")
      >>> run.create_or_resume({"unet": network.config.to_dict()})
      False
      >>> state = TrainState(jax.numpy.int32(5), params, stats, opt_state=(), ema=None)
      >>> with Checkpoints(run.checkpoints) as checkpoints:
      ...     checkpoints.save(state, position={"next_batch": 5}, dice=0.8)
      >>> network, params, stats, step = load_run("runs/tiny")
      >>> step, network.model(params, stats).config.width
      (5, 4)
    """
    network = Network.build(check_run(workdir))
    run = RunDirectory(workdir)
    with Checkpoints(run.checkpoints, read_only=True) as checkpoints:
        step = checkpoints.best if which == "best" else checkpoints.last
        if step is None:
            raise InputError(f"{run.path} holds no checkpoint yet; train it first")
        params, stats = checkpoints.load_weights(step, network)
    return network, params, stats, step
