import errno
import os
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import pytest

from experiments.command import check_file, make_folder, parse, run
from mbu_jax.errors import InputError
from mbu_jax.train.optimizer import OptimizerOptions


@dataclass(frozen=True)
class Data:
    """Where the images come from."""

    dataset: str = "nuclei"
    """Name of the dataset."""

    flip: bool = True
    """Mirror images."""

    scale: tuple[float, float] = (0.5, 2.0)
    """Range of sizes."""

    crop: tuple[int, int] | None = None
    """Height and width of crops."""

    image_size: tuple[int, int] | Literal["own"] | None = None
    """Height and width of images."""

    timing_size: tuple[int, int] = (16, 16)
    """Height and width of what is timed."""

    image_sizes: tuple[tuple[int, int], ...] = ()
    """Heights and widths."""

    workers: int | Literal["all"] = "all"
    """Processes."""


@dataclass(frozen=True)
class Config:
    """Train something small.

    This paragraph is for readers of the code.
    """

    epochs: int = 3
    """How often every image is seen."""

    data: Data = Data()
    optimizer: OptimizerOptions = OptimizerOptions()

    def __post_init__(self) -> None:
        if self.epochs < 0:
            raise InputError("epochs must not be negative")


SIZE = "two whole numbers, height and width, such as 256 256"
SLOW = OptimizerOptions(learning_rate=1e-5)
PRESETS = {"quick": Config(), "paper": Config(epochs=30, optimizer=SLOW)}


def test_the_first_preset_is_the_default():
    assert parse(Config, PRESETS, []) == PRESETS["quick"]


@pytest.mark.parametrize("argv", [["--preset", "paper"], ["--preset=paper"]])
def test_a_preset_gives_the_defaults(argv):
    assert parse(Config, PRESETS, argv) == PRESETS["paper"]
    changed = parse(Config, PRESETS, ["--epochs", "7", *argv, "--no-flip", "--momentum=0.5"])
    assert changed == Config(7, Data(flip=False), replace(SLOW, momentum=0.5))


def test_the_last_preset_wins():
    argv = ["--preset", "paper", "--preset", "quick"]
    assert parse(Config, PRESETS, argv) == PRESETS["quick"]


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["--preset", "huge"], r"unknown preset 'huge'; choose one of quick, paper$"),
        (["--preset"], r"missing value for argument '--preset'"),
        (["--lerning-rate", "3"], r"unknown option --lerning-rate; did you mean --learning-rate\?"),
        (["--zzz=3"], r"unknown option --zzz \(--help"),
        (["stray"], r"unexpected argument 'stray'"),
        (["--learning-rate", "x"], r"^--learning-rate takes a number \(--help"),
        (["--epochs", "2.5"], r"^--epochs takes a whole number \("),
        (["--learning-rate", "-1"], r"^learning_rate must be positive, not -1\.0"),
        (["--learning-rate"], r"missing value for argument '--learning-rate'"),
        (["--optimizer", "sgd"], r"invalid choice 'sgd' for argument '--optimizer'.*'adamw'"),
        (["--scale", "1"], r"^--scale takes two numbers, such as 0\.5 2 \("),
        (["--scale", "1", "x"], r"^--scale takes two numbers, such as 0\.5 2 \("),
        (["--crop", "64"], rf"^--crop takes {SIZE} \("),
        (["--crop", "64", "x", "--flip"], rf"^--crop takes {SIZE} \("),
        (["--crop", "1", "2", "3"], rf"^--crop takes {SIZE} \("),
        (["--timing-size", "64"], rf"^--timing-size takes {SIZE} \("),
        (["--image-size", "256"], rf"^--image-size takes {SIZE}, or own \("),
        (["--image-size=huge"], rf"^--image-size takes {SIZE}, or own \("),
        (["--workers", "x"], r"^--workers takes a whole number, or all \("),
        (["--image-sizes", "1"], r"^--image-sizes takes heights and widths, such as 512 512 480 "),
        (["--epochs", "-1"], r"^epochs must not be negative"),
    ],
)
@pytest.mark.parametrize("columns", ["30", "100"])
def test_bad_options_are_one_line(argv, said, columns, monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", columns)
    with pytest.raises(InputError, match=said) as caught:
        parse(Config, PRESETS, argv)
    assert "\n" not in str(caught.value)
    assert not set(str(caught.value)) & set("│─╭╰")
    assert capsys.readouterr() == ("", "")


def test_help_lists_every_option(monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "100")
    with pytest.raises(SystemExit) as stop:
        parse(Config, PRESETS, ["--preset", "paper", "--help"], prog="train")
    assert not stop.value.code
    text = capsys.readouterr().out
    flat = " ".join(text.replace("│", " ").split())
    for line in (
        "usage: train",
        "Train something small.",
        "--preset {quick,paper} Named set of defaults for the options below. (default: paper)",
        "--epochs INT How often every image is seen. (default: 30)",
        "data options",
        "Where the images come from.",
        "--dataset STR Name of the dataset. (default: nuclei)",
        "--flip, --no-flip Mirror images. (default: True)",
        "--scale FLOAT FLOAT Range of sizes. (default: 0.5 2.0)",
        "optimizer options",
        "How the weights move.",
        "--learning-rate FLOAT Largest step size. (default: 1e-05)",
    ):
        assert line in flat
    assert "readers of the code" not in flat
    assert ">>>" not in flat
    assert max(map(len, text.splitlines())) <= 100


def test_one_option_cannot_be_two_fields():
    @dataclass(frozen=True)
    class Twice:
        """Two of a kind."""

        epochs: int = 1
        config: Config = Config()

    with pytest.raises(TypeError, match="two fields for the option --epochs"):
        parse(Twice, {"quick": Twice()}, [])


def test_a_folder_that_cannot_be_made_is_told_with_its_option(tmp_path: Path) -> None:
    folder = tmp_path / "a" / "b"
    assert make_folder(folder) == make_folder(folder) == folder
    assert folder.is_dir()
    (tmp_path / "file").touch()
    for path, said in ((tmp_path / "file", "File exists"), (tmp_path / "file/in", "Not a dir")):
        with pytest.raises(InputError, match=rf"file(/in)? cannot be made \({said}.*another --to$"):
            make_folder(path, "--to")


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("folder", r"folder is a folder; give --to the name of a file in it$"),
        ("absent/a.json", r"absent is no folder; create it, or choose another --to$"),
        ("file/a.json", r"file is no folder; create it, or choose another --to$"),
        ("a" * 300, r"a cannot be written \(File name too long\); choose another --to$"),
        ("file", r"file exists; choose another --to, or allow --overwrite$"),
        ("dangling", r"dangling exists; choose another --to, or allow --overwrite$"),
    ],
)
def test_a_file_that_cannot_be_written_is_told_with_its_option(
    name: str, said: str, tmp_path: Path
) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").touch()
    (tmp_path / "dangling").symlink_to("absent")
    with pytest.raises(InputError, match=said):
        check_file(tmp_path / name, overwrite=False, option="--to")
    if "overwrite" in said:
        check_file(tmp_path / name, overwrite=True, option="--to")
    check_file(tmp_path / "new", overwrite=False)
    assert not (tmp_path / "new").exists()


