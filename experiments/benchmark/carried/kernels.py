"""Kernels one by one, each many times within one program, in turn."""

import time
from typing import Any

import jax
import numpy as np
from jax import Array

from experiments.benchmark.carried.folder import Folder
from experiments.benchmark.carried.programs import compiled, weights_of

_BUNDLE_SECONDS = 0.02  # of calls between two waits
_MOST_CALLS = 8


def time_kernels(
    folder: Folder, programs: list[dict[str, Any]], rounds: int, seconds: float
) -> list[list[float]]:
    """Time programs in turn.

    Args:
      folder: that they are in.
      programs: each with its file ``program``, ``network`` and the numbers of its ``weights``, the
        ``inputs`` (shape and dtype) that random bits are drawn for, and how often it ``repeats``.
      rounds: at most.
      seconds: after which no other round begins.

    Returns:
      By program, seconds of one repetition in every round.
    """
    of_network: dict[str, list[Array]] = {}
    for about in programs:
        if about["network"] is not None and about["network"] not in of_network:
            of_network[about["network"]] = weights_of(folder, about["network"])
    calls = []
    for about in programs:
        arrays = of_network.get(about["network"], [])
        layer = [arrays[i] for i in about["weights"]]
        inputs = [_random(i, **spec) for i, spec in enumerate(about["inputs"])]
        calls.append((compiled(folder, about["program"], {}, layer, inputs), layer, inputs))
    bundles = []
    for program, layer, inputs in calls:
        jax.block_until_ready(program(layer, inputs))
        once = _seconds(program, layer, inputs, 1)
        # Waiting takes a share of a short call.
        bundles.append(min(max(1, round(_BUNDLE_SECONDS / once)), _MOST_CALLS))
    samples: list[list[float]] = [[] for _ in programs]
    began = time.perf_counter()
    for _ in range(rounds):
        for i, (program, layer, inputs) in enumerate(calls):
            took = _seconds(program, layer, inputs, bundles[i])
            samples[i].append(took / (bundles[i] * programs[i]["repeats"]))
        if time.perf_counter() - began > seconds:
            break
    return samples


def device_facts() -> dict[str, Any]:
    """Tell what JAX calls the device, and how many multiprocessors a GPU has.

    Returns:
      ``device_kind``, and of a GPU ``multiprocessors``.
    """
    device = jax.devices()[0]
    facts: dict[str, Any] = {"device_kind": device.device_kind}
    return facts if device.platform == "cpu" else facts | {"multiprocessors": device.core_count}


def _seconds(program: Any, layer: list[Array], inputs: list[Array], calls: int) -> float:
    """Time some calls, one after another, with one wait."""
    began = time.perf_counter()
    result = None
    for _ in range(calls):
        result = program(layer, inputs)
    jax.block_until_ready(result)
    return time.perf_counter() - began


def _random(seed: int, shape: list[int], dtype: str) -> Array:
    """Random bits, or small numbers."""
    kind = np.dtype(dtype) if dtype != "bfloat16" else None
    key = jax.random.key(seed)
    if kind is not None and kind.kind == "u":
        return jax.random.bits(key, shape, kind)
    return jax.random.normal(key, shape, dtype)
