"""The C++ kernels under AddressSanitizer, UndefinedBehaviorSanitizer and ThreadSanitizer."""

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

SCRIPT = Path(__file__).with_name("sanitize.sh")


@pytest.mark.skipif(
    shutil.which(os.environ.get("CXX", "g++")) is None, reason="there is no C++ compiler"
)
def test_kernels_are_the_definition_and_stay_inside_their_memory(tmp_path: Path) -> None:
    run = subprocess.run(
        ["sh", str(SCRIPT), str(tmp_path)], check=False, capture_output=True, text=True
    )
    assert run.returncode == 0, run.stderr[-4000:]
    for threads in (1, 4):
        line = rf"^portable: as the definition in \d+ numbers, threads {threads}$"
        assert re.search(line, run.stdout, re.MULTILINE), run.stdout
