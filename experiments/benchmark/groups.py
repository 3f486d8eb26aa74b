"""Which rows are timed beside each other, and on what."""

import dataclasses
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Literal

import jax

from experiments.benchmark.config import BenchmarkConfig, available_cores
from experiments.benchmark.job import Job
from experiments.benchmark.materials import Materials, masked_networks
from experiments.benchmark.rows import Row

Section = Literal["latency", "density", "end_to_end", "layers"]
_END_TO_END_PRECISIONS = ("int8",)


@dataclasses.dataclass(frozen=True)
class Entry:
    """One row of a group.

    Attributes:
      name: of the row, ``ROW@DENSITY`` where the density is not its own.
      row: the row.
      density: share of non-zeros, or None for the row's own.
    """

    name: str
    row: Row
    density: float | None = None


@dataclasses.dataclass(frozen=True)
class Group:
    """Rows that are timed in turn on one shape.

    Attributes:
      section: of the report that it belongs to.
      threads: of every row.
      size: height and width of the images.
      batch: images at once.
      entries: the rows.
    """

    section: Section
    threads: int
    size: int
    batch: int
    entries: tuple[Entry, ...]

    def __str__(self) -> str:
        """Say it in words, for a person."""
        what = {"density": "densities, ", "end_to_end": "PNG to PNG, ", "layers": "layers, "}
        threads = "1 thread" if self.threads == 1 else f"{self.threads} threads"
        images = "1 image" if self.batch == 1 else f"{self.batch} images"
        kind = what.get(self.section, "")
        return f"{kind}{self.size}x{self.size}, {images}, {threads}"

    def without(self, names: Collection[str]) -> "Group":
        """Leave rows out.

        Args:
          names: of the rows, or of single entries.

        Returns:
          The group of the others.
        """
        kept = tuple(e for e in self.entries if e.name not in names and e.row.name not in names)
        return dataclasses.replace(self, entries=kept)

    def jobs(self, materials: Materials, main_size: int) -> list[Job]:
        """Say what the processes have to do.

        Args:
          materials: of the benchmark.
          main_size: the size whose logits are compared.

        Returns:
          A job for each entry.
        """
        jobs = []
        for index, entry in enumerate(self.entries):
            material, model = materials.model(entry.row, entry.density)
            results = materials.folder / f"{self.section}-{self.threads}-{self.size}-{self.batch}"
            results.mkdir(exist_ok=True)
            png = self.section == "end_to_end"
            compared = self.section == "latency" and self.size == main_size
            jobs.append(
                Job(
                    row=entry.name,
                    runtime="layers" if self.section == "layers" else entry.row.runtime,
                    engine=entry.row.engine,
                    model=str(model),
                    unet=material.unet,
                    images=str(materials.images(self.size)),
                    batch=self.batch,
                    cores=available_cores()[: self.threads],
                    cache=_cache(self.threads),
                    logits=str(results / f"{index}.npy") if compared else None,
                    picture=str(materials.picture) if png else None,
                    mask=str(results / f"{index}.png") if png else None,
                )
            )
        return jobs


def _cache(threads: int) -> str | None:
    """XLA's cache does not know for how many threads a program was compiled."""
    cache = jax.config.jax_compilation_cache_dir
    return None if cache is None else str(Path(cache, f"threads-{threads}"))


def plan(config: BenchmarkConfig, rows: Sequence[Row]) -> list[Group]:
    """Arrange what has to be timed.

    Args:
      config: of the benchmark.
      rows: to compare.

    Returns:
      The groups: every number of threads on the main size; then, with most threads, other sizes,
      batches, densities, whole files, and single layers on one thread.
    """
    entries = tuple(Entry(row.name, row) for row in rows)
    most = max(config.threads)
    shapes = [(threads, config.size, 1) for threads in sorted(set(config.threads))]
    shapes += [(most, size, 1) for size in config.all_sizes if size != config.size]
    shapes += [(most, config.size, batch) for batch in sorted(set(config.batch_sizes) - {1})]
    groups = [Group("latency", *shape, entries) for shape in shapes]
    masked = masked_networks(rows)
    sparse = [row for row in rows if row.network in masked and row.engine == "bitsliced"]
    swept = tuple(
        Entry(f"{row.name}@{density:g}", row, density)
        for row in sparse
        for density in config.densities
    )
    if swept:
        groups.append(Group("density", most, config.size, 1, swept))
    whole = tuple(
        Entry(row.name, row)
        for row in rows
        if row.engine == "bitsliced" or row.engine in _END_TO_END_PRECISIONS
    )
    if config.end_to_end and whole:
        groups.append(Group("end_to_end", most, config.size, 1, whole))
    if config.layers and sparse:
        one_by_one = tuple(Entry(row.name, row) for row in sparse)
        groups.append(Group("layers", 1, config.size, 1, one_by_one))
    return groups
