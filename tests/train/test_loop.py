"""The loop around the update; the update itself is replaced, so that nothing is compiled."""

import contextlib
import dataclasses
import io
import json
import socket
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from experiments import command, train
from mbu_jax.data import train_batches
from mbu_jax.data.pipeline import PipelineOptions, resize
from mbu_jax.errors import InputError
from mbu_jax.train import loop
from mbu_jax.train.checkpoints import load_run
from mbu_jax.train.config import ModelOptions
from mbu_jax.train.loop import Trainer, TrainingDiverged
from mbu_jax.train.recorder import read_metrics
from mbu_jax.train.subset import FirstImages
from tests.train.stand_ins import DATA, Evaluator, Interrupted, Small, digest, saved, tiny

ARGUMENTS = [
    "--train-images",
    "10",
    "--epochs",
    "2",
    "--batch-size",
    "4",
    "--eval-every",
    "1",
    "--samples",
    "0",
    "--width",
    "4",
    "--image-size",
    "32",
    "32",
    "--crop",
    "32",
    "32",
    "--warmup-steps",
    "0",
    "--recalibrate",
    "0",
]


def run_command(monkeypatch: pytest.MonkeyPatch, *arguments: str | Path) -> int | str | None:
    monkeypatch.setattr(sys, "argv", ["train", *map(str, arguments)])
    try:
        command.run(train.main)
    except SystemExit as stop:
        return stop.code
    return 0


def test_epochs_are_logged_and_saved(tmp_path, updates, capsys):
    scores = Trainer(tiny(tmp_path / "run")).fit()
    # Ten images in batches of four: the third batch begins the second epoch.
    records = read_metrics(tmp_path / "run" / "metrics.jsonl")
    train_lines = [record for record in records if record["kind"] == "train"]
    assert [(line["step"], line["epoch"]) for line in train_lines] == [(3, 1), (5, 2)]
    first, second = (
        np.float32(1 / np.arange(a, b)).mean(dtype=np.float64) for a, b in ((1, 4), (4, 6))
    )
    assert losses(tmp_path / "run") == pytest.approx({3: first, 5: second})
    layers = [record for record in records if record["kind"] == "layers"]
    assert {line["sign_flip_rate/a"] for line in layers} == {0.25}
    assert all("density/down_c1.conv1" in line for line in layers)
    assert saved(tmp_path / "run") == [3, 5]
    assert scores["dice"] == pytest.approx(2 * 5 / (2 * 5 + 2))

    out, err = capsys.readouterr()
    assert err == ""  # no bars where nobody looks
    lines = out.splitlines()
    assert len(lines) == 2
    assert lines[0].startswith(f"epoch 1/2  loss {first:.4f}  Dice 0.5000  validation Dice 0.7500")


