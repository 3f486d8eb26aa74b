import json

import numpy as np

from mbu_jax.train.meter import EpochMeter


def test_means_are_over_updates():
    rng = np.random.default_rng(0)
    losses, scores = rng.normal(size=(2, 7))
    meter = EpochMeter()
    for loss, dice in zip(losses, scores, strict=True):
        meter.add({"loss": loss, "dice": dice})
    assert meter.updates == 7
    np.testing.assert_allclose(
        [meter.means()["loss"], meter.means()["dice"]], [losses.mean(), scores.mean()], rtol=1e-12
    )


def test_an_interruption_changes_no_bit():
    values = np.random.default_rng(1).normal(size=20) / 3
    whole, first = EpochMeter(), EpochMeter()
    for value in values:
        whole.add({"loss": value})
    for value in values[:8]:
        first.add({"loss": value})
    state = first.to_json()
    assert json.loads(json.dumps(state)) == state
    second = EpochMeter.from_json(state)
    for value in values[8:]:
        second.add({"loss": value})
    assert second.means() == whole.means()
    assert second.to_json() == whole.to_json()
    assert first.updates == 8  # what was restored is a copy


def test_an_empty_meter_has_no_means():
    assert EpochMeter().means() == {}
