"""Sweep over masked layers, the paper's Figure 3: python -m experiments.sweep --scale small.

With several machines, start the command on each with --process-count and its --process-index, and
one folder for all; the process that ends last writes the report.
"""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import functools
from collections.abc import Sequence
from pathlib import Path

from tqdm import tqdm

from experiments import command
from experiments.lock import locked
from experiments.sweep.claim import agreed, check_results, claim
from experiments.sweep.options import SweepOptions, chosen_sweep
from experiments.sweep.plan import LAYERS, Chunk, chunks
from experiments.sweep.report import FIGURE, NETWORKS, RESULTS, TABLE, check_origins, write_report
from experiments.sweep.training import SweepTrainer, finished, read_chunk


def main() -> None:
    """Parse the command line and carry the sweep out."""
    run(command.parse(SweepOptions, {"default": SweepOptions()}))


def run(options: SweepOptions) -> None:
    """Train the chunks that are left of this process's share; report once all are there.

    Args:
      options: the command line.

    Raises:
      InputError: for options, data or a folder that cannot be used.
    """
    sweep = chosen_sweep(options)
    runs = options.folder / "runs"
    members = agreed(runs, sweep, options)
    if options.dry_run:
        _list(chunks(sweep.series, members or options.chunk_members or LAYERS + 1), runs)
        return
    trainer = functools.cache(lambda: SweepTrainer(sweep.recipe, runs, options.at_once))
    command.check_report(options.folder, RESULTS, (TABLE, FIGURE, NETWORKS))
    check_results(options.folder / RESULTS, sweep)
    if members is None:
        trainer()  # refuses data that cannot be used before anything is written
    planned = chunks(sweep.series, claim(runs, sweep, options, lambda: trainer().largest_chunk()))
    mine = planned[options.process_index :: options.process_count]
    if not all(finished(runs, chunk) for chunk in mine):
        there = [read_chunk(runs, chunk)[0] for chunk in planned if finished(runs, chunk)]
        check_origins([*there, trainer().origin], runs)
    passed = []
    for chunk in tqdm(mine, desc="sweep", unit="chunk", disable=None):
        if finished(runs, chunk):
            continue
        with locked(runs / chunk.name) as ours:
            if not ours:
                passed.append(chunk)
            elif not finished(runs, chunk):  # by a process that was at it until now
                trainer().train(chunk, f"{chunk.series}, seed {chunk.seed}")
    if busy := [chunk.name for chunk in passed if not finished(runs, chunk)]:
        print(f"passed over, since another process was at it: {', '.join(busy)}")
    done = sum(finished(runs, chunk) for chunk in planned)
    if done < len(planned):
        print(f"{done} of {len(planned)} chunks are finished; the last process writes the report")
        return
    write_report(sweep, options, planned, runs)
    print((options.folder / TABLE).read_text("utf-8"))
    print(f"{options.folder} holds {TABLE}, {FIGURE}, {NETWORKS} and {RESULTS}")


def _list(planned: Sequence[Chunk], runs: Path) -> None:
    for chunk in planned:
        state = "finished" if finished(runs, chunk) else "not run"
        networks = f"{len(chunk.masks)} networks"
        print(f"{chunk.name}  {chunk.series:<16}  seed {chunk.seed:<5}  {networks:<14}  {state}")
    done = sum(finished(runs, chunk) for chunk in planned)
    print(f"{done} of {len(planned)} chunks are finished")


if __name__ == "__main__":
    command.run(main)