def test_a_folder_without_permission_is_told_with_its_option(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "access", lambda path, mode: False)  # of root all is allowed
    said = f"nothing can be written in {tmp_path}; choose another --to$"
    with pytest.raises(InputError, match=said):
        make_folder(tmp_path, "--to")
    with pytest.raises(InputError, match=said):
        check_file(tmp_path / "new", overwrite=False, option="--to")


def outcome(error: BaseException | None, capsys) -> tuple[int | str | None, str]:
    def main() -> None:
        if error is not None:
            raise error

    try:
        run(main)
        code = 0
    except SystemExit as stop:
        code = stop.code
    return code, capsys.readouterr().err


def test_success_is_silent(capsys):
    assert outcome(None, capsys) == (0, "")


def test_input_error_is_one_line(capsys):
    assert outcome(InputError("a.png is\n torn"), capsys) == (2, "error: a.png is torn\n")


def test_interruption(capsys):
    assert outcome(KeyboardInterrupt(), capsys) == (130, "interrupted\n")


def caused(outer: Exception, inner: Exception) -> Exception:
    outer.__cause__ = inner
    return outer


FULL = OSError(errno.ENOSPC, "No space left on device", "runs/checkpoint")


@pytest.mark.parametrize(
    ("error", "names_file"),
    [
        (FULL, True),
        (OSError(errno.EDQUOT, "Disk quota exceeded"), False),
        (caused(RuntimeError("saving failed"), FULL), True),
        (ExceptionGroup("saving failed", [KeyError("a"), caused(ValueError("b"), FULL)]), True),
        (ValueError("RESOURCE_EXHAUSTED: Failed to write: No space left on device"), False),
    ],
)
def test_full_disk_is_told(error, names_file, capsys):
    code, line = outcome(error, capsys)
    assert code == 2
    assert line.startswith("error: the disk is full")
    assert line.count("\n") == 1
    assert ("while writing runs/checkpoint" in line) == names_file


def test_a_path_out_of_reach_is_told(tmp_path: Path, capsys):
    name = "n" * 300
    with pytest.raises(SystemExit, match="2"):
        run(lambda: print((tmp_path / name).is_dir()))
    assert capsys.readouterr() == (
        "",
        f"error: {tmp_path / name} cannot be used (File name too long)\n",
    )


@pytest.mark.parametrize("error", [ValueError("bug"), OSError(errno.EIO, "broken disk")])
def test_faults_keep_their_traceback(error):
    def main() -> None:
        raise error

    with pytest.raises(type(error), match=str(error.args[-1])):
        run(main)


@pytest.mark.parametrize("program", ["run(lambda: print('x' * 10**6))", "run(lambda: print('x'))"])
@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_output_that_nobody_reads_ends_the_program(program, unbuffered):
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "w") as nobody:
        found = subprocess.run(
            [sys.executable, "-c", f"from experiments.command import run\n{program}"],
            stdout=nobody,
            stderr=subprocess.PIPE,
            env={**os.environ, "PYTHONUNBUFFERED": unbuffered},
            check=False,
        )
    assert (found.returncode, found.stderr) == (141, b"")


def test_another_broken_pipe_is_a_fault(capfd):
    def main() -> None:
        raise BrokenPipeError(errno.EPIPE, "a worker has ended")

    with pytest.raises(BrokenPipeError, match="a worker"):
        run(main)


def test_a_process_ends_with_the_code_and_the_line():
    program = (
        "import dataclasses\n"
        "from experiments.command import parse, run\n"
        "Config = dataclasses.make_dataclass('Config', [('epochs', int, 3)])\n"
        "run(lambda: print(parse(Config, {'quick': Config()})))\n"
    )
    command = [sys.executable, "-c", program, "--epochs"]
    good, bad = (
        subprocess.run([*command, value], capture_output=True, text=True, check=False)
        for value in ("7", "x")
    )
    assert (good.returncode, good.stdout, good.stderr) == (0, "Config(epochs=7)\n", "")
    assert (bad.returncode, bad.stdout) == (2, "")
    assert bad.stderr.startswith("error: --epochs takes a whole number (--help")
    assert bad.stderr.count("\n") == 1
