"""A study's results: everything raw as JSON, from which the table and the figure are made."""

import itertools
import json
import statistics
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from experiments.study import paper
from experiments.study.options import StudyOptions
from experiments.study.rows import BINARY, Study
from experiments.study.runs import Run, described, differences
from experiments.study.scales import Scale
from experiments.timing import machine, median_ratio
from mbu_jax.errors import InputError
from mbu_jax.train.metrics import SCORES


def collect(
    study: Study,
    scale: Scale,
    options: StudyOptions,
    runs: Sequence[Run],
    failed: Mapping[str, str],
    latency: Any,
    earlier: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Bring together what is known of a study's runs.

    Args:
      study: the study.
      scale: its size.
      options: the command line.
      runs: all of the study's, finished or not.
      failed: by name of its directory, why a run could not be finished.
      latency: what `experiments.study.latency.measured` gave, or None.
      earlier: what this gave before, or None; of runs that are not finished here, because their
        directories are gone, scores are kept, even where training them again has failed.

    Returns:
      The content of ``results.json``.
    """
    base = described(scale.config)
    rows: dict[str, dict[str, Any]] = {}
    definitions: dict[str, str] = {}
    images = None
    kept: dict[str, dict[str, Any]] = {}
    if earlier is not None:
        definitions, images = earlier["definitions"], earlier["validation_images"]
        before = earlier["rows"].values()
        kept = {run["run"]: run for row in before for run in finished_runs(row)}
    for run in runs:
        row = run.row
        found = rows.setdefault(
            row.name,
            {
                "label": row.label,
                "series": row.series,
                "x": row.x,
                "start": row.start,
                "paper": paper.scores(scale.config.dataset, row.paper),
                "runs": [],
            },
        )
        entry: dict[str, Any] = {
            "seed": run.config.seed,
            "run": run.directory.path.name,
            "options": differences(described(run.config), base),
        }
        if run.finished:
            scored, facts = _read(run.directory.evaluation), _read(run.facts)
            definitions, images = scored["definitions"], scored["images"]
            entry["scores"] = {name: scored[name] for name in SCORES}
            entry |= {"best_update": scored["step"], "content": run.content, **facts}
        elif entry["run"] in kept:  # first, since a run that fails now takes no scores away
            entry = kept[entry["run"]] | entry
        elif entry["run"] in failed:
            entry["failed"] = failed[entry["run"]]
        else:
            entry["not_run"] = run.progress()
        found["runs"].append(entry)
    return {
        "study": study.name,
        "title": study.title,
        "scale": scale.name,
        "dataset": scale.config.dataset,
        "validation_images": images,
        "commands": _commands(study, options, rows),
        "machine": machine(),
        "definitions": definitions,
        "remarks": [*scale.remarks, *study.remarks],
        "options": base,
        "rows": rows,
        "latency": latency,
    }


def finished_runs(row: Mapping[str, Any]) -> list[dict[str, Any]]:
    """List the runs of a row that have scores.

    Args:
      row: of ``results.json``.

    Returns:
      Its finished runs.
    """
    return [run for run in row["runs"] if "scores" in run]


def spread(values: Sequence[float]) -> tuple[float, float | None]:
    """Average over seeds.

    Args:
      values: one a seed, at least one.

    Returns:
      Their mean, and their standard deviation (of a sample), None for one value.

    Example:
      >>> spread([0.5, 0.75, 1.0])
      (0.75, 0.25)
    """
    deviation = statistics.stdev(values) if len(values) > 1 else None
    return statistics.fmean(values), deviation


def shared_seeds(rows: Iterable[Mapping[str, Any]]) -> set[int]:
    """Find the seeds over which rows compare.

    Args:
      rows: of ``results.json``.

    Returns:
      Those that every row has finished.
    """
    found = [{run["seed"] for run in finished_runs(row)} for row in rows]
    return set.intersection(*found) if found else set()


def reference_row(results: Mapping[str, Any], name: str) -> str | None:
    """Choose the row that a row's score is compared with.

    Args:
      results: of a study.
      name: of the row.

    Returns:
      The name of the binary network; in a study without one that of the row with the unchanged
      recipe in the row's series, or None where there is none.
    """
    rows = results["rows"]
    if BINARY.name in rows:
        return BINARY.name
    series = rows[name]["series"]
    starts = (other for other in rows if other.startswith("start_"))
    return next((other for other in starts if rows[other]["series"] == series), None)


def score_differences(results: Mapping[str, Any], name: str, score: str) -> list[float]:
    """Compare a row's score with its reference's, seed by seed.

    Args:
      results: of a study.
      name: of the row.
      score: its name.

    Returns:
      The differences of the seeds that both have finished; none without a reference.
    """
    reference = reference_row(results, name)
    if reference is None:
        return []
    ours, theirs = (
        {run["seed"]: run["scores"][score] for run in finished_runs(results["rows"][row])}
        for row in (name, reference)
    )
    return [ours[seed] - theirs[seed] for seed in sorted(ours.keys() & theirs.keys())]


def milliseconds(results: Mapping[str, Any], name: str) -> float | None:
    """Look up how long a row's packed network takes for an image.

    Args:
      results: of a study.
      name: of the row.

    Returns:
      The median in milliseconds, or None where it was not measured.
    """
    row = ((results["latency"] or {}).get("rows") or {}).get(name)
    return None if row is None else 1000 * row["median"]


def relative_time(results: Mapping[str, Any], name: str) -> float | None:
    """Compare a row's time for an image with that of the row that stands for all.

    Args:
      results: of a study.
      name: of the row.

    Returns:
      The median over rounds of its time over the other's in the same round, which a machine that
      changes its speed leaves alone; None where it was not measured.
    """
    rows = (results["latency"] or {}).get("rows") or {}
    if name not in rows:
        return None
    reference = rows[compared_row(results)]["seconds"]
    return median_ratio(rows[name]["seconds"], reference)


def compared_row(results: Mapping[str, Any]) -> str:
    """Choose the row that others' times are compared with.

    Args:
      results: of a study, some of whose rows are timed.

    Returns:
      The binary network's name where it is timed, else the first one's.
    """
    timed = results["latency"]["rows"]
    return BINARY.name if BINARY.name in timed else next(iter(timed))


def timed_seeds(results: Mapping[str, Any]) -> str:
    """Say of which seeds the packed networks are that were timed, the first ones at hand then.

    Args:
      results: of a study, some of whose rows are timed.

    Returns:
      Such as ``seed 0``.
    """
    rows = results["rows"]
    timed = {(name, row["run"]) for name, row in results["latency"]["rows"].items()}
    seeds = {
        run["seed"] for name in rows for run in rows[name]["runs"] if (name, run["run"]) in timed
    }
    return named_seeds(seeds)


def named_seeds(seeds: Collection[int]) -> str:
    """Name seeds in a few words.

    Args:
      seeds: in any order, at least one.

    Returns:
      Such as ``seed 0``, ``seeds 0, 3`` or ``seeds 0 to 5``.
    """
    first, last = min(seeds), max(seeds)
    if len(seeds) > 2 and last - first == len(seeds) - 1:
        return f"seeds {first} to {last}"
    return f"seed{'s' * (len(seeds) > 1)} {', '.join(map(str, sorted(seeds)))}"


def _read(path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(
            f"{path} cannot be read ({error}); remove that run's directory to train it again"
        ) from error


def _commands(
    study: Study, options: StudyOptions, rows: Mapping[str, Mapping[str, Any]]
) -> list[str]:
    """How to get these results, of which some seeds may have fewer rows than others.

    Where the data lie is another's matter.
    """
    start = f"python -m experiments.{study.name} --scale {options.scale}"
    end = ""
    if options.dataset is not None:
        start += f" --dataset {options.dataset}"
    if options.rounds is not None:
        end += f" --rounds {options.rounds}"
    if options.data_dir is not None:
        end += " --data-dir DIR"
    seeds = sorted({run["seed"] for row in rows.values() for run in finished_runs(row)})
    of_seed = {
        seed: [name for name, row in rows.items() if seed in shared_seeds([row])] for seed in seeds
    }
    commands = []
    # Neighbouring seeds of the same rows are one command.
    for (_, chosen_rows), group in itertools.groupby(
        seeds, key=lambda seed: (seed - seeds.index(seed), of_seed[seed])
    ):
        first, *further = group
        begun = f" --first-seed {first}" * (first > 0)
        named = "" if len(chosen_rows) == len(rows) else f" --rows {' '.join(chosen_rows)}"
        commands.append(f"{start} --seeds {1 + len(further)}{begun}{end}{named}")
    return commands