def test_bars_show_loss_dice_and_speed(tmp_path, updates, monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setattr(loop, "tqdm", lambda *a, **k: TQDM(*a, **k | {"mininterval": 0}))
    Trainer(tiny(tmp_path / "run")).fit()
    shown = terminal.getvalue()
    for text in (
        "epoch 1/2",
        "12/12",
        "img/s",
        "loss=0.333",
        "loss=1.000",
        "dice=0.500",
        "validation",
    ):
        assert text in shown


TQDM = loop.tqdm


def read_ahead(sources: dict[str, Small], count: int) -> list[dict[str, np.ndarray]]:
    """The first batches of a run, straight from the pipeline."""
    images = FirstImages(sources["train"], 10)
    batches = train_batches(images, DATA, batch_size=4, seed=0)
    first = [next(batches) for _ in range(count)]
    batches.close()
    return first


@pytest.mark.parametrize("stop_at", [1, 3, 4])
def test_an_interrupted_run_sees_the_same_batches(tmp_path, updates, sources, stop_at):
    config = tiny(tmp_path / "run", checkpoint_steps=1)
    updates.stop_at = stop_at
    with pytest.raises(Interrupted):
        Trainer(config).fit()
    assert len(updates.batches) == stop_at - 1
    updates.stop_at = None
    Trainer(config).fit()
    assert updates.batches == [digest(batch["image"]) for batch in read_ahead(sources, 5)]
    assert len(set(updates.batches)) == 5
    assert losses(tmp_path / "run") == pytest.approx({3: (1 + 1 / 2 + 1 / 3) / 3, 5: 9 / 40})


def test_training_further_shows_other_batches(tmp_path, updates):
    """The first run's would be the same crops over again."""
    Trainer(tiny(tmp_path / "first")).fit()
    first = list(updates.batches)
    Trainer(tiny(tmp_path / "further", initial=tmp_path / "first")).fit()
    further = updates.batches[len(first) :]
    assert len(set(first)) == len(set(further)) == 5
    assert not set(first) & set(further)
    updates.batches.clear()
    Trainer(tiny(tmp_path / "again", initial=tmp_path / "first")).fit()
    assert updates.batches == further


def losses(run: Path) -> dict[int, float]:
    records = read_metrics(run / "metrics.jsonl")
    return {record["step"]: record["loss"] for record in records if record["kind"] == "train"}


def test_speed_is_counted_since_the_run_was_resumed(tmp_path, updates, monkeypatch):
    config = tiny(tmp_path / "run", checkpoint_steps=1)
    updates.stop_at = 3
    with pytest.raises(Interrupted):
        Trainer(config).fit()
    updates.stop_at = None
    trainer = Trainer(config)
    clock = iter(range(0, 1000, 8))
    monkeypatch.setattr(loop, "time", SimpleNamespace(perf_counter=lambda: next(clock)))
    trainer.fit()
    records = read_metrics(tmp_path / "run" / "metrics.jsonl")
    speeds = [record["images_per_second"] for record in records if record["kind"] == "train"]
    assert speeds == [1 * 4 / 8, 2 * 4 / 8]


def test_evaluation_and_checkpoints_come_as_often_as_asked(tmp_path, updates):
    Trainer(tiny(tmp_path / "run", epochs=5, eval_every=2, keep_checkpoints=9)).fit()
    records = read_metrics(tmp_path / "run" / "metrics.jsonl")
    validated = [record["epoch"] for record in records if record["kind"] == "validation"]
    assert validated == [2, 4, 5]
    assert saved(tmp_path / "run") == [3, 5, 8, 10, 13]

    Trainer(tiny(tmp_path / "few", train_images=2, epochs=9, eval_every=4)).fit()
    records = read_metrics(tmp_path / "few" / "metrics.jsonl")
    ends = [(r["epoch"], r["step"]) for r in records if r["kind"] == "validation"]
    assert ends == [(4, 2), (8, 4), (9, 5)]  # one update ends two epochs

    Trainer(tiny(tmp_path / "often", epochs=2, checkpoint_steps=2, keep_checkpoints=9)).fit()
    assert saved(tmp_path / "often") == [2, 3, 4, 5]


@pytest.mark.parametrize(("step", "often"), [(2, True), (3, False), (5, False), (1, False)])
def test_a_loss_that_is_no_number_ends_the_run(
    tmp_path, updates, sources, monkeypatch, capsys, step, often
):
    updates.no_number_at = step
    run = tmp_path / "run"
    options = ["--workdir", run, "--checkpoint-steps", str(int(often))]
    code = run_command(monkeypatch, *ARGUMENTS, *options)
    err = capsys.readouterr().err
    assert code == 2
    assert err.count("\n") == 1
    assert err.startswith(f"error: the loss, gradient or weights of update {step} are not finite")

    ids = read_ahead(sources, step)[-1]["id"].tolist()
    assert f"(images {', '.join(ids)})" in err

    # What was saved before is there, nothing later is.
    before = {2: [1], 3: [], 5: [3], 1: []}[step]
    assert saved(run) == before
    if before:
        _, params, _, last = load_run(run, "last")
        assert last == before[-1]
        assert np.asarray(params["head"]["bias"]) == before[-1]


def test_a_finished_run_trains_no_more(tmp_path, updates):
    config = tiny(tmp_path / "run")
    first = Trainer(config).fit()
    updates.stop_at = 6
    assert Trainer(config).fit() == first
    assert len(updates.batches) == 5


@pytest.mark.parametrize("best", [5, 3])
def test_the_best_weights_are_scored_again_unless_they_are_the_last(
    tmp_path, updates, monkeypatch, best
):
    scored = []

    class Counting(Evaluator):
        def scores(self, params, stats, batches):
            step = int(np.asarray(params["head"]["bias"])[0])
            scored.append(step)
            return super().scores({"head": {"bias": [100 - abs(step - best)]}}, stats, batches)

    monkeypatch.setattr(loop, "Evaluator", Counting)
    config = tiny(tmp_path / "run", eval_every=1)
    first = Trainer(config).fit()
    assert scored == [3, 5] + [3] * (best == 3)
    report = json.loads((tmp_path / "run" / "eval.json").read_text())
    assert report["step"] == best

    scored.clear()
    assert Trainer(config).fit() == first
    assert scored == [best]
    assert json.loads((tmp_path / "run" / "eval.json").read_text()) == report


def test_another_configuration_is_refused(tmp_path, updates, monkeypatch, capsys):
    run = tmp_path / "run"
    assert run_command(monkeypatch, *ARGUMENTS, "--workdir", run) == 0
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    capsys.readouterr()
    assert run_command(monkeypatch, *ARGUMENTS, "--workdir", run, "--seed", "1") == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert f"{run} holds a run with other options: seed is 0 there and 1 here" in err
    assert before == {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}

    # What does not change the training may change.
    options = ["--keep-checkpoints", "3", "--checkpoint-steps", "2", "--prefetch", "0"]
    assert run_command(monkeypatch, *ARGUMENTS, "--workdir", run, *options) == 0
    assert json.loads((run / "config.json").read_text())["keep_checkpoints"] == 3


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--dataset", "moon"], "moon"),
        (["--preset", "huge"], "unknown preset 'huge'; choose one of quick, small, best, paper"),
        (["--network", "resnet"], "resnet"),
        (["--dataset", "nuclei", "--data-dir", "nowhere"], "nowhere"),
        (["--data-dir", "."], "the synthetic dataset is generated"),
        (["--batch-size", "3"], "batch_size is 3; give a multiple of the 2 devices"),
        (["--eval-batch-size", "5"], "eval_batch_size is 5"),
        (["--train-images", "100000"], "train_images is 100000 but there are 512"),
        (["--warmup-steps", "9"], "warmup_steps is 9 but the whole run has 5 updates"),
        (["--teacher", "nobody"], "nobody does not exist; give the directory of a run"),
        (["--layer-precision", "up_c9=int8"], "up_c9"),
        (["--ema-decay", "0.9"], "ema_decay needs recalibrate"),
        (["--initial", "nobody"], "nobody does not exist; give the directory of a run"),
        (["--epochs", "0"], "epochs is 0; give a number of at least 1"),
        (["--latent-l1", "-1"], "latent_l1 must be finite and not negative"),
        (["--temperature", "0"], "temperature is 0.0; give a number above 0"),
        (["--dice-weight", "nan"], "dice_weight is nan; give a number of at least 0"),
        (["--cross-entropy-weight", "0", "--dice-weight", "0"], "are 0; give one of them"),
        (["--workdir", "w" * 300], "w cannot be used as a directory (File name too long)"),
    ],
)
def test_bad_options_are_one_line_and_leave_nothing(tmp_path, monkeypatch, capsys, options, said):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "prepared"))
    assert run_command(monkeypatch, *ARGUMENTS, *options) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert said in err
    assert list(tmp_path.iterdir()) == []


