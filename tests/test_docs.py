"""Every command and every block of Python in the documentation and the README is run.

Blocks of a page run in order, in a folder with a small network that was trained on real nuclei. A
command of ours that is quick and works on what is there, ``runs/synthetic-mbu``, does its work; one
that trains, times, compiles or needs other data is read by the program itself, up to where it would
begin.
"""

import importlib
import io
import re
import shlex
import sys
import tomllib
from collections.abc import Iterator
from contextlib import redirect_stdout
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import jax.numpy as jnp
import pytest
from PIL import Image

from experiments import command
from mbu_jax.data.synthetic.generator import generate_example
from mbu_jax.errors import InputError
from mbu_jax.inference import pack
from mbu_jax.saving import save_packed
from mbu_jax.train.checkpoints import Checkpoints
from mbu_jax.train.rundir import RunDirectory
from mbu_jax.train.state import Network, TrainState
from mbu_jax.unet import UNetConfig
from tests.trained.network import trained_model

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)

# Programs that are quick on the network that is there.
WORKING = ("predict", "summary")
# What stands for the user's own in a command that is only read.
STANDS_FOR = {"HOST:PORT": "localhost:1234", "N": "2", "I": "0"}

# Commands of other programs, by how they begin, and the text of .ci/run that runs the same.
RUN_BY_CI = {
    "pip install uv": "pip install uv",
    "uv sync": "uv sync --locked",
    "uv run ruff check": "uv run ruff check",
    "uv run ruff format": "uv run ruff format --check",
    "uv run pyrefly check": "uv run pyrefly check",
    "uv run --group docs python -m mkdocs build": "uv run --group docs python -m mkdocs build",
    "uv run pytest": '"$test"',
}
RUN_BY_TESTS = {
    "uv run python notebooks/tidy.py": "tests/test_notebooks.py",
    "python folder/run.py": "tests/experiments/test_benchmark_gpu.py",
}
# Programs that wait for a person, and the package that must be locked for them.
INTERACTIVE = {
    "uv run --extra notebooks jupyter lab notebooks": "jupyterlab",
    "uv run pre-commit install": "pre-commit",
}


class Block(NamedTuple):
    """A fenced block: its language, what is in it, and the line that it begins in."""

    language: str
    text: str
    line: int


def blocks(page: Path) -> Iterator[Block]:
    text = page.read_text(encoding="utf-8")
    for found in FENCE.finditer(text):
        yield Block(found[1], found[2], text.count("\n", 0, found.start()) + 2)


@cache
def network() -> Any:
    return pack(trained_model())


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder that holds a run, its packed network, and pictures."""
    run = RunDirectory(tmp_path / "runs" / "synthetic-mbu")
    structure, params, stats = Network.create(UNetConfig(width=4), seed=0)
    run.create_or_resume({"unet": structure.config.to_dict()})
    with Checkpoints(run.checkpoints) as checkpoints:
        checkpoints.save(TrainState(jnp.int32(1), params, stats, opt_state=(), ema=None), {}, 0.5)
    save_packed(run.model, network())
    (tmp_path / "PICTURES").mkdir()
    picture = generate_example("validation", 0, image_size=(40, 56))["image"]
    Image.fromarray(picture).save(tmp_path / "PICTURES" / "nuclei.png")
    monkeypatch.chdir(tmp_path)
    return tmp_path


class _Begun(Exception):
    """A program has read its options."""


def read_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let programs stop once their options are read."""
    parse = command.parse

    def stop(*arguments: Any, **options: Any) -> None:
        parse(*arguments, **options)
        raise _Begun

    monkeypatch.setattr(command, "parse", stop)


def run_program(line: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run or read ``python -m experiments.NAME …``."""
    _, _, call = line.partition("python -m experiments.")
    name, *arguments = (STANDS_FOR.get(word, word) for word in shlex.split(call))
    try:
        program = importlib.import_module(f"experiments.{name}.__main__")
    except ModuleNotFoundError:
        program = importlib.import_module(f"experiments.{name}")
    works = name in WORKING and "runs/synthetic-mbu" in arguments and "cuda" not in arguments
    with monkeypatch.context() as patch:
        patch.setattr(sys, "argv", [name, *arguments])
        if works:
            program.main()
            return
        read_only(patch)
        with pytest.raises(_Begun):
            program.main()


def check_other(line: str) -> None:
    """Find who runs a command that is not a program of ours."""
    if line in INTERACTIVE:
        lock = tomllib.loads((ROOT / "uv.lock").read_text(encoding="utf-8"))
        assert INTERACTIVE[line] in {package["name"] for package in lock["package"]}
        return
    for beginning, test in RUN_BY_TESTS.items():
        if line.startswith(beginning):
            assert Path(shlex.split(beginning)[-1]).name.removesuffix(".py") in (
                ROOT / test
            ).read_text(encoding="utf-8")
            return
    known = [beginning for beginning in RUN_BY_CI if line.startswith(beginning)]
    assert known, f"no test and no step of .ci/run runs: {line}"
    assert RUN_BY_CI[known[0]] in (ROOT / ".ci/run").read_text(encoding="utf-8")
    for word in shlex.split(line):
        if word.startswith("tests/"):
            assert (ROOT / word).exists(), line


def loader() -> str:
    """The README's lines that load an exported program; `tests/test_export.py` runs them."""
    (found,) = (b.text for b in blocks(ROOT / "README.md") if "jax.export.deserialize" in b.text)
    return found


def run_python(block: Block, page: Path, names: dict[str, Any]) -> None:
    """Run a block; where a line that prints says what, it must."""
    if "jax.export.deserialize" in block.text:
        assert block.text == loader()
        return
    printed = io.StringIO()
    # Lines keep their numbers in tracebacks.
    code = compile("\n" * (block.line - 1) + block.text, str(page), "exec")
    with redirect_stdout(printed):
        exec(code, names)
    for expected in re.findall(r"^ *print\(.*\)  # (.*)$", block.text, re.MULTILINE):
        assert expected in printed.getvalue(), f"{page.name}:{block.line}: {printed.getvalue()}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_commands_and_code_run(
    page: Path, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    names: dict[str, Any] = {"__name__": page.stem}
    for block in blocks(page):
        if block.language == "python":
            run_python(block, page, names)
            continue
        assert block.language == "sh", f"{page.name}:{block.line}: a block of {block.language!r}"
        for line in re.sub(r" *\\\n *", " ", block.text).splitlines():
            line = line.partition("  #")[0].strip()
            if "python -m experiments." in line:
                run_program(line, monkeypatch)
            elif line:
                check_other(line)


def test_a_command_that_nothing_runs_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(AssertionError, match="no test"):
        check_other("uv run make all")
    with pytest.raises(InputError, match="unknown option --epoch;"):
        run_program("uv run python -m experiments.train --epoch 3", monkeypatch)


def test_a_wrong_comment_is_found(tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match="page"):
        run_python(Block("python", "print(1 + 1)  # 3\n", 1), tmp_path / "page", {})


def test_every_page_is_in_the_navigation() -> None:
    navigation = (ROOT / "mkdocs.yml").read_text(encoding="utf-8").partition("\nnav:")[2]
    for page in (ROOT / "docs").rglob("*.md"):
        assert str(page.relative_to(ROOT / "docs")) in navigation
