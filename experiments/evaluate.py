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
from experiments.model_file import model_file
from experiments.packed import compare, packed_logits
from mbu_jax.data import eval_batches
from mbu_jax.data.pipeline import check_size
from mbu_jax.errors import InputError
from mbu_jax.saving import load_packed
from mbu_jax.train.checkpoints import Which, load_run
from mbu_jax.train.evaluation import Evaluator
from mbu_jax.train.images import images_of_run
from mbu_jax.train.report import write_report
from mbu_jax.train.rundir import RunDirectory, read_config
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
    every layer with those of the best checkpoint, which it was made from."""

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
    """JSON file; the pictures go beside it, of NAME.json to NAME-samples. By default eval.json and
    samples in the run, and for all but the best checkpoint's scores on the run's own validation
    images eval-SPLIT.json there, with -DATA, -last, -HxW and -packed where they apply."""

    overwrite: bool = False
    """Replace a JSON file that exists, and earlier pictures of the same images. The run's own
    eval.json and samples are replaced always: their scores come out the same again."""

    def __post_init__(self) -> None:
        """Check what options say together, and their ranges.

        Raises:
          InputError: naming the option.
        """
        if self.data_dir is None and self.dataset is not None:
            raise InputError("--dataset tells the layout of --data-dir; give both, or neither")
        if self.packed and self.checkpoint != "best":
            raise InputError(
                "--packed scores the network packed from the best checkpoint; leave out "
                f"--checkpoint {self.checkpoint}"
            )
        if self.samples < 0:
            raise InputError(f"samples is {self.samples}; give a number of at least 0")
        check_size("image_size", self.image_size)


def main() -> None:
    """Parse the command line, score, print JSON."""
    options = command.parse(EvaluateConfig, {"default": EvaluateConfig()})
    out, pictures = destination(options)
    packed = load_packed(model_file(options.run)) if options.packed else None
    network, params, stats, step = load_run(options.run, options.checkpoint)
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
        eval_batches(images, batch_size=options.batch_size, multiple=mesh.size),
        desc="evaluating",
        unit="batch",
        disable=None,  # where standard error is no terminal
    )
    model = network.model(params, stats)
    facts: dict[str, Any] = {"step": step, "split": options.split}
    evaluator = Evaluator(network, mesh)
    if packed is not None:
        scores = evaluator.score(packed_logits(packed), batches)
        agreement = compare(model, packed, images, options.batch_size)
        print(f"packed network: {agreement}", file=sys.stderr)  # standard output is JSON alone
        facts["packed"] = agreement._asdict()
    else:
        scores = evaluator.scores(params, stats, batches)

    report = write_report(
        out,
        pictures,
        scores,
        images,
        model,
        options.samples,
        data_dir=None if options.data_dir is None else str(options.data_dir),
        **facts,
    )
    del report["per_image"]
    print(json.dumps(report, indent=2))


def destination(options: EvaluateConfig) -> tuple[Path, Path]:
    """Choose where scores and pictures go, and refuse before the work where they cannot.

    Args:
      options: of the command.

    Returns:
      The JSON file, and the folder of pictures.

    Raises:
      InputError: for a folder that is no run, and files that cannot be written or would replace
        others unasked.
    """
    read_config(options.run)  # of what is no run nothing else need be said
    run, name = RunDirectory(options.run), _name(options)
    own = options.out is None and name == run.evaluation.name
    out = options.out or run.path / name
    pictures = run.samples if own else out.with_name(f"{out.stem}-samples")
    command.check_file(out, overwrite=own or options.overwrite)
    if options.samples:
        _check_pictures(pictures, overwrite=own or options.overwrite)
    return out, pictures


def _check_pictures(folder: Path, *, overwrite: bool) -> None:
    try:
        full = any(folder.iterdir())
    except FileNotFoundError:
        return
    except OSError as error:
        raise InputError(
            f"{folder} cannot hold the pictures ({error.strerror}); choose another --out, or give "
            "--samples 0"
        ) from error
    if full and not overwrite:
        raise InputError(
            f"{folder}, for the pictures, is not empty; choose another --out, or allow --overwrite"
        )
    command.make_folder(folder)  # which is there, but may be read-only


def _name(options: EvaluateConfig) -> str:
    """Of the JSON file in the run: one for every choice of what is scored."""
    parts = []
    if options.data_dir is not None:
        parts.append(options.data_dir.resolve().stem)
    if options.checkpoint == "last":
        parts.append("last")
    if options.image_size is not None:
        parts.append("{}x{}".format(*options.image_size))
    if options.packed:
        parts.append("packed")
    if options.split == "validation" and not parts:
        return "eval.json"
    return re.sub(r"[^A-Za-z0-9._-]+", "_", "-".join(["eval", options.split, *parts]) + ".json")


if __name__ == "__main__":
    command.run(main)
