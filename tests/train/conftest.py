from pathlib import Path

import pytest

from mbu_jax.train import loop
from tests.train.stand_ins import Evaluator, Small, Updates


@pytest.fixture(scope="module")
def sources() -> dict[str, Small]:
    return {split: Small(split) for split in ("train", "validation")}


@pytest.fixture
def updates(monkeypatch: pytest.MonkeyPatch, sources: dict[str, Small]) -> Updates:
    updates = Updates()
    monkeypatch.setattr(loop, "make_train_step", updates.make)
    monkeypatch.setattr(loop, "Evaluator", Evaluator)
    monkeypatch.setattr("mbu_jax.train.images.open_source", lambda name, split, **_: sources[split])
    monkeypatch.setattr(loop, "plot_curves", lambda metrics, out: Path(out).touch())
    return updates