def test_a_coordinator_that_cannot_be_met_is_told(tmp_path, monkeypatch, capsys):
    def refuse(*_: object) -> None:
        raise RuntimeError("DEADLINE_EXCEEDED: nobody\nis there")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("jax.distributed.initialize", refuse)
    with socket.create_server(("localhost", 0)) as another:
        port = another.getsockname()[1]
        assert run_command(monkeypatch, *ARGUMENTS, "--coordinator", f"localhost:{port}") == 2
    said = f"port {port} cannot be used (Address already in use); choose another --coordinator"
    assert capsys.readouterr().err == f"error: {said}\n"

    assert run_command(monkeypatch, *ARGUMENTS, "--coordinator", f"localhost:{port}") == 2
    err = capsys.readouterr().err
    said = f"error: --coordinator localhost:{port} cannot be met (DEADLINE_EXCEEDED: nobody is"
    assert err.startswith(said)
    assert err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_other_data_are_no_data_to_resume_with(tmp_path, updates, sources, monkeypatch):
    config = tiny(tmp_path / "run")
    Trainer(config).fit()  # as earlier versions did: nothing is known of the data
    monkeypatch.setattr(sources["train"], "facts", {"content": "a"})
    Trainer(config)
    monkeypatch.setattr(sources["train"], "facts", {"content": "b"})
    with pytest.raises(InputError, match=r'found.content is "a" there and "b" here'):
        Trainer(config)


