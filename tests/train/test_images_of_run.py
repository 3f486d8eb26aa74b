"""The images of a run."""

import pytest

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
