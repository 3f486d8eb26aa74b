"""The images of a run."""

import numpy as np
import pytest
from PIL import Image

from mbu_jax.data import open_source
from mbu_jax.errors import InputError
from mbu_jax.train.images import images_of_run
from mbu_jax.train.rundir import RunDirectory


@pytest.mark.parametrize(
    "config",
    [
        {"unet": {}},
        {"dataset": "synthetic", "data_dir": None, "prepared_dir": None},
        {"dataset": "synthetic", "data_dir": None, "prepared_dir": None, "data": []},
    ],
)
def test_a_run_that_does_not_name_its_data_is_told(tmp_path, config):
    RunDirectory(tmp_path / "run").create_or_resume(config)
    with pytest.raises(InputError, match=r"run/config\.json lacks entries .*; restore it or train"):
        images_of_run(tmp_path / "run", "validation", classes=1)


def test_other_data_of_a_run_on_generated_images_need_a_layout(tmp_path):
    config = {"dataset": "synthetic", "data_dir": None, "prepared_dir": None}
    RunDirectory(tmp_path / "run").create_or_resume(config | {"data": {"image_size": None}})
    with pytest.raises(
        InputError, match=r"synthetic .* is generated; .*, as with --dataset folder"
    ):
        images_of_run(tmp_path / "run", "all", classes=1, data_dir=tmp_path)


def test_data_that_have_changed_are_not_the_runs_own(tmp_path):
    def cells(brightness: int) -> None:
        for index in range(4):
            image = np.full((16, 16), brightness + index, np.uint8)
            for folder, picture in (("images", image), ("masks", np.eye(16, dtype=np.uint8))):
                (tmp_path / "cells" / folder).mkdir(parents=True, exist_ok=True)
                Image.fromarray(picture).save(tmp_path / "cells" / folder / f"{index}.png")

    cells(10)
    where = {"data_dir": str(tmp_path / "cells"), "prepared_dir": str(tmp_path / "prepared")}
    source = open_source("folder", "all", **where)
    config = {"dataset": "folder", **where, "data": {"image_size": None}}
    found = {"content": source.facts["content"]}
    RunDirectory(tmp_path / "run").create_or_resume(config | {"found": found})
    assert len(images_of_run(tmp_path / "run", "all", classes=1)) == 4
    cells(20)
    with pytest.raises(InputError, match=r"the data of .*run have changed .*--data-dir as other"):
        images_of_run(tmp_path / "run", "all", classes=1)
    changed = images_of_run(tmp_path / "run", "all", classes=1, data_dir=tmp_path / "cells")
    assert changed[0]["image"].max() == 20