def test_a_run_that_states_options_of_another_network_is_resumed_without(tmp_path, updates):
    """Earlier versions took them, to no effect."""
    config = tiny(tmp_path / "run", model=ModelOptions("all_masked", width=4))
    Trainer(config)
    file = tmp_path / "run/config.json"
    stated = json.loads(file.read_text())
    stated["model"] |= {"masked_layers": 3, "masking_cost": "nonzeros", "mask_budget": 30.0}
    file.write_text(json.dumps(stated))
    Trainer(config)
    assert json.loads(file.read_text())["model"]["masked_layers"] == 6

    mbu = tiny(tmp_path / "mbu")
    Trainer(mbu)
    fewer = dataclasses.replace(mbu.model, masked_layers=3)
    with pytest.raises(InputError, match=r"model\.masked_layers is 6 there and 3"):
        Trainer(dataclasses.replace(mbu, model=fewer))


def test_a_run_goes_on_with_the_statistics_that_it_began_with(tmp_path, updates):
    """Those of whole images, where an earlier version began it."""
    crops = dataclasses.replace(DATA, crop=(8, 8))
    two_bits = ModelOptions(width=4, activation_bits=2)
    config = tiny(tmp_path / "run", data=crops, recalibrate=2)
    Trainer(config)
    file = tmp_path / "run/config.json"
    stated = json.loads(file.read_text())
    assert stated["recalibrate_varied"] is True  # asked for or not
    Trainer(dataclasses.replace(config, recalibrate_varied=True))
    del stated["recalibrate_varied"]
    file.write_text(json.dumps(stated))
    with pytest.raises(InputError, match="recalibrate_varied is false there and true here"):
        Trainer(config)
    Trainer(dataclasses.replace(config, recalibrate_varied=False))

    same = dataclasses.replace(config, workdir=tmp_path / "same", model=two_bits)
    Trainer(same)
    file = tmp_path / "same/config.json"
    stated = json.loads(file.read_text())
    assert stated.pop("recalibrate_varied") is False
    file.write_text(json.dumps(stated))
    Trainer(same)


def test_images_of_different_sizes_are_refused_before_anything_is_written(
    tmp_path, updates, sources, monkeypatch
):
    monkeypatch.setattr(sources["train"], "examples", [*sources["train"].examples])
    sources["train"].examples[3] = resize(sources["train"].examples[3], (16, 16))
    plain = PipelineOptions()
    with pytest.raises(InputError, match="differ in size; set crop or image_size"):
        Trainer(tiny(tmp_path / "run", data=plain, train_images=4))
    assert not (tmp_path / "run").exists()


def test_images_of_different_sizes_in_a_later_batch_end_the_training(
    tmp_path, updates, sources, monkeypatch
):
    plain = PipelineOptions()
    batches = train_batches(FirstImages(sources["train"], 4), plain, batch_size=2, seed=0)
    with contextlib.closing(batches):
        first = set(next(batches)["id"])
    examples = [*sources["train"].examples]
    later = next(index for index in range(4) if examples[index]["id"] not in first)
    examples[later] = resize(examples[later], (16, 16))
    monkeypatch.setattr(sources["train"], "examples", examples)
    with pytest.raises(InputError, match="differ in size; set crop or image_size"):
        Trainer(tiny(tmp_path / "run", data=plain, train_images=4, batch_size=2)).fit()
    assert len(updates.batches) == 1


def test_one_process_trains_in_a_directory(tmp_path, updates):
    config = tiny(tmp_path / "run")
    first, second = Trainer(config), Trainer(config)
    with first.run.alone():
        unfinished = tmp_path / "run/checkpoints/3.orbax-checkpoint-tmp-0"  # of the first one
        unfinished.mkdir(parents=True)
        with pytest.raises(InputError, match=r"another process is training in .*run; wait"):
            second.fit()
        assert unfinished.exists()
        assert not updates.batches
    second.fit()
    assert len(updates.batches) == 5


def test_a_folder_that_is_no_run_is_left_alone(tmp_path, monkeypatch, capsys):
    (tmp_path / "thesis.txt").write_text("mine")
    assert run_command(monkeypatch, *ARGUMENTS, "--workdir", tmp_path) == 2
    assert "is not empty and holds no run" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_the_run_remembers_where_the_data_lay(tmp_path, monkeypatch):
    """So that it can be scored from another working directory."""
    monkeypatch.chdir(tmp_path)
    config = tiny(Path("run"), prepared_dir=Path("prepared"))
    Trainer(config)
    saved_config = json.loads(Path("run/config.json").read_text())
    assert saved_config["prepared_dir"] == str(tmp_path / "prepared")
    assert saved_config["data_dir"] is None
    assert saved_config["unet"]["width"] == 4


def test_divergence_is_bad_input():
    assert issubclass(TrainingDiverged, InputError)
