"""The evaluation command: a run's own scores again, other data, the packed network."""

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import mbu_jax.data.nuclei as nuclei
from experiments import command
from experiments import evaluate as program
from experiments.evaluate import EvaluateConfig
from mbu_jax.errors import InputError
from mbu_jax.inference import pack
from mbu_jax.saving import load_packed, save_packed
from mbu_jax.train.checkpoints import load_run
from mbu_jax.train.rundir import RunDirectory
from mbu_jax.unet import UNetConfig
from tests.experiments.processes import TIMEOUT, TINY, finish, start
from tests.random_packed import random_packed

DEFAULT = {"default": EvaluateConfig()}
DUMMY = Path(nuclei.__file__).parent / "dummy_data"


def evaluate(run: Path, *options: str | Path) -> dict[str, Any]:
    """What the command prints, which is JSON and nothing else."""
    printed = json.loads(finish(start("evaluate", "--run", run, "--samples", "2", *options)))
    assert "averaged over images" in printed["definitions"]["dice"]
    return printed


class _Begun(Exception):
    """The command goes to work."""


@pytest.fixture
def begun(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[Path, Path]]:
    """Reads options for a run in an empty folder; gives where scores and pictures would go."""

    def stop(*arguments: object) -> None:
        raise _Begun

    def read(*options: str) -> tuple[Path, Path]:
        argv = ["--run", "run", *options]
        monkeypatch.setattr(sys, "argv", ["evaluate", *argv])
        with pytest.raises(_Begun):
            program.main()
        return program.destination(command.parse(EvaluateConfig, DEFAULT, argv))

    monkeypatch.chdir(tmp_path)
    RunDirectory("run").create_or_resume({})
    save_packed(RunDirectory("run").model, random_packed(UNetConfig(width=2)))
    monkeypatch.setattr(program, "load_run", stop)
    return read


def test_the_packed_network_scores_as_its_checkpoint(finished_run: Path, tmp_path: Path) -> None:
    out = tmp_path / "packed.json"
    options = ("--samples", "2", "--packed", "--batch-size", "16", "--out", out)
    process = start("evaluate", "--run", finished_run, *options)
    stdout, stderr = process.communicate(timeout=TIMEOUT)
    assert process.returncode == 0, stderr
    printed = json.loads(stdout)
    assert printed["packed"] == {
        "images": 64,
        "pixels": 64 * 32 * 32,
        "different_pixels": 0,
        "activation_bits": 64 * 4 * (5 * 32**2 + 8 * 16**2 + 16 * 8**2 + 32 * 4**2 + 16 * 2**2),
        "different_activation_bits": 0,
        "different_layers": {},
    }
    assert "packed network: its masks are the model's on every pixel of 64 images" in stderr
    written, trained = (
        json.loads(out.read_text()),
        json.loads((finished_run / "eval.json").read_text()),
    )
    assert written["per_image"] == trained["per_image"]
    assert {name: printed[name] for name in trained if name != "per_image"} == {
        name: value for name, value in trained.items() if name != "per_image"
    }
    assert len(list((tmp_path / "packed-samples").iterdir())) == 2


def test_the_file_holds_the_best_checkpoint(finished_run: Path) -> None:
    network, params, stats, _ = load_run(finished_run, "best")
    expected = pack(network.model(params, stats))
    packed = load_packed(finished_run / "model.safetensors")
    assert packed.config == expected.config
    assert packed.image_size == (32, 32)  # as the run scaled its images
    for name, layer in expected.convs.items():
        np.testing.assert_array_equal(packed.convs[name].positive, layer.positive, err_msg=name)
        np.testing.assert_array_equal(packed.convs[name].theta, layer.theta, err_msg=name)


