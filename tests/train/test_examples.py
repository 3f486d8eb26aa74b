"""The examples in the docstrings run, in a folder that holds a small run."""

import doctest
import json

import jax.numpy as jnp
import numpy as np
import pytest

import experiments.command
from mbu_jax.train import losses, metrics, optimizer, pictures, recorder, rundir

MODULES = (metrics, losses, optimizer, pictures, recorder, rundir, experiments.command)


@pytest.mark.parametrize("module", MODULES, ids=lambda module: module.__name__)
def test_examples_run(module, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    finder = doctest.DocTestFinder(exclude_empty=True)
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE)
    examples = finder.find(module, extraglobs={"jnp": jnp, "np": np})
    for number, example in enumerate(e for e in examples if e.examples):
        folder = tmp_path / str(number)
        prepare(folder / "runs" / "nuclei")
        monkeypatch.chdir(folder)
        runner.run(example)
    assert runner.summarize(verbose=False).failed == 0
    assert runner.tries > 0


def prepare(run) -> None:
    run.mkdir(parents=True)
    rows = [{"step": i, "epoch": i, "kind": "train", "loss": v} for i, v in ((1, 0.71), (2, 0.52))]
    (run / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (run / "config.json").write_text(json.dumps({"epochs": 30}))
