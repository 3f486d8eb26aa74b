"""The runs of a study, found again by their options."""

import dataclasses
import hashlib
import json
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

from experiments.study.options import StudyOptions
from experiments.study.rows import Row, changed, started
from experiments.study.scales import Scale
from mbu_jax.errors import InputError
from mbu_jax.files import to_json
from mbu_jax.train.config import ADDED_LATER, RESUMABLE, TrainConfig
from mbu_jax.train.recorder import read_metrics
from mbu_jax.train.rundir import RunDirectory, read_config

FACTS = "facts.json"


@dataclasses.dataclass(frozen=True)
class Run:
    """One network trained with one seed.

    Attributes:
      row: of the study.
      config: all options; its ``workdir`` is a directory named after them.
      needs: finished runs that it takes: the one that its weights start from, its teacher.
    """

    row: Row
    config: TrainConfig
    needs: tuple["Run", ...] = ()

    @property
    def directory(self) -> RunDirectory:
        """Where it is."""
        assert self.config.workdir is not None
        return RunDirectory(self.config.workdir)

    @property
    def facts(self) -> Path:
        """What a study needs of it; written last, so that it is there when the run is finished."""
        return self.directory.path / FACTS

    @property
    def finished(self) -> bool:
        """Whether nothing is left to do."""
        return self.facts.exists()

    @property
    def content(self) -> str | None:
        """A name for the images that a finished one saw; None where they were generated."""
        return read_config(self.directory.path).get("found", {}).get("content")

    def progress(self) -> str:
        """Say how far it is.

        Returns:
          ``finished``, ``to do``, or the epochs that are done.
        """
        if self.finished:
            return "finished"
        if not self.directory.config.exists():
            return "to do"
        done = 0
        if self.directory.metrics.exists():
            done = max((line["epoch"] for line in read_metrics(self.directory.metrics)), default=0)
        return f"{done:g} of {self.config.epochs} epochs done"


def plan(
    rows: Sequence[Row], scale: Scale, options: StudyOptions, further: Collection[int] = ()
) -> list[Run]:
    """List all runs: every row with the first seed, then with the next.

    Args:
      rows: of the study.
      scale: its size.
      options: where runs are kept, and which seed is the first.
      further: seeds beside those that the options ask for.

    Returns:
      The runs, each after those that it needs.

    Raises:
      InputError: where a row's options do not fit together.
    """
    folder = options.runs / f"{scale.config.dataset}-{scale.name}"
    runs: list[Run] = []
    asked = range(options.first_seed, options.first_seed + scale.seeds)
    for seed in sorted({*asked, *further}):
        of_seed: dict[str, Run] = {}
        for row in started(rows, scale):
            needed = {
                option: of_seed[name]
                for option, name in (("initial", row.start), ("loss.teacher", row.teacher))
                if name is not None
            }
            # Before the changes: without epochs only initial weights make sense.
            paths = {option: run.directory.path for option, run in needed.items()}
            config = changed(scale.config, {**paths, "seed": seed, **row.changes})
            config.model.build()  # checks
            config = dataclasses.replace(config, workdir=folder / _directory_name(config))
            of_seed[row.name] = Run(row, config, tuple(needed.values()))
        runs += of_seed.values()
    return runs


def chosen(runs: Sequence[Run], names: Sequence[str]) -> list[Run]:
    """Choose the runs of some rows, and those that they need.

    Args:
      runs: all of them.
      names: of rows; none for all.

    Returns:
      The runs to carry out, in order.

    Raises:
      InputError: for a row that there is not.
    """
    known = list(dict.fromkeys(run.row.name for run in runs))
    for name in names:
        if name not in known:
            raise InputError(f"rows names {name!r}; choose from {', '.join(known)}")
    wanted = set(names or known)
    for run in reversed(runs):
        if run.row.name in wanted:
            wanted |= {needed.row.name for needed in run.needs}
    return [run for run in runs if run.row.name in wanted]


def described(config: TrainConfig) -> dict[str, Any]:
    """Flatten the options that change what is trained.

    Args:
      config: all options.

    Returns:
      Values by dotted name, as JSON has them. A run that the weights start from, or a teacher, is
      there by the name of its directory, which stands for its options.

    Example:
      >>> described(TrainConfig())["model.width"]
      64
    """
    flat: dict[str, Any] = {}
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if not dataclasses.is_dataclass(value):
            flat[field.name] = value
            continue
        for name, nested in dataclasses.asdict(value).items():  # pyrefly: ignore[bad-argument-type]
            flat[f"{field.name}.{name}"] = nested
    for option in ("initial", "loss.teacher"):
        if flat[option] is not None:
            flat[option] = flat[option].name
    kept = {name: v for name, v in flat.items() if not {name, name.split(".")[0]} & RESUMABLE}
    return json.loads(to_json(kept))


# What was trained before an option was there is what that did.
_DEFAULTS = described(TrainConfig()) | ADDED_LATER


def differences(options: dict[str, Any], others: dict[str, Any]) -> dict[str, Any]:
    """Find the options that are not the same.

    Args:
      options: what `described` gave.
      others: the same of other options.

    Returns:
      Those of the first that differ.
    """
    return {name: value for name, value in options.items() if value != others.get(name)}


def _directory_name(config: TrainConfig) -> str:
    """The network and seed, to be read, and a digest of all options that are not the defaults.

    An option that a later version adds does not change the digest where it does what earlier
    versions did.
    """
    content = to_json(dict(sorted(differences(described(config), _DEFAULTS).items())))
    digest = hashlib.sha256(content.encode()).hexdigest()[:10]
    model = config.model
    bits = "" if model.activation_bits == 1 else f"-{model.activation_bits}bit"
    return f"{model.network}{bits}-seed{config.seed}-{digest}"
