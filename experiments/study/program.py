"""From a study's command line to its results, table and figure."""

import json
from pathlib import Path
from typing import Any

from experiments.command import check_report, make_folder
from experiments.lock import locked
from experiments.study.options import StudyOptions
from experiments.study.report import finished_runs
from experiments.study.rows import Study
from experiments.study.runs import Run, chosen, plan
from experiments.study.scales import Scale, chosen_scale
from experiments.study.tables import table
from mbu_jax.errors import InputError
from mbu_jax.files import write_bytes_atomic, write_json_atomic

RESULTS, TABLE, FIGURE = "results.json", "table.md", "figure.png"


def run_study(study: Study, options: StudyOptions) -> None:
    """Carry out what is not finished, time the packed networks, write the report.

    Several processes may work at one report: each takes in what the others have written by then.

    Args:
      study: the study.
      options: the command line.

    Raises:
      InputError: for options, data or folders that cannot be used.
    """
    scale = chosen_scale(options)
    wanted = chosen(plan(study.rows(scale), scale, options), options.rows)
    if options.dry_run:
        print(_listing(wanted))
        return
    folder = options.out or Path("results", study.name, scale.name)
    make_folder(folder)
    earlier, runs = _known(study, scale, options, folder)
    # Late, because these import JAX's devices, Orbax and more, which a listing can do without.
    from experiments.study.content import check_content
    from experiments.study.execution import carry_out
    from experiments.study.latency import measured
    from experiments.study.report import collect

    check_content(runs, wanted, earlier)
    failed = carry_out(wanted)
    # One at a time from reading to writing, or the last would undo what another has added.
    with locked(folder / RESULTS, wait=True):
        earlier, runs = _known(study, scale, options, folder)
        check_content(runs, (), earlier)
        latency = measured(_first_finished(runs), scale, earlier and earlier["latency"])
        results = collect(study, scale, options, runs, failed, latency, earlier)
        write_json_atomic(folder / RESULTS, results)
        redraw(study, folder)
    print(table(results))
    print(f"{folder / RESULTS} holds everything raw; {TABLE} and {FIGURE} lie beside it")


def redraw(study: Study, folder: Path) -> None:
    """Make the table and the figure from the raw results.

    Args:
      study: the study.
      folder: of its report.

    Raises:
      InputError: where the results are missing or damaged.
    """
    results = _earlier(folder / RESULTS)
    if results is None:
        raise InputError(f"{folder} holds no {RESULTS}; run experiments.{study.name} first")
    write_bytes_atomic(folder / TABLE, table(results).encode())
    study.draw(results, folder / FIGURE)


def _known(
    study: Study, scale: Scale, options: StudyOptions, folder: Path
) -> tuple[dict[str, Any] | None, list[Run]]:
    """The results so far, and all runs that belong to the report."""
    earlier = _earlier(folder / RESULTS)
    if earlier is None:
        check_report(folder, RESULTS, (TABLE, FIGURE))
    else:
        _check_same(earlier, study, scale, folder)
    # The report keeps further seeds that another command trained.
    before = _finished(earlier)
    runs = plan(study.rows(scale), scale, options, {run["seed"] for run in before})
    if unknown := {run["run"] for run in before} - {run.directory.path.name for run in runs}:
        raise InputError(
            f"{folder} holds scores of {min(unknown)}, which was trained with other options than "
            f"experiments.{study.name} has now; choose another --out, or move it away"
        )
    return earlier, runs


def _check_same(earlier: dict[str, Any], study: Study, scale: Scale, folder: Path) -> None:
    """Refuse to replace the report of something else."""
    ours = {"study": study.name, "scale": scale.name, "dataset": scale.config.dataset}
    theirs = {name: earlier.get(name) for name in ours}
    if theirs != ours:
        raise InputError(
            f"{folder} holds results of {' '.join(map(str, theirs.values()))}, not of "
            f"{' '.join(ours.values())}; choose another --out"
        )


def _finished(earlier: dict[str, Any] | None) -> list[dict[str, Any]]:
    rows = {} if earlier is None else earlier["rows"]
    return [run for row in rows.values() for run in finished_runs(row)]


def _first_finished(runs: list[Run]) -> dict[str, Run]:
    found: dict[str, Run] = {}
    for run in runs:
        if run.finished:
            found.setdefault(run.row.name, run)
    return found


def _listing(runs: list[Run]) -> str:
    states = [run.progress() for run in runs]
    width = max(len(run.row.name) for run in runs)
    lines = [
        f"{run.row.name:<{width}}  seed {run.config.seed}  {state:<22}  {run.directory.path}"
        for run, state in zip(runs, states, strict=True)
    ]
    # Rows may share a run.
    paths = {
        run.directory.path: state == "finished" for run, state in zip(runs, states, strict=True)
    }
    return "\n".join([*lines, f"{sum(paths.values())} of {len(paths)} runs are finished"])


def _earlier(path: Path) -> dict[str, Any] | None:
    """The results that lie there."""
    try:
        results = json.loads(path.read_text(encoding="utf-8"))
        results["latency"], results["definitions"], results["validation_images"]
        _ = [(run["seed"], run["run"]) for run in _finished(results)]
    except FileNotFoundError:
        return None
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise InputError(
            f"{path} holds no results of a study ({error}); move it away, or choose another --out"
        ) from error
    return results
