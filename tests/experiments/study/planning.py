"""What the tests of studies share: their commands, and the runs that they plan."""

import importlib
from typing import Any

from experiments import bits, density, levels, pareto, recipe, table1
from experiments.study.options import StudyOptions
from experiments.study.rows import Study
from experiments.study.runs import Run, plan
from experiments.study.scales import chosen_scale
from mbu_jax.architecture import LAYER_NAMES

COMMANDS = {
    "table1": table1,
    "recipe": recipe,
    "bits": bits,
    "levels": levels,
    "density": density,
    "pareto": pareto,
}
NAMES = list(COMMANDS)


def study_of(name: str) -> Study:
    return importlib.import_module(f"experiments.{name}").STUDY


def planned(name: str, **options: Any) -> list[Run]:
    chosen_options = StudyOptions(**options)
    scale = chosen_scale(chosen_options)
    return plan(study_of(name).rows(scale), scale, chosen_options)


def masked_layers(run: Run) -> set[str]:
    precisions = run.config.model.build().precisions
    return {n for n, p in zip(LAYER_NAMES, precisions, strict=True) if p == "masked"}
