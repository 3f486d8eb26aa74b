"""Short PTX texts for the executor's tests, held to NVIDIA's assembler where it is at hand."""

import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterable, Sequence
from functools import cache
from importlib.util import find_spec
from pathlib import Path

from tests.ptx.program import Program


def width(type_name: str) -> int:
    """Bytes of a PTX type."""
    return int(type_name.lstrip("busf")) // 8


def kernel(
    body: str, parameters: Sequence[str] = ("u64",), *, target: str = "sm_90a", shared: str = ""
) -> str:
    """A kernel `k` around some instructions.

    Args:
      body: instructions with their declarations; parameters are `p0`, `p1`, …
      parameters: their types.
      target: the architecture.
      shared: declarations before the kernel.
    """
    listed = ", ".join(f".param .{kind} p{i}" for i, kind in enumerate(parameters))
    return (
        f".version 8.4\n.target {target}\n.address_size 64\n{shared}\n"
        f".visible .entry k({listed})\n{{\n{body}\n}}\n"
    )


def elementwise(instruction: str, result: str, sources: Sequence[str]) -> str:
    """A kernel in which thread i computes element i.

    Args:
      instruction: of the registers d (p where the result is a predicate), a, b and c.
      result: type of d; `pred` is stored as u32.
      sources: types of a, b and c; they are parameters 1, 2 and 3, the result parameter 0.
    """
    stored = "u32" if result == "pred" else result
    names = "abc"[: len(sources)]
    lines = [
        ".reg .b32 %tid32, %one; .reg .b64 at, base; .reg .pred p, q;",
        f".reg .b{max(16, 8 * width(stored))} d;",
        *(
            f".reg .b{max(16, 8 * width(kind))} {name};"
            for name, kind in zip(names, sources, strict=True)
        ),
        "mov.u32 %tid32, %tid.x;",
    ]
    for number, (name, kind) in enumerate(zip(names, sources, strict=True), 1):
        lines += [
            f"ld.param.u64 base, [p{number}];",
            f"mad.wide.u32 at, %tid32, {width(kind)}, base;",
            f"ld.global.{kind} {name}, [at];",
        ]
    lines += [instruction]
    if result == "pred":
        lines += ["selp.u32 d, 1, 0, p;"]
    lines += [
        "ld.param.u64 base, [p0];",
        f"mad.wide.u32 at, %tid32, {width(stored)}, base;",
        f"st.global.{stored} [at], d;",
        "ret;",
    ]
    return kernel("\n".join(lines), ["u64"] * (1 + len(sources)))


def _assembler() -> str | None:
    """Triton's ptxas, or the one on the path."""
    found = find_spec("triton")
    if found is not None and found.origin is not None:
        path = Path(found.origin).parent / "backends" / "nvidia" / "bin" / "ptxas"
        if path.exists():
            return str(path)
    return shutil.which("ptxas")


def assemble(texts: Iterable[str]) -> None:
    """Has ptxas read texts of one target, so that they are PTX and not our idea of it.

    Args:
      texts: of `kernel`; they become one file, because starting ptxas is what takes time.
    """
    assembler = _assembler()
    if assembler is None:
        return
    bodies = []
    for number, text in enumerate(texts):
        head, declared, body = re.split(r"(?<=\.address_size 64\n)|(?=\.visible)", text)
        bodies.append((head, declared, body.replace(".entry k(", f".entry k{number}(")))
    heads, shared, _ = ({each[i] for each in bodies} for i in range(3))
    assert len(heads) == 1, "several targets"
    target = re.search(r"\.target (\w+)", head := heads.pop())
    assert target
    whole = head + "".join(sorted(shared)) + "".join(body for _, _, body in bodies)
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder, "kernels.ptx")
        source.write_text(whole)
        subprocess.run(
            [assembler, f"-arch={target.group(1)}", "-O0", source, "-o", f"{source}.cubin"],
            check=True,
        )


@cache
def program(text: str) -> Program:
    """A text, ready to run."""
    return Program.parse(text)
