import json
import sys
from pathlib import Path

import pytest

from experiments import command, summary
from mbu_jax.saving import save_packed
from mbu_jax.unet import UNetConfig
from tests.random_packed import random_packed


@pytest.fixture
def run_folder(tmp_path: Path) -> Path:
    save_packed(tmp_path / "model.safetensors", random_packed(UNetConfig(width=4)))
    return tmp_path


def test_a_table_or_json_of_a_run_or_its_file(run_folder, monkeypatch, capsys):
    printed = []
    for options in (
        [run_folder],
        [run_folder / "model.safetensors"],
        [run_folder, "--json", "--image-size", "20", "40"],
        [run_folder, "--json", "--platform", "cuda", "--compute-capability", "120"],
    ):
        monkeypatch.setattr(sys, "argv", ["summary", "--model", *map(str, options)])
        command.run(summary.main)
        printed.append(capsys.readouterr().out)
    assert printed[0] == printed[1]
    assert "up_ct4.conv" in printed[0]
    assert "512x512" in printed[0]
    assert json.loads(printed[2])["image_size"] == [20, 40]
    assert json.loads(printed[3])["prediction"]["device"] == "GeForce RTX 5090"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--model", "absent"], "absent cannot be read"),
        (["--implementation", "magic"], "magic"),
        (["--compute-capability", "12"], "begin at 75"),
    ],
)
def test_bad_options_are_one_line(run_folder, arguments, said, monkeypatch, capsys):
    monkeypatch.chdir(run_folder)
    monkeypatch.setattr(sys, "argv", ["summary", "--model", ".", *arguments])
    with pytest.raises(SystemExit) as stop:
        command.run(summary.main)
    assert stop.value.code == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert said in printed.err
    assert printed.err.count("\n") == 1
