"""Runs as a study leaves them, without training: numbers by formula, for tables and figures."""

import json
import math
import zlib
from collections.abc import Sequence
from typing import Any

from experiments.study.runs import Run

MACHINE = {
    "device": "cpu",
    "devices": 1,
    "cpu": "A processor",
    "cores": 2,
    "versions": {"jax": "1.2", "flax": "3.4"},
}
SCORES = ("dice", "iou", "f1", "precision", "recall", "pooled_iou")


def dice(run: Run) -> float:
    """A score of the row's own, which grows a little with the seed."""
    place = zlib.crc32(run.row.name.encode()) % 99991
    return round(0.7 + place / 1_000_000 + run.config.seed / 200, 6)


def density(run: Run) -> float:
    options = run.config.model
    return 0.99 if options.network == "binary" else options.density


class Data:
    """Stands in for what `open_images` opens."""

    def __init__(self, content: str | None = None) -> None:
        self.facts = {} if content is None else {"content": content}


def store(run: Run, *, images: str | None = None, **facts: Any) -> None:
    """Leave what a finished run leaves, but for checkpoints and the packed network.

    `images` names those that it saw.
    """
    path = run.directory.path
    path.mkdir(parents=True, exist_ok=True)
    scores = dict.fromkeys(SCORES, dice(run)) | {"iou": dice(run) - 0.1, "f1": dice(run) + 0.02}
    content = {"images": 144, "step": 7, "definitions": {"dice": "2 |A and B| / (|A| + |B|)"}}
    config = {} if images is None else {"found": Data(images).facts}
    run.directory.config.write_text(json.dumps(config))
    run.directory.evaluation.write_text(json.dumps(scores | content))
    known: dict[str, Any] = {"updates": 9, "minutes": 1.5, "machine": MACHINE}
    if run.config.model.network != "full_precision":
        known |= {"density": density(run), "densities": {"stem.conv2": density(run)}}
    run.facts.write_text(json.dumps(known | facts))


def latency(runs: Sequence[Run]) -> dict[str, Any]:
    """Times that grow with density, for whatever can be packed."""
    rows = {}
    for run in runs:
        if {"float32", "int8", "int4", "ttq"} & set(run.config.model.build().precisions):
            continue
        share = 0.5 if density(run) > 0.5 else density(run)
        seconds = 0.01 * (1 + 4 * share) * run.config.model.activation_bits
        rows.setdefault(
            run.row.name,
            {
                "run": run.directory.path.name,
                "engines": ["bitsliced"],
                "nonzero_macs": math.ceil(1e9 * share),
                "bitsliced_macs": math.ceil(1e9 * share),
                "seconds": [seconds] * 3,
                "median": seconds,
            },
        )
    return {"size": 512, "rounds": 3, "machine": MACHINE, "instructions": "SSE9", "rows": rows}
