"""A real run, shared by the tests of the commands."""

from pathlib import Path

import pytest

from tests.experiments.processes import TINY, finish, start


@pytest.fixture(scope="session")
def finished_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on one device that nothing interrupted; beside it, in ``printed``, its output."""
    workdir = tmp_path_factory.mktemp("finished") / "run"
    printed = finish(start("train", *TINY, "--workdir", workdir))
    (workdir.parent / "printed").write_text(printed)
    return workdir
