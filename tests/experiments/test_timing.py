"""How samples are compared, and how reports name machines."""

from typing import Any

import pytest

from experiments.study import report
from experiments.study.tables import table as study_table
from experiments.timing import machine_text, median_ratio
from tests.experiments.study.stored import MACHINE


def test_ratios_need_samples_of_the_same_rounds() -> None:
    with pytest.raises(ValueError, match="zip"):
        median_ratio([1.0, 2.0], [1.0])


def test_times_of_studies_are_compared_round_by_round() -> None:
    rows = {"binary": {"seconds": [1.0, 4.0, 2.0]}, "mbu": {"seconds": [2.0, 2.0, 6.0]}}
    assert report.relative_time({"latency": {"rows": rows}}, "mbu") == 2  # of 2, 0.5 and 3


def test_a_machine_is_named_with_the_number_of_its_accelerators() -> None:
    assert machine_text(MACHINE) == "A processor, 2 cores (jax 1.2, flax 3.4)"
    about = MACHINE | {"device": "NVIDIA H100", "devices": 4}
    name = "4 NVIDIA H100, A processor, 2 cores (jax 1.2, flax 3.4)"
    assert machine_text(about) == name
    run: dict[str, Any] = {"seed": 0, "machine": about, "minutes": 1.0}
    run["scores"] = dict.fromkeys(("dice", "iou", "f1"), 0.5)
    row = {"label": "binary", "runs": [run], "paper": None}
    results: dict[str, Any] = {"title": "T", "commands": [], "rows": {"binary": row}}
    results |= {"latency": None, "validation_images": None, "remarks": [], "definitions": {}}
    assert f"Trained on {name}." in study_table(results)
