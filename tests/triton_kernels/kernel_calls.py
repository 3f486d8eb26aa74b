"""Reads the kernels in a lowered program."""

import re
import zlib


def kernel_calls(module: str) -> list[bytes]:
    """What every call of a kernel carries: a message that holds its PTX."""

    def byte(escape: re.Match[str]) -> str:
        return escape[1] if len(escape[1]) == 1 else chr(int(escape[1], 16))

    texts = re.findall(r'opaque = "((?:[^"\\]|\\.)*)"', module)
    escaped = re.compile(r'\\([0-9A-F]{2}|[\\"])')
    return [zlib.decompress(escaped.sub(byte, text).encode("latin-1")) for text in texts]


def code(ptx: str) -> list[str]:
    """The instructions of a kernel, without comments and what debuggers read."""
    body = re.search(r"^\.version.*?^\}", ptx, re.MULTILINE | re.DOTALL)
    assert body is not None
    lines = (line.partition("//")[0].strip() for line in body[0].splitlines())
    return [line for line in lines if line and not line.startswith((".loc", ".file"))]