def files(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_the_last_checkpoint_leaves_the_scores_of_the_best(
    finished_run: Path, tmp_path: Path
) -> None:
    run = Path(shutil.copytree(finished_run, tmp_path / "run"))
    before = files(run)
    printed = evaluate(run, "--checkpoint", "last", "--image-size", "32", "48")
    lines = (run / "metrics.jsonl").read_text().splitlines()
    last = [x for x in map(json.loads, lines) if x["kind"] == "validation"][-1]
    assert printed["step"] == last["step"] == 6
    after = files(run)
    assert {path: after[path] for path in before} == before
    new = sorted(str(path.relative_to(run)) for path in after.keys() - before.keys())
    assert new[-1] == "eval-validation-last-32x48.json"
    assert [name.partition("/")[0] for name in new[:-1]] == 2 * [
        "eval-validation-last-32x48-samples"
    ]


def test_files_beside_the_scores_stay(finished_run: Path, tmp_path: Path) -> None:
    mine = tmp_path / "scans" / "01-cell.png"
    mine.parent.mkdir()
    mine.write_bytes(b"mine")
    out = tmp_path / "scans.json"
    printed = evaluate(finished_run, "--checkpoint", "last", "--out", out)
    lines = (finished_run / "metrics.jsonl").read_text().splitlines()
    last = [x for x in map(json.loads, lines) if x["kind"] == "validation"][-1]
    assert printed["dice"] == pytest.approx(last["dice"], abs=1e-9)
    assert files(mine.parent) == {mine: b"mine"}
    assert len(list((tmp_path / "scans-samples").iterdir())) == 2


@pytest.mark.parametrize(
    ("options", "name"),
    [
        ((), "eval.json"),
        (("--split", "all"), "eval-all.json"),
        (("--checkpoint", "last"), "eval-validation-last.json"),
        (("--image-size", "128", "96"), "eval-validation-128x96.json"),
        (("--packed",), "eval-validation-packed.json"),
        (
            ("--data-dir", "my cells", "--split", "train", "--packed", "--image-size", "8", "8"),
            "eval-train-my_cells-8x8-packed.json",
        ),
    ],
)
def test_only_the_usual_scores_are_the_runs_own(options: tuple[str, ...], name: str, begun) -> None:
    """And only those are replaced without asking."""
    out, pictures = Path("run", name), Path("run", name.removesuffix(".json") + "-samples")
    if not options:
        pictures = Path("run/samples")
    pictures.mkdir()
    assert begun(*options) == (out, pictures)
    for path in (out, pictures / "00-a.png"):
        path.write_bytes(b"")
        if not options:
            assert begun() == (out, pictures)
            continue
        with pytest.raises(InputError, match=r"choose another --out, or allow --overwrite$"):
            begun(*options)
        assert begun(*options, "--overwrite") == (out, pictures)
        out.unlink(missing_ok=True)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ("--run absent", "absent does not exist"),
        ("--out no/such/x.json", "no/such is no folder; create it"),
        ("--out mine.json", "mine.json exists; choose another --out, or allow --overwrite"),
        ("--out scans", "scans is a folder"),
        ("--out taken.json", "taken-samples, for the pictures, is not empty"),
        ("--out file.json --overwrite", r"file-samples cannot hold the pictures \(Not a dir.*\)"),
        (f"--out {'x' * 300}", r"x cannot be written \(File name too long\)"),
        (f"--out {'x' * 250}", r"x-samples cannot hold the pictures \(File name too long\)"),
        ("--samples -1", "samples is -1"),
        ("--image-size 0 5", "image_size is 0 5; give a height and width of 1 to 16384"),
        ("--image-size 5 200000", "image_size is 5 200000; give a height and width of 1 to 16384"),
        ("--packed --checkpoint last", "leave out --checkpoint last"),
        ("--dataset folder", "give both, or neither"),
    ],
)
def test_what_cannot_be_is_told_before_the_work(options: str, said: str, begun) -> None:
    Path("mine.json").write_bytes(b"mine")
    Path("file-samples").write_bytes(b"mine")
    for folder in ("scans", "taken-samples"):
        Path(folder).mkdir()
        Path(folder, "01-cell.png").write_bytes(b"mine")
    before = files(Path())
    with pytest.raises(InputError, match=said) as caught:
        begun(*options.split())
    assert "\n" not in str(caught.value)
    assert files(Path()) == before
    begun("--out", "notes")
    begun("--out", "taken.json", "--samples", "0")


def test_a_packed_network_that_is_not_there_is_told_before_the_work(begun) -> None:
    RunDirectory("run").model.unlink()
    begun()
    said = r"^run has no model\.safetensors yet; finish its training: the same command goes on$"
    with pytest.raises(InputError, match=said):
        begun("--packed")
    RunDirectory("run").model.write_bytes(b"")
    with pytest.raises(InputError, match=r"^run/model\.safetensors is damaged"):
        begun("--packed")


def test_other_data_of_the_same_layout(tmp_path: Path) -> None:
    run = tmp_path / "run"
    finish(
        start(
            "train",
            *(*TINY, "--dataset", "nuclei", "--data-dir", DUMMY, "--train-images", "2"),
            *(
                "--batch-size",
                "2",
                "--warmup-steps",
                "1",
                "--prepared-dir",
                tmp_path / "prepared",
                "--workdir",
                run,
            ),
        )
    )
    own = (run / "eval.json").read_bytes()
    other = tmp_path / "other"
    chosen = sorted((DUMMY / "stage1_train").iterdir())[1:3]
    for folder in chosen:
        shutil.copytree(folder, other / "stage1_train" / folder.name)

    printed = evaluate(run, "--data-dir", other, "--split", "all")
    assert (printed["images"], printed["split"], printed["data_dir"]) == (2, "all", str(other))
    written = json.loads((run / "eval-all-other.json").read_text())
    assert [row["id"] for row in written["per_image"]] == [folder.name for folder in chosen]
    assert len(list((run / "eval-all-other-samples").iterdir())) == 2
    assert (run / "eval.json").read_bytes() == own


def test_a_run_without_a_packed_network(finished_run: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(finished_run, copy)
    (copy / "model.safetensors").unlink()
    process = start("evaluate", "--run", copy, "--packed")
    _, err = process.communicate(timeout=TIMEOUT)
    assert process.returncode == 2
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert "model.safetensors" in err
