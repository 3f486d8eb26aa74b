"""That all networks of a study saw the same images."""

from collections.abc import Mapping, Sequence
from typing import Any

from experiments.study.report import finished_runs
from experiments.study.runs import Run
from mbu_jax.errors import InputError
from mbu_jax.train.images import open_images


def check_content(
    runs: Sequence[Run], wanted: Sequence[Run], earlier: Mapping[str, Any] | None
) -> None:
    """Refuse to compare networks of other images, masks or splits.

    Args:
      runs: all of the study's; finished ones tell what they saw.
      wanted: those that are to be carried out; where one is not finished, the data at hand count.
      earlier: the study's results so far, or None.

    Raises:
      InputError: where two differ, or the data cannot be used.
    """
    places: dict[str | None, str] = {}
    for row in earlier["rows"].values() if earlier is not None else ():
        for run in finished_runs(row):
            places.setdefault(run.get("content"), f"the earlier results of {run['run']}")
    for run in runs:
        if run.finished:
            places.setdefault(run.content, str(run.directory.path))
    if unfinished := [run for run in wanted if not run.finished]:
        dataset, _ = open_images(unfinished[0].config, "train")
        places.setdefault(dataset.facts.get("content"), "the data at hand")
    if len(places) > 1:
        one, other, *_ = places.values()
        raise InputError(
            f"{other} and {one} are of other images or another split, and do not compare; choose "
            "another --runs and another --out, or move the old ones away"
        )
