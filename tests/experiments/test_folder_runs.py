"""Every command on a user's own folder: images of several sizes and kinds, one class or several."""

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from PIL import Image

from experiments import command, evaluate, predict
from mbu_jax.data.synthetic.generator import generate_example
from mbu_jax.errors import InputError
from mbu_jax.train.config import PRESETS, TrainConfig
from mbu_jax.train.loop import Trainer
from tests.experiments.processes import TINY, finish, start


def draw(root: Path, count: int, *, classes: int) -> Path:
    """A folder of cells; their class is the parity of their number, or one for all."""
    seed = int(np.random.default_rng().integers(2**31))
    for folder in ("images", "masks"):
        (root / folder).mkdir(parents=True)
    for index in range(count):
        size = (48, 64) if index % 2 else (64, 56)
        example = generate_example("train", index, seed=seed, image_size=size)
        mask = example["mask"] * (1 + example["instances"] % 2 if classes > 1 else 255)
        mask[0, :3] = (0, 1, 2) if classes > 1 else (0, 255, 255)  # whatever was drawn
        ending = "tif" if index % 2 else "png"
        Image.fromarray(example["image"]).save(root / "images" / f"{index}.{ending}")
        Image.fromarray(mask.astype(np.uint8)).save(root / "masks" / f"{index}.png")
    return root


def data(root: Path, cells: Path) -> tuple[str, ...]:
    where = ("--data-dir", cells, "--prepared-dir", root / "prepared", "--workdir", root / "run")
    return (*TINY, "--dataset", "folder", *map(str, where))


type Program = Callable[..., str]


@pytest.fixture
def program(monkeypatch, capsys) -> Program:
    """Runs a command in this process and gives what it prints."""

    def run(module: ModuleType, *arguments: str | Path) -> str:
        monkeypatch.setattr(sys, "argv", ["program", *map(str, arguments)])
        capsys.readouterr()
        module.main()
        return capsys.readouterr().out

    return run


def test_a_folder_is_trained_on_scored_and_segmented(tmp_path, program):
    draw(tmp_path / "cells" / "train", 12, classes=1)
    draw(tmp_path / "cells" / "validation", 4, classes=1)
    printed = finish(start("train", *data(tmp_path, tmp_path / "cells")))
    assert printed.startswith(
        "12 images to train on and 4 for validation, split by folders; masks of objects of one"
        " class\n"
    )
    run = tmp_path / "run"
    assert [row["id"] for row in json.loads((run / "eval.json").read_text())["per_image"]] == [
        f"validation/{index}" for index in range(4)
    ]
    assert len(list((run / "samples").iterdir())) == 3

    scores = json.loads(program(evaluate, "--run", run, "--split", "all", "--samples", "0"))
    assert scores["images"] == 16
    images = tmp_path / "cells" / "validation" / "images"
    done = program(predict, "--model", run, images, "--out", tmp_path / "out")
    assert done.startswith("4 segmented;")
    for image in images.iterdir():
        mask = np.asarray(Image.open(tmp_path / "out" / f"{image.stem}.mask.png"))
        assert mask.shape == np.asarray(Image.open(image)).shape[:2]

    draw(tmp_path / "classes", 2, classes=3)
    said = r"masks/\d\.png has the value 2, but the network's masks hold 0 and 1, or 0 and 255;"
    with pytest.raises(InputError, match=said):
        program(evaluate, "--run", run, "--data-dir", tmp_path / "classes", "--split", "all")
    with pytest.raises(InputError, match="give both, or neither"):
        program(evaluate, "--run", run, "--dataset", "folder")


def test_classes_are_found_and_a_run_keeps_to_its_data(tmp_path, capsys):
    def trainer(cells: Path) -> Trainer:
        arguments = [*data(tmp_path, cells), "--train-images", "2", "--epochs", "8"]
        return Trainer(command.parse(TrainConfig, PRESETS, arguments, prog="train"))

    cells = draw(tmp_path / "cells", 8, classes=3)
    first = trainer(cells)
    assert first.network.config.classes == 3
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    found = config["found"]
    assert found["classes"] == config["unet"]["classes"] == 3
    assert sum(found["images"].values()) == 8
    assert (
        "{train} images to train on and {validation} for validation, split by names; masks of"
        " classes 0 to 2\n".format(**found["images"])
    ) in capsys.readouterr().out

    moved = Path(shutil.copytree(cells, tmp_path / "moved"))
    assert trainer(moved).run.path == tmp_path / "run"
    mask = np.asarray(Image.open(moved / "masks" / "0.png")).copy()
    mask[0, 0] = 2 - mask[0, 0]
    Image.fromarray(mask).save(moved / "masks" / "0.png")
    with pytest.raises(InputError, match=r"holds a run with other options: found\.content is"):
        trainer(moved)
    (moved / "masks" / "0.png").unlink()
    with pytest.raises(InputError, match=r"images/0\.png has no mask masks/0\.\*; add the mask"):
        trainer(moved)
