"""What all processes of a sweep agree on, kept beside its chunks."""

import dataclasses
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from experiments.command import make_folder
from experiments.lock import locked
from experiments.sweep.options import Sweep, SweepOptions
from experiments.sweep.plan import described
from mbu_jax.errors import InputError
from mbu_jax.files import to_json, write_json_atomic
from mbu_jax.train.config import ADDED_LATER

_NAME = "sweep.json"
# May differ from process to process: they do not change what is trained.
_FREE = ("data_dir", "prepared_dir", "checkpoint_steps")
_LONGEST_WAIT = 3600.0  # seconds: process 0 may have a dataset to prepare


def claim(runs: Path, sweep: Sweep, options: SweepOptions, largest: Callable[[], int]) -> int:
    """Begin a sweep in a folder, or join the one that is there, or go on with more series.

    Args:
      runs: the folder of chunks.
      sweep: what is to be trained.
      options: the command line; only process 0 begins, others wait until it has.
      largest: gives the number of networks of a chunk, for a sweep that begins.

    Returns:
      The number of networks of a chunk, for all processes.

    Raises:
      InputError: if the folder holds another sweep, or process 0 does not begin.
    """
    file = runs / _NAME
    make_folder(runs)
    if not file.exists() and options.process_index == 0:
        members = options.chunk_members or largest()
        with locked(file) as first:  # of several machines that begin, whose memory may differ
            if first and not file.exists():
                write_json_atomic(file, _asked(sweep) | {"chunk_members": members})
    _wait(file)
    members = agreed(runs, sweep, options)
    assert members is not None, "the file is there"
    with locked(file) as ours:
        if ours and (saved := _read(file)) and _goes_on(saved["series"], _asked(sweep)["series"]):
            write_json_atomic(file, _asked(sweep) | {"chunk_members": members})
    return members


def agreed(runs: Path, sweep: Sweep, options: SweepOptions) -> int | None:
    """Compare the sweep that is in a folder, if there is one, with what is asked for.

    More series than the folder's are no other sweep, if they begin with those: more orders of
    layers, or more seeds. Chunks never hold parts of two series, so those that are there stay.

    Args:
      runs: the folder of chunks.
      sweep: what is to be trained.
      options: the command line.

    Returns:
      The number of networks of a chunk; None where no sweep has begun.

    Raises:
      InputError: if the folder holds another sweep, or a damaged file.
    """
    saved = _read(runs / _NAME)
    if saved is None:
        return None
    members = saved.get("chunk_members")
    asked = _asked(sweep) | {"chunk_members": options.chunk_members or members}
    different = _different(saved, asked)
    if different or not isinstance(members, int):
        raise InputError(
            f"{runs} holds another sweep, with other {', '.join(different) or 'chunks'}; choose "
            "another --out, or give the same options to go on with that one"
        )
    return members


def check_results(file: Path, sweep: Sweep) -> None:
    """Refuse to replace the report of another sweep, whose chunks may lie elsewhere or be gone.

    Args:
      file: ``results.json``, if there is one.
      sweep: what is to be reported; it may have more series than the report.

    Raises:
      InputError: for the results of something else, or a damaged file.

    Example:
      >>> from experiments.sweep.options import chosen_sweep
      >>> check_results(Path("moon", "results.json"), chosen_sweep(SweepOptions()))
    """
    remedy = "choose another --out, or move it away"
    saved = _read(file, remedy)
    if saved is None:
        return
    recipe = saved.get("recipe")
    held = recipe if isinstance(recipe, dict) else {}
    held = held | {"initial": saved.get("starts_from"), "series": saved.get("series")}
    if different := _different(held, _asked(sweep)):
        raise InputError(
            f"{file} is of something else, with other {', '.join(different)}; {remedy}"
        )


def _different(saved: dict[str, Any], asked: dict[str, Any]) -> list[str]:
    """Names of what is asked for and not there; further series are no difference."""
    different = [name for name in asked if asked[name] != saved.get(name, ADDED_LATER.get(name))]
    if "series" in different and _goes_on(saved.get("series"), asked["series"]):
        different.remove("series")
    return different


def _goes_on(saved: Any, asked: list[Any]) -> bool:
    """Whether the series asked for are those that are there and more."""
    return isinstance(saved, list) and len(saved) < len(asked) and asked[: len(saved)] == saved


def _asked(sweep: Sweep) -> dict[str, Any]:
    recipe = {k: v for k, v in dataclasses.asdict(sweep.recipe).items() if k not in _FREE}
    if sweep.recipe.initial is not None:
        recipe["initial"] = sweep.recipe.initial.name  # elsewhere on another machine
    return json.loads(to_json(recipe | {"series": [described(one) for one in sweep.series]}))


def _read(file: Path, remedy: str | None = None) -> dict[str, Any] | None:
    remedy = remedy or f"restore it, or remove {file.parent}"
    try:
        saved = json.loads(file.read_text("utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise InputError(f"{file} is damaged ({error}); {remedy}") from error
    if not isinstance(saved, dict):
        raise InputError(f"{file} is damaged; {remedy}")
    return saved


def _wait(file: Path) -> None:
    deadline = time.monotonic() + _LONGEST_WAIT
    while not file.exists():
        if time.monotonic() > deadline:
            raise InputError(f"process 0 has not made {file}; start it with --process-index 0")
        time.sleep(1)
