"""What the package is built from."""

import tomllib
from pathlib import Path

from packaging.requirements import Requirement

PROJECT = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text(encoding="utf-8"))


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
