import json
from pathlib import Path

import pytest

from mbu_jax.errors import InputError
from mbu_jax.train.rundir import RunDirectory, read_config

CONFIG = {"epochs": 3, "data": {"dataset": "nuclei", "workers": 2, "scale": (0.5, 2.0)}}


def snapshot(folder: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in folder.iterdir() if p.is_file()}


def test_new_run_then_resume(tmp_path):
    run = RunDirectory(tmp_path / "deep" / "run")
    assert run.create_or_resume(CONFIG) is False
    assert read_config(run.path) == json.loads(json.dumps(CONFIG))
    before = snapshot(run.path)
    assert RunDirectory(run.path).create_or_resume(CONFIG) is True
    assert snapshot(run.path) == before


def test_names_of_the_files(tmp_path):
    run = RunDirectory(str(tmp_path))
    names = [
        (run.config, "config.json"),
        (run.metrics, "metrics.jsonl"),
        (run.checkpoints, "checkpoints"),
        (run.evaluation, "eval.json"),
        (run.samples, "samples"),
        (run.curves, "curves.png"),
    ]
    assert all(path == tmp_path / name for path, name in names)


def test_empty_directory_becomes_a_run(tmp_path):
    assert RunDirectory(tmp_path).create_or_resume(CONFIG) is False
    assert (tmp_path / "config.json").exists()


def test_other_options_are_refused_by_name(tmp_path):
    RunDirectory(tmp_path).create_or_resume(CONFIG)
    before = snapshot(tmp_path)
    other = {"epochs": 3, "data": {"dataset": "isic", "workers": 2, "scale": (0.5, 1.0)}}
    with pytest.raises(InputError) as caught:
        RunDirectory(tmp_path).create_or_resume(other)
    message = str(caught.value)
    assert 'data.dataset is "nuclei" there and "isic" here' in message
    assert "data.scale is [0.5, 2.0] there and [0.5, 1.0] here" in message
    assert "another --workdir" in message
    assert "workers" not in message
    assert "\n" not in message
    assert snapshot(tmp_path) == before


def test_only_the_first_differences_are_told(tmp_path):
    RunDirectory(tmp_path).create_or_resume({f"o{i}": i for i in range(6)})
    with pytest.raises(InputError, match="o2 is 2 there and absent here; and 3 more"):
        RunDirectory(tmp_path).create_or_resume({})


@pytest.mark.parametrize("ignore", ["data.workers", "data"])
def test_ignored_options_may_differ_and_the_newest_is_kept(tmp_path, ignore):
    RunDirectory(tmp_path).create_or_resume(CONFIG)
    other = {"epochs": 3, "data": {**CONFIG["data"], "workers": 0}}
    assert RunDirectory(tmp_path).create_or_resume(other, frozenset({ignore})) is True
    assert read_config(tmp_path)["data"]["workers"] == 0
    with pytest.raises(InputError, match="epochs"):
        RunDirectory(tmp_path).create_or_resume({**other, "epochs": 4}, frozenset({ignore}))


def test_a_run_made_before_an_option_is_resumed_with_what_it_did(tmp_path):
    RunDirectory(tmp_path).create_or_resume(CONFIG)
    added = {"data.cost": "paper"}
    new = {**CONFIG, "data": {**CONFIG["data"], "cost": "paper"}}
    other = {**CONFIG, "data": {**CONFIG["data"], "cost": "nonzeros"}}
    before = snapshot(tmp_path)
    with pytest.raises(InputError, match=r'data.cost is "paper" there and "nonzeros" here'):
        RunDirectory(tmp_path).create_or_resume(other, added=added)
    with pytest.raises(InputError, match=r'data.cost is absent there and "paper" here'):
        RunDirectory(tmp_path).create_or_resume(new)
    assert snapshot(tmp_path) == before
    assert RunDirectory(tmp_path).create_or_resume(new, added=added) is True
    assert read_config(tmp_path)["data"]["cost"] == "paper"
    with pytest.raises(InputError, match=r'data.cost is "paper" there and "nonzeros" here'):
        RunDirectory(tmp_path).create_or_resume(other, added={"data.cost": "nonzeros"})


def test_ignoring_a_name_ignores_no_longer_name(tmp_path):
    RunDirectory(tmp_path).create_or_resume({"epochs_more": 1})
    with pytest.raises(InputError, match="epochs_more"):
        RunDirectory(tmp_path).create_or_resume({"epochs_more": 2}, frozenset({"epochs"}))


def test_files_of_the_user_are_left_alone(tmp_path):
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(InputError, match=r"not empty and holds no run \(it has thesis.txt"):
        RunDirectory(tmp_path).create_or_resume(CONFIG)
    assert snapshot(tmp_path) == {"thesis.txt": b"years of work"}


def test_remains_of_a_killed_start_are_no_obstacle(tmp_path):
    (tmp_path / ".writing-abc.tmp").write_bytes(b'{"epo')
    assert RunDirectory(tmp_path).create_or_resume(CONFIG) is False


def test_a_file_is_no_directory(tmp_path):
    (tmp_path / "file").write_text("x")
    for path in ("file", "file/run"):
        with pytest.raises(InputError, match="cannot be used as a directory"):
            RunDirectory(tmp_path / path).create_or_resume(CONFIG)


@pytest.mark.parametrize("content", [b"", b"{", b"[1]", b"\xff\xfe"])
def test_damaged_config_is_told(tmp_path, content):
    (tmp_path / "config.json").write_bytes(content)
    with pytest.raises(InputError, match=r"config\.json (is damaged|cannot be read)"):
        read_config(tmp_path)
    with pytest.raises(InputError, match=r"config\.json"):
        RunDirectory(tmp_path).create_or_resume(CONFIG)
    assert snapshot(tmp_path) == {"config.json": content}


def test_missing_config_is_told(tmp_path):
    with pytest.raises(InputError, match=r"has no config\.json"):
        read_config(tmp_path)
    with pytest.raises(InputError, match="does not exist"):
        read_config(tmp_path / "nowhere")
