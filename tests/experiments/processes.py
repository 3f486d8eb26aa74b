"""How the tests here start a command as a process of its own: a tiny network, tiny images."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
TIMEOUT = 400

# Two epochs of three updates; optimizer, schedule, average and statistics are all in use.
TINY = (
    *("--dataset", "synthetic", "--train-images", "12", "--image-size", "32", "32"),
    *("--crop", "32", "32", "--width", "4", "--samples", "3"),
    *("--epochs", "2", "--batch-size", "4", "--eval-batch-size", "16", "--eval-every", "1"),
    *("--warmup-steps", "2", "--ema-decay", "0.9", "--recalibrate", "2"),
    *("--checkpoint-steps", "1"),
)


def start(program: str, *options: str | Path, devices: int = 1) -> subprocess.Popen[str]:
    """Start ``python -m experiments.<program>`` with so many CPU devices."""
    flags = [
        f"--xla_force_host_platform_device_count={devices}",
        "--xla_backend_optimization_level=0",  # compiling takes longer than running here
    ]
    return subprocess.Popen(
        [sys.executable, "-m", f"experiments.{program}", *map(str, options)],
        cwd=ROOT,
        env=os.environ | {"XLA_FLAGS": " ".join(flags)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(process: subprocess.Popen[str]) -> str:
    """Wait for a command that must succeed; return what it printed."""
    out, err = process.communicate(timeout=TIMEOUT)
    assert process.returncode == 0, err
    return out
