import asyncio
import contextlib
import errno
import json
import os
import resource
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from orbax.checkpoint import future

from experiments import command
from mbu_jax.errors import InputError
from mbu_jax.train.checkpoints import Checkpoints, load_run
from mbu_jax.train.rundir import RunDirectory
from mbu_jax.train.state import Network, TrainState
from mbu_jax.train.step import data_mesh, replicate
from mbu_jax.unet import UNetConfig

POSITION = {"batches": {"next_batch": 3}, "progress": {"updates": 3, "sums": {"loss": 1 / 3}}}
CONFIG = UNetConfig.preset("binary", width=4)


@pytest.fixture(scope="module")
def network() -> Network:
    return Network.build(CONFIG)


def numbers(tree, seed):
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda x: rng.normal(size=x.shape).astype(np.float32), tree)


def state(network: Network, step: int, averaged: bool = True) -> TrainState:
    params = numbers(network.params, step)
    moments = optax.ScaleByAdamState(
        count=jnp.int32(step), mu=numbers(params, step + 100), nu=numbers(params, step + 200)
    )
    ema = numbers(params, step + 300) if averaged else None
    stats = numbers(network.initial_stats, step + 400)
    return TrainState(jnp.int32(step), params, stats, (optax.EmptyState(), moments), ema)


def assert_same(a, b) -> None:
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_array_equal(x, y)
        assert x.dtype == y.dtype


def steps(folder: Path) -> list[int]:
    return sorted(int(path.name) for path in folder.iterdir())


@pytest.mark.parametrize("averaged", [True, False])
def test_what_is_saved_comes_back(tmp_path, network, averaged):
    saved = state(network, 3, averaged)
    mesh = data_mesh()
    with Checkpoints(tmp_path / "c") as checkpoints:
        assert checkpoints.last is checkpoints.best is None
        checkpoints.save(replicate(saved, mesh), POSITION)
    with Checkpoints(tmp_path / "c") as checkpoints:
        assert checkpoints.last == checkpoints.best == 3
        like = replicate(jax.tree.map(np.zeros_like, saved), mesh)
        loaded, position = checkpoints.load(3, like)
    assert_same(loaded, saved)
    assert position == POSITION
    for leaf in jax.tree.leaves(loaded):
        assert len(leaf.sharding.device_set) == 2


def test_the_last_ones_and_the_best_are_kept(tmp_path):
    def tiny(step):
        return TrainState(jnp.int32(step), {"w": jnp.full(3, step, jnp.float32)}, {}, (), None)

    with Checkpoints(tmp_path, keep_last=2) as checkpoints:
        scores = [0.5, None, 0.9, None, 0.7, 0.8, None]
        best = [1, 1, 3, 3, 3, 3, 3]
        kept = [[1], [1, 2], [2, 3], [3, 4], [3, 4, 5], [3, 5, 6], [3, 6, 7]]
        for step, (dice, expected, left) in enumerate(zip(scores, best, kept, strict=True), 1):
            checkpoints.save(tiny(step), POSITION, dice)
            assert (checkpoints.last, checkpoints.best) == (step, expected)
            # The best of those with a score; one without may go before.
            assert steps(tmp_path) == left
    with Checkpoints(tmp_path, keep_last=2) as checkpoints:
        assert (checkpoints.last, checkpoints.best) == (7, 3)


@pytest.mark.parametrize("averaged", [True, False])
def test_the_average_is_what_a_run_is_evaluated_with(tmp_path, network, averaged):
    run = RunDirectory(tmp_path / "run")
    run.create_or_resume({"unet": CONFIG.to_dict()})
    with Checkpoints(run.checkpoints) as checkpoints:
        for step, dice in ((1, 0.9), (2, 0.4)):
            checkpoints.save(state(network, step, averaged), POSITION, dice)
    for which, step in (("best", 1), ("last", 2)):
        loaded, params, stats, found = load_run(run.path, which)
        saved = state(network, step, averaged)
        assert found == step
        assert loaded.config == CONFIG
        assert_same(params, saved.ema if averaged else saved.params)
        assert_same(stats, saved.stats)


def test_statistics_between_two_scores_are_of_the_weights_as_trained(tmp_path, network):
    run = RunDirectory(tmp_path / "run")
    run.create_or_resume({"unet": CONFIG.to_dict()})
    with Checkpoints(run.checkpoints) as checkpoints:
        checkpoints.save(state(network, 1), POSITION, 0.9)
        checkpoints.save(state(network, 2), POSITION)
    _, params, stats, _ = load_run(run.path, "last")
    assert_same(params, state(network, 2).params)
    assert_same(stats, state(network, 2).stats)
    _, params, _, _ = load_run(run.path, "best")
    assert_same(params, state(network, 1).ema)


