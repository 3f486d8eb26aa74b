"""Timing the packed networks of a study's runs in one session, in turn."""

import os
import time
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from tqdm import tqdm

from experiments.study.runs import Run
from experiments.study.scales import Scale
from experiments.timing import machine, time_interleaved
from mbu_jax.inference import infer
from mbu_jax.ops.bitsliced import library
from mbu_jax.packing import PackedUNet
from mbu_jax.saving import load_packed
from mbu_jax.summary import summary


def measured(runs: Mapping[str, Run], scale: Scale, earlier: Any) -> dict[str, Any]:
    """Time one image on the packed network of each row, unless that was done.

    Args:
      runs: by row, finished ones; those that could not be packed are passed over.
      scale: size of the image, and how often it is segmented.
      earlier: what this gave before, or None; kept where nothing has changed, and where a row that
        was timed is not at hand: then that is said if there was something to time.

    Returns:
      ``size``, ``rounds``, ``machine``, the ``instructions`` of the bitsliced engine, and by row
      the name of the ``run``, ``seconds`` of every round, their ``median``, the ``engines`` of the
      convolutions, ``nonzero_macs`` of the network and ``bitsliced_macs``, those that skipping
      zeros leaves. Where something was timed also what tells of other work on the machine:
      ``load_before``, its load average of a minute, and ``busy_threads``, this process's processor
      time over the time that the rounds took.
    """
    load = os.getloadavg()[0]  # before compiling, which loads the machine itself
    packed = {name: run for name, run in runs.items() if run.directory.model.exists()}
    size = scale.image_size
    session: dict[str, Any] = {"size": size, "rounds": scale.rounds, "machine": machine()}
    session["instructions"] = None if library.absent() else library.instructions()
    names = {name: run.directory.path.name for name, run in packed.items()}
    if earlier is not None:
        timed = {name: row["run"] for name, row in earlier["rows"].items()}
        same = {k: earlier.get(k) for k in session} == session
        if not names or (same and names.items() <= timed.items()):
            return earlier
        if gone := sorted(timed.keys() - names.keys()):
            print(
                f"the times stay as they are: those of {', '.join(gone)} cannot be taken again, "
                "since these networks are not here, and times of different sessions do not "
                "compare; choose another --out to time the others"
            )
            return earlier
    image = np.random.default_rng(0).integers(0, 256, (1, size, size, 3), dtype=np.uint8)
    calls: dict[str, Callable[[], Any]] = {}
    facts: dict[str, dict[str, Any]] = {}
    for name, run in tqdm(packed.items(), desc="compiling", unit="network", disable=None):
        params = load_packed(run.directory.model)
        layers = summary(params, image_size=(size, size))
        facts[name] = {
            "run": names[name],
            "engines": sorted({layer.engine for layer in layers.layers[1:-1]}),
            "nonzero_macs": layers.total("nonzero_macs"),
            "bitsliced_macs": layers.total("bitsliced_macs"),
        }
        calls[name] = _call(params, image)
        for _ in range(2):  # the first one compiles
            calls[name]()
    if not calls:
        return session | {"rows": {}}
    began, cpu_began = time.perf_counter(), time.process_time()
    seconds = time_interleaved(calls, scale.rounds)
    busy = (time.process_time() - cpu_began) / (time.perf_counter() - began)
    rows = {
        name: row | {"seconds": seconds[name], "median": float(np.median(seconds[name]))}
        for name, row in facts.items()
    }
    return session | {"load_before": load, "busy_threads": busy, "rows": rows}


def _call(params: PackedUNet, image: np.ndarray) -> Callable[[], Any]:
    # A function of its own, since networks of equal options would share one program, which keeps
    # the lists of non-zeros of a few of them only.
    own = jax.jit(lambda params, image: infer(params, image))
    program = own.lower(params, jax.ShapeDtypeStruct(image.shape, image.dtype)).compile()
    params = jax.tree.map(jnp.asarray, params)
    return lambda: np.asarray(program(params, image))
