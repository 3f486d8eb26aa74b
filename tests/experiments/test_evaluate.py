"""The evaluation command: a run's own scores again, other data, the packed network."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import mbu_jax.data.nuclei as nuclei
from mbu_jax.inference import pack
from mbu_jax.saving import load_packed
from mbu_jax.train.checkpoints import load_run
from tests.experiments.processes import TIMEOUT, TINY, finish, start

DUMMY = Path(nuclei.__file__).parent / "dummy_data"


def evaluate(run: Path, *options: str | Path) -> dict[str, Any]:
    """What the command prints, which is JSON and nothing else."""
    printed = json.loads(finish(start("evaluate", "--run", run, "--samples", "2", *options)))
    assert "averaged over images" in printed["definitions"]["dice"]
    return printed


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
    assert len(list((tmp_path / "packed").iterdir())) == 2


def test_the_file_holds_the_best_checkpoint(finished_run: Path) -> None:
    network, params, stats, _ = load_run(finished_run, "best")
    expected = pack(network.model(params, stats))
    packed = load_packed(finished_run / "model.safetensors")
    assert packed.config == expected.config
    for name, layer in expected.convs.items():
        np.testing.assert_array_equal(packed.convs[name].positive, layer.positive, err_msg=name)
        np.testing.assert_array_equal(packed.convs[name].theta, layer.theta, err_msg=name)


def test_the_last_checkpoint(finished_run: Path, tmp_path: Path) -> None:
    printed = evaluate(finished_run, "--checkpoint", "last", "--out", tmp_path / "last.json")
    lines = (finished_run / "metrics.jsonl").read_text().splitlines()
    last = [x for x in map(json.loads, lines) if x["kind"] == "validation"][-1]
    assert printed["step"] == last["step"] == 6
    assert printed["dice"] == pytest.approx(last["dice"], abs=1e-9)


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
    assert len(list((run / "eval-all-other").iterdir())) == 2
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