@pytest.fixture
def run(tmp_path, network) -> RunDirectory:
    run = RunDirectory(tmp_path / "run")
    run.create_or_resume({"unet": CONFIG.to_dict()})
    with Checkpoints(run.checkpoints) as checkpoints:
        checkpoints.save(state(network, 5), POSITION, 0.5)
    return run


def shorten(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def data_files(checkpoint: Path) -> list[Path]:
    """Where the arrays are."""
    return [path for path in (checkpoint / "state").rglob("d/*") if path.is_file()]


DAMAGES = {
    "array data shortened": lambda c: [shorten(path) for path in data_files(c)],
    "array data lost": lambda c: [path.unlink() for path in data_files(c)],
    "tree shortened": lambda c: shorten(c / "state" / "_METADATA"),
    "tree lost": lambda c: (c / "state" / "_METADATA").unlink(),
    "state lost": lambda c: shutil.rmtree(c / "state"),
    "index shortened": lambda c: shorten(c / "state" / "manifest.ocdbt"),
    "index lost": lambda c: (c / "state" / "manifest.ocdbt").unlink(),
}


def elsewhere(function: str, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """Call a function of this file in a process of its own, whose output tells what a user sees."""
    program = f"import sys; from {__name__} import {function}; {function}(*sys.argv[1:])"
    folders = [str(Path(__file__).parents[2]), *sys.path]
    return subprocess.run(
        [sys.executable, "-c", program, *map(str, arguments)],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(folders)},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def report_damages(folder: str) -> None:
    """Print what reading a checkpoint says, after each of the damages."""
    saved = state(Network.build(CONFIG), 5)
    for number, damage in enumerate(DAMAGES.values()):
        run = RunDirectory(Path(folder, str(number)))
        run.create_or_resume({"unet": CONFIG.to_dict()})
        with Checkpoints(run.checkpoints) as checkpoints:
            checkpoints.save(saved, POSITION, 0.5)
            damage(run.checkpoints / "5")
            for read in (
                lambda run=run: load_run(run.path),
                lambda checkpoints=checkpoints: checkpoints.load(5, replicate(saved, data_mesh())),
            ):
                try:
                    read()
                    said = "nothing"
                except InputError as error:
                    said = str(error)
                print(json.dumps(said))


def test_a_damaged_checkpoint_is_named(tmp_path):
    result = elsewhere("report_damages", tmp_path)
    assert result.returncode == 0, result.stderr
    said = [json.loads(line) for line in result.stdout.splitlines()]
    assert len(said) == 2 * len(DAMAGES)
    for index, message in enumerate(said):
        checkpoint = tmp_path / str(index // 2) / "checkpoints" / "5"
        assert message.startswith(f"checkpoint {checkpoint} cannot be read ("), message
        assert "remove that folder" in message
        assert "\n" not in message


def test_a_lost_position_is_told(run, network):
    (run.checkpoints / "5" / "_CHECKPOINT_METADATA").write_text("{}")
    with Checkpoints(run.checkpoints) as checkpoints, pytest.raises(InputError) as caught:
        checkpoints.load(5, replicate(state(network, 0), data_mesh()))
    assert str(run.checkpoints / "5") in str(caught.value)


def test_a_checkpoint_of_another_network_is_refused(run):
    config = json.loads(run.config.read_text())
    config["unet"]["width"] = 8
    run.config.write_text(json.dumps(config))
    with pytest.raises(InputError, match="belongs to another network"):
        load_run(run.path)


def test_folders_that_are_no_run_are_refused(tmp_path):
    with pytest.raises(InputError, match="absent does not exist"):
        load_run(tmp_path / "absent")
    run = RunDirectory(tmp_path / "run")
    run.create_or_resume({"unet": CONFIG.to_dict()})
    with pytest.raises(InputError, match="holds no checkpoint yet"):
        load_run(run.path)
    run.checkpoints.mkdir()
    with pytest.raises(InputError, match="holds no checkpoint yet"):
        load_run(run.path)
    run.config.write_text("{}")
    with pytest.raises(InputError, match="no entry 'unet'"):
        load_run(run.path)


def test_an_unfinished_checkpoint_does_not_count(run):
    unfinished = run.checkpoints / "9.orbax-checkpoint-tmp"
    shutil.copytree(run.checkpoints / "5", unfinished)
    assert load_run(run.path, "last")[-1] == 5
    assert unfinished.exists()  # a run may be writing it
    with Checkpoints(run.checkpoints) as checkpoints:
        assert steps(run.checkpoints) == [5]
        assert (checkpoints.last, checkpoints.best) == (5, 5)


def save_beyond_the_limit(run: str) -> None:
    """A command that may not write large files, which the system tells as it does a full disk."""

    def main() -> None:
        network = Network.build(CONFIG)
        with Checkpoints(RunDirectory(run).checkpoints) as checkpoints:
            _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
            resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, hard))
            checkpoints.save(state(network, 6), POSITION, 0.9)

    command.run(main)


def test_a_refused_write_leaves_the_earlier_checkpoint(run, network):
    result = elsewhere("save_beyond_the_limit", run.path)
    assert (result.returncode, result.stdout) == (2, "")
    refused = f"error: checkpoint {run.checkpoints / '6'} cannot be written (File too large)"
    assert result.stderr.startswith(refused)
    assert result.stderr.count("\n") == 1
    assert steps(run.checkpoints) == [5]
    _, params, _, step = load_run(run.path)
    assert step == 5
    assert_same(params, state(network, 5).ema)


def test_what_is_written_after_a_failure_is_removed_too(run):
    unfinished = run.checkpoints / "6.orbax-checkpoint-tmp" / "d"
    began, end = threading.Event(), time.monotonic() + 0.5

    def abandoned() -> None:
        while time.monotonic() < end:
            with contextlib.suppress(OSError):
                unfinished.mkdir(parents=True, exist_ok=True)
                (unfinished / "array").write_bytes(b"half")
            began.set()

    work = threading.Thread(target=abandoned)
    with Checkpoints(run.checkpoints):
        work.start()
        began.wait()
    work.join()
    assert steps(run.checkpoints) == [5]


# What work that nobody waits for fails with: the first two are the file system's.
LATE = [ValueError("OUT_OF_RANGE: Failed to write 9 bytes"), OSError("full"), ValueError("a bug")]


def test_only_futures_that_orbax_abandons_go_unreported(run, caplog):
    load_run(run.path)
    loop = asyncio.new_event_loop()
    for error in LATE:
        loop.create_future().set_exception(error)
    loop.close()
    unread = [r.exc_info for r in caplog.records if "never retrieved" in r.getMessage()]
    assert [str(error) for _, error, _ in unread] == ["a bug"]


def test_only_threads_that_orbax_abandons_go_unreported(run, caplog):
    async def fail(error: Exception) -> None:
        raise error

    load_run(run.path)
    with caplog.at_level("ERROR", "absl"):
        for error in LATE:
            with pytest.raises(type(error)):
                future.CommitFutureAwaitingContractedSignals(fail(error)).result()
    assert [str(record.exc_info[1]) for record in caplog.records] == ["a bug"]


# As TensorStore words it on a file system without space.
NO_SPACE = (
    'RESOURCE_EXHAUSTED: Failed writing: "/runs/a/checkpoints/6.orbax-checkpoint-tmp/d/f79b":'
    " Failed to write 31730 bytes to file 9: No space left on device [os_error_code='28']"
)
# The same while an array is still being opened.
NO_SPACE_TO_OPEN = (
    'RESOURCE_EXHAUSTED: Error opening "zarr3" driver: Error writing "ema.stem.bias/zarr.json" in'
    ' OCDBT database at local file "/runs/a/checkpoints/6.orbax-checkpoint-tmp/": Failed to write'
    " 819 bytes to file 13: No space left on device"
    ' [tensorstore_spec=\'{"create":true,"driver":"zarr3"}\'] [os_error_code=\'28\']'
)


@pytest.mark.parametrize(
    "error",
    [
        ValueError(NO_SPACE),
        ValueError(NO_SPACE_TO_OPEN),
        OSError(errno.ENOSPC, "No space left on device", "6"),
    ],
)
def test_a_full_disk_is_told(run, network, error, monkeypatch):
    with Checkpoints(run.checkpoints) as checkpoints:

        def fail(*_, **__):
            raise error

        monkeypatch.setattr(checkpoints._checkpointer, "save", fail)
        with pytest.raises(InputError, match=r"written \(No space left on device\); "):
            checkpoints.save(state(network, 6), POSITION)


def test_a_fault_of_the_program_is_not_hidden(run, network, monkeypatch):
    with Checkpoints(run.checkpoints) as checkpoints:

        def fail(*_, **__):
            raise ValueError("a bug: not the disk")

        monkeypatch.setattr(checkpoints._checkpointer, "save", fail)
        with pytest.raises(ValueError, match="a bug") as caught:
            checkpoints.save(state(network, 6), POSITION)
        assert not isinstance(caught.value, InputError)
