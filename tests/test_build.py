"""What the package is built from, and with which compiler."""

import importlib.util
import sys
import tomllib
import types
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def test_the_library_is_compiled_with_headers_of_the_oldest_jax() -> None:
    """XLA takes a library whose FFI is older than its own, not one that is newer."""
    named = [Requirement(line) for line in PROJECT["project"]["dependencies"]]
    (jax,) = (wanted.specifier for wanted in named if wanted.name == "jax")
    (oldest,) = (bound.version for bound in jax if bound.operator == ">=")
    built = [Requirement(line) for line in PROJECT["build-system"]["requires"]]
    (jaxlib,) = (wanted.specifier for wanted in built if wanted.name == "jaxlib")
    assert jaxlib.contains(oldest)
    major, minor = oldest.split(".")[:2]
    assert not jaxlib.contains(f"{major}.{int(minor) + 1}")
    assert not jaxlib.contains(f"{int(major) + 1}.0")


@pytest.fixture
def build(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """hatch_build.py, where no compiler is found but those in tmp_path/bin."""
    plugin = types.ModuleType("hatchling.builders.hooks.plugin.interface")
    plugin.BuildHookInterface = object  # pyrefly: ignore[missing-attribute]
    monkeypatch.setitem(sys.modules, plugin.__name__, plugin)
    spec = importlib.util.spec_from_file_location("hatch_build", ROOT / "hatch_build.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    (tmp_path / "bin").mkdir()
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    monkeypatch.delenv("CXX", raising=False)
    (tmp_path / module.SOURCES).mkdir(parents=True)
    return module


def add_compiler(root: Path, name: str, *, works: bool) -> None:
    """A compiler that writes its name into what it is to make, or fails."""
    does = f'open(sys.argv[sys.argv.index("-o") + 1], "w").write("{name}")'
    script = root / "bin" / name
    script.write_text(
        f"#!{sys.executable}\nimport sys\n{does if works else 'sys.exit("knows no C++20")'}\n"
    )
    script.chmod(0o755)


def test_a_compiler_that_fails_is_followed_by_the_next(build: Any, tmp_path: Path) -> None:
    add_compiler(tmp_path, "g++", works=False)
    add_compiler(tmp_path, "clang++", works=True)
    build.compile_library(tmp_path)
    assert (tmp_path / build.LIBRARY).read_text() == "clang++"


def test_every_compiler_that_failed_is_named(build: Any, tmp_path: Path) -> None:
    with pytest.raises(build.Unavailable, match=r"no C\+\+ compiler; install"):
        build.compile_library(tmp_path)
    for name in ("g++", "clang++"):
        add_compiler(tmp_path, name, works=False)
    with pytest.raises(build.Unavailable) as refused:
        build.compile_library(tmp_path)
    assert [line.split()[0] for line in str(refused.value).splitlines() if "failed" in line] == [
        "g++",
        "clang++",
    ]
    assert str(refused.value).count("knows no C++20") == 2
    assert not (tmp_path / build.LIBRARY).exists()


def test_the_compiler_may_be_several_words(
    build: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    add_compiler(tmp_path, "g++", works=True)
    add_compiler(tmp_path, "mine", works=True)
    monkeypatch.setenv("CXX", f"{sys.executable} {tmp_path / 'bin' / 'mine'}")
    build.compile_library(tmp_path)
    assert (tmp_path / build.LIBRARY).read_text() == "mine"


def test_a_compiler_that_was_asked_for_is_the_only_one(
    build: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    add_compiler(tmp_path, "g++", works=True)
    monkeypatch.setenv("CXX", "g++-missing")
    with pytest.raises(build.Unavailable, match=r"^g\+\+-missing does not start"):
        build.compile_library(tmp_path)
