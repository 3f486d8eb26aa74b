"""Compile the library while the package is built: hatchling calls this, nothing else does.

Without a compiler the package is built all the same and runs without the library; with
MBU_JAX_REQUIRE_NATIVE=1 in the environment that is an error.
"""

import os
import platform
import shlex
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

SOURCES = Path("mbu_jax/native")
LIBRARY = SOURCES / "libmbu.so"
COMPILERS = ("g++", "c++", "clang++")
FLAGS = ("-std=c++20", "-O3", "-fPIC", "-fvisibility=hidden")
AVX2 = ("-mavx2", "-mfma", "-mbmi2")
AVX512 = (*AVX2, "-mavx512f", "-mavx512bw", "-mavx512dq", "-mavx512vl")
INSTRUCTIONS = {
    "portable": (),
    "avx2": AVX2,
    "avx512": AVX512,
    "avx512vnni": (*AVX512, "-mavx512vnni"),
}


class NativeBuild(BuildHookInterface):
    """Adds the compiled library to a wheel; an editable one finds it in the source tree."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Compile before files are collected.

        Args:
          version: ``standard`` or ``editable``.
          build_data: what hatchling builds from.
        """
        if self.target_name != "wheel":
            return
        root = Path(self.root)
        try:
            compile_library(root)
        except Unavailable as problem:
            if os.environ.get("MBU_JAX_REQUIRE_NATIVE") == "1":
                sys.exit(f"error: {problem}")
            self.app.display_warning(f"mbu_jax is built without its bitsliced engine: {problem}")
            (root / LIBRARY).unlink(missing_ok=True)
            return
        build_data["artifacts"].append(str(LIBRARY))
        build_data["pure_python"] = False
        # It calls no Python, so one wheel serves every version of it.
        build_data["tag"] = (
            f"py3-none-{sysconfig.get_platform().replace('-', '_').replace('.', '_')}"
        )


class Unavailable(Exception):
    """The library cannot be compiled here; the message says why."""


def compile_library(root: Path) -> None:
    """Compile the library into the source tree.

    Args:
      root: of the source tree.

    Raises:
      Unavailable: where there is no compiler, or none that is there can compile it.
    """
    asked = shlex.split(os.environ.get("CXX", ""))  # "ccache g++" is two words
    compilers = [asked] if asked else [[name] for name in COMPILERS if shutil.which(name)]
    if not compilers:
        raise Unavailable("there is no C++ compiler; install g++ 12 or newer, or clang++")
    try:
        import jaxlib
    except ImportError:
        raise Unavailable("jaxlib, whose headers it needs, is not installed") from None
    headers = Path(jaxlib.__file__).parent / "include"
    failures = []
    for compiler in compilers:
        try:
            _compile_with(compiler, root, headers)
        except Unavailable as problem:
            failures.append(str(problem))
        else:
            return
    raise Unavailable("\n".join(failures))


def _compile_with(compiler: list[str], root: Path, headers: Path) -> None:
    x86 = platform.machine() in ("x86_64", "AMD64")
    sources = root / SOURCES
    with tempfile.TemporaryDirectory() as scratch:
        units = {
            "weights.o": ("weights.cpp",),
            "ffi.o": ("ffi.cpp", "-isystem", str(headers)),
            "dispatch.o": ("dispatch.cpp", *(("-DMBU_X86",) if x86 else ())),
        }
        for name in INSTRUCTIONS if x86 else ("portable",):
            units[f"{name}.o"] = ("kernels.cpp", f"-DMBU_ISA={name}", *INSTRUCTIONS[name])

        def compile_unit(unit: str) -> None:
            source, *flags = units[unit]
            made = f"{scratch}/{unit}"
            _run([*compiler, *FLAGS, *flags, "-c", str(sources / source), "-o", made])

        with ThreadPoolExecutor(os.cpu_count()) as pool:
            list(pool.map(compile_unit, units))
        _run([*compiler, "-shared", "-o", f"{scratch}/library", *(f"{scratch}/{u}" for u in units)])
        # A process that has the old one loaded keeps it.
        new = (root / LIBRARY).with_suffix(".new")
        shutil.copyfile(f"{scratch}/library", new)
        new.replace(root / LIBRARY)


def _run(command: list[str]) -> None:
    try:
        subprocess.run(command, check=True, capture_output=True, text=True)
    except OSError as error:
        raise Unavailable(f"{command[0]} does not start ({error.strerror})") from None
    except subprocess.CalledProcessError as error:
        raise Unavailable(f"{' '.join(command)} failed:\n{error.stderr}") from None
