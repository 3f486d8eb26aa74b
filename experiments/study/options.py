"""The command line that every study has."""

import dataclasses
from pathlib import Path
from typing import Literal

from mbu_jax.errors import InputError


@dataclasses.dataclass(frozen=True)
class StudyOptions:
    """Train the networks of a study one after the other, and compare them."""

    scale: Literal["smoke", "small", "paper"] = "small"
    """Size: smoke is for tests and shows nothing, small suits two CPU cores, paper a GPU."""

    dataset: Literal["synthetic", "nuclei", "carvana", "isic"] | None = None
    """What to train on; by default nuclei, at smoke synthetic ones."""

    data_dir: Path | None = None
    """The dataset's archive, the folder it lies in, or its unpacked copy."""

    prepared_dir: Path | None = None
    """Where prepared datasets are kept; by default where TFDS keeps its own."""

    seeds: int | None = None
    """How many seeds of every row; by default 3, at smoke 1."""

    first_seed: int = 0
    """The first of them; the others follow it. Machines can share the seeds of a study so: a report
    keeps the scores of runs that lie elsewhere."""

    rows: tuple[str, ...] = ()
    """Rows to train, and those that they start from; by default all. The report has every run that
    is finished."""

    out: Path | None = None
    """Folder of the report; by default results/STUDY/SCALE."""

    runs: Path = Path("results/runs")
    """Where the runs of all studies are kept; those of equal options are trained once."""

    rounds: int | None = None
    """How often each packed network is timed; by default 20, at smoke 3."""

    dry_run: bool = False
    """Only list the runs, and which of them are finished."""

    def __post_init__(self) -> None:
        """Check every range.

        Raises:
          InputError: naming the option.
        """
        for name in ("seeds", "rounds"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise InputError(f"{name} is {value}; give a number of at least 1")
        if self.first_seed < 0:
            raise InputError(f"first_seed is {self.first_seed}; give a number of at least 0")
