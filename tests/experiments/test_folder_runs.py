"""Every command on a user's own folder: three classes, images of several sizes and kinds."""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mbu_jax.data.synthetic.generator import generate_example
from tests.experiments.processes import TIMEOUT, finish, start

TINY = (
    *("--crop", "32", "32", "--width", "4", "--samples", "2", "--epochs", "2"),
    *("--batch-size", "4", "--eval-batch-size", "4", "--warmup-steps", "2"),
)


def draw(root: Path, names: str, classes: int) -> Path:
    """A folder of cells; their class is the parity of their number, or one for all."""
    seed = int(np.random.default_rng().integers(2**31))
    for folder in ("images", "masks"):
        (root / folder).mkdir(parents=True)
    for index, name in enumerate(names):
        size = (48, 64) if index % 2 else (64, 56)
        example = generate_example("train", index, seed=seed, image_size=size)
        mask = example["mask"] * (1 + example["instances"] % 2 if classes > 1 else 255)
        Image.fromarray(example["image"]).save(
            root / "images" / f"{name}.{'tif' if index % 2 else 'png'}"
        )
        Image.fromarray(mask.astype(np.uint8)).save(root / "masks" / f"{name}.png")
    return root


def fail(program: str, *options: str | Path) -> str:
    process = start(program, *options)
    _, err = process.communicate(timeout=TIMEOUT)
    assert process.returncode == 2, err
    return err.splitlines()[-1]


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with ``cells`` and a run on them in ``run``; what was printed is in ``printed``."""
    root = tmp_path_factory.mktemp("own")
    cells = draw(root / "cells", "abcdefgh", classes=3)
    (root / "printed").write_text(finish(start("train", *data(root, cells))))
    return root


def data(root: Path, cells: Path) -> tuple[str | Path, ...]:
    where = ("--data-dir", cells, "--prepared-dir", root / "prepared", "--workdir", root / "run")
    return ("--dataset", "folder", *where, *TINY)


def test_classes_are_found_and_kept(own):
    config = json.loads((own / "run" / "config.json").read_text())
    found = config["found"]
    assert found["classes"] == config["unet"]["classes"] == 3
    assert sum(found["images"].values()) == 8
    assert found["split_by"] == "names"
    images = found["images"]
    assert (
        f"{images['train']} images to train on and {images['validation']} for validation, split by"
        " names; masks of classes 0 to 2\n"
    ) in (own / "printed").read_text()
    assert (
        len(json.loads((own / "run" / "eval.json").read_text())["per_image"])
        == (images["validation"])
    )
    assert (own / "run" / "samples").is_dir()


def test_the_run_is_scored_and_segments(own):
    scores = json.loads(finish(start("evaluate", "--run", own / "run", "--split", "all")))
    assert scores["images"] == 8
    line = finish(
        start("predict", "--model", own / "run", own / "cells" / "images", "--out", own / "out")
    )
    assert line.startswith("8 segmented;")
    for image in (own / "cells" / "images").iterdir():
        mask = np.asarray(Image.open(own / "out" / f"{image.stem}.mask.png"))
        assert mask.shape == np.asarray(Image.open(image)).shape[:2]
        assert mask.max() <= 2


def test_other_data_must_fit_the_network(own):
    objects = draw(own / "objects", "xy", classes=1)
    others = ("--data-dir", objects, "--split", "all")
    said = fail("evaluate", "--run", own / "run", *others)
    assert re.search(
        r"masks/[xy]\.png has the value 255, but the network's masks hold 0 to 2;", said
    )
    assert "give both, or neither" in fail("evaluate", "--run", own / "run", "--dataset", "folder")


def test_a_finished_run_is_resumed_with_the_same_data_alone(own):
    moved = Path(shutil.copytree(own / "cells", own / "moved"))
    again = data(own, moved)
    before = (own / "run" / "metrics.jsonl").read_bytes()
    assert "resuming" in finish(start("train", *again))
    assert (own / "run" / "metrics.jsonl").read_bytes() == before
    mask = np.asarray(Image.open(moved / "masks" / "a.png")).copy()
    mask[0, 0] = 2 - mask[0, 0]
    Image.fromarray(mask).save(moved / "masks" / "a.png")
    said = fail("train", *again)
    assert "holds a run with other options: found.content is" in said
    (moved / "masks" / "a.png").unlink()
    assert "images/a.png has no mask masks/a.*; add the mask" in fail("train", *again)
