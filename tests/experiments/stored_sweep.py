"""Chunks of a sweep as training leaves them, without training: numbers by formula, and noise."""

import json
from pathlib import Path
from typing import Any

import numpy as np

from experiments.sweep.costs import quantized_convolutions
from experiments.sweep.options import Sweep
from experiments.sweep.plan import Chunk, Mask, number_of
from mbu_jax.architecture import LAYER_NAMES
from mbu_jax.train.metrics import SCORES
from tests.experiments.study.stored import MACHINE

WORTH = np.linspace(-0.02, 0.09, 12)  # of each layer's masking, in an additive game
NOISE = 0.01


def dice(mask: Mask, seed: int) -> float:
    noise = np.random.default_rng((seed, number_of(mask))).normal(0, NOISE)
    return float(0.4 + WORTH[list(mask)].sum() + noise)


def store(runs: Path, sweep: Sweep, chunk: Chunk, **origin: str) -> None:
    """Write a chunk's file."""
    runs.mkdir(parents=True, exist_ok=True)
    head: dict[str, Any] = {"chunk": chunk.index, "series": chunk.series, "seed": chunk.seed}
    head |= {"training_seconds": 1.5, "evaluation_seconds": 0.5, "updates": 9, "machine": MACHINE}
    head |= {"content": None, "start": None} | origin
    lines: list[dict[str, Any]] = [head]
    for mask in chunk.masks:
        masked = [name for name, m in zip(LAYER_NAMES, mask, strict=True) if m]
        score = dice(mask, chunk.seed)
        share = np.random.default_rng((chunk.seed, number_of(mask), 1)).uniform(0.6, 0.9)
        zeros = {
            name: int(share * conv.weights) if layer in (*masked, "stem") else 0
            for name, (layer, conv) in quantized_convolutions(sweep.recipe.model.width).items()
        }
        scores = dict.fromkeys(SCORES, score) | {"iou": score - 0.1}
        curves = dict.fromkeys(("loss", "dice", "grad_norm", "weight_norm"), 0.5)
        lines.append({"masked": masked, "scores": scores, "last_epoch": curves, "zeros": zeros})
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (runs / f"{chunk.name}.jsonl").write_text(text)
