"""Carrying out runs: training, packing, and noting what a study needs of them."""

import gc
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from tqdm import tqdm

from experiments.command import make_folder
from experiments.lock import locked
from experiments.study.runs import Run
from experiments.timing import machine
from mbu_jax.errors import InputError
from mbu_jax.files import write_json_atomic
from mbu_jax.inference import pack
from mbu_jax.saving import save_packed
from mbu_jax.train.checkpoints import load_run
from mbu_jax.train.layer_statistics import layer_statistics
from mbu_jax.train.loop import Trainer, TrainingDiverged
from mbu_jax.train.recorder import read_metrics


def carry_out(runs: Sequence[Run]) -> dict[str, str]:
    """Carry out what is not finished, one run after the other; Ctrl-C leaves all resumable.

    Several processes may work at once, on one study or on several that share runs: each passes over
    what another one is at.

    Args:
      runs: in order, each after those that it needs.

    Returns:
      By name of its directory, why a run could not be finished. The others are.

    Raises:
      InputError: for data or a directory that cannot be used.
    """
    failed: dict[str, str] = {}
    bar = tqdm(runs, desc="study", unit="run", disable=None)
    for run in bar:
        name = run.directory.path.name
        bar.set_postfix_str(name)
        if run.finished:
            continue
        if missing := [needed for needed in run.needs if not needed.finished]:
            failed[name] = f"{missing[0].directory.path.name}, which it needs, is not finished"
            continue
        make_folder(run.directory.path.parent, "--runs")
        with locked(run.directory.path) as ours:
            if not ours:
                failed[name] = "another process is at it"
                print(f"passed over: {name}, {failed[name]}", flush=True)
                continue
            if run.finished:
                continue
            print(f"{run.row.label}, seed {run.config.seed}: {run.directory.path}", flush=True)
            try:
                _carry_out(run)
            except TrainingDiverged as error:
                failed[name] = str(error)
                print(f"given up: {error}", flush=True)
        # Programs of a network that is never run again.
        jax.clear_caches()
        gc.collect()
    return failed


def _carry_out(run: Run) -> None:
    trainer = Trainer(run.config)
    trainer.fit()
    network, params, stats, _ = load_run(run.directory.path, "best")
    facts: dict[str, Any] = {"updates": trainer.total_steps, "minutes": _minutes(run)}
    layers = jax.device_get(network.quantized_layers(params))
    statistics = layer_statistics(network, params)
    densities = {name: statistics[f"density/{name}"] for name in layers}
    facts["densities"] = densities
    if layers:
        weights = [layer.weight[...].size for layer in layers.values()]
        facts["density"] = float(np.average(list(densities.values()), weights=weights))
    try:
        packed = pack(network.model(params, stats), image_size=run.config.data.image_size)
    except InputError as reason:
        facts["not_packed"] = str(reason)
    else:
        save_packed(run.directory.model, packed, overwrite=True)
        facts["packed_bytes"] = run.directory.model.stat().st_size
    write_json_atomic(run.facts, facts | {"machine": machine()})


def _minutes(run: Run) -> float:
    """Of its updates alone, evaluations left out, from the log, which interruptions do not cut."""
    if not run.directory.metrics.exists():
        return 0.0
    lines = [line for line in read_metrics(run.directory.metrics) if line["kind"] == "train"]
    steps = np.diff([0, *(line["step"] for line in lines)])
    speeds = np.array([line["images_per_second"] for line in lines])
    return float(np.sum(steps * run.config.batch_size / speeds) / 60)
