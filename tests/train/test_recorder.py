import json
import math
import signal
import subprocess
import sys

import jax.numpy as jnp
import numpy as np
import pytest
from tensorboardX.proto import event_pb2

from mbu_jax.errors import InputError
from mbu_jax.train.recorder import Recorder, read_metrics


def steps(folder) -> list[int]:
    return [line["step"] for line in read_metrics(folder / "metrics.jsonl")]


def filled(folder, last: int) -> None:
    with Recorder(folder, tensorboard=False) as recorder:
        for step in range(1, last + 1):
            recorder.write(step, step / 2, "train", {"loss": 1 / step})


def test_lines_are_json_and_there_at_once(tmp_path):
    with Recorder(tmp_path, tensorboard=False) as recorder:
        recorder.write(10, 0.5, "train", {"loss": np.float32(0.25), "dice": jnp.float32(0.5)})
        recorder.write(20, 1, "layers", {"density/down_c1": 0.1, "changed": 7})
        lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == [
        {"step": 10, "epoch": 0.5, "kind": "train", "loss": 0.25, "dice": 0.5},
        {"step": 20, "epoch": 1, "kind": "layers", "density/down_c1": 0.1, "changed": 7},
    ]
    assert read_metrics(tmp_path / "metrics.jsonl") == [json.loads(line) for line in lines]
    assert not (tmp_path / "tensorboard").exists()


@pytest.mark.parametrize("value", [math.nan, math.inf, jnp.float32(-math.inf)])
def test_only_finite_numbers(tmp_path, value):
    with Recorder(tmp_path, tensorboard=False) as recorder:
        with pytest.raises(ValueError, match=r"loss is .*only finite"):
            recorder.write(1, 0, "train", {"dice": 0.5, "loss": value})
        with pytest.raises(ValueError, match="epoch is nan"):
            recorder.write(1, math.nan, "train", {})
    assert read_metrics(tmp_path / "metrics.jsonl") == []


def test_columns_are_reserved(tmp_path):
    with (
        Recorder(tmp_path, tensorboard=False) as recorder,
        pytest.raises(ValueError, match="'step' names a column"),
    ):
        recorder.write(1, 0, "train", {"step": 2})


def test_resumed_log_has_no_duplicates(tmp_path):
    filled(tmp_path, 5)
    before = (tmp_path / "metrics.jsonl").read_bytes().splitlines(keepends=True)
    with Recorder(tmp_path, tensorboard=False) as recorder:
        recorder.truncate_after(3)
        assert (tmp_path / "metrics.jsonl").read_bytes() == b"".join(before[:3])
        recorder.write(4, 2, "train", {"loss": 0.1})
    assert steps(tmp_path) == [1, 2, 3, 4]
    assert [p.name for p in tmp_path.iterdir()] == ["metrics.jsonl"]


def test_half_written_line_is_dropped(tmp_path):
    filled(tmp_path, 3)
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 4, "epo')
    assert steps(tmp_path) == [1, 2, 3]
    with Recorder(tmp_path, tensorboard=False) as recorder:
        recorder.write(4, 2, "train", {"loss": 0.1})
    assert steps(tmp_path) == [1, 2, 3, 4]


def test_half_written_line_is_dropped_when_truncating(tmp_path):
    filled(tmp_path, 3)
    recorder = Recorder(tmp_path, tensorboard=False)
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 4, "epo')
    recorder.truncate_after(9)
    recorder.close()
    assert steps(tmp_path) == [1, 2, 3]


@pytest.mark.parametrize("damage", ["{", "[]", "{}", "\udcff"])
def test_damage_elsewhere_is_told(tmp_path, damage):
    filled(tmp_path, 1)
    with (tmp_path / "metrics.jsonl").open("a", errors="surrogateescape") as file:
        file.write(damage + "\n")
    content = (tmp_path / "metrics.jsonl").read_bytes()
    with pytest.raises(InputError, match=r"metrics\.jsonl line 2 is damaged"):
        read_metrics(tmp_path / "metrics.jsonl")
    with pytest.raises(InputError, match=r"metrics\.jsonl line 2 is damaged"):
        Recorder(tmp_path, tensorboard=False)
    assert (tmp_path / "metrics.jsonl").read_bytes() == content


def test_missing_log_is_told(tmp_path):
    with pytest.raises(InputError, match=r"metrics\.jsonl cannot be read"):
        read_metrics(tmp_path / "metrics.jsonl")


def test_killed_process_loses_no_finished_line(tmp_path):
    program = (
        "import sys, itertools\n"
        "from mbu_jax.train.recorder import Recorder\n"
        "recorder = Recorder(sys.argv[1], tensorboard=False)\n"
        "for step in itertools.count():\n"
        "    recorder.write(step, 0, 'train', {'loss': 0.5})\n"
        "    if step == 1000: print('ready', flush=True)\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", program, str(tmp_path)], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGKILL)
    process.communicate()
    written = steps(tmp_path)
    assert written == list(range(len(written)))
    assert len(written) > 1000


def test_tensorboard_holds_the_same_values(tmp_path):
    with Recorder(tmp_path, tensorboard=True) as recorder:
        recorder.write(1, 0.1, "train", {"loss": 0.5})
        recorder.write(2, 0.2, "train", {"loss": 0.25})
    assert scalars(tmp_path) == [("train/loss", 1, 0.5), ("train/loss", 2, 0.25)]


def test_tensorboard_purges_what_is_run_again(tmp_path):
    with Recorder(tmp_path, tensorboard=True) as recorder:
        recorder.write(1, 0.1, "train", {"loss": 0.5})
        recorder.truncate_after(0)
        recorder.write(1, 0.1, "train", {"loss": 0.25})
    starts = [e.step for e in events(tmp_path) if e.HasField("session_log")]
    assert starts == [1]


def events(folder):
    found = []
    for file in sorted((folder / "tensorboard").iterdir()):
        content, at = file.read_bytes(), 0
        while at < len(content):  # the record format: length, checksum, data, checksum
            size = int.from_bytes(content[at : at + 8], "little")
            # The classes of a protobuf module exist only once it is imported.
            found.append(vars(event_pb2)["Event"].FromString(content[at + 12 : at + 12 + size]))
            at += size + 16
    return found


def scalars(folder) -> list[tuple[str, int, float]]:
    return [(v.tag, e.step, v.simple_value) for e in events(folder) for v in e.summary.value]
