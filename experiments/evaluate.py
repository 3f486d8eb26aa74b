"""Score a run: python -m experiments.evaluate --run runs/nuclei-mbu."""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import dataclasses
import json
import re
import sys
from pathlib import Path
from typing import Any, Literal

from tqdm import tqdm

from experiments import command
from experiments.packed import compare, packed_logits
from mbu_jax.data import eval_batches
from mbu_jax.errors import InputError
from mbu_jax.saving import load_packed
from mbu_jax.train.checkpoints import Which, load_run
from mbu_jax.train.evaluation import Evaluator
from mbu_jax.train.images import images_of_run
from mbu_jax.train.report import write_report
from mbu_jax.train.rundir import RunDirectory
from mbu_jax.train.step import data_mesh


@dataclasses.dataclass(frozen=True)
class EvaluateConfig:
    """Score a run's network on its own validation images, or on other data."""

    run: Path = Path("runs/synthetic-mbu")
    """Run directory that training left."""

    checkpoint: Which = "best"
    """The checkpoint with the highest validation Dice, or the last one."""

    packed: bool = False
    """Score the packed network (model.safetensors) instead, and compare its masks and the bits of
    every layer with the checkpoint's."""

    data_dir: Path | None = None
    """Other data; by default what the run was trained on."""

    dataset: Literal["nuclei", "carvana", "isic", "folder"] | None = None
    """Layout of --data-dir, folder being images/ and masks/; by default that of the run's own."""

    split: Literal["train", "validation", "all"] = "validation"
    """Which images; all suits data that the run never saw."""

    image_size: tuple[int, int] | None = None
    """Resize images to this height and width; by default as in training."""

    batch_size: int = 8
    """Images at once, over all devices."""

    samples: int = 8
    """Pictures to write, from the worst image to the best; 0 for none."""

    out: Path | None = None
    """JSON file; by default eval.json in the run, or eval-SPLIT-DATA.json there for other data, and
    with -packed for the packed network."""


def main() -> None:
    """Parse the command line, score, print JSON."""
    options = command.parse(EvaluateConfig, {"default": EvaluateConfig()})
    network, params, stats, step = load_run(options.run, options.checkpoint)
    own = options.data_dir is None
    if own and options.dataset is not None:
        raise InputError("--dataset tells the layout of --data-dir; give both, or neither")
    images = images_of_run(
        options.run,
        options.split,
        classes=network.config.classes,
        dataset=options.dataset,
        data_dir=options.data_dir,
        image_size=options.image_size,
    )
    mesh = data_mesh()
    if options.batch_size < 1 or options.batch_size % mesh.size:
        raise InputError(
            f"batch_size is {options.batch_size}; give a multiple of the {mesh.size} devices"
        )
    batches = tqdm(
        eval_batches(images, batch_size=options.batch_size),
        desc="evaluating",
        unit="batch",
        disable=None,  # where standard error is no terminal
    )
    run = RunDirectory(options.run)
    model = network.model(params, stats)
    facts: dict[str, Any] = {"step": step, "split": options.split}
    evaluator = Evaluator(network, mesh)
    if options.packed:
        packed = load_packed(run.model)
        scores = evaluator.score(packed_logits(packed), batches)
        agreement = compare(model, packed, images, options.batch_size)
        print(f"packed network: {agreement}", file=sys.stderr)  # standard output is JSON alone
        facts["packed"] = agreement._asdict()
    else:
        scores = evaluator.scores(params, stats, batches)

    usual = own and options.split == "validation" and not options.packed
    out = options.out or run.path / ("eval.json" if usual else _name(options))
    report = write_report(
        out,
        run.samples if out == run.evaluation else out.with_suffix(""),
        scores,
        images,
        model,
        options.samples,
        data_dir=None if own else str(options.data_dir),
        **facts,
    )
    del report["per_image"]
    print(json.dumps(report, indent=2))


def _name(options: EvaluateConfig) -> str:
    data = "" if options.data_dir is None else f"-{options.data_dir.resolve().stem}"
    packed = "-packed" if options.packed else ""
    return re.sub(r"[^A-Za-z0-9._-]+", "_", f"eval-{options.split}{data}{packed}.json")


if __name__ == "__main__":
    command.run(main)
